"""An ordered map in memory, with the interface of the store, and plain records."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, NamedTuple

from livejobs.tables.compiled import native


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


class MemoryBatch:
    """The operations on each key, the last one counts."""

    def __init__(self) -> None:
        self.ops: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.ops[key] = value

    def delete(self, key: bytes) -> None:
        self.ops[key] = None


def compiled_record(record: "Record") -> Any:
    """The same record as the compiled part gives it; as it is where there is none."""
    if native is None:
        return record
    packed, _ = native.pack([(record.key, record.value, list(record.headers))], 0, 1)
    return native.records(bytes(packed), 61, 1, record.offset, 0, record.timestamp, True)[0]


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def kind(self) -> bytes:
        return next((value for name, value in reversed(self.headers) if name == "type"), b"") or b""
