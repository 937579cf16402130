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

PARTITIONS = 3
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

    def forget(self) -> None:
        """Of a producer that sends nothing for a day, nothing is known any more."""
        self._known.clear()

    def append(self, batch: Bytes) -> int:
        """The error code."""
        if batch in self._known:
            return 0
        if self._known:
            last = self._known[-1]
            expected = (last.sequence + last.records) % sender.SEQUENCES
            if batch.sequence != expected:
                return int(errors.OutOfOrderSequenceNumber.errno)
        self.batches.append(batch)
        self._known.append(batch)
        return 0


FAULTS = ["none"] * 8 + ["request lost", "answer lost", "refused", "late"]


class Cluster:
    """Client and cluster in one: what the sender asks of aiokafka. What goes wrong is by chance."""

    def __init__(self, chance: Random, partitions: int) -> None:
        self.cluster = self
        self.logs = [Log() for _ in range(partitions)]
        self._chance = chance
        self.on_the_way = [0] * partitions
        self.most = 0

    def leader_for_partition(self, tp: Any) -> int | None:
        return None if self._chance.random() < 0.1 else tp.partition % 2

    def force_metadata_update(self) -> None:
        """A leader is not known by chance, each time anew."""

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
        if fault == "late":  # on a connection of its own: those behind it may overtake it
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if fault == "request lost":
            raise errors.KafkaConnectionError
        refused = int(errors.NotLeaderForPartitionError.errno)
        codes = [(partition, refused if fault == "refused" else self.logs[partition].append(batch)) for partition, batch in batches]
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)
        if fault == "answer lost":
            raise errors.RequestTimedOutError
        return SimpleNamespace(topics=[("t", [(partition, code, 0) for partition, code in codes])])


def sender_over(cluster: Cluster, first: int = 0) -> Sender:
    identity = SimpleNamespace(producer_id=1, producer_epoch=0)
    producer: Any = SimpleNamespace(client=cluster, _txn_manager=identity)
    sending = Sender(producer, "t", 10.0)
    for partition in range(PARTITIONS):
        sending._queue(partition).sequence = first
    return sending


@pytest.fixture(autouse=True, scope="module")
def _at_once() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender, "BACKOFF_SECONDS", 0.0)
        yield


some = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from([100, sender.REQUEST_BYTES_MIN])), min_size=1, max_size=30
)


@settings(max_examples=300, deadline=None)
@given(batches=some, seed=st.integers(0, 2**32), first=st.sampled_from([0, sender.SEQUENCES - 5]))
def test_each_batch_is_written_once_and_in_order(batches: list[Any], seed: int, first: int) -> None:
    chance = Random(seed)
    cluster = Cluster(chance, PARTITIONS)

    async def send() -> None:
        sending, acknowledged = sender_over(cluster, first), []
        waiting: list[list[asyncio.Future[None]]] = [[] for _ in range(PARTITIONS)]
        for number, (partition, records, size) in enumerate(batches):
            if all(one.done() for one in waiting[partition]):
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
def test_behind_an_error_that_does_not_pass_nothing_is_sent(code: type[errors.KafkaError]) -> None:
    """Not even what was given before it came, and other partitions go on."""
    cluster = Cluster(Calm(), PARTITIONS)
    log = cluster.logs[1]
    log.append = lambda batch: int(code.errno) if batch.number == 2 else Log.append(log, batch)  # type: ignore[method-assign]

    async def send() -> list[BaseException | None]:
        sending = sender_over(cluster)
        batches: Any = [Batch(number, 1, sender.REQUEST_BYTES_MIN) for number in range(8)]
        waiting = [sending.send(1, batch) for batch in batches[:6]]
        with pytest.raises(code):
            await waiting[2]
        waiting.append(sending.send(1, batches[6]))
        await sending.send(0, batches[7])
        sending.stop()
        return [None if not one.done() else one.exception() for one in waiting if one is not waiting[2]]

    assert asyncio.run(send()) == [None] * 6
    assert [batch.number for batch in log.batches] == [0, 1]
    assert [batch.number for batch in cluster.logs[0].batches] == [7]


class Calm(Random):
    """Chance by which nothing goes wrong."""

    def random(self) -> float:
        return 1.0

    def choice(self, items: Any) -> Any:
        return items[0]

    def randrange(self, *_: Any) -> int:
        return 0
