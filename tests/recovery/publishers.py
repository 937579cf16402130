"""Publishers of every sort: each with a producer of its own, a partitioner of its own choice, and anything to send."""

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from harness import Headers, Job, Record, Site

BATCH_BYTES = 900_000
"""Of a batch with more than one message: what the topic takes at once, with some room."""
SENDS_A_SECOND = 50
OPEN_MAX = 1_000
"""Batches that are not yet acknowledged."""
FROM = "from"

Partitioner = Callable[[bytes, int], int]


class Item(NamedTuple):
    """Anything: what no publisher of ours would send, too."""

    kind: str | None
    key: bytes | None
    value: bytes | None
    headers: Headers = []  # noqa: RUF012  never changed


def crc32(key: bytes, partitions: int) -> int:
    """Librdkafka's default partitioner."""
    return zlib.crc32(key) % partitions


class Publisher:
    """Sends in order; each message gets a header that says whose it is, and which. `sent` is what was sent, if it is to be kept."""

    def __init__(self, site: Site, name: str, partitioner: Partitioner | None = None, *, keep: bool = True) -> None:
        self.name = name
        self._site = site
        self._partitioner = partitioner or (lambda key, _partitions: site.partition_of(key))
        self.sent: list[Item] = []
        self._keep = keep

    def start(self, items: Iterable[Item], rate: float) -> Job:
        """Send beside the test, about `rate` a second."""
        return self._site.background.start(self._send(items, rate))

    async def _send(self, items: Iterable[Item], rate: float) -> int:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._site.config.kafka.brokers, acks="all", max_request_size=4 << 20, max_batch_size=2 << 20, request_timeout_ms=600_000
        )
        await producer.start()
        try:
            return await self._send_all(producer, items, rate)
        finally:
            await producer.stop()

    async def _send_all(self, producer: AIOKafkaProducer, items: Iterable[Item], rate: float) -> int:
        begin, count, acknowledgements = time.monotonic(), 0, deque[Awaitable[Any]]()
        open_: dict[int, Any] = {}
        send: Callable[[int], Awaitable[Any]] = lambda partition: producer.send_batch(  # noqa: E731
            open_.pop(partition), self._site.config.kafka.events_topic, partition=partition
        )
        for item in items:
            partition = self._partitioner(item.key, self._site.partitions) if item.key else 0
            size = len(item.value or b"") + len(item.key or b"")
            if partition in open_ and open_[partition].size() + size > BATCH_BYTES:
                acknowledgements.append(await send(partition))
            batch = open_.setdefault(partition, producer.create_batch())
            head = [] if item.kind is None else [("type", item.kind.encode())]
            mark = (FROM, f"{self.name}/{count}".encode())
            assert batch.append(timestamp=None, key=item.key, value=item.value, headers=[*head, *item.headers, mark])
            if self._keep:
                self.sent.append(item)
            count += 1
            if count % max(1, int(rate / SENDS_A_SECOND)) == 0:
                acknowledgements += [await send(number) for number in list(open_)]
                while len(acknowledgements) > OPEN_MAX:
                    await acknowledgements.popleft()
                await asyncio.sleep(max(0.0, begin + count / rate - time.monotonic()))
        acknowledgements += [await send(number) for number in list(open_)]
        for acknowledgement in acknowledgements:
            await acknowledgement
        return count


def by_publisher(records: Iterable[Record]) -> dict[tuple[str, bytes | None], list[int]]:
    """(publisher, key) -> the numbers of its messages, in the order in which they stand."""
    found: dict[tuple[str, bytes | None], list[int]] = {}
    for record in records:
        mark = next((data.decode() for name, data in reversed(record.headers) if name == FROM), None)
        if mark is not None:
            name, _, number = mark.rpartition("/")
            found.setdefault((name, record.key), []).append(int(number))
    return found
