"""The compiled part answers as `streams.core.messages` and aiokafka do, or not at all."""

import json
import struct
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import MemoryBatch, MemoryMap, Record, compiled_record

from livejobs.streams.config import Sigs
from livejobs.streams.core import messages, overlay, signature
from livejobs.streams.core.partitioner import murmur2
from livejobs.streams.core.rules import Rules
from livejobs.streams.kafka import records as kafka_records
from livejobs.streams.kafka.records import _Fast, _Fetched
from livejobs.tables import jobs, regressions, times
from livejobs.tables.fields import Row
from livejobs.tables.regressions import NEVER_MS, Ending, Regression
from livejobs.tables.states import JobState

native = pytest.importorskip("livejobs.tables._native")
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

FINISH = {
    "start_time": "2026-03-02T08:00:11.123-05:00", "category": "sim", "jobdir": "/runs/nightly/17/job-3", "seed": "123",
    "config": "rand +seed=123", "host": "farm042", "result": "fail", "finish_time": "2026-03-02T08:01:32Z",
    "runtime_ms": 81200, "compute_ms": 79850, "cycles": 1200450, "exit_code": 1, "fail_message": "UVM_ERROR mismatch",
    "metadata": [["a", "b"]],
}  # fmt: skip
LIVE = {name: FINISH[name] for name in ("start_time", "category", "jobdir", "seed", "config", "host", "metadata")} | {"result": "live"}

names = st.sampled_from([*messages.Job.__struct_fields__, "x", "y", "", 'q"', "nested"])
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "live", "pass", "fail", "skip", "", "2026-03-02T08:00:11.123-05:00", "2024-02-29T23:59:59Z", "2023-02-29T00:00:00Z",
        "1969-12-31T23:59:59.999999+14:00", "2000-01-01T00:00:00.1234567Z", "2026-03-02T08:00:11", "2026-03-02 08:00:11Z",
        "0001-01-01T00:00:00Z", "9998-12-31T23:59:59-23:59", "2026-03-02T08:00:60Z", "2026-03-02T08:00:00+24:00", "a\\b", "\x7f",
    ]),
)  # fmt: skip
numbers = st.one_of(
    st.integers(-2, 10**19), st.floats(allow_nan=False), st.sampled_from([0, 2**63, 2**63 - 1, 253402300799999, 3.0])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), texts, numbers),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
changes = st.dictionaries(names, st.one_of(values, st.just([["n", "v"], ["n", "w"]])), max_size=4)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Job bodies near a good one, spelled in different ways, some with bytes changed."""
    job = dict(draw(st.sampled_from([FINISH, LIVE])))
    for name in draw(st.lists(st.sampled_from(list(FINISH)), max_size=3)):
        job.pop(name, None)
    job |= draw(changes)
    text = json.dumps(
        job,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])),
        indent=draw(st.sampled_from([None, None, 1])),
    )
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(body) - 1))
        cut = draw(st.integers(0, 2))
        body[at : at + cut] = draw(st.one_of(st.binary(max_size=2), st.sampled_from([b'"', b"\\", b"}", b",", b"0", b'"x":1,'])))
        if not body:
            break
    return bytes(body)


def read(function: Any, body: bytes) -> Any:
    try:
        answer = function(body)
    except messages.Reject:
        return "rejected"
    if isinstance(answer, tuple):
        return (*answer[:-1], None if answer[-1] is None else msgspec.json.decode(answer[-1]))
    return answer


@given(body=bodies())
@example(body=b"")
@example(body=b"{}")
@example(body=b'{"uniqueid":"u","result":"live","result":"live"}')
@example(body=b'{"uniqueid":"u","result":"live","x":{"a":1,"a":2}}')
@example(body=b'{"uniqueid":"u","result":"live","x":' + b"[" * 70 + b"]" * 70 + b"}")
@example(body=b'{"uniqueid":"u","result":"pass","cycles":00}')
@example(body=b'{"uniqueid":"u","result":"pass","cycles":-0}')
@example(body=b'{"uniqueid":"u","result":"pass","x":1e999}')
@example(body=b'{"uniqueid":"u","result":"pass"} x')
@example(body=b'{"uniqueid":"\xed\xa0\x80","result":"pass"}')
def test_a_body_is_read_as_the_rules_say_or_left_to_them(body: bytes) -> None:
    for fast, sure in ((native.live, messages.checked_live), (native.finish, messages.checked_finish)):
        answer = read(fast, body)
        if answer is not None:
            assert answer == read(sure, body)


@given(body=bodies())
def test_a_body_is_published_unseen_only_if_it_is_good(body: bytes) -> None:
    for finished, sure in ((False, messages.checked_live), (True, messages.checked_finish)):
        assert native.is_job(body, finished) == ((native.finish if finished else native.live)(body) is not None)
        if native.is_job(body, finished):
            sure(body)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "more",
    [{}, {"seed": 17}, {"seed": 1.50}, {"uniqueid": "ü/1"}, {"bucket": "B"}, {"extra": {"a": [1, {"b": None}]}}, {"host": None}],
)
def test_plain_bodies_need_no_second_look(more: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(LIVE | more, indent=indent, ensure_ascii=False).encode()
    if "bucket" not in more:
        assert native.live(body) == messages.checked_live(body)
    body = json.dumps(FINISH | more, indent=indent, ensure_ascii=False).encode()
    assert native.finish(body) is not None
    assert read(native.finish, body) == read(messages.checked_finish, body)


headers = st.lists(st.tuples(st.sampled_from(["type", "traceparent", "ä"]), st.one_of(st.none(), st.binary(max_size=9))), max_size=3)
outputs = st.lists(
    st.tuples(st.one_of(st.none(), st.binary(max_size=9)), st.one_of(st.none(), st.binary(max_size=300)), headers),
    min_size=1, max_size=40,
)  # fmt: skip


def packed(items: list[Any], bytes_max: int) -> list[tuple[bytes, int]]:
    batches, at = [], 0
    while at < len(items):
        batch, after = native.pack(items, at, bytes_max)
        native.seal(batch, 0x10, 1234, 7, 3, at, after - at)
        batches.append((bytes(batch), after - at))
        at = after
    return batches


@given(items=outputs, bytes_max=st.sampled_from([100, 1000, 100_000]))
def test_packed_records_are_what_aiokafka_reads(items: list[Any], bytes_max: int) -> None:
    found: list[Any] = []
    for batch, count in packed(items, bytes_max):
        assert len(batch) <= bytes_max or count == 1
        other = DefaultRecordBatch(batch)
        assert other.validate_crc()
        assert (other.is_transactional, other.producer_id, other.producer_epoch, other.base_sequence) == (True, 7, 3, len(found))
        assert other.next_offset == count
        found += [(record.key, record.value, record.headers) for record in other]
    assert found == items


def sealed(packer: Any, first: int) -> DefaultRecordBatch:
    """A filled batch as aiokafka reads it."""
    data = packer.built(7, 3, first)
    assert len(data) == packer.size()
    batch = DefaultRecordBatch(bytes(data))
    assert batch.validate_crc()
    assert (batch.is_transactional, batch.producer_id, batch.producer_epoch, batch.base_sequence) == (False, 7, 3, first)
    assert batch.next_offset == packer.record_count()
    return batch


known = st.lists(st.tuples(st.sampled_from(["type", "ä"]), st.binary(max_size=9)), max_size=3)


@given(
    items=st.lists(st.tuples(st.binary(max_size=99), st.binary(max_size=300), known), min_size=1, max_size=40),
    bytes_max=st.sampled_from([100, 1000, 100_000]),
)
def test_a_batch_filled_one_by_one_is_what_aiokafka_reads(items: list[Any], bytes_max: int) -> None:
    packer, packers = native.Packer(bytes_max), []
    for key, value, heads in items:
        if not packers or not packer.add(native.sized(key), value, native.packed_headers(heads)):
            packer = native.Packer(bytes_max)
            packers.append(packer)
            assert packer.add(native.sized(key), value, native.packed_headers(heads))
    kept = [(record.key, record.value, record.headers) for packer in packers for record in packer.messages()]
    read = [(r.key, r.value, r.headers) for packer in packers for r in sealed(packer, 5)]
    assert kept == read == items
    assert all(packer.size() <= bytes_max or packer.record_count() == 1 for packer in packers)
    assert not packer.add(b"", b"", b"")  # it is on its way


lines = st.one_of(
    bodies().filter(lambda body: b"\n" not in body),
    st.sampled_from([b"", b" \r", b"{", json.dumps(FINISH).encode(), b"\t" + json.dumps(FINISH).encode() + b" \r"]),
)


@given(text=st.lists(lines, max_size=30), bytes_max=st.sampled_from([500, 1_000, 100_000]), end=st.booleans())
def test_lines_are_taken_in_order_up_to_one_that_is_not_plain(text: list[bytes], bytes_max: int, end: bool) -> None:
    data = b"\n".join(text) + (b"\n" if end else b"")
    key, heads = native.sized(b"r"), native.packed_headers([("type", b"job-finish")])
    packer = native.Packer(bytes_max)
    at, count, full = packer.lines(key, heads, True, data, 0)
    assert at == sum(len(line) + 1 for line in text[:count])
    assert [record.value for record in sealed(packer, 0)] == [line.strip() for line in text[:count]] if count else at == 0
    if full:
        assert packer.size() + len(text[count]) + 7 > bytes_max  # the key's, the header's and the framing's bytes are more
    if full or (end and count < len(text)) or count < len(text) - 1:
        assert full == native.is_job(text[count].strip(b" \t\r"), True)


def built(items: list[Any], first: int, *, compression: int = 0, producer: int = 0, marker: bool = False) -> bytes:
    """A batch as aiokafka writes it, from offset `first` on; with a producer it is of its transaction, or that one's marker."""
    builder = DefaultRecordBatchBuilder(2, compression, bool(producer), producer or -1, 0, 0, 10**9)
    for at, (key, value, heads) in enumerate(items):
        assert builder.append(at, 1000 + at, key, value, heads) is not None
    batch = bytearray(first.to_bytes(8, "big") + bytes(builder.build())[8:])
    if marker:
        batch[22] |= 0x20
        batch[17:21] = struct.pack(">I", native.crc32c(bytes(batch), 21))
    return bytes(batch)


@given(items=outputs)
def test_plain_batches_are_read_as_aiokafka_reads_them(items: list[Any]) -> None:
    data = built(items, 50) + built(items, 500)
    records, at, next_offset = native.plain(data, 0, 10**6, all_count=False)
    assert (at, next_offset) == (len(data), 500 + len(items))
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in records] == [
        (first + i, 1000 + i, *item) for first in (50, 500) for i, item in enumerate(items)
    ]
    assert [r.kind for r in records[: len(items)]] == [
        next((value or b"" for name, value in reversed(heads) if name == "type"), b"") for _, _, heads in items
    ]


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 5, "commit", "abort"])), min_size=10, max_size=30),
    level=st.sampled_from([READ_COMMITTED, READ_UNCOMMITTED]),
    start=st.integers(0, 12),
    most=st.integers(1, 10),
    compression=st.sampled_from([0, 0, 1]),
)
def test_of_transactions_the_same_is_read_as_by_aiokafka(
    steps: list[Any], level: int, start: int, most: int, compression: int
) -> None:
    """A log of producers, of which 0 uses no transactions, fetched from any offset on."""
    log, offset = b"", 0
    began: dict[int, int] = {}  # first offset of each producer's open transaction
    aborted: list[tuple[int, int]] = []
    for producer, what in steps:
        if isinstance(what, int):
            items = [(b"k%d" % i, b"v" * 50, []) for i in range(what)]
            batch = built(items, offset, compression=compression, producer=producer)
            if producer:
                began.setdefault(producer, offset)
        elif producer in began:
            batch = built([(struct.pack(">HH", 0, what == "commit"), b"\0" * 6, [])], offset, producer=producer, marker=True)
            first = began.pop(producer)
            if what == "abort" and offset >= start:
                aborted.append((producer, first))
        else:
            continue
        size = what if isinstance(what, int) else 1
        if offset + size > start:  # the broker begins with the batch that has the offset
            log += batch
        offset += size
    tp = TopicPartition("topic", 0)
    theirs = PartitionRecords(tp, MemoryRecords(log), aborted, start, None, None, True, level)
    ours = _Fast(tp, _Fetched(log), aborted, start, None, None, True, level)
    wanted = [(record.offset, record.key) for record in theirs]
    found: list[Any] = []
    with patch.object(kafka_records, "UNPACKED_MAX", 3), patch.object(ours, "_batch", wraps=ours._batch) as looked_at:
        while taken := ours.take(most):
            assert len(taken) <= most
            found += taken
    if not (compression or (aborted and level == READ_COMMITTED)):  # then nothing but markers takes the longer way
        assert all(call.args[0][5] & 0x20 for call in looked_at.call_args_list)
    assert [(record.offset, record.key) for record in found] == wanted
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_batches_of_a_transaction_are_plain_where_none_was_aborted() -> None:
    data = built([(b"k", b"v", [])], 1, producer=7)
    assert native.plain(data, 0, 10, all_count=True)[1:] == (len(data), 2)
    assert native.plain(data, 0, 10, all_count=False) == ([], 0, -1)
    marker = built([(b"\0\0\0\1", b"", [])], 1, producer=7, marker=True)
    assert native.plain(marker, 0, 10, all_count=True) == ([], 0, -1)


def test_what_is_not_plain_is_left_to_others() -> None:
    item = (b"k", b"v" * 1000, [])
    plain, compressed = built([item], 1), built([item], 2, compression=1)
    data = plain + compressed
    assert native.plain(data, 0, 10, all_count=False)[1:] == (len(plain), 2)
    assert native.plain(data, len(plain), 10, all_count=False) == ([], len(plain), -1)
    assert native.plain(plain[:-1], 0, 10, all_count=False) == ([], 0, -1)


@given(items=outputs, at=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_a_damaged_batch_is_noticed(items: list[Any], at: int, byte: int) -> None:
    data = bytearray(built(items, 1))
    data[21 + at % (len(data) - 21)] ^= byte  # what the checksum covers
    try:
        records, _, _ = native.plain(bytes(data), 0, 10, all_count=False)
    except ValueError:
        return
    assert records == []  # it claims to be compressed or in a transaction, and is looked at elsewhere


@given(items=outputs, at=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_a_damaged_body_is_an_error_or_other_records(items: list[Any], at: int, byte: int) -> None:
    body = bytearray(built(items, 1)[61:])
    body[at % len(body)] ^= byte
    try:
        records = native.records(bytes(body), 0, len(items), 0, len(items) - 1, 0, False)
    except ValueError:
        return
    assert len(records) == len(items)
    for record in records:
        assert isinstance(record.headers, list)


@given(data=st.binary(max_size=100))
def test_checksums_agree(data: bytes) -> None:
    assert native.crc32c(b"x" + data, 1) == native.crc32c(data, portable=True)


@given(data=st.binary(max_size=100))
def test_hashes_agree(data: bytes) -> None:
    assert native.murmur2(data) == murmur2(data)


def test_a_known_checksum() -> None:
    assert native.crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4 names the polynomial


def test_a_header_name_that_is_no_utf8_is_kept() -> None:
    good = built([(b"k", b"v", [("type", b"t")])], 0)[61:]
    record = native.records(good.replace(b"type", b"ty\xff\xfe"), 0, 1, 0, 0, 0, False)[0]
    assert record.headers == [("ty\udcff\udcfe", b"t")]
    assert bytes(native.pack([(b"k", b"v", record.headers)], 0, 1000)[0])[61:].find(b"ty\xff\xfe") > 0


@pytest.mark.parametrize("result", ["live", "pass", "fail"])
def test_records_of_a_worker_are_restored_without_a_second_look(result: str) -> None:
    row = Row()
    row.result, row.body, row.first_seen, row.updated_ms = result, b'{"a":1}', "2026-03-02T13:00:11.201Z", 1_772_456_411_201
    row.signature = 'a "signature"' if result == "fail" else None
    value = row.value(b'"r \\"1\\""')
    packed, _ = native.pack([(b"[key", value, [])], 0, 1)
    batch, entries = MemoryBatch(), list[bytes]()
    assert native.restore(native.records(bytes(packed), 61, 1, 0, 0, 0, True), 0, batch, None, entries) == 1
    ops, entry = jobs.restore_ops(b"[key", value, [])
    assert (batch.ops, entries) == (dict(ops), [] if entry is None else [entry])


LOG = st.lists(st.tuples(st.sampled_from([b'["a","1"]', b'["a","2"]', b'["b","1"]']), st.sampled_from(["live", "pass", "fail", ""])))


@given(log=LOG, compiled=st.lists(st.booleans(), min_size=1))
def test_an_empty_store_is_restored_with_no_needless_deletions(log: list[tuple[bytes, str]], compiled: list[bool]) -> None:
    """As a store that may hold anything: whatever was written over is gone, from the compiled part and without it."""
    records = []
    for number, (key, result) in enumerate(log):
        row = Row()
        row.result, row.body, row.first_seen, row.updated_ms = result, b"{}", "2026-03-02T13:00:11.201Z", 1_772_456_411_201
        record = Record(number, 0, key, row.value(b'"a"') if result else None, ())
        records.append(compiled_record(record) if compiled[number % len(compiled)] else record)
    careful, empty = MemoryMap(), MemoryMap()
    for some, seen in ((careful, None), (empty, bytearray(64))):
        batch = MemoryBatch()
        jobs.restore(records, batch, seen)
        some.write(list(batch.ops.items()))
    assert empty.values == careful.values
    batch = MemoryBatch()
    jobs.restore(records[:1], batch, bytearray(64))
    assert None not in batch.ops.values()


ROWS = st.lists(
    st.fixed_dictionaries({
        "state": st.sampled_from(JobState),
        "stored": st.sampled_from([JobState.ABSENT, JobState.LIVE, JobState.FINISHED]),
        "result": st.sampled_from(["live", "pass", "fail", "skip"]),
        "first_seen": st.sampled_from(["2026-03-02T13:00:11.201Z", "2026-03-02T13:00:11.202Z"]),
        "updated_ms": st.integers(0, 253402300799999),
        "seen_ms": st.integers(0, 253402300799999),
        "spared": st.sampled_from([0, 0, 7]),
        "signature": st.one_of(st.none(), st.text(max_size=5)),
        "verdict": st.sampled_from([None, "timeout", "tank"]),
        "body": st.sampled_from([None, b"{}", b'{"a":1}']),
    }),
    max_size=6,
)  # fmt: skip

RULES = Rules.of(Sigs())
FIELDS = ("state", "stored", "dirty", "seen_ms", "body")


@given(rows=ROWS)
def test_changed_rows_are_written_as_the_rules_say(rows: list[dict[str, Any]]) -> None:
    found = []
    for compiled in (True, False):
        with patch.object(overlay, "native", native if compiled else None):
            one = overlay.Overlay(RULES, MemoryMap(), 1)
            one.version, one.now_ms = 9, 5
            for number, fields in enumerate(rows):
                regression, row = one._regression(b"r%d" % (number % 2), f"r{number % 2}"), Row()
                for name, value in fields.items():
                    setattr(row, name, value)
                key = b'["r%d","%d"]' % (number % 2, number)
                regression.rows[key] = row
                one._touch(regression, key, row)
            every = [(regression, key, row) for regression in one._regressions.values() for key, row in regression.rows.items()]
            changes = one.take()
            after = [(key, [getattr(row, name) for name in FIELDS]) for _, key, row in every]
            found.append((changes.jobs, changes.ops, one._seen_head, one._bundle_head, after, [len(regression.rows) for regression, *_ in every]))
    assert found[0] == found[1]


def held(regression: Regression | None) -> dict[str, Any] | None:
    """All that is in memory of a regression."""
    if regression is None:
        return None
    return {name: getattr(regression, name) for name in dir(native.RegressionFields) if not name.startswith("_")}


totals = st.integers(-(2**63), 2**64)
moments = st.integers(-62135596800000, times.MS_MAX)
regressions_ = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["passed", "fail", "skip", "live"], st.integers(0, 10**12)),
        **dict.fromkeys(["cycles", "compute_ms", "runtime_ms", "rate_cycles", "rate_runtime_ms", "submitted"], totals),
        **dict.fromkeys(["updated_ms", "heard_ms", "first_start_ms", "last_finish_ms"], moments),
        "version": st.integers(-1, 2**63 - 1),
        "tanked": st.booleans(),
        "phase": st.sampled_from(["open", "finished", "timed-out"]),
        "signatures": st.dictionaries(st.text(max_size=5), st.integers(0, 10**6), max_size=3),
        "fields": st.dictionaries(st.text(max_size=5), values, max_size=3).map(msgspec.json.encode),
        "start": st.sampled_from([None, "", "0123456789abcdef", 'q"\u00e9']),
        "closed_ms": st.one_of(st.none(), moments),
        "dropping": st.booleans(),
        "ending": st.sampled_from([None, Ending("tank", 7, "after")]),
        "deadline_ms": st.integers(0, NEVER_MS),
    },
)


def regression_with(name: str, fields: dict[str, Any]) -> Regression:
    regression = Regression(name)
    for field, value in fields.items():
        setattr(regression, field, value)
    return regression


@given(name=st.text(max_size=5), fields=regressions_)
@example(name="r", fields={"submitted": -(2**63), "passed": 1})
@example(name="r", fields={"cycles": 2**63 - 1, "compute_ms": -(2**63)})
def test_statistics_are_written_as_the_rules_say(name: str, fields: dict[str, Any]) -> None:
    regression = regression_with(name, fields)
    expected = msgspec.json.encode(regression.record())
    assert regression.value() == expected
    numbers = [fields.get(field, 0) for field in ("cycles", "compute_ms", "runtime_ms", "submitted")]
    if all(-(2**63) <= number < 2**63 for number in [*numbers, numbers[-1] - regression.finished]):
        written = native.stats_value(regression, regression.status)
        assert written == expected


def read_by_the_rules(stored: bytes) -> Regression:
    with patch.object(regressions, "native", None):
        return regressions.from_stored(stored)


@given(name=st.text(max_size=5), fields=regressions_)
def test_a_stored_regression_is_read_as_the_rules_say(name: str, fields: dict[str, Any]) -> None:
    one = regression_with(name, fields)
    stored = regressions.stored_value(one.deadline_ms, one.value(), one.headers())
    found = native.stored_regression(stored, Regression)
    expected = read_by_the_rules(stored)
    assert held(found) in (None, held(expected))
    assert regressions.stored_value(expected.deadline_ms, expected.value(), expected.headers()) == stored


counts = st.integers(0, 10**12)
MS_LATE = 4_000_000_000_000
usual = st.fixed_dictionaries(
    {"updated_ms": st.integers(0, MS_LATE), "heard_ms": st.integers(0, MS_LATE), "version": st.integers(0, 2**53)},
    optional={
        **dict.fromkeys(["passed", "fail", "skip", "live", "cycles", "compute_ms", "runtime_ms", "submitted"], counts),
        **dict.fromkeys(["rate_cycles", "rate_runtime_ms"], counts),
        **dict.fromkeys(["first_start_ms", "last_finish_ms"], st.integers(0, MS_LATE)),
        "signatures": st.dictionaries(st.sampled_from(["a", "timeout <n>", "\u00e9"]), st.integers(1, 9)),
        "fields": st.sampled_from([b"{}", b'{"project":"x","submitted":7,"custom_metadata":[["a","b"]]}']),
        "start": st.sampled_from([None, "0123456789abcdef"]),
    },
)


@given(name=st.sampled_from(["nightly/17", "n\u00e4chtlich"]), fields=usual)
def test_the_compiled_part_reads_a_usual_stored_regression(name: str, fields: dict[str, Any]) -> None:
    one = regression_with(name, fields)
    stored = regressions.stored_value(one.deadline_ms, one.value(), one.headers())
    assert held(native.stored_regression(stored, Regression)) == held(read_by_the_rules(stored))


changed = st.fixed_dictionaries(
    {"exists": st.booleans(), "dirty": st.booleans()},
    optional={
        "stored": st.booleans(),
        "deadline_ms": st.sampled_from([0, 10**12, MS_LATE, 2 * MS_LATE, NEVER_MS]),
        "sealed_ms": st.one_of(st.none(), st.integers(0, MS_LATE)),
        "size": st.integers(0, 1000),
    },
)


@given(
    some=st.lists(st.tuples(st.one_of(usual, regressions_), changed, st.booleans()), max_size=4),
    hours=st.sampled_from([None, 24.0]),
)
def test_changed_regressions_are_written_as_the_rules_say(some: list[Any], hours: float | None) -> None:
    found = []
    for compiled in (True, False):
        with patch.object(overlay, "native", native if compiled else None):
            one = overlay.Overlay(Rules.of(Sigs(enablelivejobs=True, autotimeouthours=hours)), MemoryMap(), 1)
            for number, (fields, more, moved) in enumerate(some):
                regression = regression_with(f"r{number}", {**fields, **more, "dirty": False})
                one._remember(regression)
                if more["dirty"]:
                    one._publish(regression)
                if moved:
                    one._moved[regression.key] = regression
            every = list(one._regressions.values())
            try:
                changes = one.take()
            except (ValueError, struct.error):  # a time before the epoch has no entry
                found.append(None)
                continue
            after = (one._cached, one._deadline_head, list(one._regressions))
            found.append((changes.stats, changes.ops, after, [held(regression) for regression in every]))
    assert found[0] == found[1]


@given(fields=usual, at=st.integers(0), new=st.binary(max_size=3), cut=st.integers(0, 3))
def test_a_stored_regression_that_nobody_wrote_is_left_or_read_as_the_rules_say(
    fields: dict[str, Any], at: int, new: bytes, cut: int
) -> None:
    one = regression_with("nightly", fields)
    stored = regressions.stored_value(one.deadline_ms, one.value(), one.headers())
    at %= len(stored)
    stored = stored[:at] + new + stored[at + cut :]
    found = native.stored_regression(stored, Regression)
    if found is None:
        return
    try:
        expected = read_by_the_rules(stored)
    except (msgspec.DecodeError, ValueError, OverflowError):
        return  # no store has it: what is restored was read by these rules
    found.fields = msgspec.json.encode(regressions.decode_fields(found.fields))  # of which the space is kept
    assert held(found) == held(expected)


@given(ms=moments)
@example(ms=-1)
@example(ms=951782400000)
def test_times_are_written_as_the_library_writes_them(ms: int) -> None:
    assert native.to_text(ms) == (datetime(1970, 1, 1) + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"  # noqa: DTZ001


@given(ms=moments)
def test_times_as_they_are_written_are_read(ms: int) -> None:
    text = native.to_text(ms)
    assert times.from_text(text) == ms
    if "0002" <= text[:4] <= "9998":
        assert native.from_text(text) == ms


@given(
    text=st.one_of(
        texts,
        st.builds(
            "{}{}{}".format,
            st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds")),
            st.one_of(st.just(""), st.text("0123456789", max_size=8).map(".{}".format)),
            st.sampled_from(["Z", "z", "", "+00:00", "-05:30", "+14:00", "-23:59", "+24:00", "+0100"]),
        ),
    )
)
def test_other_times_are_read_as_the_library_reads_them_or_left_to_it(text: str) -> None:
    ms = native.from_text(text)
    assert ms is None or ms == times.to_ms(datetime.fromisoformat(text))


@pytest.mark.parametrize("ms", [-62135596800001, 253402300800000])
def test_a_time_that_has_no_text_is_an_error(ms: int) -> None:
    with pytest.raises(OverflowError):
        native.to_text(ms)


pieces = st.sampled_from([
    "/", "//", "./", "../", "~/", "a", "g", "_", "0", "7", "x", "X", "0x", "0X1f", "h", "H", "'h", "8'hz", "'", "deadbeef1", "abcdef", "123456", "a1b2c3",
    ".", "..", ",", "_", "[", "]", "[0]", "[i j]", "top.dut", "alu[3].q", "=", "%", "~", "?", "z", "-", ":", "(", ")", "<", ">", " ", "  ", "\t", "\n", "\n \n",
    "12", "1.5", "1,000", "1_000", "x" * 99, "y" * 101, "é", "\r", "\x1c", "\x7f", "\x00",
])  # fmt: skip


@settings(max_examples=3000)
@given(st.lists(pieces, max_size=12).map("".join))
@example("/p/rtl/alu.sv(123): 32'hDEAD_beef, 0xCAFE at top.dut[3].alu: 1,234.5 ns, id 5f3a9c")
@example("a[" + "x" * 100 + "].b a[" + "x" * 101 + "].b")
@example("/a" * 512)
@example("1 " * 512)
@example("a.b " * 256)
@example("x" * 1025)
@example(" " * 4090 + "left 12")
@example("word " * 60)
@example("")
def test_a_fail_message_is_reduced_alike(message: str) -> None:
    reduced = native.reduce(message)
    assert reduced in (None, signature.reduce_any(message))
    lines = [line for line in message[:4096].split("\n") if line.strip()]
    if lines and message.isascii() and (message.replace("\n", "").replace("\t", "")).isprintable() and len(lines[0]) <= 1024:
        assert reduced is not None
