"""The topics and the committed offsets, read so that nothing of the system that runs is in the way."""

import asyncio
import time
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from livejobs.streams.config import Config
from livejobs.streams.core.fold import Record
from livejobs.streams.verify.report import VerifyError

BATCH_RECORDS = 10_000
STALL_SECONDS = 90.0
"""Longer than any transaction can stay open."""
LAG_SECONDS = 10.0
"""How long a committed offset may show later than the records of its transaction."""


class Source:
    """The topics and the committed offsets."""

    def __init__(
        self, config: Config, reader: AIOKafkaConsumer, ends: AIOKafkaConsumer, admin: AIOKafkaAdminClient
    ) -> None:
        self.config = config
        self._reader, self._ends, self._admin = reader, ends, admin

    async def to_fold(self, partitions: int) -> dict[int, int]:
        """Messages to fold in each partition, as it looks now."""
        left = {}
        for number in range(partitions):
            first = await self.first(TopicPartition(self.config.kafka.events_topic, number))
            left[number] = max(0, (await self.committed(number) or first) - first)
        return left

    async def committed(self, number: int) -> int | None:
        """The offset up to which the workers have folded a partition; None if the group has none."""
        found = await self.commit(number)
        return None if found is None else int(found.offset)

    async def commit(self, number: int) -> OffsetAndMetadata | None:
        """The last commit of a partition; None if the group has none."""
        kafka = self.config.kafka
        tp = TopicPartition(kafka.events_topic, number)
        until = time.monotonic() + LAG_SECONDS
        while True:
            try:
                found = (await self._admin.list_consumer_group_offsets(kafka.group, partitions=[tp])).get(tp)
                break
            except KafkaError as error:
                if not error.retriable or time.monotonic() > until:
                    raise  # (a broker that has just started makes the topic of the offsets only now)
                await asyncio.sleep(0.2)
        return None if found is None or found.offset < 0 else found

    async def first(self, tp: TopicPartition) -> int:
        """Offset of the first record that is still there."""
        return int((await self._ends.beginning_offsets([tp]))[tp])

    async def end(self, tp: TopicPartition) -> int:
        """Offset behind the last record, that of an open transaction included."""
        return int((await self._ends.end_offsets([tp]))[tp])

    async def read(self, tp: TopicPartition, start: int, end: int) -> AsyncIterator[list[Record]]:
        """The committed records from offset to offset; waits until the transactions between them have ended."""
        self._reader.assign([tp])
        self._reader.seek(tp, start)
        before, moved_at = start, time.monotonic()
        while before < end:
            fetched = (await self._reader.getmany(tp, timeout_ms=200, max_records=BATCH_RECORDS)).get(tp, [])
            if fetched:
                yield fetched if fetched[-1].offset < end else [record for record in fetched if record.offset < end]
            position = await self._reader.position(tp)
            if position > before:
                before, moved_at = position, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                raise VerifyError(
                    f"{tp.topic} partition {tp.partition}: nothing for {STALL_SECONDS:.0f} s at {position} of {end}"
                )
