"""Regressions on the wrong partition, by a producer with librdkafka's default partitioner (CRC32): sent on, in each publisher's order, exactly once.

How: two publishers send the same regressions, one with Kafka's partitioner and one with CRC32, while the worker is killed; each message says whose it is and which.
"""

import random

from harness import Site
from load import Load
from publishers import Item, Publisher, by_publisher, crc32
from verdict import verdict

RATE = 2_000.0


def test_what_stands_on_the_wrong_partition_is_sent_on_exactly_once(site: Site, soak: bool) -> None:
    draw = random.Random(1901)
    load = Load("crc32", 100_000 if soak else 8_000, 20)
    right, wrong = Publisher(site, "right"), Publisher(site, "wrong", crc32)
    mine: tuple[list[Item], list[Item]] = ([], [])
    for kind, name, body in load.messages:
        mine[draw.random() < 0.5].append(Item(kind, name.encode(), body))
    kills = 20 if soak else 2
    worker = site.start().ready()
    sending = [publisher.start(items, RATE) for publisher, items in zip((right, wrong), mine, strict=True)]
    for part in range(1, kills + 1):
        site.wait_for(lambda: applied(site) > part * 0.8 * len(load.messages) / kills / 2)  # noqa: B023
        worker.kill()
        worker = site.start()
    assert [job.result() for job in sending] == [len(items) for items in mine]
    verdict(site)
    events = site.reader.events.records
    elsewhere = [record for record in events if record.key and site.partition_of(record.key) != record.partition]
    assert len(elsewhere) > len(load.messages) / 4
    at_home = by_publisher(record for record in events if record.key and site.partition_of(record.key) == record.partition)
    for publisher in (right, wrong):
        for name in load.expected:
            sent = [number for number, item in enumerate(publisher.sent) if item.key == name.encode()]
            assert at_home[publisher.name, name.encode()] == sent


def applied(site: Site) -> int:
    """How many messages have reached the statistics, about."""
    return sum(record["finished"] + record["live"] for record in list(site.reader.stats.last.values()))
