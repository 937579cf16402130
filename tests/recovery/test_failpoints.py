"""A worker is killed at each step of a commit: before its transaction, inside it, after it and before the write to RocksDB, after that. The records are exact.

How: `patched.py` runs the real worker with its methods wrapped; at the commit with a drawn number it kills itself at the step wanted. Another one takes over, with the
same disk, and dies at the next step; all under traffic.
"""

import random
import signal

from aiokafka import AIOKafkaConsumer, TopicPartition
from harness import Site
from load import Traffic
from patched import STEPS, patched
from verdict import verdict

COMMITS_MAX = 30


def test_a_worker_is_killed_at_each_step_of_a_commit(site: Site, soak: bool) -> None:
    draw = random.Random("failpoints")
    with Traffic(site, 4) as traffic:
        for _ in range(10 if soak else 1):
            for step in draw.sample(STEPS, len(STEPS)):
                fault = f"kill={step}:{draw.randint(1, COMMITS_MAX)}"
                worker = site.start(instanceid="one", command=patched(fault))
                assert worker.wait() == -signal.SIGKILL, worker.tail()
        site.start(instanceid="one").ready()
        traffic.assert_flows()
    verdict(site, traffic)
    # What was written inside a transaction that was not committed.
    assert site.background.run(count(site, "read_uncommitted")) > site.background.run(count(site, "read_committed"))


async def count(site: Site, isolation: str) -> int:
    """How many records of `jobs` a reader with that isolation sees."""
    kafka = site.config.kafka
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.brokers, isolation_level=isolation, enable_auto_commit=False)
    await consumer.start()
    try:
        tps = [TopicPartition(kafka.jobs_topic, number) for number in range(site.partitions)]
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        records = 0
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            records += sum(map(len, (await consumer.getmany(timeout_ms=100)).values()))
        return records
    finally:
        await consumer.stop()
