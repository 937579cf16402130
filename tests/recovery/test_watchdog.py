"""A worker that no longer works, whatever holds it up, ends with a reason and another one goes on: none stays alive but idle.

How: `patched.py` runs the real worker, lets its watchdog wait for 6 s instead of 120, and makes it stand still after some commits: a loop that is blocked, Python's lock
never given away, fetches that bring nothing, a batch that never ends, no coordinator, a partition that never opens.
"""

from harness import Site
from load import Traffic
from patched import patched
from verdict import verdict

STALL_SECONDS = 6
LONG_FORM_ONLY = {"stand=consumer", "stand=lock", "stand=apply", "stand=coordinator"}
REASONS = {
    "stand=loop": "the worker's event loop has answered nothing for",
    "stand=consumer": "the consumer's event loop has answered nothing for",
    "stand=lock": "Timeout (0:00:0",  # Python's own last words
    "stand=deaf": "has applied none of",
    "stand=apply": "has applied none of",
    "stand=coordinator": "no member of its group for",
    "open=": "is being opened, and nothing has moved for",
}


def test_a_worker_that_stands_still_ends_with_a_reason(site: Site, soak: bool) -> None:
    with Traffic(site, 5) as traffic:
        for fault, reason in REASONS.items():
            if fault in LONG_FORM_ONLY and not soak:
                continue
            log = fault.replace("=", "-")
            worker = site.start(log, instanceid="one", command=patched(fault, f"stall={STALL_SECONDS}"))
            assert worker.wait() == (1 if fault == "stand=lock" else 70), worker.tail()
            assert reason in worker.output(), worker.tail()
            assert "Thread 0x" in worker.output(), "where it stood"
        site.start(instanceid="one").ready()
        traffic.assert_flows()
    verdict(site, traffic)


def test_a_worker_with_nothing_to_do_does_not_stand_still(site: Site) -> None:
    worker = site.start(command=patched(f"stall={STALL_SECONDS}"), tickseconds=0).ready()
    sent = site.send("regr-start", "rerouted", partition=(site.partition_of("rerouted") + 1) % site.partitions)
    # Its partition now ends with a transaction's mark, behind the last message that anybody can apply.
    site.stats("rerouted")
    assert sent.partition != site.partition_of("rerouted")
    quiet_seconds = site.partitions * 2 * STALL_SECONDS
    worker.poll("/metrics", lambda _status, _body: worker.metric("livejobs_partition_commit_age_seconds") > quiet_seconds)
    assert worker.get("/live")[0] == 200
    assert worker.metric("livejobs_partition_lag_messages") == 0
    verdict(site)


def test_metrics_tell_a_lag(site: Site) -> None:
    worker = site.start(command=patched("stand=apply")).ready()
    with Traffic(site, 6):
        worker.poll("/metrics", lambda _status, _body: worker.metric("livejobs_partition_lag_messages") > 1_000)
    worker.kill()
    site.start().ready()
    verdict(site)


