"""The verifier: statistics = a fold over the job rows = a fold over `job-events`, proven from the topics alone.

Each partition is folded anew into a temporary store, up to the group's committed offset, and its two output topics are
copied next to it; then the two are compared regression by regression. It takes no locks and joins no group: the system
may run. Memory is bounded; the disk (of TMPDIR) holds one partition at a time.

A system that runs goes on while we read. What is read, is read in an order that makes it safe: committed offset, job
rows, statistics. So a regression whose statistics are not above the committed offset has not moved, and one that has
moved is left out and counted. The rules are those of the configuration: workers say with each commit which rules are in
force, and from which message on. So other rules are refused, and a regression that is older than them and differs is
left out and counted, for the fold may rightly give something else than what other rules gave then.
"""

import asyncio
import heapq
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from livejobs.streams import messages, statistics, topics
from livejobs.streams.config import Config
from livejobs.streams.fold import EPOCH_BITS, Fold, Record
from livejobs.streams.kafka import Heard, client_options
from livejobs.streams.partitioner import partition_of
from livejobs.streams.records import install as install_records
from livejobs.streams.resume import Mark
from livejobs.streams.rules import Rules
from livejobs.tables import jobs, keys, regressions, times
from livejobs.tables.jobs import STATE_HEADER, JobPrivate, JobRecord
from livejobs.tables.regressions import StatsPrivate, StatsRecord
from livejobs.tables.store import Store

DIFFERENCES_MAX = 100
"""Differences that are listed; the rest is counted."""
SHOWN_MAX = 80
"""Characters of a value in a line."""
BATCH_RECORDS = 10_000
ROUNDS_MAX = 5
"""How often the reader goes on to where the system is by then, while it is far behind."""
CAUGHT_UP = 1_000
"""Messages that may be left to a round so that it is the last."""
STALL_SECONDS = 90.0
"""Longer than any transaction can stay open."""
LAG_SECONDS = 10.0
"""How long a committed offset may show later than the records of its transaction."""
VERSION_MASK = (1 << EPOCH_BITS) - 1

# Tables of the copy; each value is the state header's length, the header, the record's value.
ROW, STATS, TOMBSTONE, OPENED, OLDER = b"J", b"S", b"T", b"O", b"B"

Progress = Callable[[int, int], None]
Kept = tuple[bytes, bytes]
"""State header (empty: none) and value of a record."""
Row = tuple[bytes, Kept]
"""Key of a record, and the record."""

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class VerifyError(RuntimeError):
    """The topics can't be read to the end: one line that says why."""


@dataclass
class Report:
    """What was found. `differences` holds the first DIFFERENCES_MAX lines of `found`."""

    differences: list[str] = field(default_factory=list)
    found: int = 0
    events: int = 0
    jobs: int = 0
    checked: int = 0
    """Regressions of which all three are equal, or should be and are not."""
    sealed: int = 0
    cut: int = 0
    """Regressions whose first message may be gone from `job-events`, and which differ from what is left of it."""
    moved: int = 0
    """Regressions that changed while they were read."""
    older: int = 0
    """Regressions that are older than the rules in force, and which differ from what these give."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.found

    @property
    def not_checked(self) -> int:
        """Regressions of which nothing can be said."""
        return self.sealed + self.cut + self.moved + self.older

    def add(self, lines: Iterable[str]) -> None:
        """Count differences and list them while there is room."""
        for line in lines:
            self.found += 1
            if len(self.differences) < DIFFERENCES_MAX:
                self.differences.append(line)

    def __str__(self) -> str:
        reasons = (
            (self.sealed, "sealed"),
            (self.cut, "first message gone"),
            (self.moved, "changed meanwhile"),
            (self.older, "older than a change of [sigs]"),
        )
        why = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
        more = self.found - len(self.differences)
        lines = list(self.differences)
        if more:
            lines.append(f"... and {more} more")
        lines.append(
            f"{self.found or 'no'} difference{'' if self.found == 1 else 's'}: {self.events} messages, {self.jobs} job "
            f"rows, {self.checked} regressions checked, {self.not_checked} not checked{f' ({why})' if why else ''}"
        )
        return "\n".join(lines)


def run(config: Config, progress: Progress = lambda _done, _total: None) -> Report:
    """Verify all partitions; `progress` gets the messages folded and the messages to fold.

    Raises VerifyError and TopicsError (also: no broker answers), ConfigError.
    """
    install_records()
    return asyncio.run(_run(config, progress))


async def _run(config: Config, progress: Progress) -> Report:
    partitions = await topics.assert_usable(config)
    kafka = config.kafka
    options = client_options(kafka)
    every = [
        TopicPartition(t, p)
        for t in (kafka.events_topic, kafka.jobs_topic, kafka.stats_topic)
        for p in range(partitions)
    ]
    reader = AIOKafkaConsumer(
        **options,
        isolation_level="read_committed",
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=100,
    )
    ends = AIOKafkaConsumer(**options, enable_auto_commit=False)  # reads uncommitted: it sees ends, not records
    admin = AIOKafkaAdminClient(**options)
    report, heard = Report(), Heard()
    try:
        with heard:
            for client in (reader, ends, admin):
                await client.start()
        ends.assign(every)
        ends.pause(*every)
        source = _Source(config, reader, ends, admin)
        work = _Work(report, await source.to_fold(partitions), progress)
        work.show()
        for number in range(partitions):
            with tempfile.TemporaryDirectory(prefix="livejobs-verify-") as folder:
                await _Partition(number, partitions, source, Path(folder), work).verify()
    except OffsetOutOfRangeError as error:
        raise VerifyError(f"messages were removed while they were read, run again: {error}") from error
    except KafkaConnectionError as error:
        raise topics.BrokerAwayError(f"no Kafka broker answers at {kafka.brokers}{heard}") from error
    except KafkaError as error:
        raise VerifyError(f"the Kafka broker at {kafka.brokers} refuses: {error!r}") from error
    finally:
        for stop in (reader.stop, ends.stop, admin.close):
            await stop()
    return report


@dataclass
class _Work:
    """What all partitions share."""

    report: Report
    left: dict[int, int]
    """Messages to fold by partition."""
    progress: Progress

    def show(self) -> None:
        done = self.report.events
        self.progress(done, done + sum(self.left.values()))


class _Source:
    """The topics and the committed offsets."""

    def __init__(
        self, config: Config, reader: AIOKafkaConsumer, ends: AIOKafkaConsumer, admin: AIOKafkaAdminClient
    ) -> None:
        self.config = config
        self._reader, self._ends, self._admin = reader, ends, admin

    async def to_fold(self, partitions: int) -> dict[int, int]:
        """Messages to fold in each partition, as it looks now."""
        left = {}
        for number in range(partitions):
            first = await self.first(TopicPartition(self.config.kafka.events_topic, number))
            left[number] = max(0, (await self.committed(number) or first) - first)
        return left

    async def committed(self, number: int) -> int | None:
        """The offset up to which the workers have folded a partition; None if the group has none."""
        found = await self.commit(number)
        return None if found is None else int(found.offset)

    async def commit(self, number: int) -> OffsetAndMetadata | None:
        """The last commit of a partition; None if the group has none."""
        kafka = self.config.kafka
        tp = TopicPartition(kafka.events_topic, number)
        until = time.monotonic() + LAG_SECONDS
        while True:
            try:
                found = (await self._admin.list_consumer_group_offsets(kafka.group, partitions=[tp])).get(tp)
                break
            except KafkaError as error:
                if not error.retriable or time.monotonic() > until:
                    raise  # (a broker that has just started makes the topic of the offsets only now)
                await asyncio.sleep(0.2)
        return None if found is None or found.offset < 0 else found

    async def first(self, tp: TopicPartition) -> int:
        """Offset of the first record that is still there."""
        return int((await self._ends.beginning_offsets([tp]))[tp])

    async def end(self, tp: TopicPartition) -> int:
        """Offset behind the last record, that of an open transaction included."""
        return int((await self._ends.end_offsets([tp]))[tp])

    async def read(self, tp: TopicPartition, start: int, end: int) -> AsyncIterator[list[Record]]:
        """The committed records from offset to offset; waits until the transactions between them have ended."""
        self._reader.assign([tp])
        self._reader.seek(tp, start)
        before, moved_at = start, time.monotonic()
        while before < end:
            fetched = (await self._reader.getmany(tp, timeout_ms=200, max_records=BATCH_RECORDS)).get(tp, [])
            if fetched:
                yield fetched if fetched[-1].offset < end else [record for record in fetched if record.offset < end]
            position = await self._reader.position(tp)
            if position > before:
                before, moved_at = position, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                raise VerifyError(
                    f"{tp.topic} partition {tp.partition}: nothing for {STALL_SECONDS:.0f} s at {position} of {end}"
                )


class _Partition:
    """One partition: its fold done again, the copy of its output, and the comparison of both."""

    def __init__(self, number: int, partitions: int, source: _Source, folder: Path, work: _Work) -> None:
        kafka = source.config.kafka
        self._number, self._partitions, self._source = number, partitions, source
        self._work, self._report = work, work.report
        self._folder = folder
        self._events, self._jobs, self._stats = (
            TopicPartition(t, number) for t in (kafka.events_topic, kafka.jobs_topic, kafka.stats_topic)
        )
        self._ahead: list[tuple[str, int]] = []  # version not below the latest committed offset

    async def verify(self) -> None:
        self._fold_store, self._copy = Store(self._folder / "fold"), Store(self._folder / "copy")
        try:
            self._rules = Rules.of(self._source.config.sigs)
            self._fold = Fold(
                self._rules,
                self._fold_store,
                partition=self._number,
                partitions=self._partitions,
                topic=self._events.topic,
            )
            await self._read_all()
            latest = await self._source.committed(self._number)
            self._compare(latest or 0)
            await self._settle_ahead()
        finally:
            self._fold_store.close()
            self._copy.close()

    # ------------------------------------------------------------------ reading

    async def _read_all(self) -> None:
        source = self._source
        self._first = folded = await source.first(self._events)
        self._first_ms: int | None = None
        self._known = True
        read = {self._jobs: await source.first(self._jobs), self._stats: await source.first(self._stats)}
        for _ in range(ROUNDS_MAX):
            start = folded
            self._mark = await source.end(self._stats)
            commit = await source.commit(self._number)
            self._known = commit is not None
            self._committed = folded if commit is None else int(commit.offset)
            self._since = 0 if commit is None else self._begin_of_rules(commit)
            end = min(self._committed, await source.end(self._events))
            self._work.left[self._number] = max(0, end - folded)
            await self._fold_to(folded, end)
            folded = max(folded, end)
            for tp, table in ((self._jobs, ROW), (self._stats, STATS)):
                end = await source.end(tp)
                await self._copy_to(tp, table, read[tp], end)
                read[tp] = max(read[tp], end)
            # A first commit while we read: without a bound on what is folded, rows and statistics are of two moments.
            settled = self._known or await source.committed(self._number) is None
            if folded - start <= CAUGHT_UP and settled:
                break
        if folded < self._committed:
            what = f"the committed offset is {self._committed}, {self._events.topic} ends before it: was it made anew?"
            self._report.add([f"partition {self._number}: {what}"])

    def _begin_of_rules(self, commit: OffsetAndMetadata) -> int:
        """The first message to which the rules in force were applied. Raises VerifyError if ours are others."""
        mark = Mark.of(commit.metadata.partition(" ")[2])  # behind the transactional id (`streams.transactions`)
        if mark is None:
            return 0
        theirs, ours = mark.rules._asdict(), self._rules._asdict()
        apart = ", ".join(f"{name} {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name])
        if apart:
            raise VerifyError(f"[sigs] of this configuration are not those of the workers, who have: {apart}")
        return mark.since

    async def _fold_to(self, start: int, end: int) -> None:
        fold, left = self._fold, self._work.left
        async for records in self._source.read(self._events, start, end):
            if self._first_ms is None and records:
                self._first_ms = records[0].timestamp
            if self._first > 0:
                self._note_opened(records)
            if records and records[0].offset < self._since:
                older = {record.key for record in records if record.key and record.offset < self._since}
                self._copy.write((OLDER + key, b"") for key in older)
            at = 0
            while at < len(records):
                at = fold.run(records, at)
                self._fold_store.write(fold.take().ops)
            self._report.events += len(records)
            if records:
                left[self._number] = end - records[-1].offset - 1
            self._work.show()
        left[self._number] = 0

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

    # ------------------------------------------------------------------ comparing

    def _compare(self, latest: int) -> None:
        names = heapq.merge(_names(self._fold_store, keys.REGRESSION), _names(self._copy, STATS))
        before = None
        for key in names:
            if key != before:
                self._compare_regression(key, latest)
            before = key
        self._report.add(self._orphans())

    def _compare_regression(self, key: bytes, latest: int) -> None:
        report, shown = self._report, _encode(key.decode(errors="replace")).decode()
        stored, copied = self._fold_store.get(keys.REGRESSION + key), self._copy.get(STATS + key)
        want = None if stored is None else _of_fold(stored)
        got = None if copied is None else _of_copy(copied)
        record, private, oldest_ms = None, StatsPrivate(), None
        if got is not None:
            if partition_of(key, self._partitions) != self._number:
                report.add(
                    [f"{shown}: is in partition {self._number} of {self._stats.topic}, its key belongs to another"]
                )
                return
            try:
                record, private = regressions.decode(got[1]), _decode(got[0] or b"{}", type=StatsPrivate)
                oldest_ms = min(times.from_text(record.heard), times.from_text(record.updated))
            except ValueError as error:  # msgspec's errors are ValueErrors
                report.add([f"{shown}: its record in {self._stats.topic} is none of ours: {error}"])
                return
        wanted = private if want is None else _decode(want[0], type=StatsPrivate)
        # An ending's last step that finds no job left writes no new version.
        ended = wanted.ending is not None and private.ending is None and got and want and got[1] == want[1]
        if self._has_moved(key, shown, record, latest) or ended:
            report.moved += 1
        elif wanted.sealed_ms is not None:
            report.sealed += 1
        else:
            self._compare_all(key, want, got, oldest_ms)

    def _compare_all(self, key: bytes, want: Kept | None, got: Kept | None, oldest_ms: int | None) -> None:
        """Compare a regression that can be compared: its record, its rows, and its record with its rows."""
        report, name_json = self._report, _encode(key.decode(errors="replace"))
        shown, prefix = name_json.decode(), b"[" + name_json + b","
        folded, counted = Report(), Count()
        folded.add(differences(shown, self._stats.topic, got, want))
        for job_key, row_got, row_want in paired(self._copied_rows(prefix), self._folded_rows(prefix)):
            label = f"{shown} job [{job_key[len(prefix) :].decode(errors='replace')}"
            if row_got is not None:
                report.jobs += 1
                try:
                    row = jobs.decode(row_got[1])
                    first_ms = times.from_text(row.first_seen)
                    counted.add(row)
                except ValueError as error:  # msgspec's errors and Reject are ValueErrors
                    report.add([f"{label}: its record in {self._jobs.topic} is none of ours: {error}"])
                    continue
                oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
            if row_got != row_want:
                folded.add(differences(label, self._jobs.topic, row_got, row_want))
        if got is not None:
            report.add(counted.differences(shown, self._stats.topic, self._jobs.topic, got))
        if folded.found and self._copy.get(OLDER + key) is not None:
            report.older += 1
            return
        if folded.found and not self._whole(key, oldest_ms):
            report.cut += 1
            return
        report.checked += 1
        report.add(folded.differences)
        report.found += folded.found - len(folded.differences)

    def _has_moved(self, key: bytes, shown: str, record: StatsRecord | None, latest: int) -> bool:
        """Whether a regression changed after the last message that was folded here."""
        if not self._known:
            return False
        if record is None:
            tombstone = self._copy.get(TOMBSTONE + key)
            return tombstone is not None and int(tombstone) >= self._mark
        offset = record.version & VERSION_MASK
        if offset >= latest and len(self._ahead) < DIFFERENCES_MAX:
            self._ahead.append((shown, offset))
        return offset >= self._committed

    def _whole(self, key: bytes, oldest_ms: int | None) -> bool:
        """Whether all messages of a regression are surely still there."""
        if not self._known:
            return False
        if self._first == 0:
            return True
        return self._copy.get(OPENED + key) == b"start" and (oldest_ms is None or oldest_ms >= (self._first_ms or 0))

    async def _settle_ahead(self) -> None:
        """A version can't be above the committed offset, unless the offset shows a moment later."""
        until = time.monotonic() + LAG_SECONDS
        while self._ahead:
            latest = await self._source.committed(self._number) or 0
            self._ahead = [item for item in self._ahead if item[1] >= latest]
            if self._ahead and time.monotonic() > until:
                told = f"{self._events.topic} is folded up to {latest} only"
                self._report.add(
                    f"{shown}: version is {at} in {self._stats.topic}, {told}" for shown, at in self._ahead
                )
                return
            await asyncio.sleep(0.5 if self._ahead else 0)

    def _copied_rows(self, prefix: bytes) -> Iterator[Row]:
        for key, value in self._copy.scan(*keys.job_range(ROW, prefix)):
            yield key[1:], _of_copy(value)

    def _folded_rows(self, prefix: bytes) -> Iterator[Row]:
        def live() -> Iterator[Row]:
            for key, value in self._fold_store.scan(*keys.job_range(keys.LIVE, prefix)):
                spared = jobs.row_of(value, None).spared
                state = _encode(JobPrivate(spared)) if spared else b""
                yield key[1:], (state, jobs.record_of(value, live=True))

        def finished() -> Iterator[Row]:
            for key, value in self._fold_store.scan(*keys.job_range(keys.FINISHED, prefix)):
                yield key[1:], (b"", value)

        return heapq.merge(live(), finished())

    def _orphans(self) -> Iterator[str]:
        """Job rows whose regression has no statistics, or whose key is not as keys are."""
        start, stop = ROW, bytes([ROW[0] + 1])
        while (found := next(self._copy.scan(start, stop), None)) is not None:
            key = found[0][1:]
            try:
                name = _decode(key, type=list[str])[0]
                prefix = b"[" + _encode(name) + b","
            except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
                name, prefix = "", b""
            if not prefix or not key.startswith(prefix):
                yield f"{self._jobs.topic} partition {self._number}: {key[:SHOWN_MAX]!r} is no key of ours"
                start = ROW + key + b"\0"
                continue
            known = self._copy.get(STATS + name.encode()) or self._fold_store.get(keys.REGRESSION + name.encode())
            if known is None:
                shown = _encode(name).decode()
                yield f"{shown}: has job rows, but no record in {self._stats.topic} partition {self._number}"
            start = keys.job_range(ROW, prefix)[1]


class Count:
    """A fold over the job rows of one regression, that knows nothing of how they came to be."""

    def __init__(self) -> None:
        self._results = dict.fromkeys(("live", "pass", "fail", "skip"), 0)
        self._signatures: dict[str, int] = {}
        self._sums = [0, 0, 0, 0, 0]  # cycles, compute_ms, runtime_ms; cycles and runtime_ms of jobs with both
        self._starts: list[int] = []  # the least one
        self._finishes: list[int] = []  # the greatest one

    def add(self, row: JobRecord) -> None:
        """Count one row. Raises Reject if its body is no finished job's."""
        self._results[row.result] += 1
        if row.result == "fail":
            name = row.signature or ""
            self._signatures[name] = self._signatures.get(name, 0) + 1
        if row.result == "live" or row.verdict is not None:
            return
        given = messages.finish(bytes(row.job))
        rated = (given.cycles, given.runtime_ms) if given.rated else (0, 0)
        self._sums = [
            a + b for a, b in zip(self._sums, (given.cycles, given.compute_ms, given.runtime_ms, *rated), strict=True)
        ]
        if given.start_ms is not None:
            self._starts = [min([*self._starts, given.start_ms])]
        self._finishes = [max([*self._finishes, statistics.end_of(given, times.from_text(row.updated))])]

    def differences(self, shown: str, stats_topic: str, jobs_topic: str, got: Kept) -> Iterator[str]:
        """One line for each field of a statistics record (state header, value) that the rows do not give."""
        state, record = _decode(got[0] or b"{}"), _decode(got[1])
        for name, value in self._fields(record["submitted"]).items():
            there = state.get(name[6:], 0) if name.startswith("state.") else record.get(name)
            if there != value:
                rows = f"{_short(value)} by the rows of {jobs_topic}"
                yield f"{shown}: {name} is {_short(there)} in {stats_topic}, {rows}"

    def _fields(self, submitted: int | None) -> dict[str, Any]:
        passed, fail = self._results["pass"], self._results["fail"]
        finished = passed + fail + self._results["skip"]
        cycles, compute_ms, runtime_ms, rate_cycles, rate_runtime_ms = self._sums
        first, last = next(iter(self._starts), None), next(iter(self._finishes), None)
        return {
            **self._results,
            "finished": finished,
            "remaining": None if submitted is None else submitted - finished,
            "pass_rate": passed / (passed + fail) if passed + fail else None,
            "cycles": cycles,
            "compute_ms": compute_ms,
            "runtime_ms": runtime_ms,
            "cycles_per_second": rate_cycles * 1000 / rate_runtime_ms if rate_runtime_ms else None,
            "first_start": None if first is None else times.to_text(first),
            "last_finish": None if last is None else times.to_text(last),
            "duration_ms": None if first is None or last is None else last - first,
            "signatures": self._signatures,
            "state.rate_cycles": rate_cycles,
            "state.rate_runtime_ms": rate_runtime_ms,
        }


def paired(got: Iterable[Row], want: Iterable[Row]) -> Iterator[tuple[bytes, Kept | None, Kept | None]]:
    """Two ordered streams of rows side by side: key, then the record of each, None where it has none."""
    sides = heapq.merge(((key, 0, kept) for key, kept in got), ((key, 1, kept) for key, kept in want))
    for key, rows in groupby(sides, key=itemgetter(0)):
        both = {side: kept for _, side, kept in rows}
        yield key, both.get(0), both.get(1)


def differences(shown: str, topic: str, got: Kept | None, want: Kept | None) -> Iterator[str]:
    """One line for each field in which two records (state header, value) differ as JSON; nothing if they do not."""
    if got == want:
        return
    if got is None or want is None:
        there, folded = "missing" if got is None else "there", "missing" if want is None else "there"
        yield f"{shown}: is {there} in {topic}, {folded} by job-events"
        return
    for head, a, b in (("", got[1], want[1]), ("state.", got[0] or b"{}", want[0] or b"{}")):
        try:
            left = _decode(a)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            left = None
        for name, x, y in _fields_apart(left, _decode(b)):
            yield f"{shown}: {head}{name} is {x} in {topic}, {y} by job-events"


def _fields_apart(a: Any, b: Any, inside: str = "") -> Iterator[tuple[str, str, str]]:
    """Name and both values of the fields in which two JSON values differ; two levels deep."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping) or inside.count(".") > 1:
        if a != b:
            yield inside.rstrip(".") or "record", _short(a), _short(b)
        return
    for name in dict.fromkeys([*b, *a]):
        if name not in a or name not in b:
            yield inside + name, _short(a[name]) if name in a else "absent", _short(b[name]) if name in b else "absent"
        else:
            yield from _fields_apart(a[name], b[name], f"{inside}{name}.")


def _short(value: Any) -> str:
    text: str = _encode(value).decode()
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."


def _names(store: Store, table: bytes) -> Iterator[bytes]:
    for key, _ in store.scan(table, bytes([table[0] + 1])):
        yield key[1:]


def _of_fold(stored: bytes) -> Kept:
    value, headers = regressions.record_of(stored)
    return headers[0][1], value


def _of_copy(stored: bytes) -> Kept:
    size = int.from_bytes(stored[:4], "big") + 4
    return stored[4:size], stored[size:]
