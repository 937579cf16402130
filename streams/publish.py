"""The publisher: messages checked by the worker's own rules, then sent to `job-events` in the order given.

One idempotent producer with acks=all. A message is in a batch of its partition; a partition has one batch on the way at
a time, the next one waits until it is acknowledged. So what is not delivered is always the end of what was sent, and a
regression's messages never overtake each other.

Needs aiokafka and msgspec, not the worker's packages.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from livejobs.streams import messages
from livejobs.streams.config import Config, Kafka
from livejobs.streams.kafka import client_options
from livejobs.streams.partitioner import partition_of

DELIVERY_SECONDS = 30.0
CONNECT_SECONDS = 10.0
CONNECT_PAUSE_SECONDS = 0.2
REQUEST_SECONDS_MAX = 10.0
CLOSE_SECONDS_MAX = 2.0
LINGER_SECONDS = 0.005
BATCH_BYTES = 512 * 1024
IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024
HEADERS_BYTES_MAX = 8 * 1024
"""Names and values of extra headers: `job-events` has 16 KiB above a body's 1 MiB for them, the key and the framing."""
MESSAGE_OVERHEAD_BYTES = 200
"""Memory of a message beside its body, about: so that small messages are bounded too."""
PARTITIONS_CACHED_MAX = 100_000
MESSAGES_A_TURN = 128
"""After so many the event loop gets a turn: a caller in a tight loop would keep the sockets waiting."""

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class Source(NamedTuple):
    """Where a message came from, to tell a person: a file's name, and its line in NDJSON (0: the whole file)."""

    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


class Message(NamedTuple):
    """A checked message; make it with `checked`."""

    kind: str
    regression: str
    body: bytes
    headers: Headers = ()
    source: Source = Source()


class BrokerAwayError(Exception):
    """Kafka can't be reached or does not take messages; the text is one line that says why."""


class Undelivered(BrokerAwayError):  # noqa: N818  what became of the messages
    """No acknowledgement for `messages`, in the order they were sent in. Some may have arrived all the same."""

    def __init__(self, reason: str, undelivered: Sequence[Message]) -> None:
        super().__init__(reason)
        self.messages = list(undelivered)


def checked(kind: str, regression: str, body: bytes, headers: Headers = (), source: Source | None = None) -> Message:
    """The message to send, its body as given but for white space around it. Raises messages.Reject."""
    check_target(kind, regression)
    body = body.strip()
    if len(body) > messages.MESSAGE_BYTES_MAX:
        allowed = messages.MESSAGE_BYTES_MAX
        raise messages.Reject("too-large", f"body: {len(body)} bytes, allowed are {allowed}")
    messages.check(kind, body)
    if headers:
        _check_headers(headers)
    return Message(kind, regression, body, headers, source or Source())


def check_target(kind: str, regression: str) -> None:
    """The part of `checked` that needs no body. Raises messages.Reject."""
    if kind.startswith(messages.RESERVED_PREFIX):
        raise messages.Reject("bad-type", f"type {kind[:64]!r}: reserved for internal messages")
    if kind not in messages.TYPES:
        allowed = ", ".join(sorted(messages.TYPES))
        raise messages.Reject("bad-type", f"type {kind[:64]!r}: allowed are {allowed}")
    # The shell's arguments carry bytes that are no UTF-8 as lone surrogates: back to bytes, for the check to refuse.
    messages.check_key(regression.encode("utf-8", "surrogatepass"))


def _check_headers(headers: Headers) -> None:
    if any(name == "type" for name, _ in headers):
        raise messages.Reject("bad-type", "header type: given twice")
    size = sum(len(name.encode()) + len(value) for name, value in headers)
    if size > HEADERS_BYTES_MAX:
        raise messages.Reject("too-large", f"headers: {size} bytes, allowed are {HEADERS_BYTES_MAX}")


def send_now(config: Config, kind: str, regression: str, body: bytes, headers: Headers = ()) -> None:
    """Send one message and wait for its acknowledgement; not for use inside an event loop.

    Raises messages.Reject, Undelivered, BrokerAwayError.
    """
    message = checked(kind, regression, body, headers)

    async def send() -> None:
        async with Publisher(config.kafka) as publisher:
            await publisher.post(message)

    asyncio.run(send())


class _Batch:
    """Messages of one partition that are sent together."""

    __slots__ = ("builder", "deadline", "messages", "size")

    def __init__(self, builder: BatchBuilder, deadline: float) -> None:
        self.builder, self.deadline = builder, deadline
        self.messages: list[tuple[int, Message]] = []
        self.size = 0

    def add(self, number: int, message: Message) -> bool:
        """Whether it still fitted in; the first one always does."""
        headers = [("type", message.kind.encode()), *message.headers]
        key = message.regression.encode()
        if self.builder.append(timestamp=None, key=key, value=message.body, headers=headers) is None:
            return False
        self.messages.append((number, message))
        self.size += len(message.body) + MESSAGE_OVERHEAD_BYTES
        return True


class Publisher:
    """An async context manager; entering connects, leaving flushes. Messages of one regression keep their order.

    Entering raises BrokerAwayError after `connect_seconds`, ConfigError when a file that the configuration names can't
    be used. A message without an acknowledgement `delivery_seconds` after `send` took it is not delivered. With the
    first such message the publisher has failed: all that is still on the way counts as undelivered, nothing more is
    sent, and `send`, `flush` and leaving raise Undelivered with it.
    """

    def __init__(
        self, kafka: Kafka, *, delivery_seconds: float = DELIVERY_SECONDS, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._kafka, self._topic = kafka, kafka.events_topic
        self._delivery_seconds, self._connect_seconds = delivery_seconds, connect_seconds
        self._producer: AIOKafkaProducer | None = None
        self._partitions = 0
        self._partition_of: dict[str, int] = {}
        self._open: dict[int, _Batch] = {}
        self._sealed: dict[int, deque[_Batch]] = {}
        self._pumps: dict[int, asyncio.Task[None]] = {}
        self._bytes = 0
        self._taken = 0
        self._changed = asyncio.Event()
        self._failure: str | None = None
        self._undelivered: list[Message] = []
        self.acknowledged = 0
        """How many messages the broker has acknowledged."""

    async def __aenter__(self) -> Self:
        self._producer = await _connect(self._kafka, self._connect_seconds)
        self._partitions = len(self._producer.client.cluster.partitions_for_topic(self._topic))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self._close()

    async def send(self, kind: str, regression: str, body: bytes, headers: Headers = ()) -> None:
        """Check one message and take it; waits while too much is on the way. Raises messages.Reject, Undelivered."""
        await self.post(checked(kind, regression, body, headers))

    async def post(self, message: Message) -> None:
        """Take a message that is checked; otherwise as `send`."""
        self.raise_undelivered([message])
        self._running()
        partition = self._partition(message.regression)
        batch = self._open.get(partition)
        self._taken += 1
        if batch is None or not batch.add(self._taken, message):
            batch = self._open_batch(partition)
            batch.add(self._taken, message)
        self._bytes += len(message.body) + MESSAGE_OVERHEAD_BYTES
        if self._taken % MESSAGES_A_TURN == 0:
            await asyncio.sleep(0)
        while self._bytes > IN_FLIGHT_BYTES_MAX and self._failure is None:
            await self._change()
        self.raise_undelivered()

    async def flush(self) -> None:
        """Return when all is acknowledged. Raises Undelivered."""
        for partition in list(self._open):
            self._seal(partition)
        while self._pumps and self._failure is None:
            await self._change()
        self.raise_undelivered()

    def _partition(self, regression: str) -> int:
        partition = self._partition_of.get(regression)
        if partition is None:
            if len(self._partition_of) >= PARTITIONS_CACHED_MAX:
                self._partition_of.clear()
            # Kafka's default partitioner: the worker checks for it.
            partition = partition_of(regression.encode(), self._partitions)
            self._partition_of[regression] = partition
        return partition

    def _open_batch(self, partition: int) -> _Batch:
        """A new batch to fill; the one before it goes. It lingers for a moment, for messages that follow at once."""
        self._seal(partition)
        loop = asyncio.get_running_loop()
        batch = _Batch(self._running().create_batch(), loop.time() + self._delivery_seconds)
        self._open[partition] = batch
        loop.call_later(LINGER_SECONDS, self._seal, partition, batch)
        return batch

    def _running(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not open: use it in `async with`")
        return self._producer

    def _seal(self, partition: int, only: _Batch | None = None) -> None:
        """Queue the open batch of a partition (if it is `only`) to be sent."""
        batch = self._open.get(partition)
        if batch is None or (only is not None and batch is not only):
            return
        del self._open[partition]
        self._sealed.setdefault(partition, deque()).append(batch)
        if partition not in self._pumps:
            self._pumps[partition] = asyncio.create_task(self._pump(partition))

    async def _pump(self, partition: int) -> None:
        """Send a partition's sealed batches, one after the other; ends when there are none."""
        queue = self._sealed[partition]
        try:
            while queue:
                batch = queue[0]
                await self._deliver(partition, batch)
                if self._failure is not None:
                    return  # another partition's: this batch is told as undelivered already
                queue.popleft()
                self.acknowledged += len(batch.messages)
                self._bytes -= batch.size
                self._changed.set()
        except TimeoutError:
            self._fail(f"no acknowledgement from {self._kafka.brokers} within {self._delivery_seconds:g} s")
        except KafkaError as error:
            self._fail(f"the Kafka broker at {self._kafka.brokers} does not take messages: {_text(error)}")
        except Exception as error:  # noqa: BLE001  whatever it is, the messages are not delivered
            self._fail(f"sending failed: {_text(error)}")
        finally:
            del self._pumps[partition]
            self._changed.set()

    async def _deliver(self, partition: int, batch: _Batch) -> None:
        producer = self._running()
        async with asyncio.timeout_at(batch.deadline):
            acknowledgement = await producer.send_batch(batch.builder, self._topic, partition=partition)
            await acknowledgement

    def _fail(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = reason
        left = [item for queue in self._sealed.values() for batch in queue for item in batch.messages]
        left += [item for batch in self._open.values() for item in batch.messages]
        self._undelivered = [message for _, message in sorted(left, key=lambda item: item[0])]
        self._open.clear()
        for queue in self._sealed.values():
            queue.clear()
        self._bytes = 0

    def raise_undelivered(self, more: Sequence[Message] = ()) -> None:
        """When the publisher has failed, raise Undelivered with what is not told yet, and with `more`."""
        undelivered, self._undelivered = self._undelivered, []
        if self._failure is not None and (undelivered or more):
            raise Undelivered(self._failure, [*undelivered, *more])

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        clean = self._failure is None and not self._pumps and not self._open
        for pump in list(self._pumps.values()):
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        self._open.clear()
        if producer is not None:
            await _close(producer, clean=clean)


async def _connect(kafka: Kafka, seconds: float) -> AIOKafkaProducer:
    """A started producer that knows our topic. Raises BrokerAwayError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    options = client_options(kafka)
    while True:
        producer = AIOKafkaProducer(
            **options,
            client_id="livejobs-publish",
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(1000 * REQUEST_SECONDS_MAX),
        )
        heard = _LastWords()
        try:
            with heard:
                async with asyncio.timeout_at(deadline):
                    await producer.start()
                    await _find_topic(producer, kafka.events_topic)
                    return producer
        except TimeoutError:
            failure = BrokerAwayError(f"no Kafka broker answers at {kafka.brokers} within {seconds:g} s{heard}")
        except KafkaConnectionError:
            failure = BrokerAwayError(f"no Kafka broker answers at {kafka.brokers}{heard}")
        except KafkaError as error:
            deadline = 0.0  # another attempt would end in the same way
            failure = BrokerAwayError(f"the Kafka broker at {kafka.brokers} does not take messages: {_text(error)}")
        except BaseException:
            await _close(producer, clean=False)
            raise
        await _close(producer, clean=False)
        if loop.time() + CONNECT_PAUSE_SECONDS > deadline:
            raise failure
        await asyncio.sleep(CONNECT_PAUSE_SECONDS)


async def _find_topic(producer: AIOKafkaProducer, topic: str) -> None:
    # All topics are asked for: to ask for one by name makes it, with the wrong settings, where brokers allow that.
    await producer.client.force_metadata_update()
    if not producer.client.cluster.partitions_for_topic(topic):
        raise KafkaError(f"topic {topic} is not there; make it with `livejobs topics create`")
    await producer.client.add_topic(topic)


async def _close(producer: AIOKafkaProducer, *, clean: bool) -> None:
    """Stop a producer. aiokafka's own `stop` waits for ever for what can't be delivered, so that is cut off."""
    if clean:
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(producer.stop(), CLOSE_SECONDS_MAX)
            return
    sender = producer._sender.sender_task  # noqa: SLF001
    producer._closed = True  # noqa: SLF001
    if sender is not None:
        sender.cancel()
    with contextlib.suppress(TimeoutError, KafkaError):
        await asyncio.wait_for(producer.client.close(), CLOSE_SECONDS_MAX)
    if sender is not None:
        await asyncio.wait({sender}, timeout=CLOSE_SECONDS_MAX)


class _LastWords(logging.Handler):
    """Why aiokafka could not connect: it only logs that, and raises the same error for a wrong port and password."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._text = " ".join(record.getMessage().split())

    def __enter__(self) -> Self:
        logging.getLogger("aiokafka").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("aiokafka").removeHandler(self)

    def __str__(self) -> str:
        return f" ({self._text})" if self._text else ""


def _text(error: BaseException) -> str:
    # str() of aiokafka's errors puts the class before the text.
    text = str(error.args[0]) if error.args else ""
    return " ".join(text.split()) or type(error).__name__
