"""The worker's disk is full, its files are corrupt, held by another process, or another user's: it says so and ends, or makes its store anew; it never goes on with wrong state.

How: a limit on the size of files stands for a full disk, a lock is held by the test, rights are taken away, and bytes of RocksDB's files are overwritten: of all that it needs to
open, and in the middle of the rows, where only a read can notice.
"""

import random
import shutil
import time
from pathlib import Path

from harness import SECONDS, Site, WorkerProcess
from load import Load, Traffic
from patched import patched
from rocksdict import AccessType, Options, Rdict
from supervisor import Supervisor
from verdict import verdict

BIG = "x" * 20_000
PARTS = {"CURRENT": 0.0, "MANIFEST-*": 0.9, "*.sst": 1 - 1e-4}
"""Of a file's size: where it is overwritten. A table's end is what opening it reads first."""


def assert_ends(worker: WorkerProcess, code: int, *words: str) -> None:
    """It ends with one line that has all the words, and says no more of it."""
    assert worker.wait() == code, worker.tail()
    lines = [line for line in worker.output().splitlines() if all(word in line for word in words)]
    assert lines, worker.tail()
    assert "Traceback" not in worker.output(), worker.tail()


def test_a_full_disk(site: Site) -> None:
    worker = site.start("full", command=patched("file_bytes=1000000")).ready()
    worker.expected_to_run = False  # it may end at any time
    jobs, deadline = 0, time.monotonic() + 2 * SECONDS
    while worker.process.poll() is None:
        assert time.monotonic() < deadline, f"{jobs} jobs of 20 KB are more than is kept in memory"
        messages = [("job-finish", "big", f'{{"uniqueid":"{number}","result":"pass","note":"{BIG}"}}'.encode()) for number in range(jobs, jobs + 40)]
        jobs += site.load(messages, 2_000).result()
    assert_ends(worker, 70, "can't be used", "File too large")
    # It is still full: the restore says the same, and so does one in bulk, whose files others write.
    for restoring in ([], ["bulk_records=0"]):
        again = site.start("full", command=patched("file_bytes=1000000", *restoring))
        assert_ends(again, 70, "can't be used", "File too large")
    site.start("full").ready()
    verdict(site)


def filled(site: Site) -> tuple[Load, WorkerProcess]:
    """A worker's disk with rows on it, compacted into files; the worker has stopped."""
    load = Load(41, events=8_000)
    worker = site.start(instanceid="one").ready()
    assert site.load(load.messages, 8_000).result() == len(load.messages)
    site.wait_for_no_lag()
    assert worker.stop()[0] == 0
    return load, worker


def stores(site: Site) -> list[Path]:
    """The folders of the partitions' stores."""
    found = [path.parent for path in site.disk().glob("*/*/CURRENT")]
    assert len(found) == site.partitions
    return found


def overwrite(path: Path, draw: random.Random, part: float) -> None:
    """Replace some bytes from a part of the file on."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * part))
        file.write(draw.randbytes(64))


def test_a_corrupt_store_is_made_anew(site: Site) -> None:
    draw = random.Random("corrupt")
    load, _ = filled(site)
    broken = dict(zip(["CURRENT", "MANIFEST-*", "*.sst"], stores(site), strict=False))  # the fourth store is whole
    for what, store in broken.items():
        files = sorted(store.glob(what))
        assert files
        for file in files:
            overwrite(file, draw, PARTS[what])
    with Supervisor(site, instanceid="one") as supervisor:
        supervisor.ready()
        made_anew = supervisor.worker.output().count("is corrupt, and made anew")
    assert made_anew == len(broken), supervisor.worker.tail()
    verdict(site, load)


def test_rows_that_are_corrupt_are_noticed_when_they_are_read(site: Site) -> None:
    draw = random.Random("rows")
    load, _ = filled(site)
    for store in stores(site):
        for file in store.glob("*.sst"):
            for part in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
                overwrite(file, draw, part)
    with Supervisor(site, instanceid="one") as supervisor:
        assert site.load(load.messages, 8_000).result() == len(load.messages)  # reads all of them
        site.wait_for_no_lag()
        assert supervisor.worker.output().count("is corrupt, and made anew") == site.partitions, supervisor.worker.tail()
    assert set(supervisor.exits) == {70}
    verdict(site, load)


def test_a_lock_that_another_holds(site: Site) -> None:
    load, _ = filled(site)
    store = stores(site)[0]
    held = Rdict(str(store), Options(raw_mode=True), access_type=AccessType.read_write())
    try:
        assert_ends(site.start(instanceid="one"), 70, str(store), "lock")
    finally:
        held.close()
    assert "made anew" not in site.workers[-1].output()
    site.start(instanceid="one").ready()
    verdict(site, load)


def test_a_disk_of_another_user(site: Site) -> None:
    load, _ = filled(site)
    folders = [site.disk(), *(path for path in site.disk().rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert_ends(site.start(instanceid="one", command=patched("nobody=")), 70, "can't be used", "ermission")
    finally:
        for folder in folders:
            folder.chmod(0o700)
    site.start(instanceid="one").ready()
    verdict(site, load)


def test_a_disk_that_is_no_folder(site: Site) -> None:
    site.disk().write_text("a file")
    assert_ends(site.start(), 78, "[worker] datadir", "can't be used: File exists")
    site.disk().unlink()
    with Traffic(site, 42) as traffic:
        site.start().ready()
        traffic.assert_flows()
    verdict(site, traffic)
    shutil.rmtree(site.disk())
