"""Where a job stands (pure)."""

from enum import IntEnum


class JobState(IntEnum):
    """Where a job stands; the order is that of the transition table's rows."""

    ABSENT = 0
    LIVE = 1
    FINISHED = 2
    JUDGED = 3
