"""Workers join, leave and die under load: partitions move, and the records are exact."""

import time

from harness import SECONDS, STOP_SECONDS_MAX, Site, WorkerProcess
from load import Load, under_load
from verdict import verdict


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
    verdict(site, load)


def await_shares(*workers: WorkerProcess) -> None:
    """Return when these workers have all four partitions open, each at least one."""
    most = 4 - len(workers) + 1

    def fair(_status: int, body: str) -> bool:
        return any(f"livejobs_partitions_ready {share}.0" in body.splitlines() for share in range(1, most + 1))

    deadline = time.monotonic() + SECONDS
    while sum(worker.poll("/metrics", fair).metric("livejobs_partitions_ready") for worker in workers) != 4:
        assert time.monotonic() < deadline
