"""One partition at work: one batch = one Kafka transaction = one RocksDB write.

Partitions that are ready share a transaction (`transactions.py`). While it is on its way, the next batch is folded
over what it will have written (`tables.staged`). A crash before its commit leaves no trace; one between the commit and
the write is repaired by the restore; a zombie can't commit. So an error here has one answer: the process ends before
anything is acknowledged (`streams.worker.worker`).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from livejobs.streams.config import Config
from livejobs.streams.core import rules as rules_of
from livejobs.streams.core.fold import Fold, Record
from livejobs.streams.core.overlay import Changes, Output
from livejobs.streams.core.rules import Rules
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.client import client_options, stop_to_the_end
from livejobs.streams.kafka.records import bytes_of
from livejobs.streams.worker import resume
from livejobs.streams.worker.takeover import Takeover
from livejobs.streams.worker.transactions import Transactions
from livejobs.tables import jobs, keys, regressions
from livejobs.tables.jobs import Batch
from livejobs.tables.regressions import NEVER_MS
from livejobs.tables.restore import BATCH_RECORDS, BATCH_VERSIONS, Changelog, restore
from livejobs.tables.staged import Staged
from livejobs.tables.store import Store, StoreError

IDLE_COMMIT_SECONDS = 5.0
"""Messages that changed nothing (ticks) are acknowledged together, at least this often."""
SLICE_RECORDS = 500
"""Messages folded in one go: some 2 ms."""
COMMIT_RECORDS_MAX = 8_000
"""Messages of a partition that one transaction takes: what waits behind them is for the next one."""
RECORD_BYTES = 4096
"""What a message changes, in memory, about: until the first ones have shown it."""


class Partition:
    """One partition of `job-events` that this worker owns: its store, its fold, and what waits for them."""

    def __init__(  # noqa: PLR0913, PLR0917  what `open` has put together
        self,
        number: int,
        config: Config,
        store: Store,
        fold: Fold,
        staged: Staged,
        transactions: Transactions,
        restored: int,
        mark: str,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.number = number
        self._mark = mark
        self.restored = restored  # records read from the changelogs
        source = store.position.source
        self._kafka = config.kafka
        self._source = TopicPartition(config.kafka.events_topic, number)
        self._jobs = TopicPartition(config.kafka.jobs_topic, number)
        self._stats = TopicPartition(config.kafka.stats_topic, number)
        self._store, self.fold, self._staged, self._transactions = store, fold, staged, transactions
        self._fail = fail
        self.next_offset = source  # of the next message to fold
        self.fetch_offset = source  # of the next message to fetch
        self.committed_offset = source
        self.committed_at = self.moved_at = time.monotonic()  # moved: began a commit, or got the first messages
        self.waiting: list[Record] = []  # fetched, and not folded
        self._called = False  # `apply` is at work, or will be
        self.queued_records = self.queued_bytes = 0  # those, and the ones that are not committed
        self._folded_records = self._folded_bytes = 0  # of no transaction yet
        self._committing_bytes = 0  # of what is on its way
        self._record_bytes = RECORD_BYTES  # changed for a message of the last batch
        self._batch_bytes = 0  # will be changed by the one at work
        self._folded_ms = 0  # broker time of the last one
        self.closed = False
        self.tick_offset = -1  # of the last tick sent
        self._lock = asyncio.Lock()
        self._on_its_way: asyncio.Task[None] | None = None

    @classmethod
    async def open(  # noqa: PLR0913, PLR0917  what a partition needs of its worker
        cls,
        number: int,
        partitions: int,
        config: Config,
        transactions: Transactions,
        moved: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> "Partition":
        """Take a partition over: wait for the predecessor's last transaction, restore, find where to go on.

        `moved` is called as it proceeds; `fail` is told later, when a commit has failed.

        Raises StoreError, RestoreError, TimeoutError, and Kafka's errors.
        """
        kafka = config.kafka
        source = TopicPartition(kafka.events_topic, number)
        changelogs = [TopicPartition(topic, number) for topic in (kafka.jobs_topic, kafka.stats_topic)]
        takeover = Takeover(kafka.group, transactions)
        committed, mark = await takeover.settled(source, changelogs)
        rules = Rules.of(config.sigs)
        store = Store(data_path(config) / str(number), stores=partitions)
        try:  # whatever ends this, a rebalance too, the store is to be opened again
            restored = await _restored(store, number, partitions, config, rules, committed, moved)
            staged = Staged(store)
            with store.explained():
                fold = Fold(rules, staged, partition=number, partitions=partitions, topic=kafka.events_topic)
            mark = resume.marked(rules, store.position.source, mark)
            await takeover.claim(source, store.position.source, mark)
            return cls(number, config, store, fold, staged, transactions, restored, mark, fail)
        except BaseException:
            with contextlib.suppress(Exception):  # what is wrong is told already
                store.close()
            raise

    def add(self, records: list[Record]) -> bool:
        """Take in fetched messages; returns whether `apply` must be called for them.

        What comes while it is at work joins what is waiting: the busier a worker is, the larger its transactions. It
        is never called twice: Faust takes a partition whose calls pile up for one that can't follow, and pauses it.
        """
        self.fetch_offset = records[-1].offset + 1
        if not self.queued_records:
            self.moved_at = time.monotonic()
        self.queued_records += len(records)
        self.queued_bytes += bytes_of(records)
        if self.waiting:
            self.waiting += records
        else:
            self.waiting = records  # itself: whoever else still holds this list lets go of what is folded, too
        called, self._called = self._called, True
        return not called

    @property
    def joins_next(self) -> bool:
        """Whether it has messages for the transaction that begins next, and none of its own on its way."""
        pending = bool(self.waiting or self._folded_records) and not self.closed
        return pending and (self._on_its_way is None or self._on_its_way.done())

    @property
    def changed_bytes(self) -> int:
        """What has changed and is not yet written takes so much memory, about; and what is remembered until then."""
        return self._folding_bytes + self._committing_bytes

    @property
    def _folding_bytes(self) -> int:
        return self.fold.changed_bytes + self.fold.beyond_bytes

    @property
    def claimed_bytes(self) -> int:
        """The same, when the batch at work is complete."""
        return max(self.changed_bytes, self._batch_bytes + self._committing_bytes)

    async def apply(self) -> None:
        """Fold the messages that are waiting, and let them be committed: the last commit may be still on its way."""
        async with self._lock:
            await self._transactions.turn()
            while self.waiting and not self.closed:
                with self._store.explained():
                    await self._fold_batch()
                    self._commit(idle=False)
            self._called = False

    async def _fold_batch(self) -> None:
        """Fold the messages that are waiting, when there is room for all that they change."""
        records = min(len(self.waiting), COMMIT_RECORDS_MAX)
        self._batch_bytes = await self._transactions.room(records * self._record_bytes)
        more = True
        while more and self._may_fold():
            more = self._fold_slice()
            await asyncio.sleep(0)  # a transaction on its way needs its turns, too
        await self._settled()
        if more and self._may_fold():
            self._fold_slice()  # of what came meanwhile

    def _may_fold(self) -> bool:
        full = self._folded_records >= COMMIT_RECORDS_MAX or self._transactions.full(self._folding_bytes)
        return bool(self.waiting) and not full and not self.closed

    def _fold_slice(self) -> bool:
        """Fold the next messages; False: what `Fold.take` gives must be written out first."""
        part = self.waiting[:SLICE_RECORDS]
        done = self.fold.run(part, 0)
        if done:
            del self.waiting[:done]
            self.next_offset = self.waiting[0].offset if self.waiting else part[-1].offset + 1
            self._folded_records += done
            self._folded_bytes += bytes_of(part[:done])
            self._folded_ms = part[done - 1].timestamp
        return done == len(part)

    async def _settled(self) -> None:
        """Wait until the last commit is done."""
        if self._on_its_way is not None:
            await asyncio.shield(self._on_its_way)

    def _commit(self, *, idle: bool) -> None:
        """Begin to commit what is folded; nothing else may be on its way. What changed nothing can wait."""
        if self._folded_records >= SLICE_RECORDS:  # a few say little of others
            self._record_bytes = self._folding_bytes // self._folded_records
        self._committing_bytes, self._batch_bytes = self.fold.changed_bytes, 0
        changes = self.fold.take()
        records, size = self._folded_records, self._folded_bytes
        self._folded_records = self._folded_bytes = 0
        self.moved_at = time.monotonic()
        idle = idle or self.moved_at - self.committed_at >= IDLE_COMMIT_SECONDS
        if changes.published or idle:
            self._staged.stage(changes.ops)
            commit = self._committed(changes, self.next_offset, self._folded_ms)
            self._on_its_way = asyncio.create_task(commit)
            self._on_its_way.add_done_callback(lambda _: self._done(records, size))
            return
        if changes.ops:
            self._write(changes, self.next_offset, self._folded_ms)
        self._committing_bytes = 0
        self._done(records, size)

    def _done(self, records: int, size: int) -> None:
        self.queued_records -= records
        self.queued_bytes -= size

    async def _committed(self, changes: Changes, offset: int, broker_ms: int) -> None:
        try:
            outputs = await self._outputs(changes)
            ends = await self._transactions.commit(self._source, offset, outputs, self._mark)
            position = self._store.position
            position.jobs = ends.get(self._jobs, position.jobs)
            position.stats = ends.get(self._stats, position.stats)
            self.committed_offset, self.committed_at = offset, time.monotonic()
            with self._store.explained():
                self._write(changes, offset, broker_ms)
            self._committing_bytes = 0  # before the next batch, which waits for this task, is committed
        except BaseException as error:
            self._fail(error)
            raise

    def _write(self, changes: Changes, offset: int, broker_ms: int) -> None:
        position = self._store.position
        position.source = offset
        position.updated_ms = max(position.updated_ms, broker_ms)
        self._store.write(changes.ops)
        self._staged.stage([])

    async def _outputs(self, changes: Changes) -> list[tuple[TopicPartition, list[Output]]]:
        """What goes where."""
        kafka = self._kafka
        outputs = [(self._jobs, changes.jobs), (self._stats, changes.stats)]
        if changes.rejects:
            number = self.number % await self._transactions.partition_count(kafka.rejects_topic)
            outputs.append((TopicPartition(kafka.rejects_topic, number), changes.rejects))
        by_partition: dict[int, list[Output]] = {}
        for partition, key, value, headers in changes.reroutes:
            by_partition.setdefault(partition, []).append((key, value, headers))
        outputs += [(TopicPartition(kafka.events_topic, number), some) for number, some in by_partition.items()]
        return outputs

    async def close(self) -> None:
        """Let the batch at work finish, acknowledge what changed nothing, and give the partition back."""
        self.closed = True
        async with self._lock:
            await self._settled()
            if self.next_offset > self.committed_offset:
                self._commit(idle=True)
                await self._settled()
            self._store.close()


async def _restored(  # noqa: PLR0913, PLR0917  what `open` knows
    store: Store,
    number: int,
    partitions: int,
    config: Config,
    rules: Rules,
    committed: int,
    moved: Callable[[], None],
) -> int:
    """Bring the partition's store up to date, its position to where to go on; returns how many records were read."""
    kafka = config.kafka
    names = [kafka.events_topic, kafka.jobs_topic, kafka.stats_topic]
    made_with = store.position
    if made_with.partitions not in (0, partitions) or made_with.topics not in ([], names):
        raise StoreError(
            f"{store.path}: made with {made_with.partitions} partitions of {', '.join(made_with.topics)}, "
            f"the topics are {partitions} partitions of {', '.join(names)}: "
            "use another [worker] datadir, or restore the topics",
        )

    def restore_stats(records: list[Record], batch: Batch, _seen: bytearray | None) -> None:
        for name, record in {record.key or b"": record for record in records}.items():  # the last one of each counts
            jobs.put_into(batch, rules_of.restore_ops(rules, name, record.value, record.headers))

    source_tp = TopicPartition(kafka.events_topic, number)
    consumer = AIOKafkaConsumer(
        **client_options(kafka),
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )
    try:
        await consumer.start()
        # At once: aiokafka would ask for each when it comes to it, and wait for 100 ms more.
        await consumer._client.set_topics(names)  # noqa: SLF001
        # Before it begins to fetch: it would make us wait for its long polls.
        first = (await consumer.beginning_offsets([source_tp]))[source_tp]
        end = (await consumer.end_offsets([source_tp]))[source_tp]
        restored = await restore(
            consumer,
            store,
            [
                Changelog("jobs", TopicPartition(kafka.jobs_topic, number), BATCH_RECORDS, jobs.restore),
                Changelog("stats", TopicPartition(kafka.stats_topic, number), BATCH_VERSIONS, restore_stats),
            ],
            await topics.tombstones_ms(config),
            moved,
        )
        if committed < 0:
            committed = await resume.traced(consumer, config, number, store)
    finally:
        await stop_to_the_end(consumer)
    known = max(store.position.source, committed)
    if known >= 0 and not first <= known <= end:
        raise StoreError(resume.cut(kafka, number, known, first, end))
    source = known if known >= 0 else first
    store.position.source, store.position.partitions, store.position.topics = source, partitions, names
    with store.explained():
        store.write(_reindexed(store, rules))
    return restored


def _reindexed(store: Store, rules: Rules) -> list[jobs.Op]:
    """What makes the deadline index fit the rules in force, if they are not those that it was made with."""
    if store.position.rules == list(rules):
        return []
    ops: list[jobs.Op] = [(key, None) for key, _ in store.scan(keys.DEADLINE, b"E")]
    for key, stored in store.scan(keys.REGRESSION, b"S"):
        value, headers = regressions.record_of(stored)
        due_ms = rules_of.deadline(rules, regressions.from_stored(stored))
        ops.append((key, regressions.stored_value(due_ms, value, headers)))
        if due_ms != NEVER_MS:
            ops.append((keys.timed(keys.DEADLINE, due_ms, key[1:]), b""))
    store.position.rules = list(rules)
    return ops


def data_path(config: Config) -> Path:
    """The folder that holds the stores of a worker's partitions."""
    return Path(config.worker.datadir) / config.kafka.group
