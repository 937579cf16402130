"""Job rows: what is known of one job, and its bytes (pure).

The value of a row in the store is the value of its record in the `jobs` topic. A live row has sixteen bytes more in
front: the time of its ``P`` entry (see `tables.keys`), and the ending that spares it.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import cramjam
import msgspec

from livejobs.tables import keys, times
from livejobs.tables.compiled import native
from livejobs.tables.fields import Row
from livejobs.tables.states import JobState

Verdict = Literal["timeout", "finish", "tank"]
Headers = list[tuple[str, bytes]]

STATE_HEADER = "livejobs.state"
BUNDLE_ENTRIES_MAX = 256

_local = struct.Struct(">QQ")
_encode = msgspec.json.encode


class JobRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A record of the topic `jobs`: the current record of one job (null value: the job was pruned or dropped)."""

    regression: str
    """Name of the regression."""
    result: Literal["live", "pass", "fail", "skip"]
    job: msgspec.Raw
    """The latest body as it was received, all its fields."""
    first_seen: str
    """Broker time of the first message of this job, RFC 3339 UTC."""
    updated: str
    """Broker time of the last message that changed this record, RFC 3339 UTC."""
    signature: str | None = None
    """Fail signature; fails only."""
    verdict: Verdict | None = None
    """Why the system, and not a finish message, decided; absent where a finish did."""


class JobPrivate(msgspec.Struct, omit_defaults=True):
    """The header `livejobs.state` of a `jobs` record; only while live jobs are being ended in steps."""

    spared: int = 0
    """Version of the ending that must not judge this job, because it was heard of after it."""


_decode_record = msgspec.json.Decoder(JobRecord).decode
_decode_private = msgspec.json.Decoder(JobPrivate).decode
_decode_entries = msgspec.msgpack.Decoder(list[bytes]).decode


def decode(value: bytes) -> JobRecord:
    """A record's value; msgspec.DecodeError if it is none of ours."""
    return _decode_record(value)


def headers(row: Row) -> Headers:
    """The headers of a row's record in the topic `jobs`."""
    return [(STATE_HEADER, _encode(JobPrivate(row.spared)))] if row.spared else []


def row_of(live: bytes | None, finished: bytes | None) -> Row:
    """The row that the store holds under a job key, without its body; an absent one if it holds none."""
    row = Row()
    if live is not None:
        row.seen_ms, row.spared = _local.unpack_from(live)
        record = _decode_record(live[_local.size :])
        row.state = row.stored = JobState.LIVE
    elif finished is not None:
        record = _decode_record(finished)
        row.state = JobState.FINISHED if record.verdict is None else JobState.JUDGED
        row.stored = JobState.FINISHED
    else:
        return row
    row.result, row.first_seen = record.result, record.first_seen
    row.updated_ms = times.from_text(record.updated)
    row.signature, row.verdict = record.signature, record.verdict
    return row


def live_value(seen_ms: int, spared: int, value: bytes) -> bytes:
    """Value of a row in the live table."""
    return _local.pack(seen_ms, spared) + value


def record_of(stored: bytes, *, live: bool) -> bytes:
    """The record's value inside a stored value."""
    return stored[_local.size :] if live else stored


def seen_ms_of(live: bytes) -> int:
    """Time of the P entry of a stored live row."""
    return int.from_bytes(live[:8], "big")


Op = tuple[bytes, bytes | None]


class Batch(Protocol):
    """What writes to an ordered map are put into."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value."""

    def delete(self, key: bytes) -> None:
        """Delete a key."""


def put_into(batch: Batch, ops: Iterable[Op]) -> None:
    """Put operations into a batch."""
    put, delete = batch.put, batch.delete
    for key, value in ops:
        if value is None:
            delete(key)
        else:
            put(key, value)


def restore(records: list[Any], batch: Batch, seen: bytearray | None) -> None:
    """Put what records of the topic `jobs` do to a store into a batch: in order, each offset once.

    A store that was empty needs no deletion for the first record of a key: `seen` has bits for the keys that came
    before, its length is a power of two. None: the store was not empty.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(records):
        if native is not None:
            at = native.restore(records, at, batch, seen, entries)
            if at == len(records):
                break
        record = records[at]
        before = seen is None or came_before(record.key, seen)
        ops, entry = restore_ops(record.key, record.value, record.headers)
        for key, value in ops:
            if value is not None:
                batch.put(key, value)
            elif before:
                batch.delete(key)
        if entry is not None:
            entries.append(entry)
        at += 1
    if entries:
        put_into(batch, bundles(entries, b"jobs", records[0].offset))


def bundles(entries: Sequence[bytes], topic: bytes, offset: int) -> list[tuple[bytes, bytes]]:
    """Keys and values of B entries for the keys of some P entries, of jobs that began in one batch of records.

    `topic` and `offset` are those of a record, and of no other batch in which a job began: jobs of a bundle that was
    overwritten would never be pruned. The keys are much alike: the values are compressed (LZ4).
    """
    made = []
    for at in range(0, len(entries), BUNDLE_ENTRIES_MAX):
        part = entries[at : at + BUNDLE_ENTRIES_MAX]
        number = topic + struct.pack(">QL", offset, at)
        value = bytes(cramjam.lz4.compress_block(msgspec.msgpack.encode(part)))
        made.append((keys.timed(keys.BUNDLE, keys.time_of(min(part)), number), value))
    return made


def unbundled(value: bytes) -> list[bytes]:
    """The keys of the P entries in a B entry."""
    return _decode_entries(bytes(cramjam.lz4.decompress_block(value)))


def came_before(key: bytes, seen: bytearray) -> bool:
    """Whether a key was seen, or one with the same bit; it is from now on. The length of `seen` is a power of two."""
    byte, bit = divmod(hash(key) % (len(seen) * 8), 8)
    before = seen[byte] >> bit & 1
    seen[byte] |= 1 << bit
    return bool(before)


def restore_ops(key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> tuple[list[Op], bytes | None]:
    """What a record of the topic `jobs` puts into an ordered map: (key, value or None to delete), and its P entry.

    A stale P entry may stay behind; whoever meets it drops it.
    """
    if value is None:
        return [(keys.LIVE + key, None), (keys.FINISHED + key, None)], None
    record = _decode_record(value)
    if record.result != "live":
        return [(keys.LIVE + key, None), (keys.FINISHED + key, value)], None
    spared = 0
    for name, data in headers:
        if name == STATE_HEADER:
            spared = _decode_private(data).spared
    seen_ms = times.from_text(record.updated)
    ops = [(keys.LIVE + key, live_value(seen_ms, spared, value)), (keys.FINISHED + key, None)]
    return ops, keys.timed(keys.SEEN, seen_ms, key)
