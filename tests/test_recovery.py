"""Workers that stop, die, lose their disk, come and go, under load: the records are exact all the same.

Each test sends the same kind of load (`Load`: seeded, 20,000 events of 40 regressions with duplicates, corrections, lost jobs and late lives), does its harm while
the load runs, and then compares every record with two oracles: the counts that the generator meant, and the naive model over the very log that the workers read. A
reader that has followed `regression-stats` from the beginning has never seen a version go down.
"""

import contextlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewPartitions, NewTopic
from harness import SECONDS, SIGNATURE, STOP_SECONDS_MAX, Site, WorkerProcess

from livejobs.streams import topics
from livejobs.streams.broker import Broker

EVENTS = 20_000
REGRESSIONS = 40
RATE = 4_000.0
"""Events a second: slow enough for harm in the middle."""

Message = tuple[str, str, bytes]


class Load:
    """Messages as farms send them, and what they must come to."""

    def __init__(self, seed: int, events: int = EVENTS, regressions: int = REGRESSIONS) -> None:
        self._random = random.Random(seed)
        lives = [self._regression(f"load/{seed}/{number}", events // regressions) for number in range(regressions)]
        self.expected = {name: expected for name, _, expected in lives}
        queues = [iter(messages) for _, messages, _ in lives]
        self.messages: list[Message] = []
        while queues:  # in order within a regression, interleaved among them
            queue = self._random.choice(queues)
            taken = [message for _, message in zip(range(self._random.randint(1, 20)), queue, strict=False)]
            self.messages += taken
            if not taken:
                queues.remove(queue)

    def _regression(self, name: str, events: int) -> tuple[str, list[Message], dict[str, Any]]:
        draw = self._random
        steps: list[tuple[float, Message]] = []
        outcomes: dict[str, dict[str, Any]] = {}
        number = 0
        while len(steps) < events - 2:
            number += 1
            steps += self._job(name, f"job-{number}", outcomes)
        steps = sorted(steps, key=lambda step: step[0])
        ends = draw.random() < 0.8
        lost = number - len(outcomes)
        last = [("regr-finish", name, b"")] if ends else []
        messages = [
            ("regr-start", name, _json({"name": name, "submitted": number})),
            *(message for _, message in steps),
            *last,
        ]
        results = Counter(outcome["result"] for outcome in outcomes.values())
        signatures = Counter(outcome["bucket"] for outcome in outcomes.values() if outcome["result"] == "fail")
        if ends and lost:
            signatures[SIGNATURE] = lost
        return (
            name,
            messages,
            {
                "status": "COMPLETE" if ends else "LIVE",
                "submitted": number,
                "live": 0 if ends else lost,
                "pass": results["pass"],
                "fail": results["fail"] + (lost if ends else 0),
                "skip": results["skip"],
                "signatures": dict(signatures),
                "cycles": sum(outcome["cycles"] for outcome in outcomes.values()),
            },
        )

    def _job(self, name: str, job: str, outcomes: dict[str, dict[str, Any]]) -> list[tuple[float, Message]]:
        """A job's messages, each with its time."""
        draw = self._random
        start = draw.random()
        at = sorted(start + 0.2 * draw.random() for _ in range(4))
        identity = (
            {"uniqueid": job}
            if draw.random() < 0.5
            else {
                "start_time": "2026-03-02T08:00:00.123Z",
                "category": "sim",
                "jobdir": f"/runs/{job}",
                "seed": job,
                "config": "c",
            }
        )
        live = ("job-live", name, _json({**identity, "host": f"h{draw.randint(1, 50)}", "result": "live"}))
        steps = [(start, live)] if draw.random() < 0.95 else []
        steps += [(at[0], live)] * (draw.random() < 0.1)
        if steps and draw.random() < 0.05:
            return steps  # lost: no finish ever
        result = draw.choices(["pass", "fail", "skip"], [8, 2, 1])[0]
        outcome: dict[str, Any] = {
            "result": result,
            "cycles": draw.randint(0, 10_000),
            "runtime_ms": draw.randint(0, 99_999),
            "fail_message": "",
        }
        if result == "fail":
            outcome |= {"bucket": f"signature {draw.randint(1, 20)}", "fail_message": "some text"}
        if draw.random() < 0.03:  # a finish that is corrected by the next
            steps.append(
                (at[1], _finish(name, {**identity, "result": "fail", "bucket": "too early", "cycles": 7}, draw))
            )
        finish = _finish(name, {**identity, **outcome}, draw)
        steps.append((at[2], finish))
        steps += [(at[3], finish)] * (draw.random() < 0.05) + [(at[3], live)] * (draw.random() < 0.05)
        outcomes[job] = outcome
        return steps

    def parts(self, count: int) -> list[list[Message]]:
        """The messages, cut into so many parts."""
        size = -(-len(self.messages) // count)
        return [self.messages[start : start + size] for start in range(0, len(self.messages), size)]

    def assert_counts(self, site: Site) -> None:
        """What the generator meant is what the records say."""
        for name, expected in self.expected.items():
            record = site.reader.stats[name]
            assert {**record, **expected} == record, name


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _finish(name: str, body: dict[str, Any], draw: random.Random) -> Message:
    return ("batch-job-finish", name, _json([body])) if draw.random() < 0.1 else ("job-finish", name, _json(body))


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path, partitions=4) as site:
        yield site


def progress(site: Site) -> int:
    """About how many messages have been applied, ticks included: the sum of the partitions' latest versions."""
    latest = dict.fromkeys(range(site.partitions), -1)
    for name, record in site.reader.stats.last.items():
        number = site.partition_of(name)
        latest[number] = max(latest[number], record["version"])
    return sum(latest.values()) + site.partitions


@contextlib.contextmanager
def under_load(site: Site, messages: list[Message]) -> Iterator[None]:
    """Send messages; the block, which does the harm, begins when half of them are applied. Ends when all are sent."""
    base = progress(site)
    sending = site.load(messages, RATE)
    site.wait_for(
        lambda: progress(site) >= base + len(messages) // 2,
        what=lambda: f"half of {len(messages)} messages after {base}",
    )
    assert not sending.future.done()
    yield
    assert sending.result() == len(messages)


def assert_exact(site: Site, load: Load, worker: WorkerProcess) -> None:
    """No lag, an orderly end, and every record equal to both oracles."""
    site.wait_for_no_lag()
    code, seconds = worker.stop()
    assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
    site.assert_as_the_model()
    load.assert_counts(site)


@pytest.mark.parametrize("disk", ["same", "empty"])
def test_a_worker_is_restarted_with(disk: str, site: Site) -> None:
    load = Load(1 if disk == "same" else 2)
    worker = site.start().ready()
    with under_load(site, load.messages):
        code, seconds = worker.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
        if disk == "empty":
            shutil.rmtree(site.disk())
        worker = site.start().ready()
    assert_exact(site, load, worker)


def test_a_disk_just_restored_is_not_restored_again(site: Site) -> None:
    site.start().ready()
    site.send("job-finish", "r", {"uniqueid": "one", "result": "pass"})
    site.wait_for_no_lag()
    for records in (1, 0):  # the record of the job and that of its regression: none are read twice
        site.workers[-1].stop()
        if records:
            shutil.rmtree(site.disk())
        worker = site.start(tickseconds=0).ready()
        log = worker.output().rpartition("LaneThread]: Starting")[2]
        counts = [int(line.split(", ")[1].split()[0]) for line in log.splitlines() if "is ready at" in line]
        assert bool(sum(counts)) == bool(records), worker.tail()


def test_a_worker_is_killed_and_started_again(site: Site) -> None:
    load = Load(3)
    worker = site.start().ready()
    for part in load.parts(2):
        with under_load(site, part):
            worker.kill()
            worker = site.start()
        worker.ready()
    assert_exact(site, load, worker)


def test_a_worker_is_killed_while_it_restores(site: Site) -> None:
    load = Load(4)
    site.start(instanceid="one").ready()
    with under_load(site, load.messages):
        site.workers[-1].kill()
        for _ in range(2):
            shutil.rmtree(site.disk())
            worker = site.start(instanceid="one")
            worker.poll("/ready", lambda status, body: status == 503 and bool(json.loads(body)["restoring"]))
            worker.kill()
        worker = site.start(instanceid="one").ready()
    assert_exact(site, load, worker)


def test_workers_join_leave_and_die_under_load(site: Site) -> None:
    load = Load(5)
    come, leaves, dies = load.parts(3)
    first = site.start("first").ready()
    with under_load(site, come):
        second, third = site.start("second"), site.start("third")
        await_shares(first, second, third)
    with under_load(site, leaves):
        code, seconds = second.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), second.tail()
        await_shares(first, third)
    with under_load(site, dies):
        third.kill()
        await_shares(first)
    assert_exact(site, load, first)


def await_shares(*workers: WorkerProcess) -> None:
    """Return when these workers have all four partitions open, each at least one."""
    most = 4 - len(workers) + 1

    def fair(_status: int, body: str) -> bool:
        return any(f"livejobs_partitions_ready {share}.0" in body.splitlines() for share in range(1, most + 1))

    deadline = time.monotonic() + SECONDS
    while sum(worker.poll("/metrics", fair).metric("livejobs_partitions_ready") for worker in workers) != 4:
        assert time.monotonic() < deadline


def test_sigterm_ends_an_idle_worker_and_one_that_waits_for_partitions(site: Site) -> None:
    workers = [site.start("one").ready(), *(site.start(name) for name in ("two", "three"))]
    for worker in workers[1:]:
        worker.poll("/live", lambda status, _body: status == 200)
    for worker in reversed(workers):
        code, seconds = worker.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()


# --- refusals: one clear line, and no start ---------------------------------------------------------------------------


def assert_refused(worker: WorkerProcess, *words: str) -> None:
    assert worker.wait() != 0
    lines = [line for line in worker.output().splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, worker.output()
    assert "Traceback" not in worker.output()


@pytest.fixture
def bare(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    """A site whose topics the test makes."""
    with Site(broker.bootstrap, tmp_path, create=False) as site:
        yield site


def test_topics_with_different_partition_counts_are_refused(bare: Site) -> None:
    made = topics.wanted(bare.config)
    new = [
        NewTopic(topic.name, 3 if topic.name == bare.config.kafka.jobs_topic else 2, 1, topic_configs=topic.settings)
        for topic in made
    ]
    bare.admin("create_topics", new)
    assert_refused(bare.start(), "must have the same number of partitions", f"{bare.config.kafka.jobs_topic} 3")


def test_events_without_the_brokers_clock_are_refused(bare: Site) -> None:
    made = topics.wanted(bare.config)
    new = [
        NewTopic(
            topic.name,
            2,
            1,
            topic_configs={
                **topic.settings,
                **({"message.timestamp.type": "CreateTime"} if "job-events" in topic.name else {}),
            },
        )
        for topic in made
    ]
    bare.admin("create_topics", new)
    assert_refused(bare.start(), bare.config.kafka.events_topic, "LogAppendTime", "CreateTime")


def test_missing_topics_are_refused(bare: Site) -> None:
    assert_refused(bare.start(), "missing", bare.config.kafka.events_topic, "livejobs topics create")


def test_topics_that_have_grown_since_the_state_was_made_are_refused(broker: Broker, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path) as site:
        worker = site.start().ready()
        site.stats("run", site.send("regr-start", "run"))
        worker.stop()
        for topic in (site.config.kafka.events_topic, site.config.kafka.jobs_topic, site.config.kafka.stats_topic):
            site.admin("create_partitions", {topic: NewPartitions(total_count=3)})
        again = site.start()
        assert again.wait() != 0
        assert "made with 2 partitions" in again.output(), again.tail()
