"""A flood: publishers far ahead of the worker, and a regression that ends with tens of thousands of live jobs. Memory and steps are bounded, and time passes with the log.

How: messages are sent as fast as the broker takes them while no worker runs, or one that is slower. What a worker uses is read from the kernel: the most memory that
it ever had, and its CPU time for each half of the backlog. In the long form the flood and the regression are ten times as large.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from harness import HOUR, SIGS, TICK, Site, WorkerProcess
from load import Load, Traffic, progress
from patched import patched
from publishers import Item, Publisher
from verdict import verdict

from livejobs.streams.core.decisions import ENDING_STEP
from livejobs.streams.kafka.broker import Broker

WORKER_MIB_MAX = 400
FLAT_FACTOR = 4
"""An event of the second half of a backlog may cost so much more than one of the first: caches fill, rows are read from disk."""
SILENCE_SECONDS = 4.0
FAST = 100_000.0
LONG = 1_000_000, 400
"""Messages and regressions: at each fail the model looks at all rows of its regression, and at each tick at all live jobs."""


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


def test_what_comes_while_a_partition_is_at_work_joins_it(site: Site) -> None:
    """Fetches come more often than transactions begin: Faust would take calls that pile up for an agent that can't follow, and pause the partition for a second."""
    with Traffic(site, 181) as traffic:
        site.start(command=patched("seldom=0.05")).ready()
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
