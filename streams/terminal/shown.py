"""`livejobs ls`, `show` and `top`: what the page shows, in a terminal."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from livejobs.streams.terminal.client import Client, RefusedError, WebAwayError
from livejobs.streams.terminal.printable import printable
from livejobs.tables import times

PLAIN_WIDTH = 200
"""Of what no terminal reads."""
RETRY_SECONDS = 2.0
TOP_ROWS_MAX = 200
COLORS = {"LIVE": "green", "COMPLETE": "cyan", "ABORTED": "red", "TANKED": "dim", "live": "green", "fail": "red"}

Row = dict[str, Any]
Column = tuple[str, str, Callable[[Row, int], str]]
"""Head, justification, and the text of a row at a time in ms."""


def ls(client: Client, parameters: Mapping[str, object], limit: int, *, as_json: bool) -> None:
    """List regressions, or the jobs of the one in `parameters`."""
    path = "/jobs" if "regression" in parameters else "/regressions"
    page = client.pages(path, parameters, limit)
    if as_json:
        _print_json({name: page[name] for name in ("rows", "total", "exact", "partial")})
        return
    console = _console()
    console.print(_table(_columns(path), page["rows"], _now_ms()))
    if page["total"] > len(page["rows"]) or page["partial"]:
        more = "" if page["exact"] else " or more"
        sys.stderr.write(f"{len(page['rows'])} of {page['total']}{more} shown; see --limit\n")


def show(client: Client, name: str, *, job: bool, as_json: bool) -> None:
    """One regression with its live jobs, or one job by its id."""
    if job:
        found = client.get("/job", {"key": name})
        if as_json:
            _print_json(found)
        else:
            record = found["record"]
            _console().print(_facts({**record, **record["job"], "job": None}))
        return
    found = client.get("/regression", {"name": name})
    if as_json:
        _print_json(found)
        return
    console = _console()
    signatures, fields = found.pop("signatures"), found.pop("fields")
    console.print(_facts({**found, "id": None, **{f"fields.{key}": value for key, value in fields.items()}}))
    if signatures:
        table = Table(box=None, pad_edge=False)
        table.add_column("fails", justify="right")
        table.add_column("signature")
        for signature, count in sorted(signatures.items(), key=lambda item: -item[1]):
            table.add_row(f"{count:,}", _text(signature))
        console.print(Text(), table)
    page = client.pages("/jobs", {"regression": found["regression"]}, 20)
    if page["rows"]:
        console.print(Text(), _table(_columns("/jobs"), page["rows"], _now_ms()))


def top(client: Client, parameters: Mapping[str, object], *, as_json: bool) -> None:
    """Follow the live regressions, or the live jobs of one, until Ctrl-C. As JSON: a line for each change."""
    path = "/jobs" if "regression" in parameters else "/regressions"
    board = _Board(client, path, {**parameters, "limit": TOP_ROWS_MAX})
    if as_json:
        board.follow(lambda: _print_json({"state": board.state, "rows": board.rows()}))
        return
    console = _console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        board.follow(lambda: live.update(board.screen(console.height), refresh=True))


class _Board:
    """The newest state of a list that a stream keeps up to date."""

    def __init__(self, client: Client, path: str, parameters: Mapping[str, object]) -> None:
        self._client, self._path, self._parameters = client, path, parameters
        self._rows: dict[str, Row] = {}
        self._order: list[str] = []
        self._total = 0
        self._trouble = ""
        self.state: Row = {}

    def follow(self, show: Callable[[], None]) -> None:
        """For ever. Raises what the first attempt raises; later ones are told and repeated."""
        last, met = None, False
        while True:
            try:
                for event in self._client.events(self._path, self._parameters, last):
                    last, met, self._trouble = event.id, True, ""
                    self._take(event.name, event.data)
                    show()
                self._trouble = "the stream has ended"
            except WebAwayError as error:
                if not met:
                    raise
                self._trouble = str(error)
            show()
            time.sleep(RETRY_SECONDS)

    def _take(self, name: str, data: Any) -> None:
        if name == "state":
            self.state = data
            return
        if name == "snapshot":
            if data["status"] != 200:  # noqa: PLR2004
                raise RefusedError(data["body"]["detail"])
            data = data["body"]
            data["order"] = [row["id"] for row in data["rows"]]
        self._rows.update((row["id"], row) for row in data["rows"])
        if data["order"] is not None:
            self._order = data["order"]
            self._rows = {name: self._rows[name] for name in self._order}
        self._total = data["total"]

    def rows(self) -> list[Row]:
        """In order."""
        return [self._rows[name] for name in self._order]

    def screen(self, height: int) -> RenderableType:
        """What fits on a terminal."""
        rows = self.rows()[: max(height - 4, 1)]
        return Group(_table(_columns(self._path), rows, _now_ms()), Text(), self._footer(len(rows)))

    def _footer(self, shown: int) -> Text:
        if self._trouble:
            return Text(printable(self._trouble), style="red")
        as_of = self.state.get("as_of")
        if self.state.get("rebuilding"):
            return Text("the view is being made from the topics", style="yellow")
        if not self.state.get("connected"):
            return Text(f"the broker is away; this is as of {as_of}", style="yellow")
        return Text(f"{shown} of {self._total}; {self._client.url}; Ctrl-C ends it", style="dim")


def _columns(path: str) -> Sequence[Column]:
    return _JOBS if path == "/jobs" else _REGRESSIONS


def _table(columns: Sequence[Column], rows: Sequence[Row], now_ms: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for head, justify, _ in columns:
        table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(_text(of(row, now_ms)) for _, _, of in columns))
    return table


def _text(text: str) -> Text:
    return Text(printable(text), style=COLORS.get(text, ""))


def _facts(facts: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(printable(name), printable(value if isinstance(value, str) else json.dumps(value)))
    return table


def _elapsed_of_regression(row: Row, now_ms: int) -> str:
    if row["status"] == "LIVE" and row["started"]:
        return _span(now_ms - times.from_text(row["started"]))
    return "" if row["duration_ms"] is None else _span(row["duration_ms"])


def _elapsed_of_job(row: Row, now_ms: int) -> str:
    if row["result"] == "live":
        return _span(now_ms - times.from_text(row["started"]))
    runtime_ms = row["job"].get("runtime_ms")
    return "" if runtime_ms is None else _span(int(runtime_ms))


def _span(ms: int) -> str:
    """A time as a person says it: 3d04h, 2h05m, 1m08s, 7s."""
    seconds = max(ms, 0) // 1000
    for unit, size, lower, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // part:02d}{lower}"
    return f"{seconds}s"


def _of_job(name: str) -> Callable[[Row, int], str]:
    return lambda row, _: str(row["job"].get(name) or "")


def _count(name: str) -> Callable[[Row, int], str]:
    return lambda row, _: "" if row[name] is None else f"{row[name]:,}"


def _rate(row: Row, _: int) -> str:
    return "" if row["pass_rate"] is None else f"{100 * row['pass_rate']:.1f} %"


_REGRESSIONS: Sequence[Column] = (
    ("regression", "left", lambda row, _: row["regression"]),
    ("status", "left", lambda row, _: row["status"]),
    ("live", "right", _count("live")),
    ("pass", "right", _count("pass")),
    ("fail", "right", _count("fail")),
    ("skip", "right", _count("skip")),
    ("left", "right", _count("remaining")),
    ("pass rate", "right", _rate),
    ("elapsed", "right", _elapsed_of_regression),
    ("heard", "right", lambda row, now_ms: _span(now_ms - times.from_text(row["heard"])) + " ago"),
    ("user", "left", lambda row, _: row["fields"].get("username", "")),
)
_JOBS: Sequence[Column] = (
    ("result", "left", lambda row, _: row["result"]),
    ("elapsed", "right", _elapsed_of_job),
    ("host", "left", _of_job("host")),
    ("test", "left", _of_job("testgroup")),
    ("seed", "left", _of_job("seed")),
    ("config", "left", _of_job("config")),
    ("build", "left", _of_job("build")),
    ("user", "left", _of_job("username")),
    ("regression", "left", lambda row, _: row["regression"]),
)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
