"""Regression rows: the statistics of one regression, what they do not show, and their bytes (pure).

What travels in the topic `regression-stats` is enough to go on: the value is public, the header `livejobs.state`
holds the rest.
"""

import contextlib
import struct
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal, cast

import msgspec

from livejobs.tables import times
from livejobs.tables.compiled import native
from livejobs.tables.fields import RegressionFields, Row
from livejobs.tables.jobs import STATE_HEADER, Headers, Verdict

Status = Literal["LIVE", "COMPLETE", "ABORTED", "TANKED"]
Phase = Literal["open", "finished", "timed-out"]

NEVER_MS = 1 << 62
"""A deadline that does not come."""

_local = struct.Struct(">QI")
_encode = msgspec.json.Encoder().encode


class StatsNumbers(msgspec.Struct, kw_only=True):
    """The statistics of one regression, without what has as many entries as it likes."""

    regression: str
    """Name of the regression."""
    status: Status
    version: int
    """Grows with every change: epoch * 2^40 + offset of the last message that changed the record."""
    updated: str
    """Broker time of the last change, RFC 3339 UTC."""
    live: int
    passed: int = msgspec.field(name="pass")
    fail: int
    skip: int
    finished: int
    heard: str
    """Broker time when the regression was last heard of, RFC 3339 UTC."""
    submitted: int | None
    """Expected number of jobs."""
    remaining: int | None
    """submitted - finished."""
    pass_rate: float | None
    """pass / (pass + fail)."""
    cycles: int
    compute_ms: int
    runtime_ms: int
    cycles_per_second: float | None
    """Cycles by runtime of the jobs which have both."""
    first_start: str | None
    """Least start time of the finished jobs, RFC 3339 UTC."""
    last_finish: str | None
    """Greatest finish time, RFC 3339 UTC."""
    duration_ms: int | None
    """last_finish - first_start."""


class StatsRecord(StatsNumbers, kw_only=True):
    """A record of the topic `regression-stats`: the statistics of one regression (null value: forgotten)."""

    signatures: dict[str, int]
    """Fails by signature."""
    fields: dict[str, msgspec.Raw]
    """What regr-start, regr-update and regr-finish gave."""


class _Live(msgspec.Struct):
    """Of a record in the topic `regression-stats`, what is read alone."""

    live: int


class Ending(msgspec.Struct):
    """Live jobs that are still being judged, a bounded number at a time."""

    verdict: Verdict
    version: int
    """Version of the message that began it: jobs heard of since then are spared."""
    after: str = ""
    """Job key of the last one reached; the next step goes on behind it."""


class StatsPrivate(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The header `livejobs.state` of a `regression-stats` record."""

    phase: Phase = "open"
    tanked: bool = False
    closed_ms: int | None = None
    """When the phase became what it is, if that is not open."""
    sealed_ms: int | None = None
    """When the job rows were dropped."""
    dropping: bool = False
    """Job rows of a sealed regression are still to be dropped."""
    start: str | None = None
    """Digest of the last regr-start; an empty one has a digest, too."""
    rate_cycles: int = 0
    """Cycles of the finished jobs which have cycles and runtime."""
    rate_runtime_ms: int = 0
    """Runtime of the same jobs."""
    ending: Ending | None = None


LEAST_KEPT = 256
"""Of the values of which only the least counts: so often may that one go before the next must be looked for."""
SPAN_BYTES = 2 * (64 + 8 * 2 * LEAST_KEPT)
"""What a `Span` takes in memory."""


class Least:
    """The least ones of some values, so that it is known which is the least when others have gone (a multiset)."""

    __slots__ = ("_least", "_others")

    def __init__(self) -> None:
        self._least = array("q")  # in order
        self._others = False  # whether there may be more than these, none of them less

    def add(self, value: int) -> None:
        """One value more."""
        least = self._least
        if self._others and not (least and value < least[-1]):
            return
        insort(least, value)
        if len(least) == 2 * LEAST_KEPT:
            del least[LEAST_KEPT:]
            self._others = True

    def remove(self, value: int) -> None:
        """One value, that was added before, less."""
        at = bisect_left(self._least, value)
        if at < len(self._least) and self._least[at] == value:
            del self._least[at]

    @property
    def known(self) -> bool:
        """Whether the least value is known, or that there is none."""
        return bool(self._least) or not self._others

    @property
    def value(self) -> int | None:
        """The least value, None if there is none."""
        return self._least[0] if self._least else None


class Span:
    """The first starts and the last ends of a regression's finished jobs, each in ms since the epoch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts, self._ends = Least(), Least()  # ends are negative: the last one is the least

    def add(self, start_ms: int | None, end_ms: int) -> None:
        """A job that has finished."""
        if start_ms is not None:
            self._starts.add(start_ms)
        self._ends.add(-end_ms)

    def remove(self, start_ms: int | None, end_ms: int) -> None:
        """A finished job less."""
        if start_ms is not None:
            self._starts.remove(start_ms)
        self._ends.remove(-end_ms)

    @property
    def known(self) -> bool:
        """Whether enough is left to tell; else all jobs must be added anew."""
        return self._starts.known and self._ends.known

    @property
    def first_start_ms(self) -> int | None:
        """The first start, None if no job has one."""
        return self._starts.value

    @property
    def last_finish_ms(self) -> int | None:
        """The last end, None without jobs."""
        return None if self._ends.value is None else -self._ends.value


class Regression(RegressionFields):
    """One regression in memory, with those of its job rows that are known here.

    `complete` says that `rows` holds every row the store has; then a job that is not in `rows` does not exist. Else
    `seen` may have bits for the keys of all rows that the store has (`tables.jobs.came_before`).
    """

    __slots__ = ()

    rows: dict[bytes, Row]
    phase: Phase
    ending: Ending | None
    span: Span | None

    def renew(self) -> None:
        """Begin a run: empty statistics, open."""
        self.phase = "open"
        self.tanked = False
        self.closed_ms = self.sealed_ms = None
        self.dropping = False
        self.start = None
        self.ending = None
        self.live = self.passed = self.fail = self.skip = 0
        self.cycles = self.compute_ms = self.runtime_ms = self.rate_cycles = self.rate_runtime_ms = 0
        self.first_start_ms = self.last_finish_ms = None
        self.span = None
        self.signatures = {}
        self.fields = b"{}"
        self.submitted = None

    def forget(self) -> None:
        """As if never heard of, when its rows are gone; what the store holds is deleted with the next write."""
        self.exists = False
        self.version, self.updated_ms, self.heard_ms = -1, 0, 0
        self.complete = True
        self.renew()

    @property
    def finished(self) -> int:
        """Jobs that ended, those judged by the system among them."""
        return self.passed + self.fail + self.skip

    @property
    def status(self) -> Status:
        """What the regression shows as."""
        if self.tanked:
            return "TANKED"
        if self.phase == "open":
            return "LIVE"
        if self.phase == "timed-out" or (self.submitted is not None and self.finished < self.submitted):
            return "ABORTED"
        return "COMPLETE"

    def value(self) -> bytes:
        """The value of the record in the topic `regression-stats`."""
        if native is not None:
            with contextlib.suppress(OverflowError):
                return cast("bytes", native.stats_value(self, self.status))
        return _encode(self.record())

    def record(self) -> StatsRecord:
        """The record in the topic `regression-stats`."""
        judged = self.passed + self.fail
        first, last = self.first_start_ms, self.last_finish_ms
        return StatsRecord(
            regression=self.name,
            status=self.status,
            version=self.version,
            updated=times.to_text(self.updated_ms),
            live=self.live,
            passed=self.passed,
            fail=self.fail,
            skip=self.skip,
            finished=self.finished,
            heard=times.to_text(self.heard_ms),
            submitted=self.submitted,
            remaining=None if self.submitted is None else self.submitted - self.finished,
            pass_rate=self.passed / judged if judged else None,
            cycles=self.cycles,
            compute_ms=self.compute_ms,
            runtime_ms=self.runtime_ms,
            cycles_per_second=self.rate_cycles * 1000 / self.rate_runtime_ms if self.rate_runtime_ms else None,
            first_start=None if first is None else times.to_text(first),
            last_finish=None if last is None else times.to_text(last),
            duration_ms=None if first is None or last is None else last - first,
            signatures=self.signatures,
            fields=decode_fields(self.fields),
        )

    def headers(self) -> Headers:
        """The headers of the record in the topic `regression-stats`."""
        private = StatsPrivate(
            phase=self.phase,
            tanked=self.tanked,
            closed_ms=self.closed_ms,
            sealed_ms=self.sealed_ms,
            dropping=self.dropping,
            start=self.start,
            rate_cycles=self.rate_cycles,
            rate_runtime_ms=self.rate_runtime_ms,
            ending=self.ending,
        )
        return [(STATE_HEADER, _encode(private))]


decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_record = msgspec.json.Decoder(StatsRecord).decode
_decode_private = msgspec.json.Decoder(StatsPrivate).decode
_decode_live = msgspec.json.Decoder(_Live).decode


def decode(value: bytes) -> StatsRecord:
    """A record's value; msgspec.DecodeError if it is none of ours."""
    return _decode_record(value)


def from_record(value: bytes, headers: Sequence[tuple[str, bytes]]) -> Regression:
    """The regression that a record of the topic `regression-stats` describes; its job rows are not known yet."""
    record = _decode_record(value)
    private = StatsPrivate()
    for name, data in headers:
        if name == STATE_HEADER:
            private = _decode_private(data)
    regression = Regression(record.regression)
    regression.version = record.version
    regression.live = record.live
    regression.passed, regression.fail, regression.skip = record.passed, record.fail, record.skip
    regression.submitted = record.submitted
    regression.cycles, regression.compute_ms = record.cycles, record.compute_ms
    regression.runtime_ms = record.runtime_ms
    regression.signatures, regression.fields = record.signatures, _encode(record.fields)
    regression.phase, regression.tanked = private.phase, private.tanked
    regression.closed_ms, regression.sealed_ms = private.closed_ms, private.sealed_ms
    regression.dropping, regression.start, regression.ending = private.dropping, private.start, private.ending
    regression.rate_cycles, regression.rate_runtime_ms = private.rate_cycles, private.rate_runtime_ms
    regression.updated_ms = times.from_text(record.updated)
    regression.heard_ms = times.from_text(record.heard)
    regression.first_start_ms = None if record.first_start is None else times.from_text(record.first_start)
    regression.last_finish_ms = None if record.last_finish is None else times.from_text(record.last_finish)
    regression.exists = regression.stored = True
    regression.complete = False
    regression.size = len(value)
    return regression


def stored_value(deadline_ms: int, value: bytes, headers: Headers) -> bytes:
    """Value of a row in the regression table: deadline, length of the private state, private state, record."""
    state = headers[0][1]
    return _local.pack(deadline_ms, len(state)) + state + value


def from_stored(stored: bytes) -> Regression:
    """The regression that a stored row describes."""
    if native is not None:
        regression = native.stored_regression(stored, Regression)
        if regression is not None:
            return cast("Regression", regression)
    deadline_ms, size = _local.unpack_from(stored)
    start = _local.size
    regression = from_record(stored[start + size :], [(STATE_HEADER, stored[start : start + size])])
    regression.deadline_ms = deadline_ms
    return regression


def live_of(stored: bytes) -> int:
    """How many live jobs a stored row says that its regression has."""
    return _decode_live(record_of(stored)[0]).live


def record_of(stored: bytes) -> tuple[bytes, Headers]:
    """The record's value and headers inside a stored row."""
    size = _local.unpack_from(stored)[1]
    start = _local.size
    return stored[start + size :], [(STATE_HEADER, stored[start : start + size])]
