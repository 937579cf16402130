"""The broker is killed, restarted, or away for long, under load. The worker goes on when it can again, or ends and its successor does; it never hangs.

How: a broker (in the long form also three, with three copies of each topic) of the test's own, killed with SIGKILL and stopped in the orderly way by turns. Publishers keep what they
have until it is back. What the health endpoints say meanwhile is checked: not ready, for no broker answers; alive, for a restart would not help.
"""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from harness import Site
from load import Traffic
from supervisor import Supervisor
from verdict import verdict

from livejobs.streams.kafka.broker import Broker


@pytest.fixture
def own_site(own_broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(own_broker.bootstrap, tmp_path / "site", partitions=4) as site:
        yield site


def test_a_broker_that_is_killed_and_restarted(own_site: Site, own_broker: Broker, soak: bool) -> None:
    draw = random.Random("broker")
    with Traffic(own_site, 31) as traffic, Supervisor(own_site) as supervisor:
        for number in range(5 if soak else 3):
            supervisor.ready()
            traffic.assert_flows()
            (own_broker.stop if number % 2 else own_broker.kill)()
            time.sleep(draw.uniform(0, 3))  # so long it is away
            own_broker.start()
        supervisor.ready()
        traffic.assert_flows()
    verdict(own_site, traffic)


def test_no_broker_for_long(own_site: Site, own_broker: Broker, soak: bool) -> None:
    with Traffic(own_site, 32) as traffic, Supervisor(own_site) as supervisor:
        supervisor.ready()
        traffic.assert_flows()
        for seconds in (60, 200) if soak else (15,):
            own_broker.kill()
            time.sleep(seconds)  # so long it is away
            status, body = supervisor.worker.get("/ready")
            assert status != 200
            if status:
                assert "no broker has answered" in json.loads(body)["reason"]
                assert supervisor.worker.get("/live")[0] == 200
            own_broker.start()
            supervisor.ready()
            traffic.assert_flows()
    verdict(own_site, traffic)


def test_three_brokers_of_which_one_after_the_other_is_killed(tmp_path: Path, soak: bool) -> None:
    if not soak:
        pytest.skip("three brokers are for the long form (--soak): they are too much for two shared cores")
    with (
        Cluster(tmp_path / "cluster") as cluster,
        Site(cluster.bootstrap, tmp_path / "site", partitions=4, replication=3) as site,
    ):
        with Traffic(site, 33) as traffic, Supervisor(site) as supervisor:
            for number in range(6):
                supervisor.ready()
                traffic.assert_flows()
                node = cluster.nodes[number % 3]
                (node.stop if number % 2 else node.kill)()
                traffic.assert_flows(seconds=90)  # without it
                node.start()
        verdict(site, traffic)
