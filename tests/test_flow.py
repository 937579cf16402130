"""The smallest full flow, 12 messages: published as a farm does it, applied by a real worker, its record looked at after each message."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from harness import Sent, Site

from livejobs.streams.broker import Broker
from livejobs.streams.publish import Publisher

NAME = "myrun/123"
JOB = {
    "start_time": "2021-05-07T02:00:11.123-05:00", "category": "sim", "config": "sim +rand +tbuf +seed=123", "seed": "123",
    "build": "mybuild", "testgroup": "mytestgroup", "host": "farm-7",
}


def job(number: int, **more: Any) -> dict[str, Any]:
    return {**JOB, "jobdir": f"/home/runs/myregr/2/job-{number}", **more}


def finish(number: int, result: str, **more: Any) -> dict[str, Any]:
    message = "Error: timeout at 0x1f4 in top.dut[3].fifo" if result == "fail" else ""
    return job(
        number, result=result, fail_message=message, compute_ms=1000 * number, runtime_ms=2000 * number, cycles=10_000 * number,
        exit_code=int(result == "fail"), finish_time=f"2021-05-07T02:10:{10 + number}-05:00", **more,
    )


FLOW: list[tuple[str, Any, dict[str, Any]]] = [
    ("regr-start", {"name": NAME, "submitted": 5, "queue": "fast"}, {"status": "LIVE", "live": 0, "finished": 0, "remaining": 5, "pass_rate": None}),
    ("job-live", job(1, result="live"), {"live": 1, "first_start": None, "cycles": 0}),
    ("job-live", job(2, result="live"), {"live": 2}),
    ("job-live", job(3, result="live"), {"live": 3}),
    ("job-live", job(4, result="live"), {"live": 4}),
    ("job-live", job(5, result="live"), {"live": 5, "finished": 0, "remaining": 5, "signatures": {}, "cycles_per_second": None, "duration_ms": None}),
    ("job-finish", finish(1, "pass"), {
        "live": 4, "pass": 1, "finished": 1, "remaining": 4, "pass_rate": 1.0, "cycles": 10_000, "compute_ms": 1000, "runtime_ms": 2000,
        "cycles_per_second": 5000.0, "first_start": "2021-05-07T07:00:11.123Z", "last_finish": "2021-05-07T07:10:11.000Z", "duration_ms": 599_877,
    }),
    ("job-finish", finish(2, "fail"), {
        "live": 3, "pass": 1, "fail": 1, "finished": 2, "pass_rate": 0.5, "cycles": 30_000, "signatures": {"Error: timeout at <hex> in <hierarchy>": 1},
    }),
    ("job-finish", finish(3, "skip"), {"live": 2, "skip": 1, "finished": 3, "remaining": 2, "pass_rate": 0.5, "runtime_ms": 12_000}),
    ("job-finish", finish(4, "fail", bucket="known"), {
        "live": 1, "fail": 2, "finished": 4, "signatures": {"Error: timeout at <hex> in <hierarchy>": 1, "known": 1},
    }),
    ("job-finish", finish(5, "pass"), {
        "status": "LIVE", "live": 0, "pass": 2, "fail": 2, "skip": 1, "finished": 5, "remaining": 0, "cycles": 150_000, "compute_ms": 15_000,
        "last_finish": "2021-05-07T07:10:15.000Z", "duration_ms": 603_877,
    }),
    ("regr-finish", None, {"status": "COMPLETE", "finished": 5, "submitted": 5, "fields": {"name": NAME, "submitted": 5, "queue": "fast"}}),
]


class Library:
    """Publishes with the library."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site = site

    def publish(self, kind: str, body: bytes) -> None:
        """Return when the broker has it."""

        async def send() -> None:
            async with Publisher(self._site.config) as publisher:
                await publisher.send(kind, NAME, body)

        self._site.background.run(send())


class Tunnel:
    """Publishes as a Simscope flow does: one call of `livejobs-tunnel` a message."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._folder = site, folder

    def publish(self, kind: str, body: bytes) -> None:
        """Return when the broker has it."""
        file = self._folder / "body.json"
        file.write_bytes(body)
        command = [sys.executable, "-c", "from livejobs.streams.tunnel_cli import main; main()", f"--config={self._site.config_file}"]
        done = subprocess.run(
            [*command, "--publish", kind, f"--regression={NAME}", str(file)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path) as site:
        site.start().ready()
        yield site


needs_tunnel = pytest.mark.skipif(find_spec("livejobs.streams.tunnel_cli") is None, reason="livejobs-tunnel is not there")


@pytest.mark.parametrize("way", [Library, pytest.param(Tunnel, marks=needs_tunnel)])
def test_the_smallest_full_flow(way: type[Library | Tunnel], site: Site, tmp_path: Path) -> None:
    farm = way(site, tmp_path)
    expected: dict[str, Any] = {"regression": NAME, "submitted": 5, "pass": 0, "fail": 0, "skip": 0}
    version = -1
    for count, (kind, body, changes) in enumerate(FLOW, 1):
        farm.publish(kind, b"" if body is None else json.dumps(body).encode())
        sent = site.wait_for(lambda count=count: nth(site, count), what=lambda count=count: f"message {count} in job-events")
        record = site.stats(NAME, sent)
        expected |= changes
        assert {**record, **expected} == record, (count, kind)
        assert version < record["version"] == sent.offset
        version = record["version"]
        jobs = site.jobs(NAME)
        assert sum(job["result"] == "live" for job in jobs.values()) == record["live"]
        assert len(jobs) == record["live"] + record["finished"]
    key = tuple(job(4)[field] for field in ("start_time", "category", "jobdir", "seed", "config"))
    assert {**site.jobs(NAME)[key], "regression": NAME, "result": "fail", "job": FLOW[9][1], "signature": "known"} == site.jobs(NAME)[key]
    assert site.reader.rejects.records == []
    assert site.workers[0].stop()[0] == 0
    site.assert_as_the_model()


def nth(site: Site, count: int) -> Sent | None:
    """Where the regression's message number `count` stands, once it is there."""
    found = [record for record in site.reader.events.records if record.key == NAME.encode()]
    return Sent(found[count - 1].partition, found[count - 1].offset) if len(found) >= count else None
