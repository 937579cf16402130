"""A worker is killed (SIGKILL), as the kernel does when memory runs out, and started again: the records are exact.

How: one worker under traffic is killed again and again, each time after a random while (seeded): in the middle of its work, while it restores, before it has joined
the group. Its disk is kept, or deleted as on a new machine. What it had committed and not written to its disk is seen as records that its successor
restored: without any, the kills came at no moment that matters.
"""

import json
import random
import re
import shutil
import time

import pytest
from harness import Site
from load import Traffic
from verdict import verdict

ALIVE_SECONDS_MAX = 2.0
"""From the moment that it is ready to its death, at most."""


@pytest.mark.parametrize("disk", ["same", "empty"])
def test_a_worker_is_killed_again_and_again(disk: str, site: Site, soak: bool) -> None:
    draw = random.Random(f"kill {disk}")
    kills = 50 if soak else 5
    with Traffic(site, 1 if disk == "same" else 2) as traffic:
        for number in range(kills):
            worker = site.start(instanceid="one")
            if number % 4 != 3:
                worker.ready()
            time.sleep(draw.uniform(0, ALIVE_SECONDS_MAX))  # not for luck: this is the random moment
            worker.kill()
            if disk == "empty":
                shutil.rmtree(site.disk(), ignore_errors=True)
        worker = site.start(instanceid="one").ready()
        traffic.assert_flows()
    verdict(site, traffic)
    restored = [int(count) for count in re.findall(r"(\d+) records restored", worker.output())]
    assert sum(restored) > 0


def test_a_worker_is_killed_while_it_restores(site: Site) -> None:
    with Traffic(site, 3) as traffic:
        site.start(instanceid="one").ready()
        traffic.assert_flows(5_000)
        site.workers[-1].kill()
        for _ in range(2):
            shutil.rmtree(site.disk())
            worker = site.start(instanceid="one")
            worker.poll("/ready", lambda status, body: status == 503 and bool(json.loads(body)["restoring"]))
            worker.kill()
        site.start(instanceid="one").ready()
        traffic.assert_flows()
    verdict(site, traffic)
