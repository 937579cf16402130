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

from livejobs.streams.kafka.broker import Broker
from livejobs.streams.publisher.publish import Publisher

JOB = {
    "start_time": "2021-05-07T02:00:11.123-05:00",
    "category": "sim",
    "config": "sim +rand +tbuf +seed=123",
    "seed": "123",
    "build": "mybuild",
    "testgroup": "mytestgroup",
    "host": "farm-7",
}


def job(number: int, **more: Any) -> dict[str, Any]:
    return {**JOB, "jobdir": f"/home/runs/myregr/2/job-{number}", **more}


def finish(number: int, result: str, **more: Any) -> dict[str, Any]:
    message = "Error: timeout at 0x1f4 in top.dut[3].fifo" if result == "fail" else ""
    return job(
        number,
        result=result,
        fail_message=message,
        compute_ms=1000 * number,
        runtime_ms=2000 * number,
        cycles=10_000 * number,
        exit_code=int(result == "fail"),
        finish_time=f"2021-05-07T02:10:{10 + number}-05:00",
        **more,
    )


def sums(finished: int) -> dict[str, Any]:
    """What the numbers of the first so many jobs come to."""
    weight = {1: 1, 2: 3, 3: 6, 4: 10, 5: 15}[finished]
    return {
        "finished": finished,
        "remaining": 5 - finished,
        "live": 5 - finished,
        "cycles": 10_000 * weight,
        "compute_ms": 1000 * weight,
        "runtime_ms": 2000 * weight,
        "cycles_per_second": 5000.0,
        "first_start": "2021-05-07T07:00:11.123Z",
        "last_finish": f"2021-05-07T07:10:{10 + finished}.000Z",
        "duration_ms": 598_877 + 1000 * finished,
    }


NOTHING = {
    "status": "LIVE",
    "finished": 0,
    "remaining": 5,
    "pass": 0,
    "fail": 0,
    "skip": 0,
    "pass_rate": None,
    "cycles": 0,
    "compute_ms": 0,
    "runtime_ms": 0,
    "cycles_per_second": None,
    "first_start": None,
    "last_finish": None,
    "duration_ms": None,
    "signatures": {},
}
FIRST = "Error: timeout at <hex> in <hierarchy>"
REGRESSION = {"name": "nightly", "submitted": 5, "queue": "fast"}
# The messages, and what each changes in the record; all else stays as it was.
FLOW: list[tuple[str, Any, dict[str, Any]]] = [
    ("regr-start", REGRESSION, {"submitted": 5, "fields": REGRESSION, "live": 0, **NOTHING}),
    *(("job-live", job(number, result="live"), {"live": number}) for number in range(1, 6)),
    ("job-finish", finish(1, "pass"), {"pass": 1, "pass_rate": 1.0, **sums(1)}),
    ("job-finish", finish(2, "fail"), {"fail": 1, "pass_rate": 0.5, "signatures": {FIRST: 1}, **sums(2)}),
    ("job-finish", finish(3, "skip"), {"skip": 1, **sums(3)}),
    (
        "job-finish",
        finish(4, "fail", bucket="known"),
        {"fail": 2, "pass_rate": 1 / 3, "signatures": {FIRST: 1, "known": 1}, **sums(4)},
    ),
    ("job-finish", finish(5, "pass"), {"pass": 2, "pass_rate": 0.5, **sums(5)}),
    ("regr-finish", None, {"status": "COMPLETE"}),
]


class Library:
    """Publishes with the library."""

    def __init__(self, site: Site, name: str, _folder: Path) -> None:
        self._site, self._name = site, name

    def publish(self, kind: str, body: bytes) -> None:
        """Return when the broker has it."""

        async def send() -> None:
            async with Publisher(self._site.config.kafka) as publisher:
                await publisher.send(kind, self._name, body)

        self._site.background.run(send())


class Tunnel:
    """Publishes as a Simscope flow does: one call of `livejobs-tunnel` a message."""

    def __init__(self, site: Site, name: str, folder: Path) -> None:
        self._site, self._name, self._folder = site, name, folder

    def publish(self, kind: str, body: bytes) -> None:
        """Return when the broker has it."""
        file = self._folder / "body.json"
        file.write_bytes(body)
        command = [
            sys.executable,
            "-c",
            "from livejobs.streams.tunnel.cli import main; main()",
            f"--config={self._site.config_file}",
        ]
        done = subprocess.run(
            [*command, "--publish", kind, f"--regression={self._name}", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("flow")) as site:
        site.start().ready()
        yield site


needs_tunnel = pytest.mark.skipif(
    find_spec("livejobs.streams.tunnel.cli") is None, reason="livejobs-tunnel is not there"
)


@pytest.mark.parametrize("way", [Library, pytest.param(Tunnel, marks=needs_tunnel)])
def test_the_smallest_full_flow(way: type[Library | Tunnel], site: Site, tmp_path: Path) -> None:
    name = f"myrun/{way.__name__}"
    farm = way(site, name, tmp_path)
    expected: dict[str, Any] = {"regression": name}
    version = -1
    for count, (kind, body, changes) in enumerate(FLOW, 1):
        farm.publish(kind, b"" if body is None else json.dumps(body).encode())
        sent = nth(site, name, count)
        record = site.stats(name, sent)
        expected |= changes
        assert {**expected, **{field: record[field] for field in ("version", "updated", "heard")}} == record, (
            count,
            kind,
        )
        assert version < record["version"] == sent.offset
        version = record["version"]
        jobs = site.jobs(name)
        assert sum(job["result"] == "live" for job in jobs.values()) == record["live"]
        assert len(jobs) == record["live"] + record["finished"]
    key = tuple(job(4)[field] for field in ("start_time", "category", "jobdir", "seed", "config"))
    assert {
        **site.jobs(name)[key],
        "regression": name,
        "result": "fail",
        "job": FLOW[9][1],
        "signature": "known",
    } == site.jobs(name)[key]
    assert site.reader.rejects.records == []


def test_the_model_says_the_same(site: Site) -> None:
    site.wait_for_no_lag()
    assert site.workers[0].stop()[0] == 0
    site.assert_as_the_model()


def nth(site: Site, name: str, count: int) -> Sent:
    """Where the regression's message number `count` stands, once it is there."""

    def found() -> Sent | None:
        stand = [Sent(one.partition, one.offset) for one in site.reader.events.records if one.key == name.encode()]
        return stand[count - 1] if len(stand) >= count else None

    sent = site.wait_for(found, what=lambda: f"message {count} in job-events")
    assert sent is not None
    return sent
