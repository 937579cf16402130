"""The publisher: messages checked by the worker's own rules, then sent to `job-events` in the order given.

One idempotent producer with acks=all. A message is in a batch of its partition, and a partition's batches are written
and acknowledged in order, though several may be on their way (`sender.py`). So what is not delivered is always the end
of what was sent, and a regression's messages never overtake each other.

Needs aiokafka and msgspec, not the worker's packages.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from livejobs.streams.config import Config, Kafka
from livejobs.streams.core.partitioner import partition_of
from livejobs.streams.publisher.batch import Batch, Target, target
from livejobs.streams.publisher.outgoing import HEADERS_BYTES_MAX, Headers, Lines, Message, Source, checked
from livejobs.streams.publisher.producer import BrokerAwayError, close, connect, text
from livejobs.streams.publisher.sender import Sender

__all__ = [
    "HEADERS_BYTES_MAX", "BrokerAwayError", "Headers", "Lines", "Message", "Publisher", "Source", "Undelivered",
    "checked", "send_now",
]  # fmt: skip

DELIVERY_SECONDS = 30.0
CONNECT_SECONDS = 10.0
LINGER_SECONDS = 0.005
BATCH_BYTES = 1024 * 1024
"""What a topic takes that has Kafka's own limit."""
IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024
TARGETS_CACHED_MAX = 10_000
MESSAGES_A_TURN = 128
"""After so many the event loop gets a turn: a caller in a tight loop would keep the sockets waiting."""


class Undelivered(BrokerAwayError):  # noqa: N818  what became of the messages
    """No acknowledgement for `messages`, in the order they were sent in. Some may have arrived all the same."""

    def __init__(self, reason: str, undelivered: Sequence[Message]) -> None:
        super().__init__(reason)
        self.messages = list(undelivered)


def send_now(config: Config, kind: str, regression: str, body: bytes, headers: Headers = ()) -> None:
    """Send one message and wait for its acknowledgement; not for use inside an event loop.

    Raises messages.Reject, Undelivered, BrokerAwayError.
    """
    message = checked(kind, regression, body, headers)

    async def send() -> None:
        async with Publisher(config.kafka) as publisher:
            await publisher.post(message)

    asyncio.run(send())


class Publisher:
    """An async context manager; entering connects, leaving flushes. Messages of one regression keep their order.

    Entering raises BrokerAwayError after `connect_seconds`, ConfigError when a file that the configuration names can't
    be used. A message without an acknowledgement `delivery_seconds` after `send` took it is not delivered. With the
    first such message the publisher has failed: all that is still on the way counts as undelivered, though it may yet
    arrive; nothing more is sent, and `send`, `flush` and leaving raise Undelivered with it.
    """

    def __init__(
        self, kafka: Kafka, *, delivery_seconds: float = DELIVERY_SECONDS, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._kafka, self._topic = kafka, kafka.events_topic
        self._delivery_seconds, self._connect_seconds = delivery_seconds, connect_seconds
        self._producer: AIOKafkaProducer | None = None
        self._sender: Sender | None = None
        self._partitions = 0
        self._targets: dict[tuple[str, str], Target] = {}
        self._open: dict[int, Batch] = {}
        self._sealed: dict[int, deque[tuple[Batch, asyncio.Future[None]]]] = {}
        self._pumps: dict[int, asyncio.Task[None]] = {}
        self._bytes = 0
        self.taken = 0
        """How many messages it was given: acknowledged, on the way, or told as undelivered."""
        self._changed = asyncio.Event()
        self._failure: str | None = None
        self._undelivered: list[Message] = []
        self.acknowledged = 0
        """How many messages the broker has acknowledged."""

    async def __aenter__(self) -> Self:
        self._producer = await connect(self._kafka, self._connect_seconds)
        self._sender = Sender(self._producer, self._topic)
        self._partitions = len(self._producer.client.cluster.partitions_for_topic(self._topic))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self._close()

    async def send(self, kind: str, regression: str, body: bytes, headers: Headers = ()) -> None:
        """Check one message and take it; waits while too much is on the way. Raises messages.Reject, Undelivered."""
        await self.post(checked(kind, regression, body, headers))

    async def post(self, message: Message) -> None:
        """Take a message that is checked; otherwise as `send`."""
        self.taken += 1
        self._raise_if_failed(message)
        kind, regression, body, headers, source = message
        where = self._target(kind, regression, headers)
        batch = self._open.get(where.partition)
        before = batch.size if batch is not None else 0
        if batch is None or not batch.add(self.taken, where, body, source):
            batch, before = self._open_batch(where.partition), 0
            batch.add(self.taken, where, body, source)
        self._bytes += batch.size - before
        if self.taken % MESSAGES_A_TURN == 0 or self._bytes > IN_FLIGHT_BYTES_MAX:
            await self._turn()

    async def post_all(self, chunk: Iterator[Message]) -> None:
        """Take all that it gives; otherwise as `send`. What it did not come to when it raises is still in `chunk`."""
        self._raise_if_failed()
        if isinstance(chunk, Lines):
            await self._post_lines(chunk)
            return
        for message in chunk:
            await self.post(message)

    async def _post_lines(self, lines: Lines) -> None:
        where = self._target(lines.kind, lines.regression, lines.headers)
        singles = 0
        while not lines.is_over():
            self._raise_if_failed()
            if where.finished is not None and await self._post_run(where, lines):
                continue
            message = lines.take()
            if message is not None:
                await self.post(message)
            singles += 1
            if singles % MESSAGES_A_TURN == 0:
                await asyncio.sleep(0)

    async def _post_run(self, where: Target, lines: Lines) -> bool:
        """Take what a batch can take of them at once; whether that was something."""
        batch = self._open.get(where.partition) or self._open_batch(where.partition)
        before = batch.size
        count, full = batch.add_lines(self.taken + 1, where, lines)
        self.taken += count
        self._bytes += batch.size - before
        if full:
            self._seal(where.partition)
            await self._turn()
        return count > 0 or full

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        while self._bytes > IN_FLIGHT_BYTES_MAX and self._failure is None:
            await self._change()
        self._raise_if_failed()

    async def flush(self) -> None:
        """Return when all is acknowledged. Raises Undelivered."""
        for partition in list(self._open):
            self._seal(partition)
        while self._pumps and self._failure is None:
            await self._change()
        if self._undelivered:
            self._raise_if_failed()

    def _target(self, kind: str, regression: str, headers: Headers) -> Target:
        where = self._targets.get((kind, regression)) if not headers else None
        if where is None:
            self._running()
            # Kafka's default partitioner: the worker checks for it.
            where = target(kind, regression, headers, partition_of(regression.encode(), self._partitions))
            if not headers:
                if len(self._targets) >= TARGETS_CACHED_MAX:
                    self._targets.clear()
                self._targets[kind, regression] = where
        return where

    def _open_batch(self, partition: int) -> Batch:
        """A new batch to fill; the one before it goes. It lingers for a moment, for messages that follow at once."""
        self._running()
        self._seal(partition)
        loop = asyncio.get_running_loop()
        batch = self._open[partition] = Batch(BATCH_BYTES, loop.time() + self._delivery_seconds)
        loop.call_later(LINGER_SECONDS, self._seal, partition, batch)
        return batch

    def _running(self) -> Sender:
        if self._sender is None:
            raise RuntimeError("the publisher is not open: use it in `async with`")
        return self._sender

    def _seal(self, partition: int, only: Batch | None = None) -> None:
        """Queue the open batch of a partition (if it is `only`) to be sent."""
        batch = self._open.get(partition)
        if batch is None or (only is not None and batch is not only):
            return
        del self._open[partition]
        if not len(batch):
            return  # it was opened for lines of which the first one was none for it
        self._sealed.setdefault(partition, deque()).append((batch, self._running().send(partition, batch)))
        if partition not in self._pumps:
            self._pumps[partition] = asyncio.create_task(self._pump(partition))

    async def _pump(self, partition: int) -> None:
        """Wait for the acknowledgements of a partition's sealed batches; ends when there are none."""
        queue = self._sealed[partition]
        try:
            while queue:
                batch, acknowledged = queue[0]
                async with asyncio.timeout_at(batch.deadline):
                    await acknowledged
                if self._failure is not None:
                    return  # another partition's: this batch is told as undelivered already
                queue.popleft()
                self.acknowledged += len(batch)
                self._bytes -= batch.size
                self._changed.set()
        except TimeoutError:
            trouble = self._running().trouble(partition)
            why = "" if trouble is None else f": {text(trouble)}"
            self._fail(f"no acknowledgement from {self._kafka.brokers} within {self._delivery_seconds:g} s{why}")
        except KafkaError as error:
            self._fail(f"the Kafka broker at {self._kafka.brokers} does not take messages: {text(error)}")
        except Exception as error:  # noqa: BLE001  whatever it is, the messages are not delivered
            self._fail(f"sending failed: {text(error)}")
        finally:
            del self._pumps[partition]
            self._changed.set()

    def give_up(self, reason: str) -> None:
        """Fail now: what has no acknowledgement yet is undelivered. Whoever waits is told."""
        self._fail(reason)
        self._changed.set()

    def _fail(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = reason
        if self._sender is not None:
            self._sender.stop()
        left = [item for queue in self._sealed.values() for batch, _ in queue for item in batch.messages()]
        left += [item for batch in self._open.values() for item in batch.messages()]
        self._undelivered = [message for _, message in sorted(left, key=lambda item: item[0])]
        self._open.clear()
        for queue in self._sealed.values():
            queue.clear()
        self._bytes = 0

    def _raise_if_failed(self, *more: Message) -> None:
        if self._failure is not None:
            undelivered, self._undelivered = self._undelivered, []
            raise Undelivered(self._failure, [*undelivered, *more])

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        sender, self._sender = self._sender, None
        clean = self._failure is None and not self._pumps and not self._open
        self._open.clear()  # what lingers has no sender any more
        if sender is not None:
            sender.stop()
        for pump in list(self._pumps.values()):
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        if producer is not None:
            await close(producer, clean=clean)
