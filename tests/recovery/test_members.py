"""Workers join, leave, die and are replaced one by one, under load: partitions move, and the records are exact.

How: three workers are restarted one after the other (SIGTERM), as in an upgrade, with and without static membership; one is killed; and workers come and go faster than
they can restore, from one to four to two. And one stops while a rebalance takes its partitions, and while one that is under way gives it some.
"""

import random
import signal
import time

import pytest
from harness import STOP_SECONDS_MAX, Site, WorkerProcess
from load import Load, Traffic, under_load
from patched import patched
from verdict import verdict


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_workers_are_restarted_one_by_one(static: bool, site: Site) -> None:
    def start(name: str) -> WorkerProcess:
        return site.start(name, instanceid=name if static else "")

    names = ["one", "two", "three"]
    with Traffic(site, 51) as traffic:
        workers = {name: start(name) for name in names}
        site.await_shares(*workers.values())
        for name in names:
            code, seconds = workers[name].stop()
            assert (code, seconds < STOP_SECONDS_MAX) == (0, True), workers[name].tail()
            workers[name] = start(name)
            site.await_shares(*workers.values())
            traffic.assert_flows()
    verdict(site, traffic)


def test_workers_join_leave_and_die_under_load(site: Site) -> None:
    load = Load(5)
    come, leaves, dies = load.parts(3)
    first = site.start("first").ready()
    with under_load(site, come):
        second, third = site.start("second"), site.start("third")
        site.await_shares(first, second, third)
    with under_load(site, leaves):
        code, seconds = second.stop()
        assert (code, seconds < STOP_SECONDS_MAX) == (0, True), second.tail()
        site.await_shares(first, third)
    with under_load(site, dies):
        third.kill()
        site.await_shares(first)
    verdict(site, load)


def test_workers_come_and_go_faster_than_they_restore(site: Site, soak: bool) -> None:
    draw = random.Random("scale")
    with Traffic(site, 52) as traffic:
        workers = [site.start("0").ready()]
        traffic.assert_flows(3_000)
        for turn in range(10 if soak else 2):
            workers += [site.start(f"{turn}.{number}") for number in range(4 - len(workers))]
            time.sleep(draw.uniform(0.5, 4))  # the random moment
            for worker in draw.sample(workers, 2):
                workers.remove(worker)
                if draw.random() < 0.5:
                    worker.kill()
                else:
                    code, seconds = worker.stop()
                    assert code in {0, -signal.SIGTERM}, worker.tail()  # the signal's own way, before it has begun
                    assert seconds < STOP_SECONDS_MAX, worker.tail()
        site.await_shares(*workers)
        traffic.assert_flows()
    verdict(site, traffic)


def test_a_worker_whose_partitions_are_taken_while_it_stops(site: Site) -> None:
    """Its last transaction takes longer than it needs to hear that another one has left: it rejoins only behind it."""
    with Traffic(site, 53) as traffic:
        workers = [site.start("late", command=patched("late=2")), site.start("leaves")]
        site.await_shares(*workers)
        traffic.assert_flows()
        for worker in workers:
            worker.expected_to_run = False
            worker.process.send_signal(signal.SIGTERM)
        for worker in workers:
            assert worker.wait() == 0, worker.tail()
        site.start("next").ready()
    verdict(site, traffic)


def test_a_worker_that_is_given_partitions_while_it_stops(site: Site) -> None:
    worker = site.start(command=patched("join=")).ready()
    code, seconds = worker.stop()
    assert (code, seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
