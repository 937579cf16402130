"""One partition read: `job-events` folded again into a store, its two output topics copied into another."""

import contextlib
import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from livejobs.streams.core.fold import Fold, Record
from livejobs.streams.core.rules import Rules
from livejobs.streams.verify.differences import Kept, Row
from livejobs.streams.verify.report import VerifyError, Work
from livejobs.streams.verify.source import Source
from livejobs.streams.worker.resume import Mark
from livejobs.streams.worker.transactions import Left
from livejobs.tables import jobs, keys, regressions
from livejobs.tables.jobs import STATE_HEADER, JobPrivate
from livejobs.tables.store import Store

ROUNDS_MAX = 5
"""How often the reader goes on to where the system is by then, while it is far behind."""
CAUGHT_UP = 1_000
"""Messages that may be left to a round so that it is the last."""

# Tables of the copy; each value is the state header's length, the header, the record's value.
ROW, STATS, TOMBSTONE, OPENED, OLDER = b"J", b"S", b"T", b"O", b"B"

_encode = msgspec.json.encode


class Partition:
    """One partition: its messages folded again, and its output copied next to that."""

    def __init__(self, number: int, partitions: int, source: Source, folder: Path, work: Work) -> None:
        kafka = source.config.kafka
        self.number, self.partitions = number, partitions
        self.events, self.jobs, self.stats = (
            TopicPartition(t, number) for t in (kafka.events_topic, kafka.jobs_topic, kafka.stats_topic)
        )
        self.first = 0
        """Offset of the first message that is still there."""
        self.first_ms: int | None = None
        """Its time; None: there is no message."""
        self.known = True
        """Whether the group has a committed offset."""
        self.committed = 0
        """Where it was before the rows and the statistics were read."""
        self.mark = 0
        """End of the statistics before that."""
        self._since = 0  # the first message to which the rules in force were applied
        self._source, self._folder, self._work, self._report = source, folder, work, work.report
        self._rules = Rules.of(source.config.sigs)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Its two stores, as long as they are needed."""
        self._folded = Store(self._folder / "fold")
        self._copy = Store(self._folder / "copy")
        try:
            yield
        finally:
            self._folded.close()
            self._copy.close()

    # ------------------------------------------------------------------ reading

    async def read(self) -> None:
        """Fold and copy all that is there. Raises VerifyError."""
        source = self._source
        self._fold = Fold(
            self._rules, self._folded, partition=self.number, partitions=self.partitions, topic=self.events.topic
        )
        self.first = folded = await source.first(self.events)
        read = {self.jobs: await source.first(self.jobs), self.stats: await source.first(self.stats)}
        for _ in range(ROUNDS_MAX):
            start = folded
            self.mark = await source.end(self.stats)
            commit = await source.commit(self.number)
            self.known = commit is not None
            self.committed = folded if commit is None else int(commit.offset)
            self._since = 0 if commit is None else self._begin_of_rules(commit)
            end = min(self.committed, await source.end(self.events))
            self._work.left[self.number] = max(0, end - folded)
            await self._fold_to(folded, end)
            folded = max(folded, end)
            for tp, table in ((self.jobs, ROW), (self.stats, STATS)):
                end = await source.end(tp)
                await self._copy_to(tp, table, read[tp], end)
                read[tp] = max(read[tp], end)
            # A first commit while we read: without a bound on what is folded, rows and statistics are of two moments.
            settled = self.known or await source.committed(self.number) is None
            if folded - start <= CAUGHT_UP and settled:
                break
        if folded < self.committed:
            what = f"the committed offset is {self.committed}, {self.events.topic} ends before it: was it made anew?"
            self._report.add([f"partition {self.number}: {what}"])

    def _begin_of_rules(self, commit: OffsetAndMetadata) -> int:
        """The first message to which the rules in force were applied. Raises VerifyError if ours are others."""
        mark = Mark.of(Left.of(commit.metadata).mark)
        if mark is None:
            return 0
        theirs, ours = mark.rules._asdict(), self._rules._asdict()
        apart = ", ".join(f"{name} {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name])
        if apart:
            raise VerifyError(f"[sigs] of this configuration are not those of the workers, who have: {apart}")
        return mark.since

    async def _fold_to(self, start: int, end: int) -> None:
        fold, left = self._fold, self._work.left
        async for records in self._source.read(self.events, start, end):
            if self.first_ms is None and records:
                self.first_ms = records[0].timestamp
            if self.first > 0:
                self._note_opened(records)
            if records and records[0].offset < self._since:
                older = {record.key for record in records if record.key and record.offset < self._since}
                self._copy.write((OLDER + key, b"") for key in older)
            at = 0
            while at < len(records):
                at = fold.run(records, at)
                self._folded.write(fold.take().ops)
            self._report.events += len(records)
            if records:
                left[self.number] = end - records[-1].offset - 1
            self._work.show()
        left[self.number] = 0

    def _note_opened(self, records: Sequence[Record]) -> None:
        """Note which regressions begin with a regr-start in what is left of `job-events`."""
        opened: dict[bytes, bytes] = {}
        for record in records:
            if record.key and record.key not in opened:
                known = self._copy.get(OPENED + record.key)
                opened[record.key] = known or (b"start" if record.kind == b"regr-start" else b"other")
        self._copy.write((OPENED + key, value) for key, value in opened.items())

    async def _copy_to(self, tp: TopicPartition, table: bytes, start: int, end: int) -> None:
        async for records in self._source.read(tp, start, end):
            ops: dict[bytes, bytes | None] = {}
            for record in records:
                if record.key is None:
                    self._report.add([f"{tp.topic} partition {tp.partition} offset {record.offset}: has no key"])
                elif record.value is None:
                    ops[table + record.key] = None
                    if table == STATS:
                        ops[TOMBSTONE + record.key] = b"%d" % record.offset
                else:
                    state = next((data for name, data in record.headers if name == STATE_HEADER), b"")
                    ops[table + record.key] = len(state).to_bytes(4, "big") + state + record.value
            self._copy.write(ops.items())

    # ------------------------------------------------------------------ what was read

    async def latest(self) -> int:
        """The committed offset by now; 0 if there is none."""
        return await self._source.committed(self.number) or 0

    def names(self) -> Iterator[bytes]:
        """Keys of all regressions that either side has, in order."""
        both = heapq.merge(_names(self._folded, keys.REGRESSION), _names(self._copy, STATS))
        return (key for key, _ in groupby(both))

    def folded_stats(self, key: bytes) -> Kept | None:
        """A regression's record by the fold."""
        stored = self._folded.get(keys.REGRESSION + key)
        if stored is None:
            return None
        value, headers = regressions.record_of(stored)
        return headers[0][1], value

    def copied_stats(self, key: bytes) -> Kept | None:
        """A regression's record in its topic."""
        stored = self._copy.get(STATS + key)
        return None if stored is None else _of_copy(stored)

    def forgotten_at(self, key: bytes) -> int | None:
        """Offset of a regression's tombstone in the statistics."""
        stored = self._copy.get(TOMBSTONE + key)
        return None if stored is None else int(stored)

    def is_older(self, key: bytes) -> bool:
        """Whether a regression has messages that are older than the rules in force."""
        return self._copy.get(OLDER + key) is not None

    def begins_here(self, key: bytes) -> bool:
        """Whether the first message that is left of a regression is a regr-start."""
        return self._copy.get(OPENED + key) == b"start"

    def copied_rows(self, prefix: bytes) -> Iterator[Row]:
        """A regression's rows in their topic."""
        for key, value in self._copy.scan(*keys.job_range(ROW, prefix)):
            yield key[1:], _of_copy(value)

    def folded_rows(self, prefix: bytes) -> Iterator[Row]:
        """A regression's rows by the fold."""

        def live() -> Iterator[Row]:
            for key, value in self._folded.scan(*keys.job_range(keys.LIVE, prefix)):
                spared = jobs.row_of(value, None).spared
                state = _encode(JobPrivate(spared)) if spared else b""
                yield key[1:], (state, jobs.record_of(value, live=True))

        def finished() -> Iterator[Row]:
            for key, value in self._folded.scan(*keys.job_range(keys.FINISHED, prefix)):
                yield key[1:], (b"", value)

        return heapq.merge(live(), finished())

    def next_row(self, start: bytes) -> bytes | None:
        """Key of the first copied row from a key on."""
        found = next(self._copy.scan(ROW + start, bytes([ROW[0] + 1])), None)
        return None if found is None else found[0][1:]


def _names(store: Store, table: bytes) -> Iterator[bytes]:
    for key, _ in store.scan(table, bytes([table[0] + 1])):
        yield key[1:]


def _of_copy(stored: bytes) -> Kept:
    size = int.from_bytes(stored[:4], "big") + 4
    return stored[4:size], stored[size:]
