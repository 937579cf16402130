"""Taking a partition over from whoever had it before.

A killed worker's transaction may still be open, and the broker gives it up by itself only after half a minute. So that
a successor need not wait, a worker leaves its name with the offset before its first transaction for a partition
(`claim`) and with each commit; the successor fences who is named there and is no member of the group any more
(`settled`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import CoordinationType
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.offset import OffsetRequest

from livejobs.streams.kafka.protocol import OffsetFetch
from livejobs.streams.worker.transactions import ASK_AGAIN_SECONDS, TRANSACTION_SECONDS, Left, Transactions, refuse

SETTLED_SECONDS = 90.0
FENCE_SECONDS = 1.0
"""How long a predecessor may take to end its last transaction by itself."""
UNSTABLE_OFFSET_COMMIT = 88
LATEST = -1

log = logging.getLogger("livejobs.worker")


class Takeover:
    """Takes partitions over, for the group and in the name of a worker's transactions."""

    def __init__(self, group: str, transactions: Transactions) -> None:
        self._group, self._transactions = group, transactions

    async def settled(self, source: TopicPartition, changelogs: Sequence[TopicPartition]) -> tuple[int, str]:
        """Wait until no predecessor's transaction is open; then the offset committed, -1 if none, and the mark with it.

        After that the ends of the changelogs move by our own transactions only: the coordinator refuses all others.
        Raises Kafka's errors, and TimeoutError.
        """
        async with asyncio.timeout(SETTLED_SECONDS):
            fence_at = time.monotonic() + FENCE_SECONDS
            while True:
                offset, left, code = await self._committed(source, stable=True)
                if code == 0 and await self._are_closed(changelogs):
                    return offset, left.mark
                if time.monotonic() > fence_at:
                    await self._fence_owner(source)
                    fence_at = math.inf
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def claim(self, source: TopicPartition, offset: int, mark: str) -> None:
        """Leave our name with a partition's offset: from now on a successor knows whom to fence.

        No transaction does it: one that we are killed in would name nobody. Raises LostError, Kafka's errors, and
        TimeoutError.
        """
        group, (generation, member_id, _) = self._group, self._transactions.me()
        topics = [(source.topic, [(source.partition, offset, self._transactions.left(mark))])]
        request = OffsetCommitRequest(group, generation, member_id, OffsetCommitRequest.DEFAULT_RETENTION_TIME, topics)

        def codes(answer: Any) -> list[int]:
            return [code for _, partitions in answer.topics for _, code in partitions]

        async with asyncio.timeout(TRANSACTION_SECONDS):
            await self._transactions.ask(CoordinationType.GROUP, group, request, codes)

    async def _committed(self, source: TopicPartition, *, stable: bool) -> tuple[int, Left, int]:
        """Offset (-1: none), what was left with it, and an error code."""
        group = self._group
        request = OffsetFetch(group, [(source.topic, [source.partition], {})], stable)

        def codes(answer: Any) -> list[int]:
            found = [part[4] for _, partitions, _ in answer.topics for part in partitions]
            return [answer.error_code, *(code for code in found if code != UNSTABLE_OFFSET_COMMIT)]

        answer = await self._transactions.ask(CoordinationType.GROUP, group, request, codes)
        _, offset, _, metadata, code, _ = answer.topics[0][1][0]
        return offset, Left.of(metadata or ""), code

    async def _fence_owner(self, source: TopicPartition) -> None:
        """Make the broker give up what the last owner has left open, unless that is a member of the group.

        Members have ended their transactions before they were given new partitions; what is open may be the broker,
        which has not written it down yet. And it gives up by itself, later, what nobody ends.
        """
        _, (owner, member_id, _), _ = await self._committed(source, stable=False)
        if not owner.startswith(f"{self._group}-") or owner == self._transactions.transactional_id:
            return
        if member_id not in await self._members():
            log.info("partition %d: what %s has left open is given up", source.partition, owner)
            await self._transactions.give_up(owner)

    async def _members(self) -> set[str]:
        """The quoted ids of the group's members, ours among them."""
        group = self._group
        request = DescribeGroupsRequest([group])

        def codes(answer: Any) -> list[int]:
            return [found[0] for found in answer.groups]

        answer = await self._transactions.ask(CoordinationType.GROUP, group, request, codes)
        return {quote(member[0]) for found in answer.groups for member in found[5]}

    async def _are_closed(self, changelogs: Sequence[TopicPartition]) -> bool:
        """Whether all that is in the changelogs is committed, or given up."""
        for tp in changelogs:
            if await self._end(tp, READ_COMMITTED) != await self._end(tp, READ_UNCOMMITTED):
                return False
        return True

    async def _end(self, tp: TopicPartition, isolation_level: int) -> int:
        client = self._transactions.client
        while True:
            leader = client.cluster.leader_for_partition(tp)
            if leader not in {None, -1}:
                request = OffsetRequest(-1, isolation_level, [(tp.topic, [(tp.partition, LATEST)])])
                _, code, _, offset = (await client.send(leader, request)).topics[0][1][0]
                if code == 0:
                    return int(offset)
                if not kafka_errors.for_code(code).retriable:
                    refuse(code)
            await client.force_metadata_update()
            await asyncio.sleep(ASK_AGAIN_SECONDS)
