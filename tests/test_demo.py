"""The demo: what its farm sends, what its table shows, and that it leaves nothing behind.

The last tests run the command itself. All that it starts has the path of its folder in the command line, which is under
the test's own TMPDIR: that is how one that is left is found.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from livejobs.streams import config as configuration
from livejobs.streams.core import messages
from livejobs.streams.demo import farm
from livejobs.streams.demo.board import Board
from livejobs.streams.demo.run import RULES, demo_config, to_toml

START = datetime(2026, 3, 2, 8, tzinfo=timezone(timedelta(hours=-5)))
JOB_FIELDS = {
    *("start_time", "category", "jobdir", "seed", "config", "build", "testgroup", "host", "username", "sourcecode"),
    *("extid", "metadata", "result"),
}
FINISH_FIELDS = {"compute_ms", "runtime_ms", "cycles", "exit_code", "finish_time", "fail_message"}
RUNNING_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 10.0


def events(count: int = 14) -> list[farm.Event]:
    return list(farm.events(7, jobs_a_second=25, start=START, regressions=count))


# ---------------------------------------------------------------------- the farm


def test_the_same_seed_gives_the_same_messages() -> None:
    assert events() == events()
    assert events() != list(farm.events(8, jobs_a_second=25, start=START, regressions=14))


def test_every_message_is_one_that_the_worker_takes() -> None:
    for event in events():
        messages.check_key(event.regression.encode())
        messages.check(event.kind, event.body)


def test_messages_come_in_the_order_of_their_times() -> None:
    times = [event.at_ms for event in events()]
    assert times == sorted(times)


def test_all_types_and_all_fields_are_there() -> None:
    sent = events()
    assert {event.kind for event in sent} == messages.TYPES
    live = [set(msgspec.json.decode(event.body)) for event in sent if event.kind == "job-live"]
    assert all(fields >= JOB_FIELDS and not fields & FINISH_FIELDS for fields in live)
    assert {"uniqueid" in fields for fields in live} == {True, False}
    finished = [msgspec.json.decode(event.body) for event in sent if event.kind == "job-finish"]
    assert all(set(job) >= JOB_FIELDS | FINISH_FIELDS for job in finished)
    assert {job["result"] for job in finished} == {"pass", "fail", "skip"}


def test_some_jobs_beat_and_some_never_finish() -> None:
    live, finished = Counter[tuple[str, bytes]](), set()
    for event in events():
        if event.kind.startswith("job-"):
            body = event.body
            if event.kind == "job-live":
                live[event.regression, messages.live(body)] += 1
            else:
                finished.add((event.regression, messages.finish(body).key))
    assert max(live.values()) > 1
    assert set(live) - finished
    assert not finished - set(live)


def test_the_pace_is_kept() -> None:
    started = {
        (event.regression, event.body)
        for event in islice(farm.events(7, jobs_a_second=100, start=START), 3000)
        if event.kind == "job-live" and event.at_ms < 4_000  # before the first heartbeats
    }
    assert 200 < len(started) < 450  # a sixth of the regressions send no live messages


# ---------------------------------------------------------------------- what one sees


def stats(name: str, updated: str, **fields: object) -> tuple[bytes, bytes]:
    record: dict[str, object] = {
        "regression": name,
        "status": "LIVE",
        "version": 1,
        "updated": updated,
        "heard": updated,
        **dict.fromkeys(("live", "pass", "fail", "skip", "finished", "cycles", "compute_ms", "runtime_ms"), 0),
        **dict.fromkeys(("submitted", "remaining", "pass_rate", "cycles_per_second"), None),
        **dict.fromkeys(("first_start", "last_finish", "duration_ms"), None),
        "signatures": {},
        "fields": {},
    }
    return name.encode(), msgspec.json.encode(record | fields)


def board() -> Board:
    shown = Board()
    shown.apply(*stats("a", "2026-03-02T08:00:00.000Z", live=1))
    shown.apply(*stats("b", "2026-03-02T08:00:02.000Z", live=5))
    shown.apply(*stats("c", "2026-03-02T08:00:01.000Z"))
    counts = {"live": 4, "finished": 4, "fail": 1, "submitted": 9, "remaining": 5, "pass_rate": 0.75}
    shown.apply(*stats("b", "2026-03-02T08:00:03.000Z", **counts))
    shown.apply(b"c", None)
    return shown


def test_the_board_holds_the_last_record_of_each_regression_latest_first() -> None:
    shown = board()
    assert [record.regression for record in shown.latest(10)] == ["b", "a"]
    assert [record.regression for record in shown.latest(1)] == ["b"]
    assert shown.totals() == {"regressions": 2, "live": 5, "pass": 0, "fail": 1, "skip": 0, "finished": 4}
    assert "| b LIVE: 4 live, 0 pass, 1 fail, 0 skip of 9" in shown.line(12, 3.4)


def test_the_table_fits_a_small_terminal() -> None:
    shown, now_ms = board(), int(datetime(2026, 3, 2, 8, 1, 5, tzinfo=UTC).timestamp() * 1000)
    for number in range(40):
        fields = {"starttime": "2026-03-02T03:00:00.000-05:00"}
        name, updated = f"nightly/l2cache_{number:02d}", f"2026-03-02T08:01:00.{number:03d}Z"
        shown.apply(*stats(name, updated, fields=fields, live=123, pass_rate=0.5, submitted=1234, remaining=1234))
    console = Console(width=80, height=20)
    with console.capture() as capture:
        console.print(shown.screen(console.height, now_ms, 7, 1.0, "footer"))
    lines = capture.get().splitlines()
    assert len(lines) < console.height
    row = next(line for line in lines if "nightly/l2cache_39" in line)
    assert row.split() == ["nightly/l2cache_39", "LIVE", "123", "0", "0", "0", "1,234", "50.0", "1:05", "0:04"]
    assert any(line.startswith("42 regressions, ") for line in lines)


# ---------------------------------------------------------------------- its worker's configuration


def test_the_worker_reads_what_the_demo_wrote(tmp_path: Path) -> None:
    wanted = demo_config(configuration.Config(), tmp_path, "127.0.0.1:29092")
    path = tmp_path / "livejobs.toml"
    path.write_text(to_toml(wanted), encoding="utf-8")
    assert configuration.load(path, environ={}) == wanted
    assert wanted.sigs == RULES
    assert wanted.kafka.brokers == "127.0.0.1:29092"


def test_rules_that_turn_live_tracking_on_are_kept_and_anothers_broker_gets_topics_of_our_own(tmp_path: Path) -> None:
    site = configuration.load(
        flags={"sigs.enablelivejobs": True, "kafka.jobstopic": "site.jobs", "kafka.partitions": 3}, environ={}
    )
    assert demo_config(site, tmp_path, "127.0.0.1:29092").sigs == site.sigs
    foreign = demo_config(site, tmp_path, None).kafka
    assert foreign.brokers == site.kafka.brokers
    names = (foreign.events_topic, foreign.jobs_topic, foreign.stats_topic, foreign.rejects_topic, foreign.group)
    assert all(name.startswith(f"{tmp_path.name}-") for name in names)


# ---------------------------------------------------------------------- the command


class Running:
    """`livejobs demo` in a process group of its own, its output read as it comes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        code = "import sys; from livejobs.streams.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "demo"],
            cwd=place,
            env={name: value for name, value in os.environ.items() if not name.startswith("LIVEJOBS_")}
            | {"TMPDIR": str(place)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str) -> None:
        """Return when a line matches."""

        def met() -> bool:
            return any(re.search(pattern, line) for line in self.lines) or not self._reader.is_alive()

        with self._news:
            assert self._news.wait_for(met, RUNNING_SECONDS_MAX), self.text
        assert any(re.search(pattern, line) for line in self.lines), self.text

    def ended(self) -> int:
        """The exit code, and no sooner than all output is read."""
        code = self.process.wait(STOP_SECONDS_MAX)
        self._reader.join(STOP_SECONDS_MAX)
        return code

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def children(self) -> dict[int, str]:
        """Process id -> command line of all that runs in its folder."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has just ended
            if f"{self.place}/livejobs-demo-" in command:
                found[int(entry.parent.name)] = command
        return found

    def child(self, word: str) -> int:
        """The process id of the one whose command line holds `word`."""
        (pid,) = (pid for pid, command in self.children().items() if word in command)
        return pid


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def go() -> Running:
        started.append(Running(tmp_path))
        return started[-1]

    yield go
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        for pid in running.children():
            os.kill(pid, signal.SIGKILL)
        assert running.process.stdout is not None
        running.ended()
        running.process.stdout.close()


def assert_nothing_left(running: Running) -> None:
    assert running.children() == {}
    assert list(running.place.iterdir()) == []


def test_it_shows_finished_jobs_and_ctrl_c_ends_all_of_it(start: Callable[[], Running]) -> None:
    demo = start()
    demo.wait_for(r"[1-9]\d* finished.* \| \S+/\S+ LIVE: .*[1-9]\d* pass")
    assert len(demo.children()) == 3, demo.children()
    page = next(found[1] for line in demo.lines if (found := re.search(r"the page is at (http://\S+/)$", line)))
    with urllib.request.urlopen(page) as answer:  # noqa: S310  http, as its pattern says
        assert "<html" in answer.read().decode()
    with urllib.request.urlopen(f"{page}api/v1/regressions") as answer:  # noqa: S310  the same
        assert json.load(answer)["rows"]
    began = time.monotonic()
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended() == 0, demo.text
    assert time.monotonic() - began < STOP_SECONDS_MAX
    assert_nothing_left(demo)


def test_sigterm_while_the_broker_starts_ends_all_of_it(start: Callable[[], Running]) -> None:
    demo = start()
    demo.wait_for("starting Kafka")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.ended() == 0, demo.text
    assert_nothing_left(demo)


@pytest.mark.parametrize(
    ("word", "says"),
    [("worker", "the worker ended"), (" web ", "the web ended"), ("kafka.Kafka", "the broker ended")],
)
def test_a_child_that_dies_ends_the_demo_with_its_last_lines(
    start: Callable[[], Running], word: str, says: str
) -> None:
    demo = start()
    demo.wait_for("[1-9]\\d* regressions")
    os.kill(demo.child(word), signal.SIGKILL)
    assert demo.ended() == 1, demo.text
    said = demo.text.partition(f"livejobs demo: {says} by itself (exit code -9)")[2]
    assert len(said.splitlines()) > 2, demo.text
    assert_nothing_left(demo)
