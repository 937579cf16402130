"""A broker's answers, however the network cuts them up. No broker."""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import CorrelationIdError, KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from hypothesis import given
from hypothesis import strategies as st

from livejobs.streams.config import Kafka
from livejobs.streams.kafka import answers
from livejobs.streams.kafka.answers import BUFFER_BYTES, KEPT_ANSWERS, READ_BYTES, Answers
from livejobs.streams.kafka.client import client_options

SECONDS = 20.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Payload:
    """A request whose answer is bytes."""

    RESPONSE_TYPE: Any

    @staticmethod
    def parse_response_header(fields: Any) -> Any:
        return type("Header", (), {"correlation_id": int.from_bytes(fields.read(4), "big")})

    @staticmethod
    def decode(fields: Any) -> bytes:
        size = int.from_bytes(fields.read(4), "big")
        read: bytes = fields.read(size)
        assert len(read) == size
        assert fields.read(1) == b""
        return read


Payload.RESPONSE_TYPE = Payload


class Connection:
    """What `Answers` needs of aiokafka's connection, and of the transport."""

    _reader: Any

    def __init__(self, requests: int) -> None:
        loop = asyncio.get_running_loop()
        self.closed = loop.create_future()
        self._reader = asyncio.StreamReader()
        self.waiting: list[asyncio.Future[bytes]] = [loop.create_future() for _ in range(requests)]
        self._requests = deque((number, Payload, future) for number, future in enumerate(self.waiting))
        self._last_action = 0.0
        self.closes = 0
        self.answers = Answers(self.closed, self._reader, loop=loop)
        self.answers.connection_made(self)
        self.ended = self.answers.hand_to(self)  # type: ignore[arg-type]

    def close(self, **_: object) -> None:
        self.closes += 1

    def abort(self) -> None:
        """Of the transport."""

    def receive(self, data: bytes, sizes: Sequence[int] = (READ_BYTES,)) -> None:
        """Let bytes come in, so many at a time, again and again."""
        at, turn = 0, 0
        while at < len(data):
            into = self.answers.get_buffer(-1)
            part = data[at : at + min(len(into), sizes[turn % len(sizes)])]
            assert part
            into[: len(part)] = part
            self.answers.buffer_updated(len(part))
            at, turn = at + len(part), turn + 1


def answer(number: int, payload: bytes) -> bytes:
    return struct.pack(">iii", 8 + len(payload), number, len(payload)) + payload


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@given(
    payloads=st.lists(st.sampled_from([0, 1, 3, 1000, BUFFER_BYTES - 13, BUFFER_BYTES, 3 * BUFFER_BYTES + 1]), min_size=1, max_size=9),
    sizes=st.lists(st.sampled_from([1, 2, 3, 5, 11, 4096, 50_000, READ_BYTES]), min_size=1, max_size=5).filter(lambda sizes: max(sizes) > 1000),
)  # fmt: skip
def test_answers_come_whole_and_in_order_however_they_are_cut(payloads: list[int], sizes: list[int]) -> None:
    wanted = [bytes([number + 1]) * size for number, size in enumerate(payloads)]

    async def scenario() -> None:
        connection = Connection(len(wanted))
        connection.receive(b"".join(answer(*one) for one in enumerate(wanted)), sizes)
        assert [future.result() for future in connection.waiting] == wanted
        assert not connection.ended.done()
        assert not connection._requests

    run(scenario)


def test_the_buffer_of_a_large_answer_is_kept_for_more_of_them_and_given_back_when_only_small_ones_come() -> None:
    async def scenario() -> None:
        small = [b"small"] * KEPT_ANSWERS
        wanted = [bytes(40 * BUFFER_BYTES), *small[1:], bytes(30 * BUFFER_BYTES), *small]
        connection = Connection(len(wanted))
        for number, payload in enumerate(wanted):
            assert connection.answers._buffer.nbytes == (40 * BUFFER_BYTES + 12 if number else BUFFER_BYTES)
            connection.receive(answer(number, payload))
        assert connection.answers._buffer.nbytes == BUFFER_BYTES

    run(scenario)


def test_an_answer_that_is_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_BYTES_MAX", 1000)

    async def scenario() -> None:
        connection = Connection(2)
        connection.receive(answer(0, bytes(992)))
        assert connection.waiting[0].result() == bytes(992)
        connection.receive(answer(1, bytes(993))[:50])
        assert connection.closes
        with pytest.raises(ConnectionError, match="longer than 1000 bytes; see \\[kafka\\] protocol"):
            connection.ended.result()

    run(scenario)


def test_the_answer_to_another_request_ends_the_connection() -> None:
    async def scenario() -> None:
        connection = Connection(2)
        connection.receive(answer(1, b""))
        assert connection.closes
        with pytest.raises(CorrelationIdError, match="request 1, not 0"):
            connection.ended.result()
        assert not any(future.done() for future in connection.waiting)

    run(scenario)


def test_an_answer_that_nobody_waits_for_any_more_is_passed_over() -> None:
    async def scenario() -> None:
        connection = Connection(2)
        connection.waiting[0].cancel()  # as a time limit does
        connection.receive(answer(0, b"late") + answer(1, b"next"))
        assert connection.waiting[1].result() == b"next"

    run(scenario)


def test_a_connection_that_was_closed_gets_nothing_more() -> None:
    async def scenario() -> None:
        connection = Connection(1)
        connection._reader = None
        connection.receive(answer(0, b"late"))
        assert not connection.waiting[0].done()

    run(scenario)


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
def test_the_end_of_a_connection_is_told(error: Exception | None) -> None:
    async def scenario() -> None:
        connection = Connection(1)
        connection.receive(answer(0, b"half of it")[:15])
        connection.answers.connection_lost(error)
        assert connection.closed.done()
        assert connection.closes
        assert connection._reader.at_eof()
        with pytest.raises(type(error) if error else EOFError):
            connection.ended.result()
        assert not connection.waiting[0].done()

    run(scenario)


# ---------------------------------------------------------------------- over a socket


@pytest.fixture(params=LOOPS)
def over_a_socket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, bytes], bytes]:
    """What becomes of a produce request with this batch, sent to a broker that does that with its connection."""
    client_options(Kafka())

    async def newest(self: Any) -> None:
        self._versions = {0: (0, 8)}

    monkeypatch.setattr(AIOKafkaConnection, "_do_version_lookup", newest)

    async def send(broker: Any, batch: bytes) -> bytes:
        writers: list[asyncio.StreamWriter] = []

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await broker(reader, writer)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        connection = AIOKafkaConnection(*server.sockets[0].getsockname(), request_timeout_ms=int(SECONDS * 10_000))
        try:
            await connection.connect()
            answer = await connection.send(ProduceRequest(None, -1, 1000, [("topic", [(0, batch)])]))
            assert connection.connected()
            return bytes(answer.encode())
        finally:
            await connection.close()
            for writer in writers:
                writer.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            server.close()
            await server.wait_closed()

    def run(broker: Any, batch: bytes) -> bytes:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(send(broker, batch), SECONDS))

    return run


def test_a_request_is_answered(over_a_socket: Callable[[Any, bytes], bytes]) -> None:
    fields = struct.pack(">iHsiiHqqqi", 1, 1, b"t", 1, 0, 0, 7, -1, 0, 0)

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        request = await reader.readexactly(size)
        assert request.endswith(bytes(3_000_000))
        writer.write(struct.pack(">i", 4 + len(fields)) + request[4:8])
        await writer.drain()
        writer.write(fields)

    assert over_a_socket(broker, bytes(3_000_000)) == fields


@pytest.mark.parametrize("how", ["reads no further", "resets"])
def test_a_request_on_a_connection_that_ends_fails_at_once(over_a_socket: Callable[[Any, bytes], bytes], how: str) -> None:
    """And not only after its time limit: what was not written yet may keep the transport open."""

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        if how == "resets":
            writer.transport.abort()
        else:
            writer.transport.pause_reading()
            writer.write_eof()

    with pytest.raises(KafkaConnectionError):
        over_a_socket(broker, bytes(20_000_000))
