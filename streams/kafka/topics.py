"""Our four topics on the broker: as deploy/topics.toml wants them, made where missing, compared where there.

Nothing here alters or deletes a topic. Every function raises TopicsError, of one line.
"""

import asyncio
import contextlib
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import resources
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from livejobs.streams.config import Config
from livejobs.streams.kafka.client import Heard, client_options
from livejobs.tables.times import DAY_MS

LEADERS_SECONDS_MAX = 30.0
REQUEST_MS = 30_000


class TopicsError(RuntimeError):
    """The topics can't be used, made or looked at; the message names the topic and says what to do."""


class BrokerAwayError(TopicsError):
    """No broker answers."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as wanted, or as found (then `settings` holds only the keys that were asked for)."""

    name: str
    partitions: int
    replication: int
    settings: dict[str, str]
    same_count: bool = True
    """Whether its partition count must be that of the configuration; a record of `job-rejects` may be anywhere."""


def wanted(config: Config) -> list[Topic]:
    """The four topics as they must be: job-events, jobs, regression-stats, job-rejects."""
    kafka = config.kafka
    document = tomllib.loads(resources.files("livejobs.deploy").joinpath("topics.toml").read_text(encoding="utf-8"))
    values = {
        "events_retention_ms": round(config.sigs.eventsretentiondays * DAY_MS),
        "in_sync": min(2, kafka.replication),
    }
    names = {
        "events": kafka.events_topic,
        "jobs": kafka.jobs_topic,
        "stats": kafka.stats_topic,
        "rejects": kafka.rejects_topic,
    }
    return [
        Topic(
            name=name,
            partitions=kafka.partitions,
            replication=kafka.replication,
            settings={key: text.format_map(values) for key, text in {**document["all"], **document[section]}.items()},
            same_count=section != "rejects",
        )
        for section, name in names.items()
    ]


async def differences(config: Config) -> list[str]:
    """One line for each thing that is not as wanted; empty when all is well."""
    async with _admin(config) as admin:
        return await _differences(admin, wanted(config))


async def create(config: Config, created: Callable[[str], None] = lambda _name: None) -> list[str]:
    """Make the topics that are missing, call `created` with the name of each, and return the differences that remain.

    When it returns, each partition of a new topic has a leader.
    """
    topics = wanted(config)
    async with _admin(config) as admin:
        there = await _metadata(admin)
        missing = [topic for topic in topics if topic.name not in there]
        failures = await _make(admin, missing, created)
        await _wait_for_leaders(admin, [topic for topic in missing if topic.name not in failures])
        if failures:
            raise TopicsError("; ".join(failures.values()))
        return await _differences(admin, topics)


async def assert_usable(config: Config) -> int:
    """The partition count that job-events, jobs and regression-stats share: what a worker asks before it starts.

    Raises TopicsError when a topic is missing, the counts differ, or job-events does not have the broker's clock.
    """
    names = [topic.name for topic in wanted(config)]
    events = config.kafka.events_topic
    key = "message.timestamp.type"
    async with _admin(config) as admin:
        there = await _metadata(admin)
        missing = [name for name in names if name not in there]
        if missing:
            raise TopicsError(f"missing on the broker: {', '.join(missing)}; make it with `livejobs topics create`")
        settings = (await _settings(admin, {events: [key]}))[events]
    counts = {name: len(there[name]["partitions"]) for name in names[:3]}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TopicsError(f"these topics must have the same number of partitions, but have: {listed}")
    if settings.get(key) != "LogAppendTime":
        raise TopicsError(f"{events}: {key} must be LogAppendTime, not {settings.get(key)}: our clock is the broker's")
    return counts[events]


async def tombstones_ms(config: Config) -> int:
    """How long jobs and regression-stats keep a tombstone at least: their delete.retention.ms, the lesser one."""
    key = "delete.retention.ms"
    async with _admin(config) as admin:
        settings = await _settings(admin, {config.kafka.jobs_topic: [key], config.kafka.stats_topic: [key]})
    return min(int(found[key]) for found in settings.values())


@contextlib.asynccontextmanager
async def _admin(config: Config) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client, closed in the end; the client's errors become ours."""
    admin = AIOKafkaAdminClient(**client_options(config.kafka), request_timeout_ms=REQUEST_MS)
    heard = Heard()
    try:
        with heard:
            await admin.start()
            yield admin
    except KafkaConnectionError as error:
        raise BrokerAwayError(f"no Kafka broker answers at {config.kafka.brokers}{heard}") from error
    except KafkaError as error:
        raise TopicsError(f"the Kafka broker at {config.kafka.brokers} refuses: {error!r}{heard}") from error
    finally:
        await admin.close()


async def _metadata(admin: AIOKafkaAdminClient) -> dict[str, dict[str, Any]]:
    """Name -> description of every topic that we may see. To ask for one by name could make it."""
    return {topic["topic"]: topic for topic in await admin.describe_topics()}


async def _make(admin: AIOKafkaAdminClient, topics: list[Topic], created: Callable[[str], None]) -> dict[str, str]:
    """Create them all; name -> why not, for each that could not be."""
    if not topics:
        return {}
    new = [NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=topic.settings) for topic in topics]
    failures = {}
    for name, code, message in (await admin.create_topics(new, timeout_ms=REQUEST_MS)).topic_errors:
        if code == 0:
            created(name)
        elif code != TopicAlreadyExistsError.errno:  # made by another between our look and now
            failures[name] = f"{name} can't be created: {message or for_code(code).__name__}"
    return failures


async def _wait_for_leaders(admin: AIOKafkaAdminClient, topics: list[Topic]) -> None:
    deadline = time.monotonic() + LEADERS_SECONDS_MAX
    for topic in topics:
        while True:
            found = (await _metadata(admin)).get(topic.name, {"partitions": []})["partitions"]
            if found and all(partition["leader"] >= 0 for partition in found):
                break
            if time.monotonic() > deadline:
                raise TopicsError(f"{topic.name} is created, but after {LEADERS_SECONDS_MAX:.0f} s not all of it is up")
            await asyncio.sleep(0.1)


async def _settings(admin: AIOKafkaAdminClient, asked: Mapping[str, list[str]]) -> dict[str, dict[str, str]]:
    """Topic -> key -> value as it is on the broker, its own or the broker's default, for the keys asked for."""
    if not asked:
        return {}
    wishes = [
        ConfigResource(ConfigResourceType.TOPIC, name, configs=dict.fromkeys(keys)) for name, keys in asked.items()
    ]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(wishes):
        for resource in response.to_object()["resources"]:
            name, code = resource["resource_name"], resource["error_code"]
            if code != 0:
                reason = resource["error_message"] or for_code(code).__name__
                raise TopicsError(f"the settings of {name} can't be read: {reason}")
            found[name] = {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]}
    return found


async def _differences(admin: AIOKafkaAdminClient, topics: list[Topic]) -> list[str]:
    there = await _metadata(admin)
    settings = await _settings(admin, {topic.name: list(topic.settings) for topic in topics if topic.name in there})
    lines = []
    for topic in topics:
        if topic.name not in there:
            lines.append(f"{topic.name}: missing")
            continue
        partitions = there[topic.name]["partitions"]
        found = Topic(
            name=topic.name,
            partitions=len(partitions),
            replication=min((len(partition["replicas"]) for partition in partitions), default=0),
            settings=settings[topic.name],
        )
        lines += compare(topic, found)
    return lines


def compare(topic: Topic, found: Topic) -> list[str]:
    """One line for each setting of `found` that is not as in `topic` (pure)."""
    lines = []
    if topic.same_count and found.partitions != topic.partitions:
        lines.append(f"{topic.name}: {found.partitions} partitions, wanted {topic.partitions}")
    if found.replication != topic.replication:
        lines.append(f"{topic.name}: replication {found.replication}, wanted {topic.replication}")
    for key, value in topic.settings.items():
        if found.settings.get(key) != value:
            lines.append(f"{topic.name}: {key} is {found.settings.get(key)}, wanted {value}")
    return lines
