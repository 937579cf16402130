"""Compressed batches are opened whatever wrote them, and what would unpack to too much, or to nothing we can read, comes as one message that holds it.

How: batches made byte by byte, read by both ways in which a worker reads them, with the compiled part and without; bombs in a process whose memory is limited.
"""

import gzip
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cramjam
import pytest
import raw
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from raw import GZIP, LZ4, MIB, SNAPPY, ZSTD, batch, record, varint, xerial

from livejobs.streams.kafka import records
from livejobs.streams.kafka.compression import RECORD_BYTES_MAX, REFUSED_TYPE, UNPACKED_BYTES_MAX
from livejobs.tables.compiled import native

JOB = b'{"uniqueid": "a", "result": "pass"}'
BODY = record(b"r", JOB) + record(b"r", None, b"regr-finish", delta=1)


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data, level=3))


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def halves(codec: Any, data: bytes) -> bytes:
    return codec(data[:11]) + codec(data[11:])


GOOD = {
    "gzip": (GZIP, gzip.compress(BODY)),
    "gzip, two members": (GZIP, halves(gzip.compress, BODY)),
    "snappy": (SNAPPY, snappy(BODY)),
    "snappy of the Java library": (SNAPPY, xerial(snappy(BODY))),
    "snappy of the Java library, two blocks": (SNAPPY, xerial(snappy(BODY[:11]), snappy(BODY[11:]))),
    "snappy of another version": (SNAPPY, b"\x82SNAPPY\0" + struct.pack(">ii", 2, 1) + xerial(snappy(BODY))[16:]),
    "lz4": (LZ4, raw.lz4(BODY)),
    "lz4, linked blocks": (LZ4, bytes(cramjam.lz4.compress(BODY))),
    "lz4, two frames": (LZ4, halves(raw.lz4, BODY)),
    "zstd": (ZSTD, zstd(BODY)),
    "zstd, two frames": (ZSTD, halves(zstd, BODY)),
}


def read(data: bytes, way: str, start: int = 0) -> list[tuple[Any, ...]]:
    """What a consumer makes of a fetched record set."""
    unpacked, fetched = (records._Fast, records._Fetched) if way == "compiled" else (records._Slow, records._Opened)
    found = unpacked(TopicPartition("t", 0), fetched(data), [], start, None, None, True, fetcher.READ_COMMITTED)
    return [(one.offset, one.timestamp, one.kind, one.key, one.value, list(one.headers)) for one in found]


WAYS = [pytest.param("compiled", marks=pytest.mark.skipif(native is None, reason="not built")), "aiokafka's"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GOOD)
def test_whatever_wrote_it_it_is_read(name: str, way: str) -> None:
    codec, data = GOOD[name]
    found = read(batch(BODY, 2, first=3) + batch(data, 2, codec, first=5) + batch(BODY, 2, first=7), way)
    assert [one[0] for one in found] == [3, 4, 5, 6, 7, 8]
    assert [one[1:] for one in found[2:4]] == [one[1:] for one in found[:2]] == [one[1:] for one in found[4:]]
    assert found[0][1:5] == (1000, b"job-finish", b"r", JOB)


def unreadable(data: bytes, codec: int, count: int = 1) -> bytes:
    return batch(data, count, codec, first=10)


LARGE = record(b"r", b"x" * RECORD_BYTES_MAX)
REFUSED = {
    "too much gzip": (unreadable(gzip.compress(bytes(UNPACKED_BYTES_MAX + 1), 1), GZIP), "more than 67108864 bytes"),
    "too much lz4": (unreadable(raw.lz4(bytes(UNPACKED_BYTES_MAX + 1)), LZ4), "more than 67108864 bytes"),
    "too much zstd": (unreadable(zstd(bytes(UNPACKED_BYTES_MAX + 1)), ZSTD), "more than 67108864 bytes"),
    "snappy that claims too much": (unreadable(b"\xff\xff\xff\xff\x0f" + b"x" * 50, SNAPPY), "more than 67108864 bytes"),
    "snappy in too many blocks": (unreadable(xerial(*[snappy(bytes(20 * MIB))] * 4), SNAPPY), "more than 67108864 bytes"),
    "too many records": (unreadable(zstd(b"\0"), ZSTD, 1_000_001), "1000001 records"),
    "too large a record": (unreadable(zstd(LARGE), ZSTD), f"a record of {len(LARGE) - 4} bytes"),
    "too many headers": (unreadable(zstd(record(b"r", JOB, heads=[(b"h", b"x" * MIB)] * 2)), ZSTD), "a record of"),
    "gzip with more behind it": (unreadable(gzip.compress(BODY) + b"more", GZIP, 2), "can't be unpacked"),
    "gzip cut short": (unreadable(gzip.compress(BODY)[:-9], GZIP, 2), "can't be unpacked"),
    "snappy cut short": (unreadable(xerial(snappy(BODY))[:-1], SNAPPY, 2), "cut short"),
    "snappy of no length": (unreadable(xerial(b""), SNAPPY, 2), "cut short"),
    "lz4 cut short": (unreadable(raw.lz4(BODY)[:-5], LZ4, 2), "can't be unpacked"),
    "zstd cut short": (unreadable(zstd(BODY)[:-1], ZSTD, 2), "can't be unpacked"),
    "no zstd": (unreadable(b"nonsense", ZSTD), "can't be unpacked"),
    "no codec": (unreadable(BODY, 5, 2), "compression 5 is not known"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_opened_comes_as_one_message(name: str, way: str) -> None:
    data, reason = REFUSED[name]
    count = struct.unpack_from(">i", data, 57)[0]
    before, refused, after = read(batch(record(b"r", JOB), first=9) + data + batch(record(b"r", JOB), first=10 + count), way)
    assert (before[0], after[0], before[4], after[4]) == (9, 10 + count, JOB, JOB)
    offset, timestamp, kind, key, value, headers = refused
    assert (offset, timestamp, kind, key) == (10 + count - 1, 1000, REFUSED_TYPE, None)
    assert value == data
    assert headers[0] == ("type", REFUSED_TYPE)
    assert headers[1][0] == "livejobs.refused"
    assert reason in headers[1][1].decode()
    assert len(headers) == 2


MALFORMED = {
    "a key of -5 bytes": b"\x0c\0\0\0" + varint(-5) + b"\x01\0",
    "no record": b"",
    "one record too many": record(b"r", JOB) * 2,
    "cut short": record(b"r", JOB)[:-1],
}


@pytest.mark.skipif(native is None, reason="not built")
@pytest.mark.parametrize("name", MALFORMED)
def test_records_that_are_malformed_come_as_one_message(name: str) -> None:
    data = batch(gzip.compress(MALFORMED[name]), 1, GZIP, first=10)
    (found,) = read(data, "compiled")
    assert (found[0], found[2], found[4]) == (10, REFUSED_TYPE, data)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_the_most_that_is_allowed_is_opened(way: str) -> None:
    one = record(b"r", b"x" * (RECORD_BYTES_MAX - 30))
    body = b"".join(record(b"r", b"x" * (RECORD_BYTES_MAX - 30), delta=number) for number in range(UNPACKED_BYTES_MAX // len(one)))
    assert UNPACKED_BYTES_MAX - len(body) < RECORD_BYTES_MAX
    found = read(batch(zstd(body), UNPACKED_BYTES_MAX // len(one), ZSTD), way)
    assert len(found) == UNPACKED_BYTES_MAX // len(one)
    assert {one[2] for one in found} == {b"job-finish"}


@pytest.mark.parametrize("way", WAYS)
def test_the_broker_s_time_is_kept(way: str) -> None:
    append_time = 0x08
    for data in (batch(zstd(BODY), 2, ZSTD, attributes=append_time), batch(b"nonsense", 1, ZSTD, attributes=append_time)):
        assert {one[1] for one in read(data, way)} == {2000}


@pytest.mark.parametrize("way", WAYS)
def test_a_fetch_from_within_a_batch_that_is_not_opened_goes_on_behind_it(way: str) -> None:
    data = batch(b"nonsense", 5, ZSTD, first=10) + batch(record(b"r", JOB), first=15)
    assert [one[0] for one in read(data, way, start=12)] == [14, 15]
    assert [one[0] for one in read(data, way, start=15)] == [15]


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_checksum_is_an_error_and_no_message(way: str) -> None:
    data = bytearray(batch(zstd(BODY), 2, ZSTD))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(data), way)


@pytest.mark.skipif(native is None, reason="not built")
def test_what_was_aborted_is_not_there_even_if_it_can_not_be_opened() -> None:
    transactional, producer = 0x10, struct.pack(">q", 7)
    data = bytearray(batch(b"nonsense", 1, ZSTD, attributes=transactional))
    data[43:51] = producer
    data[17:21] = struct.pack(">I", native.crc32c(bytes(data), 21))
    found = records._Fast(TopicPartition("t", 0), records._Fetched(bytes(data)), [(7, 0)], 0, None, None, True, fetcher.READ_COMMITTED)
    assert list(found) == []
    found = records._Fast(TopicPartition("t", 0), records._Fetched(bytes(data)), [], 0, None, None, True, fetcher.READ_COMMITTED)
    assert [one.kind for one in found] == [REFUSED_TYPE]


BOMBS = """
import gzip, resource, sys
import cramjam, raw
from livejobs.streams.kafka import compression

zeros = bytes(16 << 20)
bombs = [
    (raw.GZIP, gzip.compress(zeros, 9) * 60),
    (raw.LZ4, raw.lz4(zeros) * 15),
    (raw.ZSTD, bytes(cramjam.zstd.compress(zeros, level=3)) * 1000),
    (raw.SNAPPY, bytes([0xff, 0xff, 0xff, 0xff, 0x0f]) + bytes(1000)),
    (raw.SNAPPY, raw.xerial(*[bytes(cramjam.snappy.compress_raw(zeros))] * 100)),
]
del zeros
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for codec, data in bombs:
    try:
        compression.unpacked(raw.batch(data, 1, codec))
    except compression.RefusedError as error:
        assert "more than" in str(error), error
    else:
        raise AssertionError(codec)
print("small")
"""


def test_a_bomb_takes_no_more_memory_than_the_most_that_is_allowed() -> None:
    """They stand for 16 GiB; the process may take 300 MiB."""
    done = subprocess.run([sys.executable, "-c", BOMBS], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.stdout == "small\n", done.stderr
