"""Records and rows held against each other, field by field (pure)."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from livejobs.streams.core import messages, statistics
from livejobs.tables import times
from livejobs.tables.jobs import JobRecord

SHOWN_MAX = 80
"""Characters of a value in a line."""

Kept = tuple[bytes, bytes]
"""State header (empty: none) and value of a record."""
Row = tuple[bytes, Kept]
"""Key of a record, and the record."""

_encode = msgspec.json.encode
_decode = msgspec.json.decode


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
        start_ms, end_ms = statistics.ran(given, times.from_text(row.updated))
        if start_ms is not None:
            self._starts = [min([*self._starts, start_ms])]
        self._finishes = [max([*self._finishes, end_ms])]

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
