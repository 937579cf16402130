"""RFC 3339 text and milliseconds since the epoch (pure)."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from livejobs.tables.compiled import native

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
MS_MAX = 253_402_300_799_999  # the end of the year 9999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_FIRST = datetime(1970, 1, 1)  # noqa: DTZ001  a naive one is written without an offset


def to_text(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 UTC with milliseconds, ``2026-03-02T08:00:00.123Z``.

    OverflowError where the year is not 1 to 9999.
    """
    return (_FIRST + ms * _MILLISECOND).isoformat(timespec="milliseconds") + "Z"


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch, rounded down. The datetime must be aware."""
    since = moment - _EPOCH  # its seconds and microseconds are never negative
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def from_text(text: str) -> int:
    """Milliseconds since the epoch of RFC 3339 text; ValueError if it is not."""
    if native is not None and (ms := native.from_text(text)) is not None:
        return cast("int", ms)
    return to_ms(datetime.fromisoformat(text))


if native is not None and not TYPE_CHECKING:
    to_text = native.to_text
