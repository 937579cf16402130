"""A worker is killed (SIGKILL), as the kernel does when memory runs out, and started again: the records are exact."""

import json
import shutil

from harness import Site
from load import Load, under_load
from verdict import verdict


def test_a_worker_is_killed_and_started_again(site: Site) -> None:
    load = Load(3)
    worker = site.start().ready()
    for part in load.parts(2):
        with under_load(site, part):
            worker.kill()
            worker = site.start()
        worker.ready()
    verdict(site, load)


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
        site.start(instanceid="one").ready()
    verdict(site, load)
