"""Record batches that came compressed, opened within bounds.

Whoever may publish decides what a batch unpacks to: 8 KiB may stand for 256 MiB, and there are streams that the broker
can read and our decoders can't. Neither may exhaust the memory of a worker or end it, for the next one would meet the
same batch; and nothing may be lost. So what can't be opened, or should not be, is read as one message, whose value is
the batch as it was received. It is of no type that there is, and goes to `job-rejects` by the rules for those.
"""

import struct
import threading
from collections.abc import Iterator
from typing import Any

import cramjam
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c, decode_varint

UNPACKED_BYTES_MAX = 64 * 1024 * 1024
"""Of one batch. `job-events` takes 1 MiB of it compressed; messages shrink to a tenth, much the same ones to less."""
RECORDS_MAX = 1_000_000
"""In one batch: each takes more room in memory than its fewest bytes."""
RECORD_BYTES_MAX = 1024 * 1024 + 15 * 1024
"""Of one record: what `job-events` takes when it is not compressed. A larger one can't be rejected, or sent on."""
REFUSED_TYPE = b"_livejobs.refused-batch"
REASON_HEADER = "livejobs.refused"

_HEAD = struct.Struct(">qiibIhiqqqhii")
_LOG_BYTES, _CRC_AT, _CRC_FROM = 12, 17, 21
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL = 0x07, 0x08, 0x10
_SNAPPY = 2
_STREAMS: dict[int, Any] = {1: cramjam.gzip, 3: cramjam.lz4, 4: cramjam.zstd}
_XERIAL_MAGIC, _XERIAL_HEAD_BYTES = b"\x82SNAPPY\0", 16
_ROOM_BYTES = 4 * 1024 * 1024


class RefusedError(Exception):
    """Why a batch is not opened: one line."""


class _Room(threading.local):
    """Where a thread unpacks what does not say how long it gets: memory that is at hand need not be cleared."""

    def __init__(self) -> None:
        self.bytes = bytearray(_ROOM_BYTES)


_room = _Room()


def unpacked(batch: bytes) -> bytes:
    """The records of a compressed batch (version 2), still as bytes.

    Raises RefusedError. It never holds more than twice UNPACKED_BYTES_MAX; who unpacks the records further sees whether
    they are well formed.
    """
    head = _HEAD.unpack_from(batch)
    codec, count = head[5] & _CODEC, head[12]
    if count > RECORDS_MAX:
        raise RefusedError(f"it holds {count} records, allowed are {RECORDS_MAX}")
    data = batch[_HEAD.size :]
    try:
        if codec == _SNAPPY:
            body = _snappy(data)
        elif codec in _STREAMS:
            body = _stream(_STREAMS[codec], data)
        else:
            raise RefusedError(f"compression {codec} is not known")
        _check_sizes(body)
    except (cramjam.DecompressionError, OSError, ValueError, struct.error) as error:
        raise RefusedError(f"it can't be unpacked: {' '.join(str(error).split())}") from error
    return body


def opened(batch: bytes) -> bytes:
    """A compressed batch as one that is not, or as the one message that stands for it."""
    try:
        body = unpacked(batch)
    except RefusedError as error:
        return refused(batch, str(error))
    head = list(_HEAD.unpack_from(batch))
    head[1], head[5] = _HEAD.size + len(body) - _LOG_BYTES, head[5] & ~_CODEC
    plain = bytearray(_HEAD.pack(*head) + body)
    struct.pack_into(">I", plain, _CRC_AT, calc_crc32c(memoryview(plain)[_CRC_FROM:]))
    return bytes(plain)


def refused(batch: bytes, reason: str) -> bytes:
    """A batch of one record, in the place of the last one of `batch`: it holds all of that, and says why."""
    base, _, _, _, _, attributes, last, base_ms, max_ms, producer, epoch, sequence, _ = _HEAD.unpack_from(batch)
    transactional = bool(attributes & _TRANSACTIONAL)
    builder = DefaultRecordBatchBuilder(2, 0, transactional, producer, epoch, sequence, 2 * len(batch) + 1000)
    headers = [("type", REFUSED_TYPE), (REASON_HEADER, reason.encode(errors="replace"))]
    builder.append(last, max_ms if attributes & _LOG_APPEND_TIME else base_ms, None, batch, headers)
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def _too_large() -> RefusedError:
    return RefusedError(f"it unpacks to more than {UNPACKED_BYTES_MAX} bytes")


def _snappy(data: bytes) -> bytes:
    """One block, or many with a size before each, as the Java library writes them. A block says how long it gets."""
    blocks = list(_xerial(data)) if data.startswith(_XERIAL_MAGIC) else [data]
    lengths = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
    if sum(lengths) > UNPACKED_BYTES_MAX:
        raise _too_large()
    body, at = bytearray(sum(lengths)), 0
    with memoryview(body) as room:
        for block, length in zip(blocks, lengths, strict=True):
            cramjam.snappy.decompress_raw_into(block, room[at : at + length])
            at += length
    return bytes(body)


def _xerial(data: bytes) -> Iterator[bytes]:
    at = _XERIAL_HEAD_BYTES
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4
        if not 0 < size <= len(data) - at:
            raise ValueError("the stream is cut short")
        yield data[at : at + size]
        at += size


def _stream(codec: Any, data: bytes) -> bytes:
    """A stream that does not say how long it gets: into more and more room."""
    room = _room.bytes
    while True:
        try:
            size = codec.decompress_into(data, room)
            return bytes(memoryview(room)[:size])
        except cramjam.DecompressionError as error:
            if len(room) < UNPACKED_BYTES_MAX:
                room = bytearray(4 * len(room))
                continue
            if "whole buffer" in str(error):
                raise _too_large() from error
            raise


def _check_sizes(body: bytes) -> None:
    """Raises RefusedError where there is a record over RECORD_BYTES_MAX."""
    at = 0
    while len(body) - at > RECORD_BYTES_MAX:
        size, at = decode_varint(body, at)
        if size > RECORD_BYTES_MAX:
            raise RefusedError(f"it holds a record of {size} bytes, allowed are {RECORD_BYTES_MAX}")
        if size < 0:
            return
        at += size
