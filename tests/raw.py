"""Record batches byte by byte, as only a client that checks nothing would send them."""

import struct
from collections.abc import Sequence

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
HEAD_BYTES = 61
MIB = 1024 * 1024
XERIAL_HEAD = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)

Heads = Sequence[tuple[bytes, bytes | None]]


def varint(value: int) -> bytes:
    """As Kafka writes an integer in a record."""
    left = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


def sized(data: bytes | None) -> bytes:
    """A length and what has it; -1 for nothing."""
    return varint(-1) if data is None else varint(len(data)) + data


def record(key: bytes | None, value: bytes | None, kind: bytes | None = b"job-finish", *, delta: int = 0, heads: Heads = ()) -> bytes:
    """One record, `delta` offsets after its batch's first."""
    heads = [*([] if kind is None else [(b"type", kind)]), *heads]
    inside = b"\0" + varint(0) + varint(delta) + sized(key) + sized(value) + varint(len(heads))
    inside += b"".join(sized(name) + sized(data) for name, data in heads)
    return varint(len(inside)) + inside


def batch(
    body: bytes,
    count: int = 1,
    codec: int = 0,
    *,
    first: int = 0,
    attributes: int = 0,
    times_ms: tuple[int, int] = (1000, 2000),
) -> bytes:
    """A batch around records that are compressed already; its times are those of the first record and the latest."""
    tail = struct.pack(">hiqqqhii", codec | attributes, count - 1, *times_ms, -1, -1, -1, count) + body
    return struct.pack(">qiibI", first, len(tail) + 9, 0, 2, calc_crc32c(tail)) + tail


def xerial(*blocks: bytes) -> bytes:
    """Snappy as the Java library writes it."""
    return XERIAL_HEAD + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def lz4(data: bytes) -> bytes:
    """A frame as Kafka's clients write it."""
    compressor = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


class Builder:
    """What aiokafka's producer asks of a batch; the bytes are those given."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data, self._count = data, count

    def close(self) -> None: ...

    def closed(self) -> bool:
        return True

    def record_count(self) -> int:
        return self._count

    def size(self) -> int:
        return len(self._data)

    def _build(self) -> bytearray:
        return bytearray(self._data)


async def send(producer: AIOKafkaProducer, topic: str, data: bytes, count: int = 1, partition: int = 0) -> int:
    """Send a batch as it is; the offset of its first record. Raises KafkaError where the broker refuses it."""
    acknowledgement = await producer.send_batch(Builder(data, count), topic, partition=partition)
    return int((await acknowledgement).offset)
