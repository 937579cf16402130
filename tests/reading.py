"""What the tests read from a topic."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from livejobs.streams.config import Config
from livejobs.streams.kafka.client import client_options


def events(config: Config) -> list[Any]:
    """All records of `job-events`, partition by partition in their order."""
    return asyncio.run(_read(config, config.kafka.events_topic))


async def _read(config: Config, topic: str) -> list[Any]:
    async with AIOKafkaConsumer(**client_options(config.kafka), isolation_level="read_committed") as consumer:
        partitions = [TopicPartition(topic, number) for number in range(config.kafka.partitions)]
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        records = []
        for partition in partitions:
            consumer.pause(*partitions)
            consumer.resume(partition)
            while await consumer.position(partition) < ends[partition]:
                for batch in (await consumer.getmany(partition, timeout_ms=1000)).values():
                    records += batch
        return records
