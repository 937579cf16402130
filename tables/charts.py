"""Charts of one regression's finished jobs: finishes over time, runtimes and cycles by result."""

from itertools import pairwise
from typing import Any

import msgspec

from livejobs.tables import times
from livejobs.tables.queries import Reader
from livejobs.tables.view_rows import RESULTS

STEPS_MAX = 120
BINS_MAX = 40
FINISHED = tuple(range(1, len(RESULTS)))
STEPS_MS = tuple(
    unit * count
    for unit, counts in (
        (1000, (1, 2, 5, 10, 15, 30)),
        (60_000, (1, 2, 5, 10, 15, 30)),
        (times.HOUR_MS, (1, 2, 3, 6, 12)),
        (times.DAY_MS, (1, 2, 7, 30, 365, 3650, 36500)),
    )
    for count in counts
)


def of(reader: Reader, name: str) -> bytes | None:
    """Its charts; None if there is no such regression."""
    number = reader.number_of(name)
    if number is None:
        return None
    return msgspec.json.encode(
        {
            "regression": reader.name_of(name),
            "finishes": _finishes(reader, number),
            "runtime": _histogram(reader, number, "runtime_ms", "edges_ms"),
            "cycles": _histogram(reader, number, "cycles", "edges"),
        }
    )


def _finishes(reader: Reader, number: int) -> dict[str, Any]:
    least, greatest = _range(reader, number, "finish_ms", 0)
    if least is None:
        return {"start": None, "step_ms": STEPS_MS[0], **{RESULTS[result]: [] for result in FINISHED}}
    step_ms = next(step for step in STEPS_MS if (greatest // step - least // step) < STEPS_MAX)
    first = least // step_ms
    count = greatest // step_ms - first + 1
    found: dict[str, Any] = {"start": times.to_text(first * step_ms), "step_ms": step_ms}
    sql = (
        "SELECT finish_ms / ?, count(*) FROM jobs WHERE regression = ? AND result = ? AND finish_ms >= 0 "
        "AND verdict < 0 GROUP BY 1"
    )
    for result in FINISHED:
        counts = [0] * count
        for bin_, jobs in reader.rows(sql, step_ms, number, result):
            if 0 <= bin_ - first < count:
                counts[bin_ - first] = jobs
        found[RESULTS[result]] = counts
    return found


def _histogram(reader: Reader, number: int, column: str, edges_name: str) -> dict[str, Any]:
    least, greatest = _range(reader, number, column, 0)
    if least is None:
        return {edges_name: [], **{RESULTS[result]: [] for result in FINISHED}}
    edges = edges_of(least, greatest)
    sql = f"SELECT count(*) FROM jobs WHERE regression = ? AND result = ? AND {column} >= ? AND {column} < ?"  # noqa: S608
    found: dict[str, Any] = {edges_name: edges}
    for result in FINISHED:
        bins = pairwise(edges)
        found[RESULTS[result]] = [reader.rows(sql, number, result, low, high)[0][0] for low, high in bins]
    return found


def _range(reader: Reader, number: int, column: str, least: int) -> tuple[Any, Any]:
    sql = f"SELECT min({column}), max({column}) FROM jobs WHERE regression = ? AND result = ? AND {column} >= ?"  # noqa: S608
    ranges = [reader.rows(sql, number, result, least)[0] for result in FINISHED]
    lows = [low for low, _ in ranges if low is not None]
    highs = [high for _, high in ranges if high is not None]
    return (min(lows), max(highs)) if lows else (None, None)


def edges_of(least: int, greatest: int) -> list[int]:
    """Edges of at most BINS_MAX bins that grow by a ratio; the first one begins at or below `least`."""
    ratio = next(ratio for ratio in (1.1, 1.25, 1.5, 2, 4, 16) if max(least, 1) * ratio ** (BINS_MAX - 2) > greatest)
    edges = [least]
    while edges[-1] <= greatest:
        edges.append(max(edges[-1] + 1, int(edges[-1] * ratio)))
        if len(edges) > BINS_MAX:
            edges[-1] = greatest + 1
    return edges
