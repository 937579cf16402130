"""An ordered map in memory, with the interface of the store, and plain records."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple


class MemoryMap:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        at = bisect_left(self.keys, start)
        for key in self.keys[at:]:
            if key >= stop:
                return
            yield key, self.values[key]

    def write(self, ops: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in ops:
            if value is None:
                if self.values.pop(key, None) is not None:
                    del self.keys[bisect_left(self.keys, key)]
            else:
                if key not in self.values:
                    insort(self.keys, key)
                self.values[key] = value


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def kind(self) -> bytes:
        return next((value for name, value in reversed(self.headers) if name == "type"), b"") or b""
