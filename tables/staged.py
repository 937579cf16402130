"""Reading a store as if writes that are still on their way had reached it (pure).

So the next batch can be folded while the transaction of the last one is not yet committed: until then RocksDB must not
have it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from heapq import merge
from operator import itemgetter
from typing import Protocol

from livejobs.tables.jobs import Op


class Map(Protocol):
    """An ordered map of bytes."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` (included) to `stop` (excluded), in order."""


class Staged:
    """An ordered map, and operations that are to be written to it."""

    def __init__(self, below: Map) -> None:
        self._below = below
        self._staged: Sequence[Op] = ()
        self._ops: dict[bytes, bytes | None] | None = None  # as a map, and
        self._keys: list[bytes] | None = None  # in order, if anyone has asked
        self.get = below.get

    def stage(self, ops: Sequence[Op]) -> None:
        """From now on reads know of these operations, and of no others before them; the map must have those by now."""
        self._staged, self._ops, self._keys = ops, None, None
        self.get = self._get if ops else self._below.get

    def _get(self, key: bytes) -> bytes | None:
        ops = self._ops or self._as_map()
        return ops[key] if key in ops else self._below.get(key)

    def _as_map(self) -> dict[bytes, bytes | None]:
        self._ops = dict(self._staged)
        return self._ops

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` (included) to `stop` (excluded), in order."""
        return self._merged(start, stop) if self._staged else self._below.scan(start, stop)

    def _merged(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        ops = self._ops or self._as_map()
        if self._keys is None:
            self._keys = sorted(ops)
        keys = self._keys
        staged = ((key, ops[key]) for key in keys[bisect_left(keys, start) : bisect_left(keys, stop)])
        before = None
        for key, value in merge(staged, self._below.scan(start, stop), key=itemgetter(0)):  # of equals, ours first
            if key != before and value is not None:
                yield key, value
            before = key
