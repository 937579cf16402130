"""A worker is stopped in the orderly way, under load or idle, and started again: it ends in time, and the records are exact.

How: SIGTERM in the middle of a load; the disk is kept, or deleted as on a new machine.
"""

import shutil

import pytest
from harness import STOP_SECONDS_MAX, Site
from load import Load, under_load
from verdict import verdict

from livejobs.tables.store import FORMAT, Store


@pytest.mark.parametrize(("disk", "seed"), [("same", 1), ("empty", 2), ("another version's", 3)])
def test_a_worker_is_restarted_with(disk: str, seed: int, site: Site) -> None:
    load = Load(seed)
    worker = site.start().ready()
    with under_load(site, load.messages):
        code, seconds = worker.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
        if disk == "empty":
            shutil.rmtree(site.disk())
        if disk == "another version's":
            for number in range(site.partitions):
                store = Store(site.disk() / site.config.kafka.group / str(number))
                store.position.format += 1
                store.write([])
                store.close()
        worker = site.start().ready()
        made_anew = worker.output().count(f"is of format {FORMAT + 1}, not {FORMAT}, and made anew")
        assert made_anew == (site.partitions if disk == "another version's" else 0), worker.tail()
    verdict(site, load)


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


def test_sigterm_ends_an_idle_worker_and_one_that_waits_for_partitions(site: Site) -> None:
    workers = [site.start("one").ready(), *(site.start(name) for name in ("two", "three"))]
    for worker in workers[1:]:
        worker.poll("/live", lambda status, _body: status == 200)
    for worker in reversed(workers):
        code, seconds = worker.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
