"""The network between a worker and its broker is slow, tears connections, refuses them, or swallows all that is sent.

The worker goes on when it can again, or ends and its successor does; it never stalls silently, and the records are exact. How: the worker reaches the broker through a
small proxy of ours (`proxy.py`), the traffic and the readers directly.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from harness import SECONDS, Site
from load import Traffic
from patched import patched
from proxy import ProxiedBroker, Proxy
from supervisor import Supervisor
from verdict import verdict

from livejobs.streams.config import Kafka
from livejobs.streams.kafka.client import client_options


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedBroker]:
    with ProxiedBroker(tmp_path_factory.mktemp("proxied")) as broker:
        yield broker


@pytest.fixture
def proxy(proxied: ProxiedBroker) -> Iterator[Proxy]:
    with proxied.proxy(seed=1) as proxy:
        yield proxy


@pytest.fixture
def far(proxied: ProxiedBroker, tmp_path: Path) -> Iterator[Site]:
    """A site on the broker behind the proxy."""
    with Site(proxied.bootstrap, tmp_path, partitions=4) as site:
        yield site


def through(proxy: Proxy) -> dict[str, str]:
    """The broker as the worker finds it."""
    return {"brokers": f"127.0.0.1:{proxy.port}"}


def test_a_request_on_a_connection_that_is_just_gone_says_so(proxied: ProxiedBroker) -> None:
    """It is closed, and the answer is one that aiokafka knows; that of uvloop ended the task that reads the cluster's metadata."""

    async def ask() -> None:
        client = AIOKafkaClient(**client_options(Kafka(brokers=proxied.bootstrap)))
        await client.bootstrap()
        try:
            assert await client.ready(client.get_random_node())
            connection = next(iter(client._conns.values()))
            connection._writer.transport.abort()
            with pytest.raises(KafkaConnectionError):  # noqa: PT012  at any of those turns
                while True:  # its handle is closed some turns of the loop before aiokafka hears of it
                    connection.send(MetadataRequest([]), expect_response=False).close()
                    await asyncio.sleep(0)
            assert not connection.connected()
            assert await client.force_metadata_update()
        finally:
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(ask(), SECONDS))


def test_latency(far: Site, proxy: Proxy) -> None:
    far.start(kafka=through(proxy)).ready()
    with Traffic(far, 11, rate=500) as traffic:
        proxy.delay_seconds_max = 0.2
        traffic.assert_flows(2_000, seconds=60)
    verdict(far, traffic)  # still slow


def test_connections_are_torn_and_refused(far: Site, proxy: Proxy, soak: bool) -> None:
    draw = random.Random("torn")
    with Traffic(far, 12) as traffic, Supervisor(far, kafka=through(proxy), instanceid="one") as supervisor:
        supervisor.ready()
        for _ in range(60 if soak else 6):
            proxy.tear()
            time.sleep(draw.uniform(0, 1))
            if draw.random() < 0.3:
                proxy.refuse()
                time.sleep(draw.uniform(0, 2))
                proxy.heal()
        traffic.assert_flows()
    verdict(far, traffic)


def test_a_cut_longer_than_the_session_and_another_worker_takes_over(far: Site, proxy: Proxy, soak: bool) -> None:
    with Traffic(far, 13) as traffic:
        # A cut in the middle of a rebalance can leave aiokafka joining for ever: then the watchdog ends the worker.
        with Supervisor(far, "cut", kafka=through(proxy), command=patched("stall=15")) as cut:
            cut.ready()
            other = far.start("other")
            other.poll("/metrics", lambda _status, _body: other.metric("livejobs_partitions_ready") > 0)
            proxy.swallow()
            other.poll("/metrics", lambda _status, _body: other.metric("livejobs_partitions_ready") == far.partitions)
            assert cut.worker.get("/ready")[0] != 200
            traffic.assert_flows()
            if soak:
                traffic.assert_flows(200_000, seconds=300)
            proxy.heal()
        traffic.assert_flows()
    verdict(far, traffic)


def test_a_cut_with_nobody_else(far: Site, proxy: Proxy, soak: bool) -> None:
    with Traffic(far, 14) as traffic, Supervisor(far, kafka=through(proxy)) as supervisor:
        supervisor.ready()
        for seconds in (10, 60, 200) if soak else (9,):
            proxy.swallow()
            time.sleep(seconds)  # that long is the cut
            worker = supervisor.worker
            assert worker.get("/ready")[0] != 200
            proxy.heal()
            supervisor.ready()
            traffic.assert_flows()
    verdict(far, traffic)
