"""What the configuration decides about the tables, and the deadlines that follow (pure)."""

from collections.abc import Sequence
from typing import NamedTuple

from livejobs.streams.config import Sigs
from livejobs.tables import keys, regressions, times
from livejobs.tables.jobs import Op
from livejobs.tables.regressions import NEVER_MS, Regression


class Rules(NamedTuple):
    """The rules in force; durations in ms, None: off."""

    enable_live: bool
    timeout_signature: str | None
    silence_ms: int | None
    prune_ms: int
    retention_ms: int
    stats_ms: int

    @classmethod
    def of(cls, sigs: Sigs) -> "Rules":
        """The rules that a configuration's section `sigs` gives."""
        hours = sigs.autotimeouthours
        return cls(
            sigs.enablelivejobs,
            sigs.livetimeoutsignature,
            None if hours is None else int(hours * times.HOUR_MS),
            int(sigs.liveprunedays * times.DAY_MS),
            int(sigs.retentiondays * times.DAY_MS),
            int(sigs.statsdays * times.DAY_MS),
        )


def deadline(rules: Rules, regression: Regression) -> int:
    """When to look at a regression again, ms since the epoch; 0: at the next tick.

    NEVER_MS: not before something happens to it.
    """
    if regression.ending is not None or regression.dropping:
        return 0
    if regression.sealed_ms is not None:
        return regression.sealed_ms + rules.stats_ms
    if regression.phase != "open":
        return (regression.closed_ms or 0) + rules.retention_ms
    silence = NEVER_MS if rules.silence_ms is None or regression.tanked else regression.heard_ms + rules.silence_ms
    return silence if regression.live else min(silence, regression.heard_ms + rules.retention_ms)


def restore_ops(rules: Rules, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> list[Op]:
    """What a record of the topic `regression-stats` puts into an ordered map: (key, value or None to delete)."""
    if value is None:
        return [(keys.REGRESSION + key, None)]
    due_ms = deadline(rules, regressions.from_record(value, headers))
    ops: list[Op] = [(keys.REGRESSION + key, regressions.stored_value(due_ms, value, list(headers)))]
    if due_ms != NEVER_MS:
        ops.append((keys.timed(keys.DEADLINE, due_ms, key), b""))
    return ops
