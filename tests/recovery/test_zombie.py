"""A worker is stopped (SIGSTOP) past its session, another one takes over, and the zombie wakes (SIGCONT): it is fenced, changes nothing, and ends.

How: `patched.py` stops the real worker at a step of a commit: before its transaction, inside it with all records written, and after it, before it has written to its
disk. It sleeps until the other worker has all partitions and has applied traffic with them. Afterwards the zombie is started anew, with the disk it had.
"""

import random
import signal
from pathlib import Path

import pytest
from harness import Site, WorkerProcess
from load import Traffic
from patched import STEPS, patched
from verdict import verdict


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_zombie_is_fenced_and_ends(step: str, site: Site, soak: bool) -> None:
    if step != "inside" and not soak:
        pytest.skip("of the steps, the short form has the one with an open transaction; the others are in the long one (--soak)")
    draw = random.Random(f"zombie {step}")
    with Traffic(site, 21) as traffic:
        zombie = site.start("zombie", command=patched(f"stop={step}:{draw.randint(10, 40)}"))
        site.wait_for(lambda: is_stopped(zombie))
        other = site.start("other")
        other.poll("/metrics", lambda _status, _body: other.metric("livejobs_partitions_ready") == site.partitions)
        traffic.assert_flows()
        zombie.process.send_signal(signal.SIGCONT)
        assert zombie.wait() == 70, zombie.tail()
        assert "the worker ends" in zombie.output(), zombie.tail()
        site.start("zombie")
        other.poll("/metrics", lambda _status, _body: 0 < other.metric("livejobs_partitions_ready") < site.partitions)
        traffic.assert_flows()
    verdict(site, traffic)


def is_stopped(worker: WorkerProcess) -> bool:
    """Whether it is stopped by a signal."""
    return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
