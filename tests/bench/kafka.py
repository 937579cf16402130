"""The benchmark's own broker, its topics, and what is written to them beforehand."""

import gc
import random
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench.generate import Event, Expected
from bench.measure import BenchError, Program, poll

PORTS = range(20_000, 32_000)
"""Below those from which Linux takes the ports of outgoing connections."""
START_SECONDS_MAX = 600.0
"""The first start fetches Kafka."""
REQUEST_SECONDS_MAX = 30.0
PRELOAD_SECONDS_MAX = 600.0
EVENTS_SETTINGS = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1", "max.message.bytes": "1064960"}
OUTPUT_SETTINGS = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}
"""The broker's clock stamps the answers of all programs alike."""
EVENTS_BETWEEN_POLLS = 1000


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port on 127.0.0.1")


@dataclass
class Input:
    """A topic of job events that is written once, and read by each program measured."""

    topic: str
    partitions: int
    events: int
    ends: list[int]
    begins: list[int]
    """Offsets behind the part that only lays the ground (`preload`'s `ground`)."""
    expected: dict[str, Expected]
    last: dict[str, tuple[int, int]]
    """Partition and offset of each regression's last message."""


class Broker:
    """`livejobs broker` on a free port of 127.0.0.1, with its data in `folder`; runs inside the block."""

    def __init__(self, livejobs: Path, folder: Path, log: Path, seconds_max: float) -> None:
        self._folder = folder / "broker"
        self.address = f"127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        command = [livejobs, "broker", "--port", port, "--datadir", self._folder]
        self._program = Program(command, log, seconds_max=seconds_max)
        self._numbers = iter(range(1, 1_000_000))

    def __enter__(self) -> Self:
        try:
            poll(self._is_up, START_SECONDS_MAX, "the broker's start")
            self.admin = AdminClient({"bootstrap.servers": self.address, "log_level": 2})
            self.pid = int((self._folder / "broker.pid").read_text())
        except BaseException:
            self._program.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._program.stop()

    def _is_up(self) -> bool:
        self._program.assert_running()
        return any(line.startswith(f"ready on {self.address}") for line in self._program.log.read_text().splitlines())

    def name(self, what: str) -> str:
        """A name that nothing has had."""
        return f"{what}-{next(self._numbers)}"

    def create(self, topic: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Make a topic; returns when it can be written."""
        for made in self.admin.create_topics([NewTopic(topic, partitions, 1, config=dict(settings))]).values():
            made.result(REQUEST_SECONDS_MAX)
        poll(lambda: self._has_leaders(topic, partitions), REQUEST_SECONDS_MAX, f"leaders of {topic}")

    def _has_leaders(self, topic: str, partitions: int) -> bool:
        found = self.admin.list_topics(timeout=REQUEST_SECONDS_MAX).topics.get(topic)
        return found is not None and sum(part.leader >= 0 for part in found.partitions.values()) == partitions

    def topics(self, part: str) -> list[str]:
        """Topics with such a part in their names."""
        return [name for name in self.admin.list_topics(timeout=REQUEST_SECONDS_MAX).topics if part in name]

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics."""
        if topics:
            for deleted in self.admin.delete_topics(list(topics)).values():
                deleted.result(REQUEST_SECONDS_MAX)

    def ends(self, topic: str, partitions: int) -> list[int]:
        """The offset behind each partition's last message."""
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}
        found = self.admin.list_offsets(asked, request_timeout=REQUEST_SECONDS_MAX)
        return [found[tp].result(REQUEST_SECONDS_MAX).offset for tp in asked]

    def committed(self, group: str, source: Input) -> list[int]:
        """What a group has committed of each partition; -1 where nothing."""
        tps = [TopicPartition(source.topic, number) for number in range(source.partitions)]
        try:
            # Of a broker that is no coordinator yet librdkafka's answer is a segmentation fault (its issue 5040).
            if self._state(group) is ConsumerGroupState.DEAD:
                return [-1] * source.partitions
            asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, tps)])[group]
            return [max(tp.offset, -1) for tp in asked.result(REQUEST_SECONDS_MAX).topic_partitions]
        except (KafkaException, TimeoutError):  # there is no such group yet, or a broker that has just started
            return [-1] * source.partitions

    def is_empty(self, group: str) -> bool:
        """Whether a group has no members any more."""
        return self._state(group) in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)

    def _state(self, group: str) -> Any:
        found = self.admin.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS_MAX)[group]
        return found.result(REQUEST_SECONDS_MAX).state

    def producer(self, **settings: Any) -> Producer:
        """A producer for what is written beforehand."""
        return Producer(
            {
                "bootstrap.servers": self.address,
                "enable.idempotence": True,
                "linger.ms": 50,
                "batch.size": 512 * 1024,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 256 * 1024,
            }
            | settings
        )

    def consumer(self, topics: Mapping[str, int], **settings: Any) -> Consumer:
        """A consumer of all partitions of topics (name -> count), from their beginnings, read committed."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "bench-watch",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
            | settings
        )
        consumer.assign(
            [TopicPartition(topic, number, 0) for topic, count in topics.items() for number in range(count)]
        )
        return consumer

    def preload(
        self,
        what: str,
        partitions: int,
        expected: dict[str, Expected],
        events: Iterable[Event],
        ground: Iterable[Event] = (),
    ) -> Input:
        """Write events to a new topic, behind those that only lay the ground; `expected` is complete when all are made."""
        topic = self.name(what)
        self.create(topic, partitions, EVENTS_SETTINGS)
        begins, ends = [0] * partitions, [0] * partitions
        last: dict[str, tuple[int, int]] = {}

        def counted(some: Iterable[Event], counts: Sequence[list[int]]) -> Iterable[Event]:
            for event in some:
                last[event.key.decode()] = (event.partition, ends[event.partition])
                for count in counts:
                    count[event.partition] += 1
                yield event

        self.write(topic, chain(counted(ground, (begins, ends)), counted(events, (ends,))))
        found = self.ends(topic, partitions)
        if found != ends:
            raise BenchError(f"{topic} holds {found}, expected {ends}")
        return Input(topic, partitions, sum(ends) - sum(begins), ends, begins, expected, last)

    def write(self, topic: str, events: Iterable[Event]) -> None:
        """Write events to a topic; returns when all are acknowledged. Raises BenchError."""
        producer, errors = self.producer(), []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                errors.append(error)

        deadline = time.monotonic() + PRELOAD_SECONDS_MAX
        gc.disable()  # there are millions of small objects, and no cycles
        try:
            for number, event in enumerate(events):
                if number % EVENTS_BETWEEN_POLLS == 0:
                    producer.poll(0)
                    if errors or time.monotonic() > deadline:
                        break
                _produce(producer, topic, event, delivered)
            left = producer.flush(max(1.0, deadline - time.monotonic()))
        finally:
            gc.enable()
        if left or errors or time.monotonic() > deadline:
            raise BenchError(f"{topic} can't be written in {PRELOAD_SECONDS_MAX:.0f} s: {errors[:1]}")


def _produce(producer: Producer, topic: str, event: Event, delivered: Any) -> None:
    while True:
        try:
            producer.produce(
                topic, event.body, event.key, event.partition, headers=[("type", event.kind)], on_delivery=delivered
            )
        except BufferError:
            producer.poll(0.1)
        else:
            return
