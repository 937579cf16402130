"""Sends batches to the leaders of their partitions: several of a partition may be on their way.

aiokafka sends a partition's next batch when the last one is acknowledged. Up to five can be on their way and are still
written once and in order, for a broker remembers the last five that a producer has written to a partition: it refuses
one that does not follow them, and acknowledges one again that it has (KIP-98; KAFKA-5494 for the five). So after an
error all that is not acknowledged is sent again, as it was, from the first one on.

A partition that was idle or had an error has one on its way until that is acknowledged: a broker that has forgotten a
producer, or has never heard of it, takes any batch for the first one.
"""

import asyncio
from collections import Counter, deque
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition, errors
from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest

from livejobs.streams.publisher.batch import Batch

ON_THE_WAY_MAX = 5
"""Batches of a partition, and requests to a broker."""
REQUEST_BYTES_MIN = 128 * 1024
"""Of a request that is sent while another one is on its way: what is less waits, so that more may join it."""
BACKOFF_SECONDS = 0.1
"""From an error to the next attempt."""
SEQUENCES = 1 << 31
NO_LEADER = (None, -1)


class _Sealed:
    """A batch that can't change any more."""

    __slots__ = ("acknowledged", "answered", "data", "error", "follows")

    def __init__(self, data: Any) -> None:
        self.data = data
        self.follows = False
        """It was sent when others before it may have been on their way."""
        self.answered = False
        self.error: Exception | None = None
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Queue:
    """The batches of one partition, in order; the first `flying` of them are on their way."""

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.batches: deque[_Sealed] = deque()
        self.flying = 0
        self.sequence = 0
        """Of the next record."""
        self.resting = False
        """Nothing is sent, for a moment."""
        self._failed = False
        """One on its way has an error: nothing is sent until all of them are answered."""
        self._proven = False
        """One was acknowledged since it was idle or had an error."""

    def next(self) -> _Sealed | None:
        """The batch that may be sent now."""
        most = min(len(self.batches), ON_THE_WAY_MAX if self._proven else 1)
        return self.batches[self.flying] if self.flying < most and not (self._failed or self.resting) else None

    def leaves(self) -> None:
        """What `next` gave is on its way."""
        self.batches[self.flying].follows = self._proven
        self.flying += 1

    def answer(self, batch: _Sealed, error: Exception | None) -> bool:
        """Take in what became of a batch; returns whether what is not acknowledged must be sent again."""
        batch.answered, batch.error = True, error
        self._failed = self._failed or error is not None
        while self.flying and self.batches[0].answered and self.batches[0].error is None:
            first = self.batches.popleft()
            self.flying -= 1
            self._proven = bool(self.batches)
            if not first.acknowledged.done():
                first.acknowledged.set_result(None)
        if not self._failed or not all(one.answered for one in islice(self.batches, self.flying)):
            return False
        first = self.batches[0]  # it has an error; of those behind it nothing is known
        if first.error is not None and not _may_pass(first.error, first.follows):
            if not first.acknowledged.done():
                first.acknowledged.set_exception(first.error)
            return False
        for one in islice(self.batches, self.flying):
            one.answered, one.error = False, None
        self.flying, self._failed, self._proven = 0, False, False
        return True


def _may_pass(error: Exception, follows: bool) -> bool:
    """Whether a batch's error may be gone with the next attempt."""
    if isinstance(error, errors.OutOfOrderSequenceNumber):
        return follows  # it may have overtaken the one before it, over another connection
    return bool(getattr(error, "retriable", False))


class Sender:
    """Sends to one topic, as a producer that is idempotent and has started."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, request_seconds: float) -> None:
        self._client, self._cluster = producer.client, producer.client.cluster
        self._identity = producer._txn_manager  # noqa: SLF001
        self._topic, self._request_ms = topic, int(1000 * request_seconds)
        self._queues: dict[int, _Queue] = {}
        self._on_the_way: Counter[int] = Counter()
        """Requests, by node."""
        self._requests: set[asyncio.Task[None]] = set()
        self._stopped = False

    def send(self, partition: int, batch: Batch) -> asyncio.Future[None]:
        """Send a batch behind those of its partition that came before. The future has an error where one is final."""
        queue = self._queue(partition)
        data = batch.built(self._identity.producer_id, self._identity.producer_epoch, queue.sequence)
        queue.sequence = (queue.sequence + len(batch)) % SEQUENCES
        sealed = _Sealed(data)
        queue.batches.append(sealed)
        self._go()
        return sealed.acknowledged

    def _queue(self, partition: int) -> _Queue:
        if partition not in self._queues:
            self._queues[partition] = _Queue(TopicPartition(self._topic, partition))
        return self._queues[partition]

    def stop(self) -> None:
        """Send nothing more, and wait for no answer."""
        self._stopped = True
        for request in self._requests:
            request.cancel()

    def _go(self) -> None:
        """Send what may be sent."""
        while not self._stopped and self._go_once():
            pass

    def _go_once(self) -> bool:
        by_node: dict[int | None, list[tuple[_Queue, _Sealed]]] = {}
        for queue in self._queues.values():
            if (batch := queue.next()) is not None:
                by_node.setdefault(self._cluster.leader_for_partition(queue.tp), []).append((queue, batch))
        sent = False
        for node, some in by_node.items():
            if node in NO_LEADER:
                for queue, _ in some:
                    self._rest(queue)
            elif self._may_send(node, some):
                self._send(node, some)
                sent = True
        return sent

    def _may_send(self, node: int, some: list[tuple[_Queue, _Sealed]]) -> bool:
        on_the_way = self._on_the_way[node]
        size = sum(len(batch.data) for _, batch in some)
        return not on_the_way or (on_the_way < ON_THE_WAY_MAX and size >= REQUEST_BYTES_MIN)

    def _send(self, node: int, some: list[tuple[_Queue, _Sealed]]) -> None:
        for queue, _ in some:
            queue.leaves()
        self._on_the_way[node] += 1
        request = asyncio.create_task(self._request(node, some))  # tasks begin in the order in which they were made
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    async def _request(self, node: int, some: list[tuple[_Queue, _Sealed]]) -> None:
        batches = [(queue.tp.partition, batch.data) for queue, batch in some]
        request = ProduceRequest(None, -1, self._request_ms, [(self._topic, batches)])
        found: dict[int, Exception | None] = {}
        missing: Exception = KafkaError("the broker's answer leaves it out")
        try:
            answer = await self._client.send(node, request)
            found = {partition: _error(code) for _, partitions in answer.topics for partition, code, *_ in partitions}
        except Exception as error:  # noqa: BLE001  whoever waits for the batches must know
            missing = error
        self._on_the_way[node] -= 1
        for queue, batch in some:
            if queue.answer(batch, found.get(queue.tp.partition, missing)):
                self._rest(queue)
        self._go()

    def _rest(self, queue: _Queue) -> None:
        queue.resting = True
        self._client.force_metadata_update()  # the leader may be another one
        asyncio.get_running_loop().call_later(BACKOFF_SECONDS, self._wake, queue)

    def _wake(self, queue: _Queue) -> None:
        queue.resting = False
        self._go()


def _error(code: int) -> Exception | None:
    if code in (errors.NoError.errno, errors.DuplicateSequenceNumber.errno):  # a duplicate is written already
        return None
    error: Exception = errors.for_code(code)()
    return error
