"""Record batches in and out: aiokafka with its two per-record paths taken over by `tables._native`.

Coming in, a fetched record set is unpacked batch by batch into `Record`s, which hold what a fold needs and no more.
Going out, the records of a transaction are packed at once. aiokafka keeps the rest: connections, fetching, positions,
sequences, retries, transactions. What is taken over is in aiokafka's private parts, so its version is pinned, and
`tests/test_native.py` holds both against each other. Without the compiled part aiokafka does all of it, slower.
"""

import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka.consumer import consumer, fetcher
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from livejobs.streams.core.overlay import Output
from livejobs.streams.kafka import compression
from livejobs.streams.kafka.compression import RefusedError
from livejobs.tables.compiled import native

BATCH_BYTES = 256 * 1024
"""Of records that go out together. With 1 MiB a worker takes 20 MB more, and is no faster."""
ALONE_BYTES = 1024 * 1024
"""A record with a larger value is a batch of its own."""
RECORD_BYTES_MAX = 2 * 1024 * 1024
FETCH_PAUSE_MS = 10
"""From one request to a broker to the next, at least: a fetch costs as much for one message as for hundreds. It is
also the longest that one waits for messages while those of some partition have not been taken: that one is left out."""
GZIP = 1
RECORD_OVERHEAD_BYTES = 400
"""What a record takes in memory beside its own bytes, about."""
TAKEN_RECORDS_MAX = 8_000
"""Of a partition, taken at once of what is fetched; what is left waits as it came, which takes less memory."""
UNPACKED_MAX = 2000
"""Records unpacked ahead of their use, and the rest of a batch."""

_HEAD = struct.Struct(">qiibIhiqqqhii")
_LOG_BYTES, _CRC_FROM = 12, 21
_CODEC, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_VERSION = 2


class PlainRecord:
    """A record as the compiled part gives it, for when there is none."""

    __slots__ = ("headers", "key", "kind", "offset", "timestamp", "value")

    def __init__(self, record: Any) -> None:
        self.offset, self.timestamp = record.offset, record.timestamp
        self.key, self.value, self.headers = record.key, record.value, record.headers
        self.kind = b""
        for name, data in record.headers:
            if name == "type":
                self.kind = data or b""


class _Slow(PartitionRecords):  # type: ignore[misc]
    def _consumer_record(self, _tp: Any, record: Any) -> PlainRecord:
        return PlainRecord(record)


class _Fetched:
    """A fetched record set; what aiokafka asks before it unpacks one."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def has_next(self) -> bool:
        """Whether one batch is there as a whole."""
        data = self.data
        return len(data) >= _HEAD.size and _LOG_BYTES + int.from_bytes(data[8:12], "big") <= len(data)

    def size_in_bytes(self) -> int:
        """Its size."""
        return len(self.data)


class _Opened:
    """A fetched record set for aiokafka's own unpacking, which would take what is compressed in any size."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def has_next(self) -> bool:
        """Whether one more batch is there as a whole."""
        return self._at + _HEAD.size <= len(self._data) and self._end() <= len(self._data)

    def next_batch(self) -> Any:
        """The next batch, opened within bounds."""
        batch = self._data[self._at : self._end()]
        self._at += len(batch)
        head = _HEAD.unpack_from(batch)
        if head[3] == _VERSION and calc_crc32c(memoryview(batch)[_CRC_FROM:]) == head[4]:
            if head[5] & _CODEC:
                batch = compression.opened(batch)
            try:
                _check(MemoryRecords(batch).next_batch(), head)
            except (CorruptRecordException, ValueError, IndexError, struct.error) as error:
                batch = compression.refused(batch, str(error))
        return MemoryRecords(batch).next_batch()

    def size_in_bytes(self) -> int:
        """Its size."""
        return len(self._data)

    def _end(self) -> int:
        return self._at + _LOG_BYTES + int.from_bytes(self._data[self._at + 8 : self._at + 12], "big")


def _check(batch: Any, head: tuple[int, ...]) -> None:
    """Raises what aiokafka raises for a malformed batch, and ValueError where its offsets are not in order."""
    before, last = head[0] - 1, head[0] + head[6]
    for record in batch:
        if not before < record.offset <= last:
            raise ValueError("its records are not in order")
        before = record.offset


class _Fast(PartitionRecords):  # type: ignore[misc]
    """The records of a fetched record set, unpacked by the compiled part."""

    _ahead: Sequence[Any] = ()
    _after = -1  # offset of what follows them

    def __next__(self) -> Any:
        found = self.take(1)
        if not found:
            raise StopIteration
        return found[0]

    def take(self, most: int) -> list[Any]:
        """The next records; fewer than `most` only if there are no more."""
        taken: list[Any] = []
        while len(taken) < most:
            if not self._ahead:
                chunk = next(self._records_iterator, None)
                if chunk is None:
                    break
                found, self._after = chunk
                if found and found[0].offset < self.next_fetch_offset:  # fetched from within a batch
                    found = [record for record in found if record.offset >= self.next_fetch_offset]
                self._ahead = found
            room = most - len(taken)
            taken += self._ahead[:room]
            self._ahead = self._ahead[room:]
            self.next_fetch_offset: int = self._ahead[0].offset if self._ahead else self._after
        return taken

    def _unpack_records(self) -> Iterator[tuple[list[Any], int]]:
        """The records of some batches, and the offset of what follows them."""
        data: bytes = self._records.data
        at = 0
        while at < len(data):
            try:
                found, at, after = native.plain(data, at, UNPACKED_MAX, all_count=self._all_count())
                if after < 0:
                    if len(data) - at < _HEAD.size:
                        return
                    head = _HEAD.unpack_from(data, at)
                    if head[3] != _VERSION:  # older than Kafka 0.11
                        yield from self._old(data[at:])
                        return
                    if _LOG_BYTES + head[1] > len(data) - at:
                        return  # a fetch may end within a batch
                    found, after = self._batch(head, data[at : at + _LOG_BYTES + head[1]]), head[0] + head[6] + 1
                    at += _LOG_BYTES + head[1]
            except ValueError as error:
                raise CorruptRecordException(f"{self._tp}: {error}") from error
            yield found, after

    @property
    def _committed_only(self) -> bool:
        return bool(self._isolation_level == fetcher.READ_COMMITTED)

    def _all_count(self) -> bool:
        """Whether no batch from here on is left out as one of an aborted transaction."""
        return not (self._committed_only and (self._aborted_transactions or self._aborted_producers))

    def _batch(self, head: tuple[int, ...], batch: bytes) -> list[Any]:
        """The records of one batch that is not plain; none of an aborted transaction."""
        base, _, _, _, crc, attributes, _, _, _, producer, *_ = head
        if native.crc32c(batch, _CRC_FROM) != crc:
            raise ValueError(f"the batch at offset {base} has a wrong checksum")
        if self._committed_only:
            self._consume_aborted_up_to(base)
        aborted = self._committed_only and attributes & _TRANSACTIONAL and producer in self._aborted_producers
        if aborted and not attributes & _CONTROL:
            return []
        try:
            found = _unpacked(batch)
        except (RefusedError, ValueError) as error:  # the broker is not so strict in all that it takes
            found = _unpacked(compression.refused(batch, str(error)))
        if attributes & _CONTROL:
            if found and ControlRecord.parse(found[0].key) == ABORT_MARKER:
                self._aborted_producers.discard(producer)
            return []
        return found

    def _old(self, data: bytes) -> Iterator[tuple[list[Any], int]]:
        start, level = self.next_fetch_offset, self._isolation_level
        rest = _Slow(self._tp, MemoryRecords(data), [], start, None, None, self._check_crcs, level)
        for record in rest:
            yield [record], rest.next_fetch_offset


class _PacedFetcher(Fetcher):  # type: ignore[misc]
    """Asks a broker for all partitions at once, so many times a second at most.

    aiokafka asks as soon as an answer has come, for the partitions of which nothing waits to be taken: those that have
    just brought something would have to wait until the others do.
    """

    _ask_at: dict[int, float]
    _idle_wait_ms: int
    _fetch_max_wait_ms: int

    def _get_actions_per_node(self, assignment: Any) -> tuple[Any, Any, float, Any, Any]:
        if not hasattr(self, "_ask_at"):
            self._ask_at, self._idle_wait_ms = {}, self._fetch_max_wait_ms
        self._fetch_max_wait_ms = min(FETCH_PAUSE_MS, self._idle_wait_ms) if self._records else self._idle_wait_ms
        requests, resets, timeout, invalid, resumed = super()._get_actions_per_node(assignment)
        if len(self._in_flight) > len(self._pending_tasks):
            timeout = 0.0  # a request has ended, and that its broker may be asked again is noted in a moment
        now, due = time.monotonic(), []
        for node_id, request in requests:
            ask_at = self._ask_at.get(node_id, 0.0)
            if ask_at > now:
                timeout = min(timeout, ask_at - now)
            else:
                self._ask_at[node_id] = now + FETCH_PAUSE_MS / 1000
                due.append((node_id, request))
        return due, resets, timeout, invalid, resumed


class _FastResult(FetchResult):  # type: ignore[misc]
    _partition_records: Any

    def calculate_backoff(self) -> float:
        """Other partitions of the broker need not wait until ours are taken."""
        return 0.0

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Many records at once."""
        most = TAKEN_RECORDS_MAX if max_records is None else max_records
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        found: list[Any] = self._partition_records.take(most)
        self._update_position()
        if len(found) < most:
            self._partition_records = None
        return found


def _unpacked(batch: bytes) -> list[Any]:
    """The records of a batch. Raises RefusedError, and ValueError when they are malformed."""
    base, _, _, _, _, attributes, last, base_ms, max_ms, _, _, _, count = _HEAD.unpack_from(batch)
    data, start = (compression.unpacked(batch), 0) if attributes & _CODEC else (batch, _HEAD.size)
    append_time = bool(attributes & _LOG_APPEND_TIME)
    found: list[Any] = native.records(
        data, start, count, base, last, max_ms if append_time else base_ms, append_time
    )
    return found


def bytes_of(records: list[Any]) -> int:
    """What records take in memory, about."""
    if native is not None:
        return int(native.bytes_of(records, RECORD_OVERHEAD_BYTES))
    parts = [part or b"" for record in records for part in (record.key, record.value)]
    headers = [data or b"" for record in records for _, data in record.headers]
    return RECORD_OVERHEAD_BYTES * len(records) + sum(map(len, parts + headers))


def install() -> None:
    """From now on, aiokafka's consumers in this process give records with `kind`."""
    consumer.Fetcher = _PacedFetcher
    if native is None:
        fetcher.PartitionRecords, fetcher.MemoryRecords = _Slow, _Opened
    else:
        fetcher.PartitionRecords, fetcher.MemoryRecords, fetcher.FetchResult = _Fast, _Fetched, _FastResult


class PackedBatch:
    """A batch ready to be sent; what aiokafka's producer asks of its own BatchBuilder."""

    def __init__(self, packed: bytearray, count: int, attributes: int) -> None:
        self._packed, self._count, self._attributes = packed, count, attributes
        self._producer = (-1, -1, -1)
        self._sealed = False

    def close(self) -> None:
        """It has always been closed."""

    def closed(self) -> bool:
        """Nothing can be added."""
        return True

    def record_count(self) -> int:
        """Number of records."""
        return self._count

    def size(self) -> int:
        """Size in bytes."""
        return len(self._packed)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        if not self._sealed:  # when it is sent again, the connection before may still hold it
            self._sealed = True
            native.seal(self._packed, self._attributes, int(time.time() * 1000), *self._producer, self._count)
        return self._packed


def batches(outputs: Sequence[Output], *, transactional: bool = True) -> Iterator[Any]:
    """Records as closed batches for `AIOKafkaProducer.send_batch`, each of BATCH_BYTES at most if it can be."""
    if native is None:
        yield from _built(outputs, transactional)
        return
    outputs = outputs if isinstance(outputs, list) else list(outputs)
    at = 0
    while at < len(outputs):
        value = outputs[at][1]
        if value is not None and len(value) > ALONE_BYTES:
            yield _compressed(outputs[at], transactional)
            at += 1
            continue
        packed, after = native.pack(outputs, at, BATCH_BYTES)
        yield PackedBatch(packed, after - at, _TRANSACTIONAL if transactional else 0)
        at = after


def _built(outputs: Sequence[Output], transactional: bool) -> Iterator[BatchBuilder]:
    batch = BatchBuilder(BATCH_BYTES, 0, is_transactional=transactional)
    for output in outputs:
        key, value, headers = output
        if value is not None and len(value) > ALONE_BYTES:
            yield _compressed(output, transactional)
        elif batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            yield batch
            batch = BatchBuilder(BATCH_BYTES, 0, is_transactional=transactional)
            batch.append(timestamp=None, key=key, value=value, headers=headers)
    batch.close()
    if batch.record_count():
        yield batch


def _compressed(output: Output, transactional: bool) -> BatchBuilder:
    """A record larger than a batch: if it came in a compressed batch, it fits the topic's limit only in one."""
    key, value, headers = output
    codec = GZIP if len(zlib.compress(value or b"")) < len(value or b"") else 0
    batch = BatchBuilder(len(value or b""), codec, is_transactional=transactional)
    batch.append(timestamp=None, key=key, value=value, headers=headers)
    batch.close()
    return batch
