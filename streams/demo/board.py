"""What a reader of `regression-stats` knows, and how the demo shows it (pure)."""

import contextlib

import msgspec
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from livejobs.streams.terminal.printable import printable
from livejobs.tables import regressions, times
from livejobs.tables.regressions import StatsRecord

REGRESSIONS_MAX = 5_000
ROWS_MIN = 3
FRAME_LINES = 6
"""Lines of the screen that are no rows, the cursor's among them."""

_STYLES = {"LIVE": "bold green", "COMPLETE": "cyan", "ABORTED": "bold red", "TANKED": "magenta"}
_COLUMNS = ("Live", "Pass", "Fail", "Skip", "Left", "Pass%", "Elapsed", "Heard")


class Board:
    """The last record of each regression, of as many as are of interest."""

    def __init__(self) -> None:
        self._records: dict[bytes, StatsRecord] = {}  # latest taken last

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take a record of the topic."""
        self._records.pop(key, None)
        if value is None:
            return
        if len(self._records) >= REGRESSIONS_MAX:
            del self._records[next(iter(self._records))]
        self._records[key] = regressions.decode(value)

    def latest(self, count: int) -> list[StatsRecord]:
        """The last changed, latest first."""
        return sorted(self._records.values(), key=lambda record: record.updated, reverse=True)[:count]

    def totals(self) -> dict[str, int]:
        """Sums over all regressions, by name."""
        records = self._records.values()
        return {
            "regressions": len(records),
            "live": sum(record.live for record in records),
            "pass": sum(record.passed for record in records),
            "fail": sum(record.fail for record in records),
            "skip": sum(record.skip for record in records),
            "finished": sum(record.finished for record in records),
        }

    def line(self, events: int, events_a_second: float) -> str:
        """The totals and the regression that changed last, for a log."""
        totals = ", ".join(f"{value} {name}" for name, value in self.totals().items())
        latest = "".join(
            f" | {printable(record.regression)} {record.status}: {record.live} live, {record.passed} pass, "
            f"{record.fail} fail, {record.skip} skip of {_or_dash(record.submitted)}"
            for record in self.latest(1)
        )
        return f"{totals}, {events} events, {events_a_second:.0f} a second{latest}"

    def screen(self, height: int, now_ms: int, events: int, events_a_second: float, footer: str) -> Group:
        """A table of the regressions that changed last, as many as fit, and the totals below it."""
        table = Table(expand=True, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("Regression", no_wrap=True, ratio=1)
        table.add_column("Status", no_wrap=True, min_width=8)
        for name in _COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        for record in self.latest(max(height - FRAME_LINES, ROWS_MIN)):
            table.add_row(*_row(record, now_ms))
        totals = ", ".join(f"{value:,} {name}" for name, value in self.totals().items())
        numbers = f"{totals}; {events:,} events, {events_a_second:.0f} a second"
        return Group(table, Text(numbers, style="bold", no_wrap=True), Text(footer, style="dim", no_wrap=True))


def _row(record: StatsRecord, now_ms: int) -> tuple[str | Text, ...]:
    return (
        Text(printable(record.regression), overflow="ellipsis"),
        Text(record.status, style=_STYLES[record.status]),
        f"{record.live:,}",
        f"{record.passed:,}",
        Text(f"{record.fail:,}", style="red" if record.fail else ""),
        f"{record.skip:,}",
        _or_dash(record.remaining),
        "-" if record.pass_rate is None else f"{100 * record.pass_rate:.1f}",
        _elapsed(record, now_ms),
        _span(now_ms - times.from_text(record.heard)),
    )


def _elapsed(record: StatsRecord, now_ms: int) -> str:
    """Since `starttime`, else the first start of a finished job; up to now while LIVE, else to the last finish."""
    start_ms = None if record.first_start is None else times.from_text(record.first_start)
    with contextlib.suppress(KeyError, ValueError, TypeError, msgspec.DecodeError):  # a farm may write anything there
        start_ms = times.from_text(msgspec.json.decode(record.fields["starttime"], type=str))
    end_ms = now_ms if record.status == "LIVE" else times.from_text(record.last_finish or record.heard)
    return "-" if start_ms is None else _span(end_ms - start_ms)


def _span(ms: int) -> str:
    minutes, seconds = divmod(max(ms, 0) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _or_dash(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
