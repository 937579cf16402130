"""A batch of messages for one partition: filled by the compiled part, or by aiokafka's own builder without it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka.producer.message_accumulator import BatchBuilder

from livejobs.streams.publisher.outgoing import Headers, Lines, Message, Source
from livejobs.tables.compiled import native

MARK_BYTES = 200
"""Memory of what is noted of a message beside its bytes in the batch, about: so that small messages are bounded too."""


class Target(NamedTuple):
    """Where messages of one type and regression go, and what their records have in common."""

    partition: int
    key: bytes
    headers: Any
    finished: bool | None
    """Bodies are finished jobs, or live ones; None: neither."""
    overhead: int
    """Bytes of each record beside its body, at most."""


def target(kind: str, regression: str, headers: Headers, partition: int) -> Target:
    """The target of checked messages."""
    key = regression.encode()
    pairs = [("type", kind.encode()), *headers]
    overhead = 32 + len(key) + sum(16 + len(name.encode()) + len(value) for name, value in pairs)
    finished = {"job-finish": True, "job-live": False}.get(kind)
    if native is None:
        return Target(partition, key, pairs, finished, overhead)
    return Target(partition, native.sized(key), native.packed_headers(pairs), finished, overhead)


class _SlowPacker(BatchBuilder):  # type: ignore[misc]
    """As `native.Packer`."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max, 0)
        self._messages: list[Any] = []

    def add(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> bool:
        if self.append(timestamp=None, key=key, value=value, headers=headers) is None:
            return False
        self._messages.append(_Record(key, value, headers))
        return True

    def lines(self, _key: bytes, _headers: object, _finished: bool, _data: bytes, at: int) -> tuple[int, int, bool]:
        return at, 0, False

    def messages(self) -> list[Any]:
        return self._messages

    def built(self, producer_id: int, producer_epoch: int, sequence: int) -> bytes:
        self._set_producer_state(producer_id, producer_epoch, sequence)
        data: bytes = self._build()
        return data


class _Record(NamedTuple):
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


_Packer: type[Any] = _SlowPacker if native is None else native.Packer


class Batch:
    """Messages of one partition that are sent together, until `deadline` (the event loop's time)."""

    __slots__ = ("_marks", "builder", "deadline", "size")

    def __init__(self, bytes_max: int, deadline: float) -> None:
        self.builder, self.deadline = _Packer(bytes_max), deadline
        self._marks: list[tuple[int, Source, int]] = []
        self.size = 0
        """Memory that it takes, about."""

    def add(self, number: int, target: Target, body: bytes, source: Source) -> bool:
        """Whether it still fitted in; the first one always does. `number` is its place among all messages."""
        if not self.builder.add(target.key, body, target.headers):
            return False
        self._marks.append((number, source, 1))
        self.size += len(body) + target.overhead + MARK_BYTES
        return True

    def add_lines(self, number: int, target: Target, lines: Lines) -> tuple[int, bool]:
        """Add from `lines` on what can be added at once: how many, and whether there was no more room."""
        begin = lines.at
        at, count, full = self.builder.lines(target.key, target.headers, target.finished, lines.data, begin)
        if count:
            self._marks.append((number, Source(lines.name, lines.line), count))
            lines.skip(at, count)
            self.size += at - begin + count * target.overhead + MARK_BYTES
        return count, full

    def built(self, producer_id: int, producer_epoch: int, sequence: int) -> bytes:
        """As it is sent; nothing can be added from now on."""
        data: bytes = self.builder.built(producer_id, producer_epoch, sequence)
        return data

    def __len__(self) -> int:
        return int(self.builder.record_count())

    def messages(self) -> Iterator[tuple[int, Message]]:
        """All of them, with their numbers."""
        records = iter(self.builder.messages())
        for number, source, count in self._marks:
            for index in range(count):
                record = next(records)
                (_, kind), *headers = record.headers
                line = source.line + index if source.line else 0
                yield (
                    number + index,
                    Message(
                        kind.decode(), record.key.decode(), record.value, tuple(headers), Source(source.name, line)
                    ),
                )
