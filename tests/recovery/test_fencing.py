"""A successor fences who has left a transaction open, and is gone. It fences no other: a worker that lives would end, with all of its partitions.

How: a worker is killed in its very first transaction for a partition that another one had before. And a transaction of a stranger's holds the changelogs open, as a
broker does that is slow to write down an end, while the partitions of a worker that lives are taken over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import AIOKafkaProducer
from harness import Site
from load import Traffic
from patched import patched
from verdict import verdict

OPEN_SECONDS = 4.0
"""Longer than a successor waits before it fences."""


def test_a_worker_that_lives_is_not_fenced_for_one_that_was_killed(site: Site) -> None:
    with Traffic(site, 71) as traffic:
        steady = site.start("steady").ready()
        traffic.assert_flows()
        killed = site.start("killed", command=patched("kill=inside:1"))
        assert killed.wait() < 0
        third = site.start("third")
        site.await_shares(steady, third)
        traffic.assert_flows()
        steady.assert_running()
    assert "is given up" in third.output() + steady.output()
    verdict(site, traffic)


@contextmanager
def held_open(site: Site) -> Iterator[None]:
    """A transaction that has written into each partition of `jobs`; in the end it is aborted."""
    producer = site.background.run(write_into_a_transaction(site))
    try:
        yield
        site.background.run(producer.abort_transaction())
    finally:
        site.background.run(producer.stop())


async def write_into_a_transaction(site: Site) -> AIOKafkaProducer:
    kafka = site.config.kafka
    producer = AIOKafkaProducer(bootstrap_servers=kafka.brokers, transactional_id=f"{kafka.group}.stranger")
    try:
        await producer.start()
        await producer.begin_transaction()
        for number in range(site.partitions):
            await producer.send_and_wait(kafka.jobs_topic, b"{", key=b"[]", partition=number)
    except BaseException:
        await producer.stop()
        raise
    return producer


def test_a_worker_that_lives_is_not_fenced_when_an_end_takes_long(site: Site) -> None:
    with Traffic(site, 72) as traffic:
        steady = site.start("steady").ready()
        traffic.assert_flows()
        with held_open(site):
            second = site.start("second")
            second.poll("/metrics", lambda _status, _body: second.metric("livejobs_partitions_assigned") > 0)
            time.sleep(OPEN_SECONDS)  # so long it is held
            assert second.metric("livejobs_partitions_ready") == 0
        site.await_shares(steady, second)
        traffic.assert_flows()
    assert "is given up" not in second.output() + steady.output()
    verdict(site, traffic)
