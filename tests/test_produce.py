"""Produce requests in their parts, beside aiokafka's own. No broker."""

import asyncio
from typing import Any

import pytest
from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.produce import ProduceResponse_v8 as Answer

from livejobs.streams.config import Kafka
from livejobs.streams.kafka import client
from livejobs.streams.kafka.client import client_options

TOPICS: list[Any] = [("jobs", [(0, b"a batch"), (7, bytearray(b"another" * 1000))]), ("größer", []), ("stats", [(1, b"")])]
JOINED = [(topic, [(partition, bytes(batch)) for partition, batch in batches]) for topic, batches in TOPICS]


class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's connection over a transport that keeps what is written, or fails."""

    def __init__(self, version: int, error: Exception | None = None) -> None:
        super().__init__("localhost", 9092, client_id="me")
        self._versions = {0: (0, version)}
        self._writer, self._error = self, error
        self.transport, self.written, self.closing, self.joined = self, b"", False, False

    def is_closing(self) -> bool:
        return self.closing

    def close(self, **_: object) -> None:  # type: ignore[override]
        """Nothing is open."""

    def write(self, data: bytes) -> None:
        self.joined = True
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        if self._error is not None:
            self.closing = True  # uvloop sees it only now
            raise self._error
        self.written += b"".join(parts)


@pytest.mark.parametrize("version", [2, 3, 5, 7, 8])
@pytest.mark.parametrize("transactional_id", [None, "a worker", "größer"])
@pytest.mark.parametrize("topics", [[], TOPICS])
def test_a_request_is_written_as_aiokafka_writes_it(version: int, transactional_id: str | None, topics: list[Any]) -> None:
    if version < 3 and transactional_id is not None:
        return  # such brokers have no transactions
    client_options(Kafka())

    async def written(given: list[Any], send: Any, *, joined: bool) -> tuple[bytes, int]:
        connection = Connection(version)
        answer = send(connection, ProduceRequest(transactional_id, -1, 20_000, given))
        assert connection.joined == joined
        assert connection._requests[0][0] == 1
        connection._requests[0][2].set_result("the answer")
        assert await answer == "the answer"
        return connection.written, len(connection._requests)

    joined = JOINED if topics else []
    given = topics if version >= 3 else joined
    own = conn.AIOKafkaConnection.send
    ours = asyncio.run(written(given, own, joined=version < 3))
    assert ours == asyncio.run(written(joined, client._aiokafkas_send, joined=True))


@pytest.mark.parametrize("error", [OSError("broken pipe"), RuntimeError("the handler is closed")])
def test_a_connection_that_can_not_be_written_to_is_one_that_is_gone(error: Exception) -> None:
    client_options(Kafka())

    async def send() -> None:
        await Connection(Answer.API_VERSION, error).send(ProduceRequest(None, -1, 20_000, TOPICS))

    with pytest.raises(KafkaConnectionError):
        asyncio.run(send())


@pytest.mark.parametrize("how", ["closed", "being closed"])
def test_a_connection_that_is_closed_is_one_that_is_gone(how: str) -> None:
    client_options(Kafka())

    async def send() -> None:
        connection = Connection(Answer.API_VERSION)
        if how == "closed":
            connection._writer = None
        connection.closing = True
        await connection.send(ProduceRequest(None, -1, 20_000, TOPICS))

    with pytest.raises(KafkaConnectionError):
        asyncio.run(send())
