"""A worker's transactions: one after the other, each for all partitions that have something to commit.

A transaction costs the broker as much for one partition as for eight, so those that are ready share it. While it is on
its way, the other partitions fold their messages and make up the next one.

A worker that has lost its partitions can commit nothing (KIP-447): its offsets carry the group's generation that gave
it the partitions, and the coordinator refuses an old one; then the whole transaction is given up.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, Self
from urllib.parse import quote

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.producer import sender
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest

from livejobs.streams.config import Kafka
from livejobs.streams.core.overlay import Output
from livejobs.streams.kafka import records
from livejobs.streams.kafka.client import client_options, stop_to_the_end
from livejobs.streams.kafka.protocol import NO_LEADER_EPOCH, TxnOffsetCommit
from livejobs.streams.kafka.records import BATCH_BYTES, RECORD_BYTES_MAX

PAUSE_SECONDS = 0.005
"""From the beginning of a transaction to that of the next one, at least: what comes meanwhile makes that one larger."""
CHANGED_BYTES_MAX = 96 * 1024 * 1024
"""What may have changed in all partitions together and not be written, as it is in memory: then no more is folded."""
ROOM_SECONDS = 0.001
"""From one look for room to the next."""
JOIN_SECONDS = 0.001
JOIN_SECONDS_MAX = 0.02
"""From then on, for all that have messages to fold them and to join: looked at so often, waited for no longer."""
TRANSACTION_SECONDS = 30.0
ABORT_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.05
RETRY_MS = 3
"""Kafka 4 may answer the first produce of a transaction with NOT_ENOUGH_REPLICAS until it has verified the transaction:
ask again soon."""
sender.BACKOFF_OVERRIDE = 0.002
"""The same for a transaction that begins before the markers of the last one are written: aiokafka would wait 20 ms."""
COORDINATOR_MOVED = {7, 15, 16}
"""REQUEST_TIMED_OUT, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR: find it anew."""
RETRIABLE = COORDINATOR_MOVED | {3, 14, 51}
"""UNKNOWN_TOPIC_OR_PARTITION, COORDINATOR_LOAD_IN_PROGRESS, CONCURRENT_TRANSACTIONS: ask again."""
MEMBER_LOST = {22, 25, 27, 82}
"""ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID."""

Outputs = Sequence[tuple[TopicPartition, list[Output]]]
Ends = dict[TopicPartition, int]
Codes = Callable[[Any], Sequence[int]]


class LostError(KafkaError):  # type: ignore[misc]
    """The group has given our partitions to another worker."""


class Member(NamedTuple):
    """Who we are in the consumer group, since the last assignment."""

    generation: int
    member_id: str
    instance_id: str | None


class AtWork(Protocol):
    """A partition that the worker's transactions are for (`streams.worker.commit.Partition`)."""

    @property
    def joins_next(self) -> bool:
        """Whether it has messages for the transaction that begins next, and none of its own on its way."""

    @property
    def changed_bytes(self) -> int:
        """What has changed and is not yet written takes so much memory, about."""

    @property
    def claimed_bytes(self) -> int:
        """The same, when what it is at work on is complete."""


class Left(NamedTuple):
    """What stands beside an offset that is committed: who did it, and a mark of the partition's."""

    transactional_id: str
    member_id: str
    """Quoted as in a URL."""
    mark: str

    @classmethod
    def of(cls, text: str) -> Self:
        """What `str` has made of it; empty where it is something else."""
        parts = text.split(" ", 2)
        return cls(*parts, *[""] * (3 - len(parts)))

    def __str__(self) -> str:
        return " ".join(self)


class _Commit:
    """What a partition wants to have committed."""

    def __init__(self, source: TopicPartition, offset: int, outputs: Outputs, mark: str) -> None:
        self.source, self.offset, self.outputs, self.mark = source, offset, outputs, mark
        self.done: asyncio.Future[Ends] = asyncio.get_running_loop().create_future()


class Transactions:
    """The transactional producer of a worker, for its partitions.

    `member` must be set before the first commit.
    """

    def __init__(self, kafka: Kafka, partitions: Callable[[], Iterable[AtWork]]) -> None:
        self._kafka, self._partitions = kafka, partitions
        self.transactional_id = f"{kafka.group}-{uuid.uuid4()}"
        self.member = Member(-1, "", None)
        self._waiting: list[_Commit] = []
        self._group: list[_Commit] = []
        """On its way."""
        self._came = asyncio.Event()
        self._entrance = asyncio.Lock()
        self._began_at = 0.0
        self._running: asyncio.Task[None] | None = None
        self._producer: Any = None

    def _make(self, transactional_id: str) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **client_options(self._kafka),
            transactional_id=transactional_id,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=RECORD_BYTES_MAX + 64 * 1024,
            transaction_timeout_ms=int(TRANSACTION_SECONDS * 1000),
            request_timeout_ms=20_000,
            retry_backoff_ms=RETRY_MS,
        )

    async def start(self) -> None:
        """Connect. Raises Kafka's errors."""
        self._producer = self._make(self.transactional_id)
        await self._producer.start()
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Close the connections; nothing may be waiting."""
        if self._running is not None:
            self._running.cancel()
            await self._producer.stop()

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(await self._producer.partitions_for(topic))

    @property
    def client(self) -> Any:
        """The connections to the brokers."""
        return self._producer.client

    async def give_up(self, transactional_id: str) -> None:
        """Make the broker give up what the producer of this id has left open, and refuse it from now on."""
        producer = self._make(transactional_id)
        try:
            await producer.start()
        finally:
            await stop_to_the_end(producer)

    async def turn(self) -> None:
        """Wait until the next transaction may begin: what is folded then is up to date."""
        await asyncio.sleep(max(0.0, self._began_at + PAUSE_SECONDS - time.monotonic()))

    async def room(self, batch_bytes: int) -> int:
        """Wait until a batch may change so much; returns that, but less than half of all. First come, first served.

        So batches are made whole, one after the other, rather than many begun: the larger one is, the more of its
        messages change the same regressions and jobs, which are written once.
        """
        batch_bytes = min(batch_bytes, (CHANGED_BYTES_MAX - 1) // 2)
        async with self._entrance:
            while claimed := sum(partition.claimed_bytes for partition in self._partitions()):
                if claimed + batch_bytes < CHANGED_BYTES_MAX:
                    break
                await asyncio.sleep(ROOM_SECONDS)
        return batch_bytes

    def full(self, batch_bytes: int = 0) -> bool:
        """Whether a batch that has changed so much must be written now; no more than half of all is for one."""
        if 2 * batch_bytes >= CHANGED_BYTES_MAX:
            return True
        return sum(partition.changed_bytes for partition in self._partitions()) >= CHANGED_BYTES_MAX

    async def commit(self, source: TopicPartition, offset: int, outputs: Outputs, mark: str) -> Ends:
        """Write the outputs and commit the source's offset, with a mark that is left with it, all or nothing.

        Returns, for each partition written, the offset behind the last record. Raises LostError, Kafka's errors, and
        TimeoutError; after any of them nothing is known of what was committed: the process must end.
        """
        if self._running is None or self._running.done():
            raise LostError("the transactions have ended")
        commit = _Commit(source, offset, outputs, mark)
        self._waiting.append(commit)
        self._came.set()
        return await asyncio.wait_for(commit.done, 2 * TRANSACTION_SECONDS + 10)

    async def _run(self) -> None:
        try:
            while True:
                await self._came.wait()
                await self.turn()
                await self._join()
                self._came.clear()
                self._group, self._waiting = self._waiting, []
                self._began_at = time.monotonic()
                ends = await asyncio.wait_for(self._transaction(self._group), TRANSACTION_SECONDS)
                for commit, end in zip(self._group, ends, strict=True):
                    if not commit.done.done():
                        commit.done.set_result(end)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must know
            while isinstance(error, ExceptionGroup):  # of the first one that failed, the others are consequences
                error = error.exceptions[0]
            with contextlib.suppress(Exception):  # else it is given up by whoever comes after us, or by the broker
                await asyncio.wait_for(self._producer.abort_transaction(), ABORT_SECONDS)
            for commit in self._group + self._waiting:
                if not commit.done.done():
                    commit.done.set_exception(error)

    async def _join(self) -> None:
        """Wait for the partitions that can be in the next transaction: left out, they would wait for one more."""
        deadline = time.monotonic() + JOIN_SECONDS_MAX
        while True:
            await asyncio.sleep(JOIN_SECONDS)
            room = not self.full() and not self._entrance.locked()
            coming = room and any(partition.joins_next for partition in self._partitions())
            if not coming or time.monotonic() > deadline:
                return

    async def _transaction(self, group: Sequence[_Commit]) -> list[Ends]:
        producer = self._producer
        await producer.begin_transaction()
        tps = {tp for commit in group for tp, outputs in commit.outputs if outputs}
        offsets = {commit.source: (commit.offset, commit.mark) for commit in group}
        async with asyncio.TaskGroup() as tasks:
            adding = tasks.create_task(self._add_partitions(tps))
            tasks.create_task(self._send_offsets(offsets))  # its first request goes out right behind the other's
            await adding
            sending = [tasks.create_task(self._send(commit.outputs)) for commit in group]
        await producer.commit_transaction()
        return [task.result() for task in sending]

    async def _send(self, outputs: Outputs) -> Ends:
        """Write a partition's outputs; returns when the broker has acknowledged them."""
        sent = [
            (tp, batch.record_count(), await self._producer.send_batch(batch, tp.topic, partition=tp.partition))
            for tp, records_ in outputs
            for batch in records.batches(records_)
        ]
        ends = {}
        for tp, count, future in sent:
            try:
                ends[tp] = (await future).offset + count
            except KafkaError as error:
                error.args = (tp.topic,)
                raise
        return ends

    async def _add_partitions(self, tps: set[TopicPartition]) -> None:
        """All of them with one request, before the first record is sent."""
        if not tps:
            return
        manager = self._producer._txn_manager
        topics: dict[str, list[int]] = {}
        for tp in tps:
            topics.setdefault(tp.topic, []).append(tp.partition)
        request = AddPartitionsToTxnRequest(
            manager.transactional_id, manager.producer_id, manager.producer_epoch, list(topics.items())
        )

        answered: dict[int, str] = {}  # code -> a topic that it is of

        def codes(answer: Any) -> list[int]:
            answered.clear()
            answered.update((code, topic) for topic, partitions in answer.errors for _, code in partitions)
            return list(answered)

        try:
            await self.ask(CoordinationType.TRANSACTION, manager.transactional_id, request, codes)
        except KafkaError as error:
            error.args = (answered.get(error.errno) or error,)
            raise
        manager.txn_partitions.update(tps)

    def me(self) -> Member:
        """Who we are, for a commit: the broker would take one that is no member for an operator."""
        if self.member.generation < 0 or not self.member.member_id:
            raise LostError("we are no member of the consumer group")
        return self.member

    async def _send_offsets(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        manager, group = self._producer._txn_manager, self._kafka.group
        ids = (manager.producer_id, manager.producer_epoch)
        request = AddOffsetsToTxnRequest(manager.transactional_id, *ids, group)
        await self.ask(
            CoordinationType.TRANSACTION, manager.transactional_id, request, lambda answer: [answer.error_code]
        )
        manager.consumer_group_added(group)
        topics: dict[str, list[tuple[Any, ...]]] = {}
        for tp, (offset, mark) in offsets.items():
            entry: tuple[Any, ...] = (tp.partition, offset, NO_LEADER_EPOCH, self.left(mark), {})
            topics.setdefault(tp.topic, []).append(entry)
        commit = TxnOffsetCommit(
            manager.transactional_id, group, *ids, *self.me(), [(topic, tps, {}) for topic, tps in topics.items()]
        )

        def codes(answer: Any) -> list[int]:
            return [code for _, partitions, _ in answer.topics for _, code, _ in partitions]

        await self.ask(CoordinationType.GROUP, group, commit, codes)

    def left(self, mark: str) -> str:
        """What we leave beside an offset."""
        return str(Left(self.transactional_id, quote(self.member.member_id), mark))

    async def ask(self, kind: CoordinationType, key: str, request: Any, codes: Codes) -> Any:
        """Ask a coordinator, until it answers without an error that may pass; the caller limits the time.

        Raises LostError, and Kafka's errors.
        """
        sending = self._producer._sender
        while True:
            node = await sending._find_coordinator(kind, key)
            try:
                answer = await self._producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
                found = {code for code in codes(answer) if code}
            except KafkaError as error:
                if not error.retriable and not isinstance(error, kafka_errors.NodeNotReadyError):
                    raise
                found = {min(COORDINATOR_MOVED)}
            if not found:
                return answer
            if bad := found - RETRIABLE:
                refuse(min(bad))
            if found & COORDINATOR_MOVED:
                sending._coordinator_dead(kind)
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            else:
                await asyncio.sleep(sender.BACKOFF_OVERRIDE)


def refuse(code: int) -> NoReturn:
    """Raises LostError, or what Kafka calls the error."""
    if code in MEMBER_LOST:
        raise LostError(f"the group has given our partitions away (error {code})")
    raise kafka_errors.for_code(code)(f"error {code}")
