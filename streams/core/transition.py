"""The two state machines: everything that decides where a job or a regression goes next (pure).

Each is a table of its legal moves. `streams.core.fold` looks a move up, takes what the old state had contributed out of
the statistics, and puts in what the new one contributes; it knows no other rules of its own about states. The
diagrams in the README are drawn from these tables (`diagram`).
"""

from enum import IntEnum
from types import MappingProxyType

from livejobs.tables.states import JobState


class JobEvent(IntEnum):
    """What can happen to a job."""

    LIVE = 0
    FINISH = 1
    JUDGE = 2
    PRUNE = 3
    DROP = 4


_J, _E = JobState, JobEvent

JOB = MappingProxyType(
    {
        (_J.ABSENT, _E.LIVE): _J.LIVE,
        (_J.ABSENT, _E.FINISH): _J.FINISHED,  # a finish without a live message is normal
        (_J.LIVE, _E.LIVE): _J.LIVE,  # each replaces the record, also an identical one
        (_J.LIVE, _E.FINISH): _J.FINISHED,
        (_J.LIVE, _E.JUDGE): _J.JUDGED,  # regr-finish, timeout or tank, with a signature configured
        (_J.LIVE, _E.PRUNE): _J.ABSENT,
        (_J.LIVE, _E.DROP): _J.ABSENT,
        (_J.FINISHED, _E.LIVE): _J.FINISHED,  # too late: changes nothing
        (_J.FINISHED, _E.FINISH): _J.FINISHED,  # a correction, or identical and nothing
        (_J.FINISHED, _E.DROP): _J.ABSENT,
        (_J.JUDGED, _E.LIVE): _J.LIVE,  # the verdict was provisional
        (_J.JUDGED, _E.FINISH): _J.FINISHED,
        (_J.JUDGED, _E.DROP): _J.ABSENT,
    }
)

MOVES = tuple(tuple(JOB.get((state, event)) for state in JobState) for event in JobEvent)
"""JOB by event and state, for those who look up many; None: no such move."""


class Phase(IntEnum):
    """Where a regression stands. TANKED is no phase: it hides one."""

    UNKNOWN = 0
    OPEN = 1
    FINISHED = 2
    TIMED_OUT = 3
    SEALED = 4


class RegressionEvent(IntEnum):
    """What can happen to a regression."""

    START = 0
    START_AGAIN = 1
    UPDATE = 2
    JOB = 3
    FINISH = 4
    TANK = 5
    SILENCE = 6
    RETENTION = 7
    STATS_END = 8


_P, _R = Phase, RegressionEvent

REGRESSION = MappingProxyType(
    {
        **{(_P.UNKNOWN, event): _P.OPEN for event in (_R.START, _R.UPDATE, _R.JOB, _R.TANK)},
        (_P.UNKNOWN, _R.FINISH): _P.FINISHED,
        **{(_P.OPEN, event): _P.OPEN for event in (_R.START, _R.START_AGAIN, _R.UPDATE, _R.JOB, _R.TANK)},
        (_P.OPEN, _R.FINISH): _P.FINISHED,
        (_P.OPEN, _R.SILENCE): _P.TIMED_OUT,
        (_P.FINISHED, _R.START): _P.OPEN,
        **{(_P.FINISHED, event): _P.FINISHED for event in (_R.START_AGAIN, _R.UPDATE, _R.JOB, _R.FINISH, _R.TANK)},
        (_P.FINISHED, _R.RETENTION): _P.SEALED,
        **{(_P.TIMED_OUT, event): _P.OPEN for event in (_R.START, _R.UPDATE, _R.JOB, _R.TANK)},  # heard of again
        (_P.TIMED_OUT, _R.START_AGAIN): _P.TIMED_OUT,
        (_P.TIMED_OUT, _R.FINISH): _P.FINISHED,
        (_P.TIMED_OUT, _R.RETENTION): _P.SEALED,
        (_P.SEALED, _R.START): _P.OPEN,  # a new run with empty statistics
        (_P.SEALED, _R.TANK): _P.SEALED,
        (_P.SEALED, _R.STATS_END): _P.UNKNOWN,
    }
)
"""START_AGAIN is a regr-start that is a duplicate (see `streams.core.fold`). A pair that is not here: the message is
rejected as `sealed`."""


def diagram(table: MappingProxyType, unknown: IntEnum) -> str:  # type: ignore[type-arg]
    """The table as a Mermaid state diagram; `unknown` is drawn as the start and the end."""
    arrows: dict[tuple[IntEnum, IntEnum], list[str]] = {}
    for (state, event), target in table.items():
        arrows.setdefault((state, target), []).append(event.name.lower().replace("_", "-"))

    def name(state: IntEnum) -> str:
        return "[*]" if state is unknown else state.name

    lines = [f"    {name(a)} --> {name(b)}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(["stateDiagram-v2", *lines])
