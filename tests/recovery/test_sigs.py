"""`[sigs]` is changed between two runs: no job and no regression is judged twice, what is due by the new rules is taken at once, and `livejobs verify` says what it can't check.

How: one site through five configurations, with a stop, a kill, and an empty disk between them. The naive model knows one set of rules, so here the judges are the history of
the `jobs` topic and `livejobs verify`.
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import HOUR, TICK, Site, WorkerProcess
from publishers import Item, Publisher
from verdict import VERIFY, verified

from livejobs.streams.core.decisions import ENDING_STEP
from livejobs.streams.kafka.broker import Broker

SOON = {"enablelivejobs": True, "autotimeouthours": 1 / HOUR}
JOBS = 3


def signed(signature: str, **more: Any) -> dict[str, Any]:
    return {"enablelivejobs": True, "livetimeoutsignature": signature, **more}


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path, signed("A"), partitions=2) as site:
        yield site


def lives(site: Site, name: str) -> None:
    for number in range(JOBS):
        site.send("job-live", name, {"uniqueid": str(number), "result": "live"})


def judged(site: Site) -> Counter[tuple[bytes, str]]:
    """(job, `first_seen` or the last time that it was live) -> how many different verdicts it has had since."""
    found: Counter[tuple[bytes, str]] = Counter()
    lived: dict[bytes, str] = {}
    last: dict[bytes, Any] = {}
    for record in site.reader.jobs.records:
        value = json.loads(record.value or b"{}")
        key = record.key or b""
        if value.get("result") == "live":
            lived[key] = value["updated"]
        elif "verdict" in value and value != last.get(key):
            found[key, lived.get(key, "")] += 1
        last[key] = value
    return found


def change(site: Site, worker: WorkerProcess, sigs: dict[str, Any], how: str) -> WorkerProcess:
    site.wait_for_no_lag()
    if how == "kill":
        worker.kill()
    else:
        assert worker.stop()[0] == 0
    if how == "wipe":
        shutil.rmtree(site.disk())
    site.change_sigs(sigs)
    return site.start(tickseconds=0.1).ready()


def test_no_regression_is_judged_twice(site: Site) -> None:
    worker = site.start(tickseconds=0.1).ready()
    lives(site, "closed")
    site.stats("closed", site.send("regr-finish", "closed"))
    lives(site, "open")
    site.status("open", "LIVE", live=JOBS)
    closed = site.status("closed", "COMPLETE", fail=JOBS)
    assert closed["signatures"] == {"A": JOBS}

    worker = change(site, worker, signed("B", autotimeouthours=1 / HOUR), "stop")
    was = site.status("open", "ABORTED", fail=JOBS, live=0)
    assert was["signatures"] == {"B": JOBS}
    assert site.stats("closed") == closed  # its end was not the worker's silence
    again = site.stats("closed", site.send("regr-finish", "closed"))
    assert (again["signatures"], again["fail"]) == ({"A": JOBS}, JOBS)

    for sigs, how in ((signed("A", autotimeouthours=1 / HOUR), "kill"), (signed("C", autotimeouthours=2 / HOUR), "wipe"), (SOON, "stop"), ({}, "kill")):
        worker = change(site, worker, sigs, how)
        for number in range(site.partitions):
            site.settle(number)
        assert site.stats("open") == was
        assert site.stats("closed") == again

    worker = change(site, worker, signed("C", autotimeouthours=1 / HOUR), "stop")
    site.send("job-live", "open", {"uniqueid": "0", "result": "live"})  # withdraws its verdict
    site.status("open", "LIVE", live=1)
    record = site.status("open", "ABORTED", fail=JOBS)
    assert record["signatures"] == {"B": JOBS - 1, "C": 1}
    site.wait_for_no_lag()
    assert worker.stop()[0] == 0
    site.reader.read_to_the_end()
    assert set(judged(site).values()) == {1}
    assert site.reader.stats.went_back == []
    verified(site, not_checked=100)


def test_verify_says_what_it_can_not_check_and_refuses_other_rules(site: Site) -> None:
    worker = site.start(tickseconds=0.1).ready()
    lives(site, "old")
    site.stats("old", site.send("regr-finish", "old"))
    worker = change(site, worker, signed("B"), "stop")
    lives(site, "new")
    site.stats("new", site.send("regr-finish", "new"))
    site.wait_for_no_lag()
    assert worker.stop()[0] == 0
    done = subprocess.run([*VERIFY, str(site.config_file)], capture_output=True, text=True, check=False, timeout=120)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["older"], report["not_checked"]) == (0, True, 1, 1)
    site.change_sigs(signed("A"))
    done = subprocess.run([*VERIFY, str(site.config_file)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert "[sigs]" in line
    assert "timeout_signature B, not A" in line


def test_a_signature_is_changed_in_the_middle_of_a_large_end(broker: Broker, tmp_path: Path) -> None:
    count = ENDING_STEP + 2_000
    with Site(broker.bootstrap, tmp_path, signed("A"), partitions=1, tickseconds=0) as site:
        worker = site.start().ready()
        items = (Item("job-live", b"huge", b'{"uniqueid": "%d", "result": "live"}' % number) for number in range(count))
        Publisher(site, "huge").start(items, 50_000).result()
        site.send("regr-finish", "huge")
        site.status("huge", "COMPLETE", live=2_000, fail=ENDING_STEP)
        assert worker.stop()[0] == 0
        site.change_sigs(signed("B"))
        worker = site.start().ready()
        site.send(TICK, None)
        record = site.status("huge", "COMPLETE", live=0, fail=count)
        assert record["signatures"] == {"A": ENDING_STEP, "B": 2_000}
        site.wait_for_no_lag()
        assert worker.stop()[0] == 0
        site.reader.read_to_the_end()
        found = judged(site)
        assert (len(found), set(found.values())) == (count, {1})
