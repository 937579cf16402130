"""Lists in SQL, a page at a time: a page goes on behind the last row of the one before it, not at a count of rows."""

import contextlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from livejobs.tables.asks import QueryError

_encode = msgspec.json.encode
_decode_cursor = msgspec.json.Decoder(tuple[int, int | float | str, int | str]).decode


class Page(NamedTuple):
    """A page of a list."""

    rows: list[tuple[str, bytes]]
    """Id and JSON of each row."""
    next: str | None
    """Cursor of the next page."""
    total: int
    exact: bool
    """Whether there are exactly `total`; else there are more."""
    partial: bool
    """Whether it was stopped: there may be more rows."""


class Listing(NamedTuple):
    """A list in SQL: of each row the key and the value that it is ordered by."""

    source: str
    where: list[str]
    values: list[Any]
    order: str
    key: str
    down: bool

    def page(self, after: list[Any] | None, limit: int) -> tuple[str, list[Any]]:
        """SQL and its values for so many rows behind one."""
        where, values = list(self.where), list(self.values)
        if after is not None:
            where.append(f"({self.order}, {self.key}) {'<' if self.down else '>'} (?, ?)")
            values += after
        direction = "DESC" if self.down else "ASC"
        order = f"ORDER BY {self.order} {direction}, {self.key} {direction} LIMIT ?"
        rows = f"SELECT {self.key} AS id, {self.order} AS value FROM {self.source}"
        return f"{rows} WHERE {all_of(where)} {order}", [*values, limit]

    def counting(self, limit: int) -> tuple[str, list[Any]]:
        """SQL and its values for how many rows there are, at most `limit`."""
        inner = f"SELECT 1 FROM {self.source} WHERE {all_of(self.where)} LIMIT ?"
        return f"SELECT count(*) FROM ({inner})", [*self.values, limit]


def all_of(where: Sequence[str]) -> str:
    """A condition for all of them."""
    return " AND ".join(where) if where else "1"


def equal(where: list[str], values: list[Any], column: str, value: object) -> None:
    """Add a condition, if a value is asked for."""
    if value is not None:
        where.append(f"{column} = ?")
        values.append(value)


def order_of(sort: str) -> tuple[str, bool]:
    """What to order by, and whether downwards."""
    return sort.removeprefix("-"), sort.startswith("-")


def cursor_of(query: Any, value: object, key: object) -> str:
    """Where the page behind this row begins."""
    return _encode([_digest(query), value, key]).hex()


def after_of(query: Any) -> list[Any] | None:
    """The value and the key of the row before a page; None: it is the first one. Raises QueryError."""
    if query.cursor is None:
        return None
    with contextlib.suppress(ValueError, msgspec.MsgspecError):
        digest, value, key = _decode_cursor(bytes.fromhex(query.cursor))
        if digest == _digest(query):
            return [value, key]
    raise QueryError("cursor", "only one that a page of the same list has given")


def _digest(query: Any) -> int:
    return zlib.crc32(_encode(msgspec.structs.replace(query, cursor=None, limit=1)))
