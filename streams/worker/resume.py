"""Where a partition goes on: the next message to apply, from whatever is left that knows.

The committed offset and the store's own position say it exactly. Both can be lost: Kafka forgets the offsets of a group
that was away for a week, and a disk can be replaced. Then the two outputs say how far the last worker was at least: the
greatest version among the statistics, and the last reject. What came behind these and left no trace (ticks, messages
that changed nothing, messages sent on to their own partition) is applied again, which changes no table.
"""

from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from livejobs.streams.config import Config, Kafka
from livejobs.streams.core.fold import EPOCH_BITS
from livejobs.streams.core.rules import Rules
from livejobs.tables import keys, regressions
from livejobs.tables.store import Store

REJECTS_MAX = 10_000
"""How many of the last rejects are looked through; those of several partitions may share one."""
OFFSET_MASK = (1 << EPOCH_BITS) - 1


class Mark(msgspec.Struct, frozen=True):
    """What each commit says beside its offset: for the verifier, which must fold by the same rules."""

    rules: Rules
    """The rules in force."""
    since: int
    """The first message to which they were applied."""

    @classmethod
    def of(cls, text: str) -> "Mark | None":
        """What `str` has made of a mark; None if it is something else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError:
            return None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


def marked(rules: Rules, source: int, last: str) -> str:
    """The mark of all commits of a worker that goes on at `source`, after the last one's."""
    before = Mark.of(last)
    return str(before if before is not None and before.rules == rules else Mark(rules, source))


async def traced(consumer: AIOKafkaConsumer, config: Config, number: int, store: Store) -> int:
    """The offset behind the last message of which the outputs have a trace; -1 if they have none.

    The store is up to date; the consumer reads committed, and is this call's alone.
    """
    versions = [regressions.from_stored(stored).version for _, stored in store.scan(keys.REGRESSION, b"S")]
    if not versions:  # whoever deletes a table that is lost wants all folded anew, whatever was rejected before
        return -1
    rejected = await _rejected(consumer, config, number)
    return 1 + max(rejected, *(version & OFFSET_MASK for version in versions))


async def _rejected(consumer: AIOKafkaConsumer, config: Config, number: int) -> int:
    """The offset of the partition's last message that was rejected; -1 if there is none."""
    topic = config.kafka.rejects_topic
    any_tp = TopicPartition(topic, 0)
    consumer.assign([any_tp])
    await consumer.beginning_offsets([any_tp])  # now it knows how many there are
    tp = TopicPartition(topic, number % len(consumer.partitions_for_topic(topic)))
    consumer.assign([tp])
    first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    consumer.seek(tp, max(first, end - REJECTS_MAX))
    last = -1
    while await consumer.position(tp) < end:
        for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, []):
            last = max(last, _source_offset(record, config.kafka.events_topic, number))
    return last


def _source_offset(record: Any, topic: str, number: int) -> int:
    heads = dict(record.headers)  # ours stand behind those of the message, and so win
    source = heads.get("__streams.errors.topic"), heads.get("__streams.errors.partition")
    return int(heads["__streams.errors.offset"]) if source == (topic.encode(), b"%d" % number) else -1


def cut(kafka: Kafka, number: int, known: int, first: int, end: int) -> str:
    """What to say when the topic does not hold the next message to apply; it holds those from `first` to `end`."""
    if known < first:
        why = "messages were removed before they were read"
        remedy = f"to go on without them, set the offset of the group {kafka.group} to {first}"
    else:
        why = "it was made anew, or has lost its end"
        remedy = "restore it, or begin with other topics (another [kafka] topicprefix)"
    holds = f"the next message to apply is {known}, the topic holds {first} to {end}"
    return f"{kafka.events_topic} partition {number}: {holds}: {why}; {remedy}"
