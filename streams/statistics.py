"""The statistics of a regression, kept up to date one job at a time (pure)."""

from typing import NamedTuple

from livejobs.streams import signature
from livejobs.streams.messages import Job
from livejobs.tables import times
from livejobs.tables.jobs import JobState, Row
from livejobs.tables.regressions import Regression


class Numbers(NamedTuple):
    """What one finish message gives to the sums and to the span of time."""

    cycles: int
    compute_ms: int
    runtime_ms: int
    rated: bool
    """It has both cycles and runtime."""
    start_ms: int | None
    finish_ms: int


def numbers(job: Job, broker_ms: int) -> Numbers:
    """The numbers of a finished job whose record was changed at `broker_ms`."""
    start_ms = None if job.start_time is None else times.to_ms(job.start_time)
    if job.finish_time is not None:
        finish_ms = times.to_ms(job.finish_time)
    elif start_ms is not None and job.runtime_ms is not None and start_ms + job.runtime_ms <= times.MS_MAX:
        finish_ms = start_ms + int(job.runtime_ms)
    else:
        finish_ms = broker_ms
    return Numbers(
        int(job.cycles or 0),
        int(job.compute_ms or 0),
        int(job.runtime_ms or 0),
        job.cycles is not None and job.runtime_ms is not None,
        start_ms,
        finish_ms,
    )


def count(regression: Regression, row: Row, sign: int, given: Numbers | None = None) -> None:
    """Put a job into the counts and sums (sign 1) or take it out (sign -1). A verdict has no numbers."""
    if row.state == JobState.LIVE:
        regression.live += sign
    elif row.state != JobState.ABSENT:
        if row.result == "pass":
            regression.passed += sign
        elif row.result == "skip":
            regression.skip += sign
        else:
            regression.fail += sign
            name = row.signature or ""
            fails = regression.signatures.get(name, 0) + sign
            if fails:
                regression.signatures[name] = fails
            else:
                del regression.signatures[name]
    if given is not None:
        regression.cycles += sign * given.cycles
        regression.compute_ms += sign * given.compute_ms
        regression.runtime_ms += sign * given.runtime_ms
        if given.rated:
            regression.rate_cycles += sign * given.cycles
            regression.rate_runtime_ms += sign * given.runtime_ms


def extend(regression: Regression, given: Numbers) -> None:
    """Widen the span from the first start to the last finish."""
    first, last = regression.first_start_ms, regression.last_finish_ms
    if given.start_ms is not None and (first is None or given.start_ms < first):
        regression.first_start_ms = given.start_ms
    if last is None or given.finish_ms > last:
        regression.last_finish_ms = given.finish_ms


def uncovers(regression: Regression, old: Numbers, new: Numbers) -> bool:
    """Whether taking `old` out for `new` narrows the span, so that its end must be looked for among the other jobs."""
    start = (
        old.start_ms is not None
        and old.start_ms == regression.first_start_ms
        and (new.start_ms is None or new.start_ms > old.start_ms)
    )
    return start or (old.finish_ms == regression.last_finish_ms and new.finish_ms < old.finish_ms)


def signature_of(regression: Regression, job: Job, timeout_signature: str | None) -> str:
    """The signature of a fail that arrives now: its own if known or a place is free, else the overflow's."""
    name = job.bucket or signature.reduce(job.fail_message or "")
    known = regression.signatures
    if name in known or name in (signature.OVERFLOW, timeout_signature):
        return name
    places = len(known) - (signature.OVERFLOW in known) - (timeout_signature in known)
    return name if places < signature.SIGNATURES_MAX else signature.OVERFLOW
