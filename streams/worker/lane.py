"""The batch lane: Faust with one message for many, and with the partitions opened and acknowledged by us.

Faust's own path costs four asyncio tasks a message, acknowledges what an agent failed on, and restores tables one
record at a time. The lane keeps its app, agents, assignment and timers, and replaces three things in its consumer: what
is fetched of a partition waits there, and *one* message tells its agent; a partition is fetched only once its store is
open (`Owner.open_all`), from the offset that the store says; committing is nothing, for the transaction has done it
(`streams.worker.commit`).
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol, cast

import aiokafka
import faust
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from faust.serializers.codecs import Codec
from faust.tables.manager import TableManager
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport
from faust.types import TP, ConsumerMessage

from livejobs.streams.kafka.client import client_options
from livejobs.streams.worker import resume
from livejobs.streams.worker.transactions import Member
from livejobs.tables.store import StoreError

BATCH_RECORDS_MAX = 8_000
"""Records fetched at once, and records of a partition that wait for its agent; then it is not fetched further."""
FETCHED_BYTES_MAX = 24 * 1024 * 1024
"""Of all partitions, fetched ahead and not yet taken; each has its share."""
FETCH_BYTES_MAX = 3 * 1024 * 1024
"""The share of a partition is not more."""
QUEUED_BYTES_MAX = 12 * 1024 * 1024
"""Of all partitions, taken and not yet committed, as they are in memory; then nothing is taken."""
IDLE_SECONDS = 0.2
FULL_SECONDS = 0.01
"""How long a fetch waits for messages; while some partition's queue is full, only shortly."""
SESSION_SECONDS = 6.0
REBALANCE_SECONDS = 60.0
POLL_MS_MAX = 2**31 - 1
"""aiokafka would leave the group when nothing is fetched for long, as in a long restore; the watchdog knows better."""


class Owner(Protocol):
    """Who opens and closes partitions; `ready` are the open ones by number (`streams.worker.commit.Partition`)."""

    topic: str
    partitions: int
    ready: dict[int, Any]
    config: Any
    lane: "LaneThread | None"

    def open_all(self, numbers: set[int]) -> None: ...
    async def close_all(self) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class PartitionCodec(Codec):
    """Hands a partition through Faust's deserialization untouched."""

    def _loads(self, s: Any) -> Any:
        return s

    def _dumps(self, s: Any) -> Any:
        return s


class LaneThread(AIOKafkaConsumerThread):
    """Faust's consumer thread; its consumer reads committed, and keeps partitions where they are in a rebalance."""

    app: "LaneApp"

    def _create_worker_consumer(self, _transport: Transport) -> aiokafka.AIOKafkaConsumer:
        config = self.app.owner.config
        self._assignor = StickyPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            **client_options(config.kafka),
            group_id=config.kafka.group,
            group_instance_id=config.worker.instanceid or None,
            partition_assignment_strategy=[StickyPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=min(FETCH_BYTES_MAX, FETCHED_BYTES_MAX // self.app.owner.partitions),
            fetch_max_wait_ms=500,
            check_crcs=True,
            session_timeout_ms=int(SESSION_SECONDS * 1000),
            heartbeat_interval_ms=int(SESSION_SECONDS * 250),
            rebalance_timeout_ms=int(REBALANCE_SECONDS * 1000),
            max_poll_interval_ms=POLL_MS_MAX,
            request_timeout_ms=40_000,
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {}  # each partition is sought when its store is open

    # What the watchdog asks, from its own thread.

    def next_to_fetch(self, number: int) -> int:
        """Offset of a partition's next message to fetch, transactions' marks skipped; -1: not known."""
        subscription = self._consumer._subscription.subscription if self._consumer is not None else None
        assignment = subscription.assignment if subscription is not None else None
        tp = TopicPartition(self.app.owner.topic, number)
        if assignment is None or tp not in assignment.tps:
            return -1
        position = assignment.state_value(tp)._position
        return -1 if position is None else int(position)

    def is_member(self) -> bool:
        """Whether the group has given us our part, even if that is no partition, and takes us for alive."""
        consumer: Any = self._consumer
        subscription = consumer._subscription.subscription if consumer is not None else None
        if subscription is None or consumer._coordinator._coordination_task.done():
            return False
        return not consumer._coordinator.need_rejoin(subscription)


class LaneConsumer(Consumer):
    """Faust's consumer with one message a partition batch."""

    app: "LaneApp"
    _thread: LaneThread

    def _new_consumer_thread(self) -> LaneThread:
        self.app.owner.lane = LaneThread(self, loop=self.loop, beacon=self.beacon)
        return self.app.owner.lane

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        await self.app.owner.close_all()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.app.owner.close_all()
        await super().on_partitions_assigned(assigned, generation_id)
        self.app.owner.open_all({tp.partition for tp in assigned if tp.topic == self.app.owner.topic})

    async def start_at(self, number: int, offset: int) -> None:
        """Fetch a partition from an offset on."""
        tp = TopicPartition(self.app.owner.topic, number)
        await self._thread.call_thread(self._seek_now, tp, offset)

    def member(self) -> Member:
        """Who we are in the group, since the last assignment."""
        known = self._thread._ensure_consumer()._coordinator
        return Member(known.generation, known.member_id, self.app.owner.config.worker.instanceid or None)

    async def leave(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        await self._thread.call_thread(self._thread._ensure_consumer().stop)

    async def _seek_now(self, tp: TopicPartition, offset: int) -> None:
        self._thread._ensure_consumer().seek(tp, offset)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        ready = self.app.owner.ready
        wanted = {
            tp
            for tp in active_partitions or ()
            if (open_ := ready.get(tp.partition)) is not None and len(open_.waiting) < BATCH_RECORDS_MAX
        }
        if not wanted or sum(partition.queued_bytes for partition in ready.values()) >= QUEUED_BYTES_MAX:
            await self.sleep(FULL_SECONDS)
            return {}
        # A full partition may have room before the others have messages: then don't wait for those for long.
        return await super()._getmany(wanted, IDLE_SECONDS if len(wanted) == len(ready) else FULL_SECONDS)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield one message for each partition that has messages waiting again: its value is the partition."""
        fetched, _ = await self._wait_next_records(timeout)
        if not fetched or self.should_stop:
            return
        for tp, records in fetched.items():
            partition = self.app.owner.ready.get(tp.partition)
            if not self.flow_active or partition is None or not records:
                continue
            start = partition.fetch_offset
            if records[-1].offset < start:
                continue  # fetched before the partition was sought
            if records[0].offset < start:
                records = [record for record in records if record.offset >= start]  # noqa: PLW2901
            if records[0].offset > start:
                await self._refuse_gap(tp, start)
            if not partition.add(records):
                continue
            yield (
                tp,
                ConsumerMessage(
                    tp.topic,
                    tp.partition,
                    records[-1].offset,
                    records[-1].timestamp / 1000,
                    1,
                    [],
                    None,
                    cast("bytes", partition),
                    None,
                    0,
                    0,
                    tp,
                    generation_id=self.app.consumer_generation_id,
                ),
            )

    async def _refuse_gap(self, tp: TP, start: int) -> None:
        """A gap before a batch is a transaction's marker, unless messages were removed before we read them."""
        first = (await self.earliest_offsets(tp))[tp]
        if first > start:
            kafka, end = self.app.owner.config.kafka, (await self.highwaters(tp))[tp]
            self.app.owner.fail(StoreError(resume.cut(kafka, tp.partition, start, first, end)))

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust notes each offset that it did not see; ours are inside the batches."""

    def ack(self, message: Any) -> bool:
        """Nothing is left to do: the transaction has committed the offset."""
        if not message.acked:
            message.acked = True
            self._unacked_messages.discard(message)
        return True

    async def _commit(self, _offsets: Mapping[TP, int]) -> bool:
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own stall detection counts messages, and only logs; ours is the watchdog."""


class LaneProducer(Producer):
    """Faust's own producer, which nothing uses: it is not started, and so needs no connection and no login."""

    async def on_start(self) -> None:
        pass

    async def on_stop(self) -> None:
        pass


class LaneTransport(Transport):
    """Faust's transport with the lane's consumer."""

    Consumer = LaneConsumer
    Producer = LaneProducer


class LaneTables(TableManager):
    """Faust's own tables, of which there are none: it would give them a second to be registered at each start."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class LaneApp(faust.App):
    """A Faust app whose consumer is the batch lane; `owner` is set before it starts."""

    owner: Owner

    def _new_transport(self) -> LaneTransport:
        return LaneTransport(self.conf.broker_consumer, self)


def faust_settings(config: Any) -> dict[str, Any]:
    """The Faust settings of the worker: its own web server, topic creation, tables and waits are off."""
    context: ssl.SSLContext | None = client_options(config.kafka).get("ssl_context")
    return {
        "broker": [f"kafka://{broker.strip()}" for broker in config.kafka.brokers.split(",")],
        "ssl_context": context,
        "web_enabled": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "TableManager": LaneTables,
        "table_standby_replicas": 0,
        "stream_wait_empty": False,
        "stream_recovery_delay": 0.0,
        "broker_session_timeout": SESSION_SECONDS,
        "broker_heartbeat_interval": SESSION_SECONDS / 4,
        "broker_commit_interval": 3600.0,
        "stream_buffer_maxsize": 64,
        "broker_max_poll_records": BATCH_RECORDS_MAX,
        "value_serializer": PartitionCodec(),
        "store": "memory://",
    }
