"""The view: what the web service reads, in one SQLite file beside the topics; this is its only writer.

A batch of records is one SQLite transaction, together with the offsets behind it: a view is at any moment what it
would be if the topics ended there. Records are absolute, so reading some of them twice changes nothing.
"""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from livejobs.tables import times
from livejobs.tables.view_rows import (
    JOB_COLUMNS,
    STATS_COLUMNS,
    JobColumns,
    UnreadableError,
    job_columns,
    stats_columns,
)
from livejobs.tables.view_schema import FORMAT, INDEXES, TABLES, TRIGGERS

UPDATES_MAX = 100_000
"""Earlier records of jobs that are kept, of all jobs together; the oldest go first."""
NAMES_CACHED_MAX = 100_000
CHANGES_MAX = 5_000
"""Jobs that a batch is remembered to have changed; of more it is only said that there were more."""
CACHE_KIB = 32 * 1024
BULK_CACHE_KIB = 128 * 1024

JOBS, STATS = "jobs", "regression-stats"
"""Which of the two topics, whatever its full name is."""

Positions = dict[tuple[str, int], int]
"""(topic, partition) -> offset of the next record."""

_UPSERT_JOB = (
    f"INSERT INTO jobs ({', '.join(JOB_COLUMNS)}) VALUES ({', '.join('?' * len(JOB_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in JOB_COLUMNS[1:])}"
)
_SET_STATS = f"UPDATE regressions SET known = 1, {', '.join(f'{name} = ?' for name in STATS_COLUMNS)} WHERE id = ?"  # noqa: S608
_SET_RECORD = "INSERT OR REPLACE INTO statistics (id, listed, record) VALUES (?, ?, ?)"
_SET_FIRST = "UPDATE regressions SET first_text = ?1 WHERE id = ?2 AND (first_text = '' OR first_text > ?1)"
_SET_POSITION = "INSERT OR REPLACE INTO positions (topic, number, next) VALUES (?, ?, ?)"


class Batch(NamedTuple):
    """Records of one partition, in order: key, value (None: deleted); and the offset behind them."""

    topic: str
    number: int
    next: int
    records: Sequence[tuple[bytes, bytes | None]]


@dataclass
class Changes:
    """What has changed: names of regressions with new statistics and with new jobs, keys of jobs, hosts."""

    regressions: set[str] = field(default_factory=set)
    with_jobs: set[str] = field(default_factory=set)
    jobs: set[bytes] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    more: bool = False
    """There are too many to name them."""

    def add(self, other: "Changes") -> None:
        """Put what another one has changed to this."""
        self.more = self.more or other.more or len(self.jobs) + len(other.jobs) > CHANGES_MAX
        if self.more:
            for each in (self.regressions, self.with_jobs, self.jobs, self.hosts):
                each.clear()
            return
        self.regressions |= other.regressions
        self.with_jobs |= other.with_jobs
        self.jobs |= other.jobs
        self.hosts |= other.hosts

    def __bool__(self) -> bool:
        return bool(self.more or self.regressions or self.jobs)


class Made(msgspec.Struct, frozen=True):
    """What a view is made of; when that is not the same any more, it is rebuilt."""

    topics: list[str]
    partitions: int
    ids: list[str]
    format: int = FORMAT


class View:
    """The SQLite file at `path`, opened for writing; use it in one thread at a time.

    While it is `bulk`, it can't be read: `begin` empties it for many records at once, `settle` ends that. A crash
    between the two leaves a file that must be begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # others need a token, too
        self._ids: dict[str, int] = {}
        self.unreadable = 0
        """Records that none of our workers wrote: they are left out."""
        self._db = _open(path)
        self._made: Made | None = None
        self._updated_ms = 0
        with contextlib.suppress(sqlite3.DatabaseError, msgspec.MsgspecError, ValueError):
            if self._meta("complete") == self._schema():
                self._updated_ms = int(self._meta("updated_ms") or 0)
                self._made = msgspec.json.decode(self._meta("made") or "", type=Made)
        self.bulk = self._made is None or self._made.format != FORMAT

    def fits(self, made: Made, tombstones_ms: float) -> bool:
        """Whether it can be gone on with: it is made of that, and was not away for half the time of a tombstone."""
        fresh = time.time() * 1000 - self._updated_ms <= tombstones_ms / 2
        return not self.bulk and self._made == made and fresh

    def _schema(self) -> str:
        """A digest of all tables, indexes and triggers that are there."""
        lines = self._db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        return hashlib.blake2b(repr(lines).encode(), digest_size=16).hexdigest()

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _set_meta(self, **values: str) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", values.items())

    def begin(self, made: Made) -> None:
        """Throw away what it has, and be empty and `bulk`."""
        self._db.close()
        for path in files(self.path):
            path.unlink(missing_ok=True)
        self._ids.clear()
        self._made, self.bulk = made, True
        self._db = _open(self.path)
        # A crash leaves nothing that is used: no journal.
        self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -{BULK_CACHE_KIB}; {TABLES}")
        self._set_meta(made=msgspec.json.encode(made).decode(), complete="", built=now())

    def settle(self) -> None:
        """Make a view that has been filled in bulk ready to be read and kept up to date."""
        if not self.bulk:
            return
        self._db.executescript(f"PRAGMA threads = 2; BEGIN; {INDEXES} {TRIGGERS} COMMIT")
        self._updated_ms = int(time.time() * 1000)
        self._set_meta(complete=self._schema(), updated_ms=str(self._updated_ms))
        self._db.close()
        self._db = _open(self.path)
        self.bulk = False

    def positions(self) -> Positions:
        """Where to go on."""
        return {(topic, number): next_ for topic, number, next_ in self._db.execute("SELECT * FROM positions")}

    def apply(self, batches: Iterable[Batch], *, current: bool) -> Changes:
        """Put records into the view, all or nothing. `current`: after this it has all that there is."""
        changes = Changes()
        self._db.execute("BEGIN")
        try:
            for batch in batches:
                last = dict(batch.records)
                (self._apply_stats if batch.topic == STATS else self._apply_jobs)(last, changes)
                self._db.execute(_SET_POSITION, (batch.topic, batch.number, batch.next))
            if current:
                self._updated_ms = int(time.time() * 1000)
                self._set_meta(updated_ms=str(self._updated_ms))
            if not self.bulk:
                self._db.execute("DELETE FROM updates WHERE seq <= (SELECT max(seq) FROM updates) - ?", (UPDATES_MAX,))
            self._db.execute("COMMIT")
        except BaseException:
            self._ids.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return changes

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------------ jobs

    def _apply_jobs(self, last: Mapping[bytes, bytes | None], changes: Changes) -> None:
        rows: list[JobColumns] = []
        firsts: dict[str, str] = {}
        gone = [(key,) for key, value in last.items() if value is None]
        for key, value in last.items():
            if value is None:
                continue
            try:
                name, first, columns = job_columns(key, value)
            except UnreadableError:
                self.unreadable += 1
                continue
            rows.append((key, self._id(name), *columns[2:]))
            firsts[name] = min(first, firsts.get(name, first))
            changes.hosts.add(columns[7])
        self._note(last, firsts, changes)
        if gone:
            self._db.executemany("DELETE FROM jobs WHERE key = ?", gone)
        self._db.executemany(_UPSERT_JOB, rows)
        self._db.executemany(_SET_FIRST, [(first, self._id(name)) for name, first in firsts.items()])

    def _note(self, last: Mapping[bytes, bytes | None], names: Iterable[str], changes: Changes) -> None:
        if self.bulk:
            return
        changes.with_jobs.update(names)
        for key, value in last.items():
            if value is None:  # its host may be any
                changes.hosts.clear()
                with contextlib.suppress(ValueError, IndexError, TypeError):
                    changes.with_jobs.add(msgspec.json.decode(key)[0])
        changes.jobs.update(last)
        if len(changes.jobs) > CHANGES_MAX:
            changes.more = True

    def _id(self, name: str) -> int:
        """The row of a regression, made if it is not there: its jobs may come before its statistics."""
        found = self._ids.get(name)
        if found is None:
            row = self._db.execute("SELECT id FROM regressions WHERE name = ?", (name,)).fetchone()
            if row is None:
                row = (self._db.execute("INSERT INTO regressions (name) VALUES (?)", (name,)).lastrowid,)
            if len(self._ids) >= NAMES_CACHED_MAX:
                self._ids.clear()
            found = self._ids[name] = row[0]
        return found

    # ------------------------------------------------------------------ statistics

    def _apply_stats(self, last: Mapping[bytes, bytes | None], changes: Changes) -> None:
        columns_of: list[tuple[Any, ...]] = []
        records: list[tuple[int, bytes, bytes]] = []
        for key, value in last.items():
            try:
                name = key.decode()
                if value is None:
                    self._forget(name)
                else:
                    columns, listed = stats_columns(value)
                    number = self._id(name)
                    columns_of.append((*columns, number))
                    records.append((number, listed, value))
            except (UnreadableError, UnicodeDecodeError):
                self.unreadable += 1
                continue
            changes.regressions.add(name)
        self._db.executemany(_SET_STATS, columns_of)
        self._db.executemany(_SET_RECORD, records)

    def _forget(self, name: str) -> None:
        # The row stays, unseen: its jobs have been dropped before, and if not, they must not get another one's name.
        number = self._id(name)
        self._db.execute("DELETE FROM statistics WHERE id = ?", (number,))
        self._db.execute("UPDATE regressions SET known = 0, first_text = '' WHERE id = ?", (number,))


def now() -> str:
    """RFC 3339 UTC."""
    return times.to_text(int(time.time() * 1000))


def files(path: Path) -> list[Path]:
    """The files of a view."""
    return [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm", "-journal")]


def _open(path: Path) -> sqlite3.Connection:
    # Only ever one thread at a time, but not always the same one.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    with contextlib.suppress(sqlite3.DatabaseError):  # no database: `_fits` finds out
        db.execute("PRAGMA journal_mode = WAL")
        # After a power cut it may be lost; it is rebuilt then.
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("PRAGMA journal_size_limit = 67108864")
    return db
