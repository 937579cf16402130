"""A produce request, written in its parts.

aiokafka joins a request from the inside out: each batch is copied seven times before it is written. Here its bytes are
written as they are, between the few that stand around them. The format is that of Produce in Kafka's protocol guide,
versions 3 to 8.
"""

import struct
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import String
from aiokafka.util import wait_for

VERSION_MIN = 3
_TEXT = String("utf-8")
_INT, _INTS, _SETTINGS = struct.Struct(">i"), struct.Struct(">ii"), struct.Struct(">hii")


def is_for_us(connection: AIOKafkaConnection, request: Any) -> bool:
    """Whether `send` can send it: a produce request that is answered, to a broker that is not older than Kafka 0.11."""
    if type(request) is not ProduceRequest or not request.required_acks or connection._writer is None:  # noqa: SLF001
        return False
    _, version = connection._versions.get(ProduceRequest.API_KEY, (0, 0))  # noqa: SLF001
    return bool(version >= VERSION_MIN)


def send(connection: AIOKafkaConnection, request: ProduceRequest) -> Any:
    """What `AIOKafkaConnection.send` does: the awaited answer. Raises OSError and RuntimeError where it can't write."""
    prepared: Any = request.prepare(connection._versions)  # noqa: SLF001
    number = connection._next_correlation_id()  # noqa: SLF001
    header = prepared.build_request_header(correlation_id=number, client_id=connection._client_id)  # noqa: SLF001
    parts = [header.encode(), *_parts(prepared)]
    connection._writer.writelines([_INT.pack(sum(map(len, parts))), *parts])  # noqa: SLF001
    waiting = connection._loop.create_future()  # noqa: SLF001
    connection._requests.append((number, prepared, waiting))  # noqa: SLF001
    return wait_for(waiting, connection._request_timeout)  # noqa: SLF001


def _parts(request: Any) -> list[bytes]:
    """The request's bytes; those of its batches are the batches' own."""
    settings = _SETTINGS.pack(request.required_acks, request.timeout, len(request.topics))
    parts = [_TEXT.encode(request.transactional_id) + settings]
    for topic, batches in request.topics:
        parts.append(_TEXT.encode(topic) + _INT.pack(len(batches)))
        for partition, batch in batches:
            parts += [_INTS.pack(partition, len(batch)), batch]
    return parts
