"""The keys of a partition's store (pure).

One ordered map holds everything; the first byte says which table a key is in. The rest of a row's key is the key of
its Kafka record, byte for byte, so that a store is rebuilt by copying records.

| first byte | rest of the key | value |
| --- | --- | --- |
| ``R`` | regression name | the regression's row: `tables.regressions` |
| ``L`` | job key | the live row: `tables.jobs` |
| ``F`` | job key | the finished row (also one that the system judged) |
| ``D`` | deadline, regression name | empty: when to look at this regression again |
| ``P`` | time last heard of, job key | empty: when this job was heard of, or later |
| ``B`` | the first time in it, which one it is | the keys of many ``P`` entries: see `tables.jobs` |
| ``M`` | a name | what the store knows of itself |

``D`` and ``P`` entries are lazy: an entry may be too early, never too late; whoever meets one looks at the row and
moves the entry. A heartbeat therefore costs no index write, and neither does an end: a ``P`` entry is stale if there is
no live row of its time. Those of jobs that begin together are written together, as a ``B`` entry. It stands for them
until the first of them may be due; nearly all of these jobs have ended by then.
"""

import struct

REGRESSION, LIVE, FINISHED, DEADLINE, SEEN, BUNDLE, META = b"R", b"L", b"F", b"D", b"P", b"B", b"M"

_time = struct.Struct(">Q")


def job_range(table: bytes, prefix: bytes, after: bytes = b"") -> tuple[bytes, bytes]:
    """Start (included) and stop (excluded) of the rows of one regression in a job table.

    `prefix` is the beginning of its job keys, ``["name",``; a JSON string ends at its quote, so no other
    regression's keys begin so. With `after`, a job key, only rows behind it.
    """
    return table + (after + b"\0" if after else prefix), table + prefix[:-1] + b"-"


def timed(table: bytes, ms: int, rest: bytes) -> bytes:
    """Key of an entry in one of the time-ordered tables; `ms` since the epoch, not negative."""
    return table + _time.pack(ms) + rest


def time_of(key: bytes) -> int:
    """The time in a key of a time-ordered table, ms."""
    return int.from_bytes(key[1:9], "big")


def rest_of(key: bytes) -> bytes:
    """What follows the time in a key of a time-ordered table."""
    return key[9:]
