"""The publisher's sender against a broker that loses requests and answers: each batch once, in order, or an error."""

import asyncio
from collections import deque
from itertools import chain
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka import errors
from hypothesis import given, settings
from hypothesis import strategies as st

from livejobs.streams.publisher import sender
from livejobs.streams.publisher.sender import ON_THE_WAY_MAX, Sender

PARTITIONS = 2
REMEMBERED = 5
"""Batches of a producer and partition that a broker knows again."""


class Bytes(NamedTuple):
    """What travels: a batch's place among all of its partition, its sequence number, how many records it has."""

    number: int
    sequence: int
    records: int
    size: int

    def __len__(self) -> int:
        return self.size


class Batch:
    """As `streams.publisher.batch.Batch`, for a sender."""

    def __init__(self, number: int, records: int, size: int) -> None:
        self._number, self._records, self._size = number, records, size

    def built(self, _producer_id: int, _producer_epoch: int, sequence: int) -> Bytes:
        return Bytes(self._number, sequence, self._records, self._size)

    def __len__(self) -> int:
        return self._records


class Log:
    """One partition as a broker keeps it: it knows a producer's last batches, or nothing of it at first."""

    def __init__(self) -> None:
        self.batches: list[Bytes] = []
        self._known: deque[Bytes] = deque(maxlen=REMEMBERED)

    def restart(self) -> None:
        """What a broker knows after a restart: it writes only the last batch of a producer to its snapshots."""
        while len(self._known) > 1:
            self._known.popleft()

    def forget(self) -> None:
        """Of a producer that sends nothing for a day, nothing is known any more."""
        self._known.clear()

    def append(self, batch: Bytes) -> int:
        """The error code."""
        if batch in self._known:
            return 0
        if self._known:
            last = self._known[-1]
            expected = (last.sequence + last.records) % 2**31
            if batch.sequence != expected:
                return int(errors.OutOfOrderSequenceNumber.errno)
        self.batches.append(batch)
        self._known.append(batch)
        return 0


FAULTS = ["none"] * 8 + ["request lost", "answer lost", "refused", "late", "given up", "restart"]


class Cluster:
    """Client and cluster in one: what the sender asks of aiokafka. What goes wrong is by chance."""

    def __init__(self, chance: Random, partitions: int) -> None:
        self.cluster = self
        self.logs = [Log() for _ in range(partitions)]
        self.unauthorized_topics: set[str] = set()
        self.writing: set[asyncio.Task[Any]] = set()
        self._chance = chance
        self.on_the_way = [0] * partitions
        self.most = 0

    def leader_for_partition(self, tp: Any) -> int | None:
        return None if self._chance.random() < 0.1 else tp.partition % 2

    def force_metadata_update(self) -> asyncio.Future[bool]:
        """A leader is not known by chance, each time anew."""
        renewed = asyncio.get_running_loop().create_future()
        renewed.set_result(True)
        return renewed

    async def send(self, _node: int, request: Any) -> Any:
        (_, batches), = request._topics
        for partition, _ in batches:
            self.on_the_way[partition] += 1
            self.most = max(self.most, self.on_the_way[partition])
        try:
            return await self._answer(batches)
        finally:
            for partition, _ in batches:
                self.on_the_way[partition] -= 1

    async def _answer(self, batches: list[tuple[int, Bytes]]) -> Any:
        fault = self._chance.choice(FAULTS)
        if fault == "restart":
            for log in self.logs:
                log.restart()
            raise errors.KafkaConnectionError
        if fault == "request lost":
            raise errors.KafkaConnectionError
        if fault == "given up":  # by the client, and written all the same, after what comes on another connection
            writing = asyncio.create_task(self._write(batches, late=True))
            self.writing.add(writing)
            writing.add_done_callback(self.writing.discard)
            raise errors.RequestTimedOutError
        codes = await self._write(batches, late=fault == "late", refused=fault == "refused")
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)
        if fault == "answer lost":
            raise errors.RequestTimedOutError
        return SimpleNamespace(topics=[("t", [(partition, code, 0) for partition, code in codes])])

    async def _write(self, batches: list[tuple[int, Bytes]], *, late: bool, refused: bool = False) -> list[tuple[int, int]]:
        for _ in range(self._chance.randrange(9) if late else 0):
            await asyncio.sleep(0)
        code = int(errors.NotLeaderForPartitionError.errno)
        refused_too = [refused and self._chance.random() < 0.7 for _ in batches]
        return [
            (partition, code if no else self.logs[partition].append(batch))
            for (partition, batch), no in zip(batches, refused_too, strict=True)
        ]


def sender_over(cluster: Cluster, first: int = 0) -> Sender:
    identity = SimpleNamespace(producer_id=1, producer_epoch=0)
    producer: Any = SimpleNamespace(client=cluster, _txn_manager=identity)
    sending = Sender(producer, "t")
    for partition in range(PARTITIONS):
        sending._queue(partition).sequence = first
    return sending


@pytest.fixture(autouse=True, scope="module")
def _at_once() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender, "BACKOFF_SECONDS", 0.0)
        yield


sizes = st.sampled_from([100, sender.REQUEST_BYTES_MIN, sender.REQUEST_BYTES_MIN])
some = st.lists(st.tuples(st.sampled_from([0, 0, 1]), st.integers(1, 3), sizes), min_size=1, max_size=30)


@settings(max_examples=2000, deadline=None)
@given(batches=some, seed=st.integers(0, 2**32), first=st.sampled_from([0, sender.SEQUENCES - 5]))
def test_each_batch_is_written_once_and_in_order(batches: list[Any], seed: int, first: int) -> None:
    chance = Random(seed)
    cluster = Cluster(chance, PARTITIONS)

    async def send() -> None:
        sending, acknowledged = sender_over(cluster, first), []
        waiting: list[list[asyncio.Future[None]]] = [[] for _ in range(PARTITIONS)]
        for number, (partition, records, size) in enumerate(batches):
            if not cluster.writing and all(one.done() for one in waiting[partition]):
                cluster.logs[partition].forget()
            batch: Any = Batch(number, records, size)
            waiting[partition].append(sending.send(partition, batch))
            waiting[partition][-1].add_done_callback(lambda _, number=number: acknowledged.append(number))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await asyncio.gather(*chain(*waiting))
        sending.stop()
        for partition in range(PARTITIONS):
            numbers = [number for number in acknowledged if batches[number][0] == partition]
            assert numbers == sorted(numbers)

    asyncio.run(send())
    for partition, log in enumerate(cluster.logs):
        assert [batch.number for batch in log.batches] == [n for n, (to, *_) in enumerate(batches) if to == partition]
    assert cluster.most <= ON_THE_WAY_MAX


@pytest.mark.parametrize("code", [errors.TopicAuthorizationFailedError, errors.OutOfOrderSequenceNumber])
@pytest.mark.parametrize("at", [0, 2])
def test_behind_an_error_that_does_not_pass_nothing_is_sent(code: type[errors.KafkaError], at: int) -> None:
    """Not even what was given before it came, and other partitions go on."""
    cluster = Cluster(Calm(), PARTITIONS)
    log = cluster.logs[1]
    log.append = lambda batch: int(code.errno) if batch.number == at else Log.append(log, batch)  # type: ignore[method-assign]

    async def send() -> list[BaseException | None]:
        sending = sender_over(cluster)
        batches: Any = [Batch(number, 1, sender.REQUEST_BYTES_MIN) for number in range(8)]
        waiting = [sending.send(1, batch) for batch in batches[:6]]
        with pytest.raises(code):
            async with asyncio.timeout(20):
                await waiting[at]
        waiting.append(sending.send(1, batches[6]))
        await sending.send(0, batches[7])
        sending.stop()
        return [None if not one.done() else one.exception() for one in waiting if one is not waiting[at]]

    assert asyncio.run(send()) == [None] * 6
    assert [batch.number for batch in log.batches] == list(range(at))
    assert [batch.number for batch in cluster.logs[0].batches] == [7]


class Calm(Random):
    """Chance by which nothing goes wrong."""

    def random(self) -> float:
        return 1.0

    def choice(self, items: Any) -> Any:
        return items[0]

    def randrange(self, *_: Any) -> int:
        return 0
