"""A flood: publishers far ahead of the worker, and a regression that ends with tens of thousands of live jobs. Memory and steps are bounded, and time passes with the log.

How: messages are sent as fast as the broker takes them while no worker runs, or one that is slower. What a worker uses is read from the kernel: the most memory that
it ever had, and its CPU time for each half of the backlog. In the long form the flood and the regression are ten times as large, and there is a backlog for which the
worker needs ten minutes: one load over and over, each time of other regressions, written in batches made at once.
"""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from harness import HOUR, SIGS, TICK, Site, WorkerProcess
from load import Load, Traffic, progress
from patched import patched
from publishers import Item, Publisher
from verdict import verdict

from livejobs.streams.core.decisions import ENDING_STEP
from livejobs.streams.kafka import records
from livejobs.streams.kafka.broker import Broker

WORKER_MIB_MAX = 400
LARGE_MIB_MAX = 512
"""Behind a backlog of messages that are nearly as large as may be: each of them is held several times until it is written."""
FLAT_FACTOR = 4
"""An event of the second half of a backlog may cost so much more than one of the first: caches fill, rows are read from disk."""
SILENCE_SECONDS = 4.0
FAST = 100_000.0
LONG = 1_000_000, 400
"""Messages and regressions: at each fail the model looks at all rows of its regression, and at each tick at all live jobs."""

BACKLOG_SECONDS = 600.0
BATCHES_OPEN_MAX = 20


def peak_mib(worker: WorkerProcess) -> float:
    """The most memory that a worker ever had."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu_seconds(worker: WorkerProcess) -> float:
    """The CPU time that a worker has used."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_backlog_is_worked_off_in_bounded_memory_and_times_nothing_out(broker: Broker, tmp_path: Path, soak: bool) -> None:
    """All jobs have ended in the log before any worker comes, later than the silence that would time them out."""
    load = Load("flood", *(LONG if soak else (40_000, 40)))
    ended = {name for name, expected in load.expected.items() if expected["status"] == "COMPLETE"}
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with Site(broker.bootstrap, tmp_path, sigs, partitions=4, tickseconds=0.1) as site:
        publisher = Publisher(site, "flood")
        publisher.start((Item(kind, name.encode(), body) for kind, name, body in load.messages), FAST).result(600)
        time.sleep(SILENCE_SECONDS)  # of the broker's clock, of which all is overdue then
        worker = site.start().ready()
        half, cpu = len(load.messages) // 2, [cpu_seconds(worker)]
        for least in (half, 2 * half - 1_000):
            site.wait_for(lambda: progress(site) >= least, 600)  # noqa: B023
            cpu.append(cpu_seconds(worker))
        assert cpu[2] - cpu[1] < FLAT_FACTOR * (cpu[1] - cpu[0])
        for name in ended:
            site.status(name, "COMPLETE")
        site.wait_for_no_lag(300)
        assert peak_mib(worker) < WORKER_MIB_MAX
        verdict(site, seconds=600)
        said = {(json.loads(record.key or b"[]")[0], json.loads(record.value or b"{}").get("verdict")) for record in site.reader.jobs.records}
        assert not ended & {name for name, verdict in said if verdict == "timeout"}


def bodies() -> Iterator[Item]:
    """Live jobs nearly as large as a job may be."""
    for number in range(1_000):
        yield Item("job-live", b"large %d" % (number % 40), b'{"uniqueid": "job %d", "result": "live", "log": "%s"}' % (number % 80, b"x" * 400_000))


def fields() -> Iterator[Item]:
    """Regressions with fields nearly as large as they may be: what is remembered of them has a limit in bytes, too."""
    for number in range(4_000):
        yield Item("regr-start", b"large %d" % number, b'{"name": "large", "log": "%s"}' % (b"x" * 60_000))


def jobs() -> Iterator[Item]:
    """Finishes by the thousand in one message: it grows twentyfold until it is written."""
    for number in range(12):
        some = [{"uniqueid": f"{number}/{job}", "result": "pass", "start": "2026-03-02T08:00:00Z"} for job in range(13_000)]
        yield Item("batch-job-finish", b"large %d" % number, json.dumps(some).encode())


@pytest.mark.parametrize("messages", [bodies, fields, jobs], ids=lambda messages: messages.__name__)
def test_a_backlog_of_large_messages(broker: Broker, tmp_path: Path, messages: Callable[[], Iterator[Item]], soak: bool) -> None:
    """What a worker holds is bounded in bytes, not only in messages."""
    if messages is bodies and not soak:
        pytest.skip("bodies are for the long form (--soak): the others grow more until they are written")
    with Site(broker.bootstrap, tmp_path, partitions=8) as site:
        Publisher(site, "flood", keep=False).start(messages(), FAST).result(600)
        worker = site.start().ready()
        site.wait_for_no_lag(300)
        assert peak_mib(worker) < LARGE_MIB_MAX
        verdict(site, seconds=300)


def test_a_worker_that_is_slower_than_its_publishers(broker: Broker, tmp_path: Path, soak: bool) -> None:
    """The backlog grows while it works; its ticks stand behind the backlog, one at a time."""
    load = Load("behind", *(LONG if soak else (30_000, 20)))
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with Site(broker.bootstrap, tmp_path, sigs, partitions=1, tickseconds=1.0 if soak else 0.02) as site:
        worker = site.start().ready()
        sending = Publisher(site, "flood").start((Item(kind, name.encode(), body) for kind, name, body in load.messages), FAST)
        sending.result(600)
        site.wait_for_no_lag(600)
        assert peak_mib(worker) < WORKER_MIB_MAX
        verdict(site, seconds=600)
        ticks = [record for record in site.reader.events.records if record.kind == TICK]
        assert len(ticks) < len(load.messages) / 10


def test_ten_minutes_of_backlog(broker: Broker, tmp_path: Path, soak: bool) -> None:
    """As much as the worker does in ten minutes, by the pace at which it has just worked off a smaller backlog."""
    if not soak:
        pytest.skip("ten minutes of backlog are for the long form (--soak)")
    load = Load("over and over", 100_000, 100)
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with Site(broker.bootstrap, tmp_path, sigs, partitions=4, tickseconds=1.0) as site:
        rounds = count()
        small = site.background.run(send_rounds(site, site.producer, load, list(islice(rounds, 10))), 600)
        worker = site.start("paced").ready()
        begin = time.monotonic()
        await_offsets(site, worker, small, 600)
        pace = small / (time.monotonic() - begin)
        assert worker.stop()[0] == 0
        large = site.background.run(send_rounds(site, site.producer, load, list(islice(rounds, int(BACKLOG_SECONDS * pace) // len(load.messages)))), 3600)
        worker = site.start("behind").ready()
        begin, cpu = time.monotonic(), [cpu_seconds(worker)]
        for part in (0.5, 1.0):
            await_offsets(site, worker, small + int(part * large), 3600)
            cpu.append(cpu_seconds(worker))
        seconds, peak = time.monotonic() - begin, peak_mib(worker)
        print(f"{pace:.0f}/s at first, then {large} messages in {seconds:.0f} s, {peak:.0f} MiB, CPU-s {cpu}")  # noqa: T201  what was seen
        assert cpu[2] - cpu[1] < FLAT_FACTOR * (cpu[1] - cpu[0])
        assert worker.stop()[0] == 0
        last, went_back = site.background.run(last_stats(site), 3600)
        assert went_back == 0
        for number in range(next(rounds)):
            for name, expected in load.expected.items():
                if expected["status"] == "COMPLETE":
                    record = last[of_round(name, number)]
                    assert {**record, **expected} == record, (name, number)
        assert peak < WORKER_MIB_MAX


def of_round(name: str, number: int) -> bytes:
    """A regression's name in that round of a load."""
    return f"{name}.{number:06d}".encode()


async def send_rounds(site: Site, producer: AIOKafkaProducer, load: Load, rounds: list[int]) -> int:
    """Send a load as often as there are rounds, with other names each time; how many messages that were."""
    topic, sending, sent = site.config.kafka.events_topic, deque[Awaitable[Any]](), 0
    for number in rounds:
        names = {name: of_round(name, number) for name in load.expected}
        partitions = {name: site.partition_of(key) for name, key in names.items()}
        outputs: list[list[tuple[bytes, bytes | None, list[tuple[str, bytes]]]]] = [[] for _ in range(site.partitions)]
        for kind, name, body in load.messages:
            value = body.replace(name.encode(), names[name]) if kind == "regr-start" else body
            outputs[partitions[name]].append((names[name], value, [("type", kind.encode())]))
        for partition, some in enumerate(outputs):
            for batch in records.batches(some, transactional=False):
                sending.append(await producer.send_batch(batch, topic, partition=partition))
                while len(sending) > BATCHES_OPEN_MAX:
                    await sending.popleft()
        sent += len(load.messages)
        await asyncio.sleep(0)
    for one in sending:
        await one
    return sent


def await_offsets(site: Site, worker: WorkerProcess, least: int, seconds: float) -> None:
    """Return when so many messages are committed, of all partitions together."""
    deadline = time.monotonic() + seconds
    while sum(site.committed().values()) < least:
        worker.assert_running()
        assert time.monotonic() < deadline, worker.tail()
        time.sleep(1)


async def last_stats(site: Site) -> tuple[dict[bytes, dict[str, Any]], int]:
    """The last record of each regression, and how often a version fell: nothing else is kept."""
    consumer = AIOKafkaConsumer(bootstrap_servers=site.config.kafka.brokers, isolation_level="read_committed", max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        tps = [TopicPartition(site.config.kafka.stats_topic, number) for number in range(site.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        last: dict[bytes, bytes] = {}
        versions: dict[bytes, int] = {}
        went_back = 0
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for some in (await consumer.getmany(timeout_ms=1000, max_records=5000)).values():
                for record in some:
                    version = int(record.value.partition(b'"version":')[2].partition(b",")[0].rstrip(b"}"))
                    went_back += version < versions.get(record.key, -1)
                    versions[record.key], last[record.key] = version, record.value
        return {key: json.loads(value) for key, value in last.items()}, went_back
    finally:
        await consumer.stop()


def test_what_comes_while_a_partition_is_at_work_joins_it(site: Site) -> None:
    """Fetches come more often than transactions begin: Faust would take calls that pile up for an agent that can't follow, and pause the partition for a second."""
    with Traffic(site, 181) as traffic:
        site.start(command=patched("seldom=0.05")).ready()
        traffic.assert_flows(2_000)
    verdict(site, traffic)


def test_partitions_take_turns_where_there_is_hardly_any_room(site: Site) -> None:
    """What a few messages change is more than may change at once: none waits for ever, and no batch for its room."""
    with Traffic(site, 182) as traffic:
        site.start(command=patched("room=50000")).ready()
        traffic.assert_flows(2_000)
    verdict(site, traffic)


def test_a_regression_ends_with_many_live_jobs(broker: Broker, tmp_path: Path, soak: bool) -> None:
    """Bounded steps, one a tick; the worker is killed in one of them, and a successor with an empty disk goes on."""
    count = 500_000 if soak else 50_000
    steps = -(-count // ENDING_STEP)

    def lives() -> Iterator[Item]:
        for number in range(count):
            yield Item("job-live", b"huge", b'{"uniqueid": "job %d", "host": "h%d", "result": "live"}' % (number, number % 100))

    with Site(broker.bootstrap, tmp_path, partitions=1, tickseconds=0) as site:
        worker = site.start().ready()
        Publisher(site, "huge").start(lives(), FAST).result(600)
        site.status("huge", "LIVE", 300, live=count)
        site.reader.read_to_the_end()  # it would hold up what this process sends
        site.send("regr-finish", "huge")
        for step in range(1, steps // 2):
            site.status("huge", "COMPLETE", live=count - step * ENDING_STEP)
            site.send(TICK, None)
        assert peak_mib(worker) < WORKER_MIB_MAX
        worker.kill()  # at work on that tick
        worker = site.start("successor").ready()
        for _ in range(steps // 2, steps + 1):
            site.send(TICK, None)
        site.status("huge", "COMPLETE", 300, live=0, fail=count, finished=count)
        assert peak_mib(worker) < WORKER_MIB_MAX
        verdict(site, seconds=600)
        live = [json.loads(record.value)["live"] for record in site.reader.stats.records if record.key == b"huge" and record.value]
        peak = live.index(count)
        falls = [before - after for before, after in zip(live[peak:], live[peak + 1 :], strict=False)]
        assert max(falls) <= ENDING_STEP
        assert sum(fall > 0 for fall in falls) == steps
