"""A broker's answers, read into one buffer and decoded where they are.

aiokafka reads through a stream: what comes is copied four times and moved about before it is decoded, which was a fifth
of a restore, and a fetch of 24 MB took three times its size. Here it is received into a buffer that is used again, and
copied once, when a field is read. aiokafka keeps all else: connections, requests, their time limits, logins.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, CloseReason

BUFFER_BYTES = 64 * 1024
"""Of a connection whose answers are small."""
READ_BYTES = 256 * 1024
"""Received at once, as much as uvloop takes for other protocols; all of an answer at once was no faster."""
KEPT_TIMES, KEPT_ANSWERS = 8, 64
"""A larger buffer is given back when KEPT_ANSWERS answers in a row would each fit into it more than KEPT_TIMES times.
Large and small ones take turns while a full partition is left out of a fetch; a new buffer costs as much as to fill
it."""
ANSWER_BYTES_MAX = 128 * 1024 * 1024
"""Of an answer: a fetch is no longer than 50 MiB, or one batch. With a longer one the connection is given up."""
_SIZE_BYTES = 4


class Answer:
    """What aiokafka's decoders ask of a stream of bytes."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        at = self._at
        self._at += size
        return bytes(self._view[at : self._at])


class Answers(asyncio.BufferedProtocol):
    """The receiving end of a connection, in place of aiokafka's `AIOKafkaProtocol`."""

    _transport: Any = None

    def __init__(self, closed: asyncio.Future[None], reader: asyncio.StreamReader, *, loop: Any) -> None:
        self._closed, self._reader = closed, reader  # the latter only says whether it has ended
        self._ended: asyncio.Future[None] = loop.create_future()
        self._connection: Callable[[], Any] = lambda: None
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._begin = self._end = 0  # of what is in it and no whole answer
        self._small = 0  # answers in a row

    def hand_to(self, connection: AIOKafkaConnection) -> asyncio.Future[None]:
        """Let a connection have the answers; the future ends with an error when there will be no more."""
        self._connection = weakref.ref(connection)
        return self._ended

    def connection_made(self, transport: Any) -> None:
        """We are connected."""
        self._transport = transport

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer[self._end : self._end + READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._end += nbytes
        try:
            self._take()
        except Exception as error:  # noqa: BLE001  whatever it is, no later answer can be understood
            self._give_up(error)

    def eof_received(self) -> None:
        """The broker closes the connection, and so do we."""
        self._give_up(EOFError("the broker has closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._give_up(exc or EOFError("the connection is closed"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _give_up(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # one that nobody was waiting for is no news
        connection = self._connection()
        if connection is not None and connection._reader is self._reader:  # noqa: SLF001
            # At once: while it has ended and is not closed, aiokafka may let go of it and of all who wait.
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
        self._reader.feed_eof()
        self._transport.abort()  # what is not written yet would keep it open

    def _take(self) -> None:
        """Hand out the answers that are there as a whole, and have room for the rest of the next one."""
        need = _SIZE_BYTES
        while self._end - self._begin >= need:
            head = self._begin + _SIZE_BYTES
            size = int.from_bytes(self._buffer[self._begin : head], "big")
            if size > ANSWER_BYTES_MAX:
                raise ConnectionError(
                    f"its answer is not Kafka's, or longer than {ANSWER_BYTES_MAX} bytes; see [kafka] protocol"
                )
            need = _SIZE_BYTES + size
            if self._end - self._begin >= need:
                self._begin += need
                self._hand_out(self._buffer[head : self._begin])
                self._small = self._small + 1 if KEPT_TIMES * need < len(self._buffer) else 0
                need = _SIZE_BYTES
        if self._begin == self._end:
            self._begin = self._end = 0
            if len(self._buffer) > BUFFER_BYTES and self._small >= KEPT_ANSWERS:
                self._buffer = memoryview(bytearray(BUFFER_BYTES))
        elif self._begin + need > len(self._buffer):
            rest = bytes(self._buffer[self._begin : self._end])
            if need > len(self._buffer):
                self._buffer = memoryview(bytearray(need))
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)

    def _hand_out(self, answer: memoryview) -> None:
        """What aiokafka's connection does with an answer. Raises whatever its decoders raise."""
        connection = self._connection()
        if connection is None or connection._reader is not self._reader:  # noqa: SLF001
            return  # it was closed
        correlation_id, request, waiting = connection._requests[0]  # noqa: SLF001
        fields = Answer(answer)
        login = correlation_id is None  # which has no header
        if not login and (given := request.parse_response_header(fields).correlation_id) != correlation_id:
            raise errors.CorrelationIdError(f"the broker answers request {given}, not {correlation_id}")
        if not waiting.done():
            waiting.set_result(bytes(answer) if login else request.RESPONSE_TYPE.decode(fields))
        connection._last_action = time.monotonic()  # noqa: SLF001
        connection._requests.popleft()  # noqa: SLF001


def receive(self: AIOKafkaConnection) -> asyncio.Future[None]:
    """In place of `AIOKafkaConnection._create_reader_task`: nothing needs to wait for answers."""
    protocol: Answers = self._protocol
    ended = protocol.hand_to(self)
    ended.add_done_callback(partial(type(self)._on_read_task_error, weakref.ref(self)))  # noqa: SLF001
    return ended
