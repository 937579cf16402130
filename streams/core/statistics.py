"""The statistics of a regression, kept up to date one job at a time (pure)."""

import msgspec

from livejobs.streams.core import signature
from livejobs.streams.core.messages import Finish
from livejobs.tables.fields import Row
from livejobs.tables.regressions import Regression
from livejobs.tables.states import JobState

ABSENT, LIVE = JobState.ABSENT, JobState.LIVE

Ran = tuple[int | None, int]
"""Start, if it is known, and end of a finished job, in ms since the epoch."""


def enter(regression: Regression, row: Row) -> None:
    """Count a job where it stands."""
    state = row.state
    if state is LIVE:
        regression.live += 1
    elif state is not ABSENT:
        result = row.result
        if result == "pass":
            regression.passed += 1
        elif result == "skip":
            regression.skip += 1
        else:
            regression.fail += 1
            name = row.signature or ""
            regression.signatures[name] = regression.signatures.get(name, 0) + 1


def leave(regression: Regression, row: Row) -> None:
    """Take a job out of the counts, before it goes elsewhere."""
    state = row.state
    if state is LIVE:
        regression.live -= 1
    elif state is not ABSENT:
        result = row.result
        if result == "pass":
            regression.passed -= 1
        elif result == "skip":
            regression.skip -= 1
        else:
            regression.fail -= 1
            name = row.signature or ""
            regression.signatures[name] -= 1
            if not regression.signatures[name]:
                del regression.signatures[name]


def add(regression: Regression, given: Finish, broker_ms: int) -> None:
    """Put a finish message's numbers into the sums and the span; a verdict has none."""
    _, _, cycles, compute_ms, runtime_ms, rated, start, end, _, _ = given
    regression.cycles += cycles
    regression.compute_ms += compute_ms
    regression.runtime_ms += runtime_ms
    if rated:
        regression.rate_cycles += cycles
        regression.rate_runtime_ms += runtime_ms
    extend(regression, start, broker_ms if end is None else end)


def subtract(regression: Regression, given: Finish) -> None:
    """Take a finish message's numbers out of the sums, for a correction; `narrow` takes it out of the span."""
    regression.cycles -= given.cycles
    regression.compute_ms -= given.compute_ms
    regression.runtime_ms -= given.runtime_ms
    if given.rated:
        regression.rate_cycles -= given.cycles
        regression.rate_runtime_ms -= given.runtime_ms


def ran(given: Finish, broker_ms: int) -> Ran:
    """When a job whose record was changed at `broker_ms` ran."""
    return given.start_ms, broker_ms if given.finish_ms is None else given.finish_ms


def extend(regression: Regression, start_ms: int | None, end_ms: int) -> None:
    """Widen the span from the first start to the last finish."""
    first, last = regression.first_start_ms, regression.last_finish_ms
    if start_ms is not None and (first is None or start_ms < first):
        regression.first_start_ms = start_ms
    if last is None or end_ms > last:
        regression.last_finish_ms = end_ms
    if regression.span is not None:
        regression.span.add(start_ms, end_ms)


def narrow(regression: Regression, old: Ran, new: Ran) -> bool:
    """Take a finished job out of the span, for a correction by one that is in it already.

    False: it is not known what the span is now, without looking at all finished jobs.
    """
    span = regression.span
    if span is not None:
        span.remove(*old)
        regression.first_start_ms, regression.last_finish_ms = span.first_start_ms, span.last_finish_ms
        return span.known
    start_ms, end_ms = old
    first = start_ms is not None and start_ms == regression.first_start_ms and start_ms != new[0]
    return not first and (end_ms != regression.last_finish_ms or end_ms == new[1])


def signature_of(regression: Regression, given: Finish, timeout_signature: str | None) -> str:
    """The signature of a fail that arrives now: its own if known or a place is free, else the overflow's."""
    *_, bucketed, reason = given
    text = msgspec.json.decode(reason or b'""', type=str)
    name = text if bucketed else signature.reduce(text)
    known = regression.signatures
    if name in known or name in (signature.OVERFLOW, timeout_signature):
        return name
    places = len(known) - (signature.OVERFLOW in known) - (timeout_signature in known)
    return name if places < signature.SIGNATURES_MAX else signature.OVERFLOW
