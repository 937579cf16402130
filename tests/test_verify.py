"""The verifier: nothing found where all is well, also while workers run; every kind of forged record found."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.consumer import consumer, fetcher
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.partitioner import murmur2

from livejobs.streams import verify
from livejobs.streams.config import Config
from livejobs.streams.core.messages import Reject
from livejobs.streams.verify.differences import Count, differences, paired
from livejobs.tables import jobs

SECONDS = 60.0
LOAD_SECONDS = 10.0
WORKER = "import sys; from livejobs.streams import config; from livejobs.streams.worker import worker; worker.run(config.load(sys.argv[1], environ={}))"
SIGS = {"sigs.enablelivejobs": True, "sigs.livetimeoutsignature": "LIVE Job Timeout or Missing"}
REGRESSIONS = 12
PARTITIONS = 3
MakeConfig = Callable[..., Config]
Kept = tuple[bytes, bytes]
Forged = tuple[bytes, bytes | None, list[tuple[str, bytes]], int]  # key, value, headers, partition


@pytest.fixture(autouse=True)
def _aiokafka_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier takes over how records are read in its process, which is that of other tests, too."""
    monkeypatch.setattr(consumer, "Fetcher", consumer.Fetcher)
    for name in ("PartitionRecords", "MemoryRecords", "FetchResult"):
        monkeypatch.setattr(fetcher, name, getattr(fetcher, name))


# ---------------------------------------------------------------------------------------------------- what is compared


def row(result: str, body: dict[str, Any], **more: Any) -> jobs.JobRecord:
    record = {"regression": "r", "result": result, "job": body, "first_seen": "2026-03-02T08:00:00.000Z"}
    return jobs.decode(json.dumps({**record, "updated": "2026-03-02T09:00:00.000Z", **more}).encode())


def finished(uniqueid: str, result: str = "pass", **more: Any) -> dict[str, Any]:
    return {"uniqueid": uniqueid, "result": result, **more}


def statistics(**fields: Any) -> Kept:
    record: dict[str, Any] = {
        "live": 0, "pass": 0, "fail": 0, "skip": 0, "finished": 0, "submitted": None, "remaining": None,
        "pass_rate": None, "cycles": 0, "compute_ms": 0, "cycles_per_second": None, "first_start": None,
        "runtime_ms": 0, "last_finish": None, "duration_ms": None, "signatures": {},
    }  # fmt: skip
    state = {name: fields.pop(name) for name in ("rate_cycles", "rate_runtime_ms") if name in fields}
    return json.dumps(state).encode(), json.dumps(record | fields).encode()


def counted(*rows: jobs.JobRecord, **fields: Any) -> list[str]:
    count = Count()
    for one in rows:
        count.add(one)
    return list(count.differences('"r"', "stats", "jobs", statistics(**fields)))


def test_no_rows_give_empty_statistics() -> None:
    assert counted() == []
    assert counted(submitted=3, remaining=3) == []
    assert counted(submitted=3, remaining=2) == ['"r": remaining is 2 in stats, 3 by the rows of jobs']


def test_rows_are_counted_and_summed() -> None:
    rows = (
        row("live", {"uniqueid": "a", "result": "live"}),
        row("pass", finished("b", start_time="2026-03-02T07:00:00Z", runtime_ms=1000, cycles=500, compute_ms=7)),
        row("pass", finished("c", cycles=9)),
        row("skip", finished("d")),
        row("fail", finished("e", "fail"), signature="broken"),
        row(
            "fail",
            {"uniqueid": "f", "result": "live", "start_time": "2020-01-01T00:00:00Z"},
            signature="T",
            verdict="timeout",
        ),
    )
    right: dict[str, Any] = {
        "live": 1, "pass": 2, "fail": 2, "skip": 1, "finished": 5, "pass_rate": 0.5, "cycles": 509, "compute_ms": 7,
        "runtime_ms": 1000, "cycles_per_second": 500.0, "rate_cycles": 500, "rate_runtime_ms": 1000,
        "first_start": "2026-03-02T07:00:00.000Z", "last_finish": "2026-03-02T09:00:00.000Z",
        "duration_ms": 7_200_000, "signatures": {"broken": 1, "T": 1},
    }  # fmt: skip
    assert counted(*rows, **right) == []
    for name, wrong in (
        ("live", 2),
        ("cycles", 508),
        ("rate_cycles", 1),
        ("first_start", None),
        ("signatures", {"T": 2}),
    ):
        (line,) = counted(*rows, **{**right, name: wrong})
        field = f"state.{name}" if name.startswith("rate") else name
        assert line.startswith(f'"r": {field} is {json.dumps(wrong, separators=(",", ":"))} in stats, ')


def test_a_row_whose_body_is_no_finished_job_is_refused() -> None:
    with pytest.raises(Reject):
        Count().add(row("pass", {"uniqueid": "a", "result": "live"}))


@pytest.mark.parametrize(
    ("got", "want", "lines"),
    [
        ((b"", b'{"a":1,"b":[2]}'), (b"", b'{"b":[2],"a":1.0}'), []),
        ((b"", b'{"a":1}'), None, ["x: is there in t, missing by job-events"]),
        (None, (b"", b'{"a":1}'), ["x: is missing in t, there by job-events"]),
        (
            (b"", b'{"a":1,"c":2}'),
            (b"", b'{"a":3}'),
            ["x: a is 1 in t, 3 by job-events", "x: c is 2 in t, absent by job-events"],
        ),
        ((b"", b'{"job":{"k":"v"}}'), (b"", b'{"job":{"k":"w"}}'), ['x: job.k is "v" in t, "w" by job-events']),
        ((b'{"phase":"open"}', b"{}"), (b"", b"{}"), ['x: state.phase is "open" in t, absent by job-events']),
        ((b"", b"no"), (b"", b"{}"), ["x: record is null in t, {} by job-events"]),
    ],
)
def test_two_records_differ_field_by_field(got: Kept | None, want: Kept | None, lines: list[str]) -> None:
    assert list(differences("x", "t", got, want)) == lines


def test_a_long_value_is_cut() -> None:
    (line,) = differences("x", "t", (b"", b'{"a":"%s"}' % (b"y" * 9999)), (b"", b'{"a":""}'))
    assert len(line) < 150


def test_ordered_rows_are_paired_by_key() -> None:
    a, b = (b"", b"a"), (b"", b"b")
    pairs = list(paired([(b"1", a), (b"2", a), (b"4", a)], [(b"2", b), (b"3", b), (b"4", b)]))
    assert pairs == [(b"1", a, None), (b"2", a, b), (b"3", None, b), (b"4", a, b)]


def test_a_report_lists_a_hundred_and_counts_the_rest() -> None:
    report = verify.Report(checked=2, sealed=1, moved=2)
    assert report.ok
    assert (
        str(report) == "no differences: 0 messages, 0 job rows, 2 regressions checked, "
        "3 not checked (1 sealed, 2 changed meanwhile)"
    )
    report.add(f"line {number}" for number in range(130))
    assert (len(report.differences), report.found, report.ok) == (100, 130, False)
    assert str(report).splitlines()[-2] == "... and 30 more"


# -------------------------------------------------------------------------------------------------------- a real broker


@contextmanager
def running_worker(config: Config, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as its own process; ended in the end."""
    path = folder / "livejobs.toml"
    kafka, sigs = config.kafka, config.sigs
    path.write_text(
        f"[kafka]\nbrokers = '{kafka.brokers}'\ntopicprefix = '{kafka.topicprefix}'\npartitions = {kafka.partitions}\n"
        f"[worker]\ndatadir = '{config.worker.datadir}'\ntickseconds = 0.2\nhealthbind = '127.0.0.1:0'\n"
        f"[sigs]\nenablelivejobs = {str(sigs.enablelivejobs).lower()}\n"
        f"livetimeoutsignature = '{sigs.livetimeoutsignature}'\n"
        f"retentiondays = {sigs.retentiondays}\n"
    )
    with (folder / "worker.log").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=out, stderr=out)
    try:
        yield process
        assert process.poll() is None, (folder / "worker.log").read_text()
    finally:
        process.terminate()
        process.wait(20)


def messages_of(name: str, number: int) -> Iterator[tuple[str, Any]]:
    yield "regr-start", {"name": name, "submitted": 8, "queue": "normal"}
    for job in range(8):
        yield (
            "job-live",
            {"uniqueid": f"u{job}", "result": "live", "host": f"h{job}", "start_time": f"2026-03-02T08:00:0{job}Z"},
        )
    for job in range(8 - number % 3):
        result = ("pass", "fail", "skip")[(job + number) % 3]
        more = {"fail_message": f"assert {job} at /a/b"} if result == "fail" else {}
        yield (
            "job-finish",
            {"uniqueid": f"u{job}", "result": result, "cycles": 100 * job, "runtime_ms": 10 + job, **more},
        )
    yield "batch-job-finish", [{"uniqueid": "u1", "result": "pass", "cycles": 5}, {"uniqueid": "u1"}]
    if number % 4 == 0:
        yield "regr-finish", {}
    if number % 5 == 0:
        yield "regr-tank", {"reason": "no"}


def partition_of(key: bytes) -> int:
    return int(murmur2(key) & 0x7FFFFFFF) % PARTITIONS


async def send(config: Config, topic: str, records: list[Forged]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=config.kafka.brokers)
    await producer.start()
    try:
        for key, value, headers, partition in records:
            await producer.send(topic, key=key, value=value, headers=headers, partition=partition)
    finally:
        await producer.stop()


async def send_history(config: Config, first: int, count: int) -> None:
    everyone = [(f"night/{n}", list(messages_of(f"night/{n}", n))) for n in range(first, first + count)]
    records: list[Forged] = [
        (name.encode(), json.dumps(body).encode(), [("type", kind.encode())], partition_of(name.encode()))
        for at in range(30) for name, messages in everyone for kind, body in messages[at : at + 1]
    ]  # fmt: skip
    await send(config, config.kafka.events_topic, records)


async def with_admin(config: Config, use: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
    admin = AIOKafkaAdminClient(bootstrap_servers=config.kafka.brokers)
    await admin.start()
    try:
        return await use(admin)
    finally:
        await admin.close()


async def ends(config: Config, topic: str) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=config.kafka.brokers)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(tps)
        found: dict[TopicPartition, int] = await consumer.end_offsets(tps)
        return found
    finally:
        await consumer.stop()


async def committed(config: Config) -> dict[TopicPartition, Any]:
    try:
        return dict(await with_admin(config, lambda admin: admin.list_consumer_group_offsets(config.kafka.group)))
    except GroupCoordinatorNotAvailableError:  # a broker that has just started
        return {}


async def folded(config: Config) -> None:
    """Return when the workers have committed all that is in `job-events` now."""
    wanted = await ends(config, config.kafka.events_topic)
    until = time.monotonic() + SECONDS
    while True:
        offsets = await committed(config)
        if all(tp in offsets and offsets[tp].offset >= end for tp, end in wanted.items()):
            return
        assert time.monotonic() < until, (offsets, wanted)
        await asyncio.sleep(0.1)


async def last_records(config: Config, topic: str) -> dict[bytes, tuple[bytes, list[tuple[str, bytes]], int]]:
    """Key -> value, headers and partition of the last record."""
    wanted = await ends(config, topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=config.kafka.brokers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    kept: dict[bytes, tuple[bytes, list[tuple[str, bytes]], int]] = {}
    try:
        consumer.assign(list(wanted))
        while any([await consumer.position(tp) < end for tp, end in wanted.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                kept.update({record.key: (record.value, list(record.headers), tp.partition) for record in records})
    finally:
        await consumer.stop()
    return kept


@pytest.fixture
def site(make_config: MakeConfig, tmp_path: Path) -> Config:
    """Topics with a history that a worker has folded."""
    config = make_config(SIGS)
    asyncio.run(send_history(config, 0, REGRESSIONS))
    with running_worker(config, tmp_path):
        asyncio.run(folded(config))
    return config


def test_a_running_system_is_clean(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(SIGS)
    asyncio.run(send_history(config, 0, REGRESSIONS))
    with running_worker(config, tmp_path):
        asyncio.run(folded(config))
        seen: list[tuple[int, int]] = []
        report = verify.run(config, lambda done, total: seen.append((done, total)))
        assert report.ok, str(report)
        assert (report.checked, report.not_checked, report.jobs) == (REGRESSIONS, 0, 8 * REGRESSIONS)
        assert seen[-1] == (report.events, report.events)
        assert all(done <= total for done, total in seen)
        for first in range(REGRESSIONS, 6 * REGRESSIONS, REGRESSIONS):
            asyncio.run(send_history(config, first, REGRESSIONS))
            report = verify.run(config)
            assert report.ok, str(report)
        asyncio.run(folded(config))
        report = verify.run(config)
        assert report.ok, str(report)
        assert (report.checked, report.not_checked) == (6 * REGRESSIONS, 0)


def test_sealed_regressions_are_not_checked(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config({**SIGS, "sigs.retentiondays": 0.2 / 86_400})
    asyncio.run(send_history(config, 0, REGRESSIONS))
    with running_worker(config, tmp_path):
        until = time.monotonic() + SECONDS
        while not asyncio.run(committed(config)):
            assert time.monotonic() < until
        while (report := verify.run(config)).sealed < REGRESSIONS // 4:
            assert report.ok, str(report)
            assert time.monotonic() < until, str(report)
    assert report.ok, str(report)
    assert report.not_checked >= report.sealed > 0


def changed(value: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(value) | fields, separators=(",", ":")).encode()


def test_forged_records_are_found(site: Config) -> None:
    stats_topic, jobs_topic = site.kafka.stats_topic, site.kafka.jobs_topic
    assert verify.run(site).ok
    stats, rows = asyncio.run(last_records(site, stats_topic)), asyncio.run(last_records(site, jobs_topic))
    name, job = b"night/3", b'["night/3","u0"]'
    value, headers, at = stats[name]
    record = json.loads(value)
    state = dict(headers)["livejobs.state"]
    row_value, row_headers, _ = rows[job]
    elsewhere, new = (at + 1) % PARTITIONS, b"night/404"
    skip = changed(row_value, result="skip", first_seen="2020-01-01T00:00:00.000Z")
    cycles = changed(row_value, job={"uniqueid": "u0", "result": "pass", "cycles": 77})
    lost = f'"night/3" job ["u0"]: is missing in {jobs_topic}, there by job-events'
    cases: list[tuple[str, bytes, bytes | None, list[tuple[str, bytes]], int, list[str]]] = [
        (stats_topic, name, changed(value, live=record["live"] + 1), headers, at, [
            f'"night/3": live is {record["live"] + 1} in {stats_topic}, {record["live"]} by job-events',
            f'"night/3": live is {record["live"] + 1} in {stats_topic}, {record["live"]} by the rows of {jobs_topic}',
        ]),
        (stats_topic, name, changed(value, status="COMPLETE"), headers, at, ["status"]),
        (stats_topic, name, value, [("livejobs.state", changed(state, tanked=True))], at, ["state.tanked"]),
        (stats_topic, name, changed(value, version=record["version"] + 10**6), headers, at, ["version"]),
        (stats_topic, name, b"{", headers, at, ["none of ours"]),
        (stats_topic, name, changed(value, heard="yesterday"), headers, at, ["none of ours"]),
        (stats_topic, name, None, [], at, ["is missing"]),
        (stats_topic, new, changed(value, regression="night/404"), headers, partition_of(new), ["is there"]),
        (stats_topic, name, value, headers, elsewhere, ["its key belongs to another"]),
        (jobs_topic, job, None, [], at, [lost, "by the rows"]),
        (jobs_topic, job, skip, row_headers, at, ["result", "by the rows"]),
        (jobs_topic, job, cycles, row_headers, at, ["job.cycles is 77", "by the rows"]),
        (jobs_topic, job, row_value, [("livejobs.state", b'{"spared":9}')], at, ["state.spared is 9"]),
        (jobs_topic, job, b"[]", row_headers, at, ["none of ours"]),
        (jobs_topic, b'["night/3","new"]', row_value, row_headers, at, ['["new"]: is there', "by the rows"]),
        (jobs_topic, b'["nobody","u0"]', row_value, row_headers, at, ['"nobody": has job rows']),
        (jobs_topic, b'["night/3",', row_value, row_headers, at, ["is no key of ours"]),
        (jobs_topic, b"nonsense", row_value, row_headers, at, ["is no key of ours"]),
    ]  # fmt: skip
    for topic, key, forged, forged_headers, partition, wanted in cases:
        asyncio.run(send(site, topic, [(key, forged, forged_headers, partition)]))
        report = verify.run(site)
        assert not report.ok, wanted
        for part in wanted:
            assert any(part in line for line in report.differences), (part, str(report))
        original = {stats_topic: stats, jobs_topic: rows}[topic].get(key)
        here = original is not None and original[2] == partition
        again: Forged = (key, original[0], original[1], partition) if original and here else (key, None, [], partition)
        asyncio.run(send(site, topic, [again]))
    report = verify.run(site)
    assert report.ok, str(report)


def test_regressions_whose_first_message_is_gone_are_not_checked(site: Config) -> None:
    events = TopicPartition(site.kafka.events_topic, partition_of(b"night/3"))
    mine = sum(partition_of(f"night/{number}".encode()) == events.partition for number in range(REGRESSIONS))
    asyncio.run(with_admin(site, lambda admin: admin.delete_records({events: RecordsToDelete(before_offset=mine + 1)})))
    report = verify.run(site)
    assert report.ok, str(report)
    assert (report.cut, report.checked) == (mine, REGRESSIONS - mine)
    # What the rows alone prove is still checked.
    value, headers, at = asyncio.run(last_records(site, site.kafka.stats_topic))[b"night/3"]
    asyncio.run(send(site, site.kafka.stats_topic, [(b"night/3", changed(value, cycles=1), headers, at)]))
    report = verify.run(site)
    assert report.found == 1
    assert "by the rows" in report.differences[0]


def test_a_group_without_offsets_has_folded_nothing(make_config: MakeConfig) -> None:
    config = make_config(SIGS)
    asyncio.run(send_history(config, 0, 1))
    report = verify.run(config)
    assert (report.ok, report.events, report.checked, report.not_checked) == (True, 0, 0, 0)


def test_a_system_under_load_is_clean(make_config: MakeConfig, tmp_path: Path) -> None:
    """From before the first commit on, while messages come without a pause."""
    config = make_config(SIGS)
    stop = threading.Event()

    def load() -> None:
        first = 0
        while not stop.is_set():
            asyncio.run(send_history(config, first, 2 * REGRESSIONS))  # each regression gets its messages twice
            first += REGRESSIONS

    with running_worker(config, tmp_path), ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        try:
            begin, checked = time.monotonic(), 0
            while (passed := time.monotonic() - begin) < LOAD_SECONDS or not checked:
                assert passed < SECONDS, "nothing was checked"
                report = verify.run(config)
                assert report.ok, str(report)
                checked += report.checked
        finally:
            stop.set()
        loading.result()
        asyncio.run(folded(config))
        report = verify.run(config)
    assert (report.ok, report.not_checked) == (True, 0), str(report)
