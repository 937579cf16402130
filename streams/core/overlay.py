"""Changed rows in memory over a store (pure: no I/O but the store's).

What a batch touches is read once, changed in memory, and handed out by `take` as records for the output topics and
operations for the store: each row once, however often it changed. Between batches the rows of the regressions last
changed stay in memory, without their bodies.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice

from livejobs.streams.core.rules import Rules, deadline
from livejobs.tables import jobs, keys, regressions, times
from livejobs.tables.compiled import native
from livejobs.tables.fields import Row
from livejobs.tables.jobs import Headers, Op
from livejobs.tables.regressions import NEVER_MS, SPAN_BYTES, Regression
from livejobs.tables.staged import Map
from livejobs.tables.states import JobState

BATCH_ROWS = 10_000
"""Changed rows after which they are to be written out."""
BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of changed rows after which they are to be written out, and an ending's step stops."""
COPIES = 6
"""Of what has changed, until it is written: in the record, in the write to the store, and on its way to the broker."""
CHANGE_BYTES = 800
"""What a changed row takes in memory until it is written, about, beside its body."""
CACHE_BYTES = 40 * 1024 * 1024
"""Of rows and regressions remembered between batches, if one worker has all partitions; each has its share."""
CACHE_BYTES_MIN = 512 * 1024
"""The share of a partition is not less."""
ROW_BYTES, REGRESSION_BYTES = 350, 300
"""What one takes in memory, about, without the row's key and what the regression's record holds."""
RECORD_COPIES = 2
"""So many times its size takes what a regression's record holds, with its signatures as Python's objects."""
SEEN_BYTES = 8 * 1024 * 1024
"""Bits for the jobs of regressions of which not all rows are remembered: new ones need not be looked for."""
SEEN_BYTES_MAX = 1024 * 1024
"""Of one regression."""
SEEN_ROW_BYTES = 16
"""For each of its rows, when it first forgets some: with four times as many, one new job in thirty is looked for."""

ABSENT, LIVE, FINISHED = JobState.ABSENT, JobState.LIVE, JobState.FINISHED


Output = tuple[bytes | None, bytes | None, Headers]


class Changes:
    """What a batch changed. Outputs are (key, value, headers); a value of None deletes."""

    __slots__ = ("jobs", "ops", "rejects", "reroutes", "stats")

    def __init__(self) -> None:
        self.jobs: list[Output] = []
        self.stats: list[Output] = []
        self.rejects: list[Output] = []
        self.reroutes: list[tuple[int, bytes, bytes | None, Headers]] = []
        self.ops: list[Op] = []

    @property
    def published(self) -> bool:
        """Whether any record goes to Kafka."""
        return bool(self.jobs or self.stats or self.rejects or self.reroutes)


class Overlay:
    """Regressions and job rows of one partition: those of the store, with what the batch at work has changed."""

    def __init__(self, rules: Rules, store: Map, partitions: int) -> None:
        self.rules, self.store = rules, store
        self._cache_bytes = max(CACHE_BYTES // partitions, CACHE_BYTES_MIN)
        self._seen_bytes = self._seen_left = SEEN_BYTES // partitions
        self._regressions: dict[bytes, Regression] = {}
        self._dirty_rows: dict[bytes, tuple[Regression, Row]] = {}
        self._dirty_regressions: dict[bytes, Regression] = {}
        self._moved: dict[bytes, Regression] = {}
        self._began: list[bytes] = []  # P entries of jobs that the store will have as live ones
        self._changes = Changes()
        self._bytes = self._stats_bytes = 0
        self._cached = 0  # bytes, about
        self._batch = 0
        self._unbundled = -1  # version of the last tick that did
        self._deadline_head = self._head(keys.DEADLINE)
        self._seen_head = self._head(keys.SEEN)
        self._bundle_head = self._head(keys.BUNDLE)
        self.version = -1
        self.now_ms = 0

    def _regression(self, key: bytes, name: str) -> Regression:
        regression = self._regressions.get(key) or self._load_regression(key)
        return self._remember(Regression(name)) if regression is None else regression

    def _load_regression(self, key: bytes) -> Regression | None:
        """The regression of this name that the store has."""
        stored = self.store.get(keys.REGRESSION + key)
        if stored is None:
            return None
        regression = regressions.from_stored(stored)
        if regression.key != key:
            raise ValueError(f"the statistics of {key!r} are those of {regression.name!r}")
        return self._remember(regression)

    def _remember(self, regression: Regression) -> Regression:
        self._regressions[regression.key] = regression
        self._hold(regression, REGRESSION_BYTES + RECORD_COPIES * regression.size)
        return regression

    def _hold(self, regression: Regression, more_bytes: int) -> None:
        """Note that a regression takes so much more memory, with its rows."""
        regression.held_bytes += more_bytes
        self._cached += more_bytes

    def _row(self, regression: Regression, key: bytes) -> Row:
        """The row of a job; an absent one if there is none."""
        return regression.rows.get(key) or self._load_row(regression, key)

    def _load_row(self, regression: Regression, key: bytes) -> Row:
        if regression.complete or (regression.seen is not None and not jobs.came_before(key, regression.seen)):
            row = Row()
        else:
            live = self.store.get(keys.LIVE + key)
            row = jobs.row_of(live, None if live is not None else self.store.get(keys.FINISHED + key))
        regression.rows[key] = row
        self._hold(regression, ROW_BYTES + len(key))
        return row

    def _forget_rows(self, regression: Regression) -> None:
        """Remember none of a regression's rows."""
        self._hold(regression, -held_by(regression.rows) - (0 if regression.span is None else SPAN_BYTES))
        regression.rows, regression.seen, regression.span = {}, None, None

    def _body(self, key: bytes, row: Row) -> bytes:
        if row.body is not None:
            return row.body
        live = row.state == LIVE
        stored = self.store.get((keys.LIVE if live else keys.FINISHED) + key)
        return bytes(jobs.decode(jobs.record_of(stored or b"", live=live)).job)

    def _touch(self, regression: Regression, key: bytes, row: Row) -> None:
        if not row.dirty:
            row.dirty = True
            self._dirty_rows[key] = (regression, row)
        self._bytes += len(row.body or b"")

    def _change(self, regression: Regression) -> None:
        regression.version, regression.updated_ms = self.version, self.now_ms
        self._publish(regression)

    def _publish(self, regression: Regression) -> None:
        if not regression.dirty:
            regression.dirty = True
            regression.touched = self._batch
            self._stats_bytes += regression.size
            self._dirty_regressions[regression.key] = regression

    def _finished(self, regression: Regression) -> Iterator[tuple[bytes, int]]:
        """Body and time of all jobs of a regression that a message finished."""
        rows, complete = regression.rows, regression.complete
        for key, row in rows.items():
            if row.dirty and row.state == FINISHED:
                yield self._body(key, row), row.updated_ms
        for key, stored in self.store.scan(*keys.job_range(keys.FINISHED, regression.prefix)):
            known = rows.get(key[1:])
            if complete if known is None else known.dirty:
                continue  # of a sealed run, and being dropped; or said already
            record = jobs.decode(stored)
            if record.verdict is None:
                yield bytes(record.job), times.from_text(record.updated)

    def _live_keys(self, regression: Regression, after: bytes, most: int) -> list[bytes]:
        """The first live job keys of a regression behind `after`, in order."""
        rows = regression.rows
        found = [
            key for key, row in rows.items() if row.state == LIVE and (row.dirty or regression.complete) and key > after
        ]
        if not regression.complete:
            stored = self.store.scan(*keys.job_range(keys.LIVE, regression.prefix, after))
            fresh = (key[1:] for key, _ in stored if not (key[1:] in rows and rows[key[1:]].dirty))
            found.extend(islice(fresh, most))
        found.sort()
        return found[:most]

    def _due(self, table: bytes, head_ms: int, until_ms: int, most: int) -> tuple[list[bytes], int]:
        """Entries of a time-ordered table up to a time, and the time of the first entry behind them."""
        due: list[bytes] = []
        for key, _ in self._entries(table, head_ms):
            if keys.time_of(key) > until_ms or len(due) == most:
                return due, keys.time_of(key)
            due.append(key)
        return due, NEVER_MS

    def _entries(self, table: bytes, from_ms: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a time-ordered table, from a time on."""
        return self.store.scan(keys.timed(table, from_ms, b""), bytes([table[0] + 1]))

    def _head(self, table: bytes) -> int:
        for key, _ in self._entries(table, 0):
            return keys.time_of(key)
        return NEVER_MS

    @property
    def changed_bytes(self) -> int:
        """What `take` will give takes in memory until it is written, about."""
        changed = len(self._dirty_rows) + len(self._dirty_regressions)
        return COPIES * (self._bytes + self._stats_bytes) + CHANGE_BYTES * changed

    @property
    def beyond_bytes(self) -> int:
        """What is remembered beyond the room for it, until `take` forgets some."""
        return max(0, self._cached - self._cache_bytes)

    def take(self) -> Changes:
        """Everything that changed since the last call."""
        changes, self._changes = self._changes, Changes()
        write_row, write_regression = partial(self._write_row, changes), partial(self._write_regression, changes)
        written = self._moved | self._dirty_regressions
        if native is not None:
            seen_ms = native.write_rows(self._dirty_rows, changes.jobs, changes.ops, self._began, write_row, NEVER_MS)
            self._seen_head = min(self._seen_head, seen_ms)
            more_bytes, deadline_ms = native.write_regressions(
                written, self._moved, changes.stats, changes.ops, write_regression,
                self.rules.silence_ms, self.rules.retention_ms, RECORD_COPIES, NEVER_MS,
            )  # fmt: skip
            self._cached += more_bytes
            self._deadline_head = min(self._deadline_head, deadline_ms)
        else:
            for key, (regression, row) in self._dirty_rows.items():
                write_row(key, regression, row)
            for name, regression in written.items():
                write_regression(name, regression)
        if self._began:
            self._write_bundles(changes)
        self._dirty_rows, self._dirty_regressions, self._moved = {}, {}, {}
        self._bytes = self._stats_bytes = 0
        self._batch += 1
        if self._cached > self._cache_bytes:
            self._forget()
        return changes

    def _write_row(self, changes: Changes, key: bytes, regression: Regression, row: Row) -> None:
        ops, stored, state = changes.ops, row.stored, row.state
        row.dirty = False
        if stored is LIVE and state is not LIVE:
            ops.append((keys.LIVE + key, None))
        elif stored is FINISHED and state in (ABSENT, LIVE):
            ops.append((keys.FINISHED + key, None))
        if state is ABSENT:
            if regression.rows.pop(key, None) is not None:
                self._hold(regression, -ROW_BYTES - len(key))
            if stored is LIVE:
                ops.append((keys.timed(keys.SEEN, row.seen_ms, key), None))  # which was due
            if stored is not ABSENT:
                changes.jobs.append((key, None, []))
            return
        value = row.value(regression.name_json)
        row.body = None
        if state is not LIVE:
            ops.append((keys.FINISHED + key, value))
            row.stored = FINISHED
            changes.jobs.append((key, value, []))
            return
        if stored is not LIVE:
            row.seen_ms = row.updated_ms
            self._began.append(keys.timed(keys.SEEN, row.seen_ms, key))
            row.stored = LIVE
        self._seen_head = min(self._seen_head, row.seen_ms)  # a tick of this batch may have passed its entry
        ops.append((keys.LIVE + key, jobs.live_value(row.seen_ms, row.spared, value)))
        changes.jobs.append((key, value, jobs.headers(row)))

    def _write_bundles(self, changes: Changes) -> None:
        """Write the places in time of the jobs that have begun."""
        bundles = jobs.bundles(self._began, b"job-events", self.version)
        self._bundle_head = min(self._bundle_head, *(keys.time_of(key) for key, _ in bundles))
        changes.ops += bundles
        self._began = []

    def _write_regression(self, changes: Changes, name: bytes, regression: Regression) -> None:
        dirty, regression.dirty = regression.dirty, False
        entry_ms = regression.deadline_ms
        if not regression.exists:
            if entry_ms != NEVER_MS:
                changes.ops.append((keys.timed(keys.DEADLINE, entry_ms, name), None))
            if regression.stored:
                changes.ops.append((keys.REGRESSION + name, None))
                changes.stats.append((name, None, []))
            self._drop(regression)
            return
        due_ms = deadline(self.rules, regression)
        if due_ms < entry_ms or name in self._moved:  # a later deadline waits for its entry to come up
            if entry_ms not in (NEVER_MS, due_ms):
                changes.ops.append((keys.timed(keys.DEADLINE, entry_ms, name), None))
            if due_ms != NEVER_MS:
                changes.ops.append((keys.timed(keys.DEADLINE, due_ms, name), b""))
            regression.deadline_ms = due_ms
        self._deadline_head = min(self._deadline_head, regression.deadline_ms)
        value, headers = regression.value(), regression.headers()
        changes.ops.append((keys.REGRESSION + name, regressions.stored_value(regression.deadline_ms, value, headers)))
        self._hold(regression, RECORD_COPIES * (len(value) - regression.size))
        regression.size = len(value)
        if dirty:
            changes.stats.append((name, value, headers))
        regression.stored = True

    def _forget(self) -> None:
        """Drop from memory until a quarter of the room is free, the least recently changed first.

        First the regressions that have ended, then the ended jobs of the others, then those.
        """
        most = self._cache_bytes * 3 // 4
        self._seen_left = self._seen_bytes - sum(len(one.seen or b"") for one in self._regressions.values())
        oldest = sorted(self._regressions.values(), key=lambda regression: regression.touched)
        self._cached = sum(regression.held_bytes for regression in oldest)  # were it wrong, there might never be room
        for regression in oldest:
            if self._cached <= most:
                return
            if regression.phase != "open":
                self._drop(regression)
        for regression in oldest:
            if self._cached <= most:
                return
            if regression.phase == "open":
                self._drop_ended(regression)
        for regression in oldest:
            if self._cached <= most:
                return
            if regression.phase == "open":
                self._drop(regression)

    def _drop(self, regression: Regression) -> None:
        self._cached -= regression.held_bytes
        del self._regressions[regression.key]

    def _drop_ended(self, regression: Regression) -> None:
        rows = regression.rows
        live = {key: row for key, row in rows.items() if row.state is LIVE}
        if len(live) == len(rows):
            return
        if regression.complete:
            regression.seen = self._seen(regression)
        regression.rows, regression.complete = live, False
        self._hold(regression, held_by(live) - held_by(rows))

    def _seen(self, regression: Regression) -> bytearray | None:
        """Bits for all rows of a regression; None: others have them."""
        size = 1 << (SEEN_ROW_BYTES * len(regression.rows) - 1).bit_length()
        size = min(size, SEEN_BYTES_MAX, 1 << self._seen_bytes.bit_length() - 1)
        if size > self._seen_left:
            return None
        self._seen_left -= size
        seen = bytearray(size)
        for key in regression.rows:
            jobs.came_before(key, seen)
        return seen


def held_by(rows: dict[bytes, Row]) -> int:
    """What a regression's rows take in memory, about, in bytes."""
    return ROW_BYTES * len(rows) + sum(map(len, rows))
