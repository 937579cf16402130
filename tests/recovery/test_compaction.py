"""Compaction as eager as Kafka can be, then a cold restore, and a warm one of a disk that was away for longer than tombstones are kept: nothing comes back from the dead.

How: a broker that looks for something to clean five times a second, tables in segments of a tenth of a second, tombstones kept for two seconds. Jobs are pruned and dropped,
regressions forgotten, and the test waits until neither them nor their tombstones are left in the topics. The old disk holds them all.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from harness import DAY, SIGS, Site
from verdict import verdict

from livejobs.streams.kafka.broker import Broker, free_port
from livejobs.tables import keys
from livejobs.tables.store import Store

SECONDS = 90.0
DROP_DAYS = 2.0 / DAY
RULES = {**SIGS, "liveprunedays": DROP_DAYS, "retentiondays": DROP_DAYS, "statsdays": DROP_DAYS}
EAGER = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "100",
    "delete.retention.ms": "2000",
}
ENDED = [f"ended/{number}" for number in range(6)]
PRUNED = [f"pruned/{number}" for number in range(6)]
JOBS = 20


class EagerBroker(Broker):
    """Its log cleaner hardly ever rests."""

    def _settings(self) -> dict[str, str]:
        return {**super()._settings(), "log.cleaner.backoff.ms": "200"}


@pytest.fixture(scope="module")
def eager_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with EagerBroker(free_port(), tmp_path_factory.mktemp("eager")) as running:
        yield running


@pytest.fixture
def site(eager_broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(eager_broker.bootstrap, tmp_path, RULES) as site:
        for topic in (site.config.kafka.jobs_topic, site.config.kafka.stats_topic):
            site.admin("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, configs={**_wanted(site, topic), **EAGER})])
        yield site


def _wanted(site: Site, topic: str) -> dict[str, str]:
    from livejobs.streams.kafka import topics  # noqa: PLC0415

    return next(one.settings for one in topics.wanted(site.config) if one.name == topic)


def fill(site: Site) -> None:
    """Jobs of regressions that end, and live ones of which nothing more is heard."""
    for name in ENDED:
        site.send("batch-job-finish", name, [{"uniqueid": str(number), "result": "pass"} for number in range(JOBS)])
        site.send("regr-finish", name)
    for name, number in itertools.product(PRUNED, range(JOBS)):
        site.send("job-live", name, {"uniqueid": str(number), "result": "live"})


def wait_until_forgotten(site: Site) -> None:
    """Return when no regression is left, and neither topic holds anything of them, not even that they are gone."""
    dead = {name.encode() for name in (*ENDED, *PRUNED)}
    site.wait_for(lambda: not dead & site.reader.stats.last.keys(), SECONDS)
    for attempt in itertools.count():
        left = {key for key in site.background.run(keys_left(site)) if key in dead or (key[:1] == b"[" and json.loads(key)[0].encode() in dead)}
        if not left:
            return
        assert attempt < 10 * SECONDS, f"not compacted away: {sorted(left)[:5]}"
        for number in range(site.partitions):  # a segment is closed by what comes behind it
            site.settle(number)
        name = next(name for name in map(str, range(100)) if site.partition_of(name) == attempt % site.partitions)
        site.stats(name, site.send("job-live", name, {"uniqueid": "filler", "result": "live"}))


async def keys_left(site: Site) -> set[bytes]:
    """The keys of all records in both topics, tombstones included."""
    kafka = site.config.kafka
    tps = [TopicPartition(topic, number) for topic in (kafka.jobs_topic, kafka.stats_topic) for number in range(site.partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka.brokers, isolation_level="read_committed", enable_auto_commit=False) as consumer:
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        found: set[bytes] = set()
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found |= {record.key for record in records}
        return found


def rows(site: Site, disk: str) -> set[str]:
    """Names of the regressions of which a disk holds anything."""
    found = set()
    for folder in (site.disk(disk) / site.config.kafka.group).iterdir():
        store = Store(folder)
        found |= {key[1:].decode() for key, _ in store.scan(keys.REGRESSION, bytes([keys.REGRESSION[0] + 1]))}
        for table in (keys.LIVE, keys.FINISHED):
            found |= {json.loads(key[1:])[0] for key, _ in store.scan(table, bytes([table[0] + 1]))}
        store.close()
    return found


@pytest.mark.parametrize("disk", ["none", "old"])
def test_nothing_comes_back_from_the_dead(disk: str, site: Site) -> None:
    worker = site.start("old", tickseconds=0).ready()
    fill(site)
    site.wait_for_no_lag()
    assert worker.stop()[0] == 0
    dead = {*ENDED, *PRUNED}
    assert rows(site, "old") >= dead
    worker = site.start("other").ready()
    wait_until_forgotten(site)
    assert worker.stop()[0] == 0
    assert not rows(site, "other") & dead
    if disk == "none":
        shutil.rmtree(site.disk("other"))
    which = "other" if disk == "none" else "old"
    site.start(which).ready()
    for name in (ENDED[0], PRUNED[0]):
        record = site.stats(name, site.send("regr-start", name))
        assert (record["status"], record["finished"], record["live"]) == ("LIVE", 0, 0)
    verdict(site, not_checked=100)
    assert rows(site, which) & dead <= {ENDED[0], PRUNED[0]}
