"""Clocks an hour off, either way, on publishers and on workers, and clocks that jump: only the broker's decides anything.

How: publishers write wrong times into bodies and records. A worker's process gets a `sitecustomize` that shifts Python's `time.time` (nothing in a worker asks for the
time in another way) by what a file says at that moment. All rules have deadlines of half an hour, so whoever believed a clock that is an hour off would time out, prune
or seal at once.
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from harness import DAY, HOUR, SIGS, Site
from load import Message, Traffic
from verdict import verdict

from livejobs.streams.kafka.broker import Broker
from livejobs.tables import times

OFF_SECONDS = 1.1 * HOUR
HALF_AN_HOUR = {
    **SIGS,
    "autotimeouthours": 0.5,
    "liveprunedays": 0.5 * HOUR / DAY,
    "retentiondays": 0.5 * HOUR / DAY,
    "statsdays": 0.5 * HOUR / DAY,
}
SILENCE_SECONDS = 3.0
SHIFTED = """
import os, pathlib, threading, time
_true, _shift, _file = time.time, [0.0], pathlib.Path({path!r})
def _follow():
    while True:
        _shift[0] = float(_file.read_text() or _shift[0])
        time.sleep(0.05)
_shift[0] = float(_file.read_text())
time.time = lambda: _true() + _shift[0]
time.time_ns = lambda: int(time.time() * 1e9)
threading.Thread(target=_follow, daemon=True).start()
"""


class Clock:
    """The clock of the workers that are started while it is there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._file = folder / "shift"
        self.shift(0)
        (folder / "sitecustomize.py").write_text(SHIFTED.format(path=str(self._file)))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def shift(self, seconds: float) -> None:
        """From now on it is so many seconds ahead of the true one."""
        self._file.write_text(str(seconds))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path / "clock", monkeypatch)


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path / "site", HALF_AN_HOUR, partitions=2) as site:
        yield site


def statuses(site: Site) -> set[str]:
    """All that a regression has ever been."""
    return {json.loads(record.value)["status"] for record in site.reader.stats.records if record.value}


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_seconds", [-OFF_SECONDS, OFF_SECONDS], ids=["behind", "ahead"])
def test_a_workers_clock_is_off(off_seconds: float, site: Site, clock: Clock) -> None:
    """It works, is killed, restores: nothing times out, and what it writes is taken."""
    clock.shift(off_seconds)
    worker = site.start(tickseconds=0.05).ready()
    with Traffic(site, 1401) as traffic:
        traffic.assert_flows()
        worker.kill()
        site.start(tickseconds=0.05).ready()
        traffic.assert_flows()
    verdict(site, traffic)
    assert statuses(site) == {"LIVE", "COMPLETE"}


def test_a_workers_clock_jumps(site: Site, clock: Clock) -> None:
    site.start(tickseconds=0.05).ready()
    with Traffic(site, 1402) as traffic:
        for off_seconds in (OFF_SECONDS, -OFF_SECONDS, 0):
            clock.shift(off_seconds)
            traffic.assert_flows()
    verdict(site, traffic)
    assert statuses(site) == {"LIVE", "COMPLETE"}


# --- publishers -------------------------------------------------------------------------------------------------------


def test_publishers_clocks_are_off(site: Site) -> None:
    """Two farms, one an hour behind and one ahead, in bodies and in their records' times: the rules see neither."""
    site.start(tickseconds=0.05).ready()
    true_ms = int(time.time() * 1000)
    for name, off_ms in (("behind", -OFF_SECONDS * 1000), ("ahead", OFF_SECONDS * 1000)):
        at_ms = int(true_ms + off_ms)
        start, finish = times.to_text(at_ms), times.to_text(at_ms + 5000)
        live = [{"uniqueid": str(number), "start_time": start, "result": "live"} for number in range(20)]
        done = [{**body, "finish_time": finish, "runtime_ms": 5000, "result": "pass"} for body in live[:10]]
        bodies: list[tuple[str, Any]] = [
            ("regr-start", {"starttime": start, "submitted": 20}),
            *(("job-live", body) for body in live),
            *(("job-finish", body) for body in done),
        ]
        for kind, body in bodies:
            data = raw.batch(raw.record(name.encode(), json.dumps(body).encode(), kind.encode()), times_ms=(at_ms, at_ms))
            partition = site.partition_of(name)
            site.background.run(raw.send(site.producer, site.config.kafka.events_topic, data, partition=partition))
        record = site.status(name, "LIVE", live=10, **{"pass": 10})
        assert (record["first_start"], record["last_finish"], record["duration_ms"]) == (start, finish, 5000)
        assert abs(times.from_text(record["heard"]) - true_ms) < HOUR * 1000 / 2  # by the broker
    verdict(site)
    assert statuses(site) == {"LIVE"}


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with Site(broker.bootstrap, tmp_path / "quick", sigs, partitions=4) as site:
        yield site


@pytest.mark.parametrize("off_seconds", [-OFF_SECONDS, OFF_SECONDS], ids=["behind", "ahead"])
def test_what_is_due_is_taken_at_its_time_by_a_worker_whose_clock_is_off(off_seconds: float, quick: Site, clock: Clock) -> None:
    clock.shift(off_seconds)
    quick.start().ready()
    quick.send("job-live", "silent", {"uniqueid": "a", "result": "live"})
    record = quick.status("silent", "ABORTED", fail=1)
    assert times.from_text(record["updated"]) - times.from_text(record["heard"]) >= SILENCE_SECONDS * 1000
    verdict(quick)


def test_ticks_during_a_restore_time_nothing_out(quick: Site, soak: bool) -> None:
    """Nobody reads their heartbeats for longer than may be silent: a worker is dead, the other ticks on. Then all is restored from nothing, with ticks coming in."""
    names = [f"steady/{number}" for number in range(24)]
    assert {quick.partition_of(name) for name in names} == set(range(4))
    ended = threading.Event()

    def heartbeats() -> Iterator[Message]:
        while not ended.is_set():
            for name in names:
                yield "job-live", name, b'{"uniqueid": "a", "result": "live"}'

    one, two = quick.start("one"), quick.start("two")
    sending = quick.load(heartbeats(), 50)
    for worker in (one, two):
        worker.poll("/metrics", lambda _status, body: "livejobs_partitions_ready 2.0" in body)
    for _ in range(10 if soak else 1):
        one.kill()
        shutil.rmtree(quick.disk("one"))
        two.poll("/metrics", lambda _status, body: "livejobs_partitions_ready 4.0" in body)
        one = quick.start("one")
        one.poll("/metrics", lambda _status, body: "livejobs_partitions_ready 2.0" in body)
    quick.wait_for_no_lag()
    assert statuses(quick) == {"LIVE"}
    ended.set()
    sending.result()
    for name in names:
        quick.status(name, "ABORTED", fail=1)
    verdict(quick)
