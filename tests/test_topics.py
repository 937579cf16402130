"""Topics on a real broker: made where missing, compared, never altered. And the broker that carries them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from harness import MakeConfig

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker, BrokerError, free_port
from livejobs.streams.kafka.client import client_options
from livejobs.streams.kafka.topics import BrokerAwayError, TopicsError

MIB = 1 << 20


def differences(config: Config) -> list[str]:
    return asyncio.run(topics.differences(config))


def create(config: Config, made: list[str] | None = None) -> list[str]:
    return asyncio.run(topics.create(config, (made if made is not None else []).append))


def usable(config: Config) -> int:
    return asyncio.run(topics.assert_usable(config))


def make(config: Config, name: str, partitions: int = 3, **settings: str) -> None:
    """A topic as someone else made it."""

    async def run() -> None:
        admin = AIOKafkaAdminClient(**client_options(config.kafka))
        await admin.start()
        try:
            dotted = {key.replace("_", "."): value for key, value in settings.items()}
            answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dotted)])
            assert answer.topic_errors[0][1] == 0
            while name not in {topic["topic"] for topic in await admin.describe_topics()}:  # noqa: ASYNC110  nobody tells us
                await asyncio.sleep(0.05)
        finally:
            await admin.close()

    asyncio.run(run())


def make_all(config: Config, **changed: Any) -> None:
    """The four topics by hand, with other partition counts for those that `changed` names by their place."""
    kafka = config.kafka
    names = {
        "events": kafka.events_topic,
        "jobs": kafka.jobs_topic,
        "stats": kafka.stats_topic,
        "rejects": kafka.rejects_topic,
    }
    for place, name in names.items():
        settings = {"message_timestamp_type": changed.get("timestamps", "LogAppendTime")} if place == "events" else {}
        make(config, name, changed.get(place, 3), **settings)


def test_what_is_wanted_comes_from_the_file_and_the_configuration() -> None:
    flags = {"kafka.partitions": 5, "kafka.replication": 3, "sigs.eventsretentiondays": 20, "kafka.topicprefix": "p-"}
    events, jobs, stats, rejects = topics.wanted(configuration.load(flags=flags, environ={}))
    assert [topic.name for topic in (events, jobs, stats, rejects)] == [
        "p-job-events",
        "p-jobs",
        "p-regression-stats",
        "p-job-rejects",
    ]
    assert {(topic.partitions, topic.replication) for topic in (events, jobs, stats, rejects)} == {(5, 3)}
    assert {topic.settings["min.insync.replicas"] for topic in (events, jobs, stats, rejects)} == {"2"}
    assert {topic.settings["message.timestamp.type"] for topic in (events, jobs, stats, rejects)} == {"LogAppendTime"}
    assert events.settings["retention.ms"] == str(20 * 86_400_000)
    assert MIB < int(events.settings["max.message.bytes"]) < 2 * MIB
    for changelog in (jobs, stats):
        assert changelog.settings["cleanup.policy"] == "compact"
        assert changelog.settings["delete.retention.ms"] == str(7 * 86_400_000)
        assert changelog.settings["max.message.bytes"] == str(2 * MIB)
    assert (rejects.settings["cleanup.policy"], rejects.settings["retention.ms"]) == ("delete", str(14 * 86_400_000))
    assert rejects.settings["max.message.bytes"] == str(2 * MIB)


def test_one_replica_can_only_be_in_sync_with_itself() -> None:
    assert {topic.settings["min.insync.replicas"] for topic in topics.wanted(configuration.load(environ={}))} == {"1"}


def test_create_makes_what_is_missing_once(loose_config: MakeConfig) -> None:
    config = loose_config()
    names = [topic.name for topic in topics.wanted(config)]
    assert differences(config) == [f"{name}: missing" for name in names]
    assert differences(config) == [f"{name}: missing" for name in names], "to look must not make"
    made: list[str] = []
    assert create(config, made) == []
    assert sorted(made) == sorted(names)
    assert differences(config) == []
    assert create(config, made) == []
    assert len(made) == 4
    assert usable(config) == 3
    assert asyncio.run(topics.tombstones_ms(config)) == 7 * 86_400_000


def test_create_never_alters_what_exists(loose_config: MakeConfig) -> None:
    config = loose_config()
    make(config, config.kafka.events_topic, 1, retention_ms="1000", cleanup_policy="delete")
    wrong = [
        f"{config.kafka.events_topic}: 1 partitions, wanted 3",
        f"{config.kafka.events_topic}: message.timestamp.type is CreateTime, wanted LogAppendTime",
        f"{config.kafka.events_topic}: retention.ms is 1000, wanted 1209600000",
    ]
    made: list[str] = []
    assert set(wrong) <= set(create(config, made))
    assert config.kafka.events_topic not in made
    assert len(made) == 3
    assert set(wrong) <= set(differences(config))


def test_another_configuration_sees_each_difference(make_config: MakeConfig) -> None:
    config = make_config()
    other = msgspec.structs.replace(
        config,
        kafka=msgspec.structs.replace(config.kafka, partitions=4, replication=2),
        sigs=msgspec.structs.replace(config.sigs, eventsretentiondays=20.0),
    )
    events, rejects = config.kafka.events_topic, config.kafka.rejects_topic
    found = create(other)
    assert found == differences(other)
    assert f"{events}: 3 partitions, wanted 4" in found
    assert f"{events}: replication 1, wanted 2" in found
    assert f"{events}: min.insync.replicas is 1, wanted 2" in found
    assert f"{events}: retention.ms is 1209600000, wanted 1728000000" in found
    assert not any(line.startswith(rejects) and "partitions" in line for line in found), "rejects may be anywhere"


def test_two_that_create_at_once_do_not_clash(loose_config: MakeConfig) -> None:
    config = loose_config()

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(topics.create(config), topics.create(config)))

    assert asyncio.run(both()) == [[], []]


def test_what_the_broker_refuses_is_said(loose_config: MakeConfig) -> None:
    config = loose_config({"kafka.replication": 3})
    with pytest.raises(TopicsError, match=r"job-events can't be created: .*replication factor"):
        create(config)


def test_a_worker_starts_only_on_usable_topics(loose_config: MakeConfig) -> None:
    config = loose_config()
    with pytest.raises(
        TopicsError, match=r"missing on the broker: .*job-events, .*; make it with `livejobs topics create`"
    ):
        usable(config)

    other = loose_config()
    make_all(other, jobs=2)
    with pytest.raises(TopicsError, match=r"same number of partitions, but have: .*job-events 3, .*jobs 2, .*stats 3"):
        usable(other)

    other = loose_config()
    make_all(other, timestamps="CreateTime")
    with pytest.raises(TopicsError, match=r"job-events: message.timestamp.type must be LogAppendTime, not CreateTime"):
        usable(other)

    other = loose_config()
    make_all(other, rejects=1)
    assert usable(other) == 3


def test_no_broker_is_one_clear_line() -> None:
    config = configuration.load(flags={"kafka.brokers": f"127.0.0.1:{free_port()}"}, environ={})
    for ask in (differences, create, usable):
        with pytest.raises(BrokerAwayError, match=r"^no Kafka broker answers at 127.0.0.1:\d+") as caught:
            ask(config)
        assert "\n" not in str(caught.value)


def test_the_largest_legal_message_fits(config: Config) -> None:
    async def run() -> None:
        producer = AIOKafkaProducer(**client_options(config.kafka), acks="all", max_request_size=2 * MIB)
        await producer.start()
        try:
            headers = [("type", b"batch-job-finish"), ("traceparent", bytes(55))]
            await producer.send_and_wait(config.kafka.events_topic, bytes(MIB), key=bytes(1024), headers=headers)
        finally:
            await producer.stop()

    asyncio.run(run())


def test_a_broker_comes_back_after_a_kill_and_after_a_stop_with_its_topics(tmp_path: Path) -> None:
    said: list[str] = []
    broker = Broker(free_port(), tmp_path / "broker", progress=said.append)
    config = configuration.load(flags={"kafka.brokers": broker.bootstrap, "kafka.partitions": 1}, environ={})
    try:
        broker.start()
        assert create(config) == []
        with pytest.raises(BrokerError, match="already runs"):
            broker.start()
        with pytest.raises(BrokerError, match=r"already runs on .* as process \d+; stop it: kill \d+"):
            Broker(free_port(), broker.data_dir).start()
        with pytest.raises(BrokerError, match="is taken"):
            Broker(broker.port, tmp_path / "other").start()
        broker.kill()
        assert broker.pid is None
        broker.start()
        assert differences(config) == []
        broker.stop()
        broker.start()
        assert differences(config) == []
    finally:
        broker.stop()
    assert any("starting Kafka" in line for line in said)


def test_a_broker_without_java_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerError, match="install Java 17 or newer, or run a broker with Docker"):
        Broker(free_port(), tmp_path / "broker").start()
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(BrokerError, match=r"too old for Kafka \(it is 11\): install Java 17"):
        Broker(free_port(), tmp_path / "broker").start()


def test_a_broker_that_crashes_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    (log / "meta.properties").write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(BrokerError, match=r"crashed at its start; its last lines:(.|\n)*node ID not found"):
        Broker(free_port(), tmp_path).start()
