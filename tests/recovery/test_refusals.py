"""Topics that are not what they must be: one clear line, and no start.

How: topics with different partition counts, without the broker's clock, missing, or grown since the state was made.
"""

from pathlib import Path

from aiokafka.admin import NewPartitions, NewTopic
from harness import Site, WorkerProcess

from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker


def assert_refused(worker: WorkerProcess, *words: str) -> None:
    assert worker.wait() != 0
    lines = [line for line in worker.output().splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, worker.output()
    assert "Traceback" not in worker.output()


def test_topics_with_different_partition_counts_are_refused(bare: Site) -> None:
    made = topics.wanted(bare.config)
    new = [
        NewTopic(topic.name, 3 if topic.name == bare.config.kafka.jobs_topic else 2, 1, topic_configs=topic.settings)
        for topic in made
    ]
    bare.admin("create_topics", new)
    assert_refused(bare.start(), "must have the same number of partitions", f"{bare.config.kafka.jobs_topic} 3")


def test_events_without_the_brokers_clock_are_refused(bare: Site) -> None:
    made = topics.wanted(bare.config)
    new = [
        NewTopic(
            topic.name,
            2,
            1,
            topic_configs={
                **topic.settings,
                **({"message.timestamp.type": "CreateTime"} if "job-events" in topic.name else {}),
            },
        )
        for topic in made
    ]
    bare.admin("create_topics", new)
    assert_refused(bare.start(), bare.config.kafka.events_topic, "LogAppendTime", "CreateTime")


def test_missing_topics_are_refused(bare: Site) -> None:
    assert_refused(bare.start(), "missing", bare.config.kafka.events_topic, "livejobs topics create")


def test_topics_that_have_grown_since_the_state_was_made_are_refused(broker: Broker, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path) as site:
        worker = site.start().ready()
        site.stats("run", site.send("regr-start", "run"))
        worker.stop()
        for topic in (site.config.kafka.events_topic, site.config.kafka.jobs_topic, site.config.kafka.stats_topic):
            site.admin("create_partitions", {topic: NewPartitions(total_count=3)})
        again = site.start()
        assert again.wait() != 0
        assert "made with 2 partitions" in again.output(), again.tail()
