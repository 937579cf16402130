"""Sends batches to the leaders of their partitions: several of a partition may be on their way.

aiokafka sends a partition's next batch when the last one is acknowledged. Up to five can be on their way and are still
written once and in order, for a broker remembers the last five that a producer has written to a partition: it refuses
one that does not follow them, and acknowledges one again that it has (KIP-98; KAFKA-5494 for the five). So after an
error all that is not acknowledged is sent again, as it was, from the first one on.

A partition that was idle or had an error has one on its way until that is acknowledged: a broker that has forgotten a
producer, or has never heard of it, takes any batch for the first one. A broker that was restarted remembers only the
last batch, so it may refuse the first of several that it has: then those are sent once more, and its acknowledgement of
one of them is one of all before it.
"""

import asyncio
from collections import defaultdict, deque
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition, errors
from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest

from livejobs.streams.publisher.batch import Batch
from livejobs.streams.publisher.producer import REQUEST_SECONDS_MAX

ON_THE_WAY_MAX = 5
"""Batches of a partition, and requests to a broker."""
ON_THE_WAY_BYTES_MAX = 8 * 1024 * 1024
"""Of requests to a broker, when there are several: a slow network must take them in the time of a request."""
REQUEST_BYTES_MIN = 128 * 1024
"""Of a request that is sent while another one is on its way: what is less waits, so that more may join it."""
BACKOFF_SECONDS = 0.1
"""From news of the cluster after an error to the next attempt."""
SEQUENCES = 1 << 31
NO_LEADER = (None, -1)


class _Sealed:
    """A batch that can't change any more."""

    __slots__ = ("acknowledged", "answered", "data", "error")

    def __init__(self, data: Any) -> None:
        self.data = data
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
        self.error: Exception | None = None
        """The last one, until something is acknowledged."""
        self._sent = 0
        """So many were on their way once, the first ones."""
        self._failed = False
        """One on its way has an error: nothing is sent until all of them are answered."""
        self._most = 1
        """So many may be on their way."""
        self._again = False
        """The first one was refused, alone, and all that may be written are sent once more."""

    def next(self) -> _Sealed | None:
        """The batch that may be sent now."""
        held = self.resting or (self._failed and not self._again)
        return None if held or self.flying >= min(self._most, len(self.batches)) else self.batches[self.flying]

    def leaves(self) -> None:
        """What `next` gave is on its way."""
        self.flying += 1
        self._sent = max(self._sent, self.flying)

    def answer(self, batch: _Sealed, error: Exception | None) -> bool:
        """Take in what became of a batch; returns whether what is not acknowledged must be sent again."""
        batch.answered, batch.error = True, error
        if error is not None:
            self._failed, self.error = True, error
        while self.flying and self.batches[0].answered and self.batches[0].error is None:
            self._acknowledge()
        flying = list(islice(self.batches, self.flying))
        missing = self._again and self.flying < self._sent
        if missing or not self._failed or not all(one.answered for one in flying):
            return False
        return self._go_on(flying)

    def _go_on(self, flying: list[_Sealed]) -> bool:
        """All are answered, and the first one has an error; of those behind it little is known."""
        first, again = flying[0], False
        if isinstance(first.error, errors.OutOfOrderSequenceNumber):
            alone = self._most == 1  # else it may have overtaken the one before it, over another connection
            written = max((at for at, one in enumerate(flying, 1) if one.error is None), default=0)
            if self._again:
                for _ in range(written):
                    self._acknowledge()  # a broker takes none before those that it follows
                again = not written and any(_may_pass(one.error) for one in flying)
                refused = not written and not again
            else:
                again = alone and self._sent > 1
                refused = alone and not again
        else:
            refused = not _may_pass(first.error)
        if refused and first.error is not None:
            if not first.acknowledged.done():
                first.acknowledged.set_exception(first.error)
            return False
        for one in flying:
            one.answered, one.error = False, None
        self.flying, self._failed, self._again = 0, False, again
        self._most = self._sent if again else 1
        return True

    def _acknowledge(self) -> None:
        first = self.batches.popleft()
        self.flying -= 1
        self._sent -= 1
        self._most, self._again = ON_THE_WAY_MAX if self.batches else 1, False
        self.error = None
        if not first.acknowledged.done():
            first.acknowledged.set_result(None)


def _may_pass(error: Exception | None) -> bool:
    return bool(getattr(error, "retriable", False))


class Sender:
    """Sends to one topic, as a producer that is idempotent and has started."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._client, self._cluster = producer.client, producer.client.cluster
        self._identity = producer._txn_manager  # noqa: SLF001
        self._topic = topic
        self._queues: dict[int, _Queue] = {}
        self._on_the_way: defaultdict[int, list[int]] = defaultdict(list)
        """The sizes of the requests to each node, in bytes."""
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

    def trouble(self, partition: int) -> Exception | None:
        """Why the batches of a partition are not acknowledged, if that is known."""
        return self._queue(partition).error

    def stop(self) -> None:
        """Send nothing more, and wait for no answer."""
        self._stopped = True
        for request in self._requests:
            request.cancel()

    def _queue(self, partition: int) -> _Queue:
        if partition not in self._queues:
            self._queues[partition] = _Queue(TopicPartition(self._topic, partition))
        return self._queues[partition]

    def _go(self) -> None:
        """Send what may be sent."""
        while not self._stopped and self._go_once():
            pass

    def _go_once(self) -> bool:
        by_node: defaultdict[int | None, list[tuple[_Queue, _Sealed]]] = defaultdict(list)
        for queue in self._queues.values():
            if (batch := queue.next()) is not None:
                by_node[self._cluster.leader_for_partition(queue.tp)].append((queue, batch))
        sent = False
        for node, some in by_node.items():
            if node in NO_LEADER:
                for queue, _ in some:
                    queue.error = self._no_leader()
                    self._rest(queue)
            elif self._has_room(node, size := sum(len(batch.data) for _, batch in some)):
                self._send(node, some, size)
                sent = True
        return sent

    def _no_leader(self) -> Exception:
        unauthorized = self._topic in self._cluster.unauthorized_topics
        return self._error(errors.TopicAuthorizationFailedError if unauthorized else errors.LeaderNotAvailableError)

    def _has_room(self, node: int, size: int) -> bool:
        sizes = self._on_the_way[node]
        several = len(sizes) < ON_THE_WAY_MAX and sum(sizes) + size <= ON_THE_WAY_BYTES_MAX
        return not sizes or (several and size >= REQUEST_BYTES_MIN)

    def _send(self, node: int, some: list[tuple[_Queue, _Sealed]], size: int) -> None:
        for queue, _ in some:
            queue.leaves()
        self._on_the_way[node].append(size)
        request = asyncio.create_task(self._request(node, some, size))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    async def _request(self, node: int, some: list[tuple[_Queue, _Sealed]], size: int) -> None:
        batches = [(queue.tp.partition, batch.data) for queue, batch in some]
        request = ProduceRequest(None, -1, int(1000 * REQUEST_SECONDS_MAX), [(self._topic, batches)])
        found: dict[int, Exception | None] = {}
        missing: Exception = KafkaError("the broker's answer leaves it out")
        try:
            answer = await self._client.send(node, request)
            found = {partition: self._found(code) for _, parts in answer.topics for partition, code, *_ in parts}
        except KeyError:  # aiokafka closes a connection that has timed out, where another request has done so already
            missing = errors.RequestTimedOutError()
        except Exception as error:  # noqa: BLE001  whoever waits for the batches must know
            missing = error
        self._on_the_way[node].remove(size)
        for queue, batch in some:
            if queue.answer(batch, found.get(queue.tp.partition, missing)):
                self._rest(queue)
        self._go()

    def _found(self, code: int) -> Exception | None:
        if code in (errors.NoError.errno, errors.DuplicateSequenceNumber.errno):  # a duplicate is written already
            return None
        return self._error(errors.for_code(code))

    def _error(self, kind: type[KafkaError]) -> Exception:
        error: Exception = kind(f"{kind.__name__} for {self._topic}")
        return error

    def _rest(self, queue: _Queue) -> None:
        """Send nothing of it until the cluster's metadata are new (the leader may be another), and a moment longer."""
        queue.resting = True
        renewed = self._client.force_metadata_update()
        later = asyncio.get_running_loop().call_later
        renewed.add_done_callback(lambda _: later(BACKOFF_SECONDS, self._wake, queue))

    def _wake(self, queue: _Queue) -> None:
        queue.resting = False
        self._go()
