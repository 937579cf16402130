"""Who may publish may send anything: forged internal messages, names and bodies made to break something, bombs. None of it changes what it should not, is lost, or stops a worker.

How: a producer that checks nothing, down to the bytes of a batch, a real worker, and in the end the naive model and `livejobs verify`. What no reader but the worker's
should touch (bombs) goes to topics of its own.
"""

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import cramjam
import pytest
import raw
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from harness import SECONDS, SIGS, TICK, Headers, Record, Site
from memory import MemoryMap
from memory import Record as MemoryRecord
from rich.console import Console
from test_secure import command

from livejobs.streams.config import Sigs
from livejobs.streams.core.fold import Fold
from livejobs.streams.core.rules import Rules
from livejobs.streams.demo.board import Board
from livejobs.streams.kafka.broker import Broker
from livejobs.streams.terminal.printable import printable

KIB, MIB = 1024, 1024 * 1024
ERRORS = "__streams.errors."
FAR_MS = 4_102_444_800_000  # the year 2100
WORKER_MIB_MAX = 512
RULES = {**SIGS, "autotimeouthours": 1, "retentiondays": 1}
JOB = b'{"uniqueid": "a", "result": "pass"}'


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("strangers"), RULES) as site:
        site.start().ready()
        yield site


# --- forged -----------------------------------------------------------------------------------------------------------


STATE = [
    ("livejobs.state", json.dumps({"phase": "finished", "closed_ms": 1, "sealed_ms": 2, "tanked": True, "rate_cycles": 10**9}).encode()),
    ("livejobs.state", b"\xff{"),
    ("livejobs.state", b""),
]
OURS = [(f"{ERRORS}{name}", b"7") for name in ("exception", "message", "topic", "partition", "offset")]


@pytest.mark.parametrize("partition", [0, 1])
@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (None, None, []),
        (b"forged", b'{"now": 4102444800000, "regression": "forged"}', []),
        (b"forged", JOB, [("type", b"job-finish"), ("type", TICK.encode())]),
        (b"\xff" * 2000, b"x" * MIB, [*STATE, *OURS, ("now", b"4102444800000")]),
    ],
    ids=["as ours", "with a body", "two types", "everything"],
)
def test_a_forged_tick_is_a_tick_and_nothing_else(partition: int, key: bytes | None, value: bytes | None, headers: Headers, site: Site) -> None:
    """Its place and the broker's time are its meaning: no regression times out, whatever time it claims."""
    site.send("regr-start", "forged", {"submitted": 5})
    site.send("job-live", "forged", {"uniqueid": "a", "result": "live"})
    heads = [(b"type", TICK.encode()), *((name.encode(), data) for name, data in headers)]

    def send() -> Any:
        for times_ms in ((FAR_MS, FAR_MS), (0, 0)):
            data = raw.batch(raw.record(key, value, None, heads=heads), times_ms=times_ms)
            offset = site.background.run(raw.send(site.producer, site.config.kafka.events_topic, data, partition=partition))
        return offset

    site.unchanged("forged", send)
    assert site.reader.stats["forged"]["status"] == "LIVE"
    assert not [record for record in site.reader.rejects.records if record.key == key and key is not None]


def test_ten_thousand_forged_ticks_are_one_moment(site: Site) -> None:
    count = 10_000
    body = b"".join(raw.record(None, None, TICK.encode(), delta=number) for number in range(count))
    site.status("forged", "LIVE")

    def send() -> Any:
        data = raw.batch(bytes(cramjam.zstd.compress(body)), count, raw.ZSTD, times_ms=(FAR_MS, FAR_MS))
        return site.background.run(raw.send(site.producer, site.config.kafka.events_topic, data, count, site.partition_of("forged")))

    site.unchanged("forged", send)


@pytest.mark.parametrize("kind", ["_livejobs.", "_livejobs.tock", "_livejobs.tick.", "_livejobs.refused-batch", "_LIVEJOBS.TICK", " _livejobs.tick"])
def test_a_reserved_type_that_does_not_exist_is_rejected(kind: str, site: Site) -> None:
    site.status("forged", "LIVE")
    sent = None

    def send() -> Any:
        nonlocal sent
        sent = site.send(kind, "forged", JOB, headers=[*STATE])
        return sent

    site.unchanged("forged", send)
    assert sent is not None
    reject = site.reject_of(sent)
    assert (reject.key, reject.value, dict(reject.headers)[f"{ERRORS}exception"]) == (b"forged", JOB, b"bad-type")


def test_forged_headers_are_headers_like_others(site: Site) -> None:
    """Two regressions with the same messages, one with forged headers on each, come to the same; also in a store that is made anew."""
    messages: list[tuple[str, Any]] = [
        ("regr-start", {"submitted": 3}),
        ("job-live", {"uniqueid": "a", "result": "live"}),
        ("job-live", {"uniqueid": "b", "result": "live"}),
        ("job-finish", {"uniqueid": "a", "result": "fail", "fail_message": "x", "cycles": 5, "runtime_ms": 7, "start_time": "2026-03-02T08:00:00Z", "finish_time": "2026-03-02T09:00:00Z"}),
        ("regr-tank", {}),
        ("regr-tank", {"tank": False}),
        ("batch-job-finish", [{"uniqueid": "c", "result": "pass"}, 5]),
    ]  # fmt: skip
    headers = {"plain": [], "dressed": [*STATE, *OURS, ("livejobs.batch.index", b"9"), ("livejobs.refused", b"no")]}
    for kind, body in messages:
        for name, heads in headers.items():
            sent = site.send(kind, name, body, headers=heads)
    site.stats("dressed", sent)
    assert site.reject_of(sent, 1).headers[: 1 + len(headers["dressed"])] == [("type", b"batch-job-finish"), *headers["dressed"]]

    def seen(name: str) -> Any:
        site.settle(site.partition_of(name))
        record, rows = dict(site.reader.stats[name]), site.jobs(name)
        of_stats = [one for one in site.reader.stats.records if one.key == name.encode()]
        of_jobs = [one for one in site.reader.jobs.records if one.key and json.loads(one.key)[0] == name]
        assert [header for one in of_stats for header, _ in one.headers] == ["livejobs.state"] * len(of_stats)
        assert {header for one in of_jobs for header, _ in one.headers} <= {"livejobs.state"}
        state = json.loads(of_stats[-1].headers[0][1])
        for unlike in ("regression", "version", "updated", "heard", "last_finish", "duration_ms"):
            del record[unlike]
        return record, {key: (row["result"], row.get("signature"), row.get("verdict")) for key, row in rows.items()}, sorted(state)

    assert seen("plain") == seen("dressed")
    site.wait_for_no_lag()
    assert site.workers[-1].stop()[0] == 0
    site.start("anew").ready()
    for name, heads in headers.items():
        site.send("regr-finish", name, headers=heads)
        site.status(name, "COMPLETE", live=0, **{"pass": 1, "fail": 2})
    assert seen("plain") == seen("dressed")


# --- names and bodies are data ----------------------------------------------------------------------------------------


NAMES = [
    "../../../../etc/passwd",
    "/dev/full",
    "a/../../b",
    ".",
    "C:\\windows\\win.ini",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE jobs; --",
    "${jndi:ldap://127.0.0.1/a}",
    "{0.__class__} %s %n {{7*7}} $(id) `id`",
    "[red]markup[/red]",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x01\x7f\x80\x9b31m",
    "line\nbreak\r\ttab",
    "\u202eright to left\u2066",
    "\ufeff\u200b\u2028\ufffe\U0010ffff",
    "e\u0301 = é?",
    "👩\u200d🔬",
    '["a","b"]',
    "\"',]\\",
    "null",
    "k" * KIB,
    "é" * (KIB // 2),
    "\x00" * KIB,
]  # fmt: skip


def test_names_are_data(site: Site) -> None:
    """Regressions, jobs and messages of such names go through all that there is, and come out as they came."""
    for name in NAMES:
        job = {"uniqueid": name, "host": name, "jobdir": name, "category": name}
        parts = {"start_time": "2026-03-02T08:00:00Z", "category": name, "jobdir": name, "seed": name, "config": name}
        site.send("regr-start", name, {"name": name, "tag": name, name: name})
        site.send("job-live", name, {**job, "result": "live"})
        site.send("job-finish", name, {**job, "result": "fail", "fail_message": name, "metadata": [[name, name]]})
        site.send("job-finish", name, {**parts, "result": "fail", "bucket": name[:64]})
        site.send("regr-finish", name)
    for name in NAMES:
        record = site.status(name, "COMPLETE", fail=2, live=0)
        assert (record["regression"], record["fields"][name]) == (name, name)
        rows = site.jobs_seen(name)
        assert rows[name]["job"]["fail_message"] == name
        assert rows["2026-03-02T08:00:00Z", name, name, name, name]["signature"] == name[:64] or not name[:64].strip()
    site.send("job-finish", "k" * (KIB + 1), JOB)
    files = [path.relative_to(site.folder).parts for path in site.folder.rglob("*")]
    assert not [part for parts in files for part in parts if "passwd" in part or "cmd" in part or "kkkk" in part]


def test_what_shows_a_name_spells_out_what_could_drive_a_terminal() -> None:
    board = Board()
    for number, name in enumerate(NAMES):
        board.apply(b"%d" % number, stats_of(name))
        assert printable(name).isprintable()
        assert printable(board.line(0, 0)) == board.line(0, 0)
    console = Console(width=200, height=100, file=None, record=True, color_system=None, force_terminal=False)
    with console.capture() as shown:
        console.print(board.screen(100, 0, 0, 0, ""))
    assert not [line for line in shown.get().split("\n") if not line.isprintable()]
    assert "[red]markup[/red]" in shown.get()
    assert printable("nightly/core_17 é 👩") == "nightly/core_17 é 👩"


def fold_of() -> Fold:
    return Fold(Rules.of(Sigs()), MemoryMap(), partition=0, partitions=1)


def stats_of(name: str) -> bytes:
    """A statistics record as the worker writes it."""
    fold = fold_of()
    fold.apply(MemoryRecord(0, 1000, name.encode(), b"", (("type", b"regr-start"),)))
    return fold.take().stats[0][1] or b""


DEEP = 512 * KIB // 2 - 50
BODIES = [
    # what is no JSON, or too much of it
    ("job-finish", b"[" * (512 * KIB), "bad-json"),
    ("job-finish", b'{"a":' * 100_000, "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": %s}' % (b"[" * DEEP + b"]" * DEEP), "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": %s}' % (b"[" * 65 + b"]" * 65), "bad-json"),
    ("batch-job-finish", b"[" * MIB, "bad-json"),
    ("regr-start", b'{"x": ' + b"[" * (1000 * KIB), "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "cycles": 1%s}' % (b"0" * 500_000), "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": 1e%s}' % (b"9" * 500_000), "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": -1e999}', "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": Infinity}', "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "uniqueid": "b"}', "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "x": {"y": {"z": 1, "\\u007a": 2}}}', "bad-json"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", %s"k": 1}' % (b'"k": 1, ' * 60_000), "bad-json"),
    # what is no text
    ("job-finish", b'{"uniqueid": "\xed\xa0\x80", "result": "pass"}', "bad-json"),
    ("job-finish", b'{"uniqueid": "\\ud800", "result": "pass"}', "bad-json"),
    ("job-finish", b'{"uniqueid": "\xc0\xaf", "result": "pass"}', "bad-json"),
    ("job-finish", b'{"uniqueid": "a\x00", "result": "pass"}', "bad-json"),
    ("job-finish", b"\xff\xfe" + '{"uniqueid": "a", "result": "pass"}'.encode("utf-16-le"), "bad-json"),
    ("job-finish", gzip.compress(JOB), "bad-json"),
    # what is of the right form
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "cycles": 9223372036854775808}', "bad-field"),
    ("job-finish", b'{"uniqueid": "a", "result": "pass", "cycles": 1e308}', "bad-field"),
    ("regr-start", b'{"submitted": 1e100}', "bad-field"),
    ("regr-update", b"{%s}" % b",".join(b'"%x": 1' % number for number in range(20_000)), "too-large"),
    # what is odd, and right
    ("job-finish", b'{"uniqueid": "wide", "result": "pass", "x": [%s[]]}' % (b"[], " * 100_000), None),
    ("job-finish", b'{"uniqueid": "keys", "result": "pass", %s}' % b",".join(b'"%x": 1' % number for number in range(40_000)), None),
    ("job-finish", b'{"uniqueid": "digits", "result": "pass", "x": 0.%s}' % (b"1" * 500_000), None),
    ("job-finish", b'{"uniqueid": "escapes", "result": "fail", "fail_message": "%s"}' % (b"\\u0000" * 80_000), None),
    ("job-finish", b'{"uniqueid": "deep", "result": "skip", "x": %s}' % (b"[" * 63 + b"]" * 63), None),
    ("job-finish", b'{"uniqueid": "pairs", "result": "skip", "metadata": [%s["", ""]]}' % (b'["", ""],' * 50_000), None),
]


def test_bodies_are_data(site: Site) -> None:
    """Each bad one is rejected as it came, each good one applied, by a worker that goes on; what is right beside them counts."""
    sent = [site.send(kind, "bodies", body) for kind, body, _ in BODIES]
    site.stats("bodies", site.send("job-finish", "bodies", JOB))
    for (_, body, code), where in zip(BODIES, sent, strict=True):
        if code is not None:
            reject = site.reject_of(where)
            assert (reject.value, dict(reject.headers)[f"{ERRORS}exception"]) == (body, code.encode())
    good = {"a", *(json.loads(body)["uniqueid"] for _, body, code in BODIES if code is None)}
    assert set(site.jobs("bodies")) == good
    bad = [code for _, _, code in BODIES if code]
    assert len([record for record in site.reader.rejects.records if record.key == b"bodies"]) == len(bad)


def test_keys_that_are_no_text_are_rejected(site: Site) -> None:
    for key in (b"run/\xed\xa0\x80", b"\xff", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xe2\x82"):
        reject = site.reject_of(site.send("job-finish", key, JOB))
        assert (reject.key, dict(reject.headers)[f"{ERRORS}exception"]) == (key, b"bad-key")


SLOW = [unit * 4096 for unit in ("1", "1_", "a[", "a.b[", "/a", "'h", "0x", "(", "é'h")]


def test_no_fail_message_takes_long_to_reduce(site: Site) -> None:
    """A thousand that are made to be slow, within the time that anything else may take."""
    for number in range(4):
        jobs = [{"uniqueid": f"{number}/{at}", "result": "fail", "fail_message": SLOW[at % len(SLOW)][:4096]} for at in range(200)]
        sent = site.send("batch-job-finish", "slow", jobs)
    assert site.stats("slow", sent)["fail"] == 4 * 200


def test_in_the_end_all_is_as_the_model_says_and_verified(site: Site) -> None:
    site.wait_for_no_lag()
    assert site.workers[-1].stop()[0] == 0
    site.assert_as_the_model()
    done = command(["verify"], site.config_file)
    assert done.returncode == 0, done.stdout
    assert f", {len(site.reader.stats.last)} regressions checked, 0 not checked" in done.stdout
    assert len(site.workers) == 2  # the second one was wanted


# --- bombs ------------------------------------------------------------------------------------------------------------


ZEROS = bytes(16 * MIB)


def huge(codec: int, count: int) -> bytes:
    """A compressed record whose value is `count` times 16 MiB."""
    inside = b"\0\0\0" + raw.sized(b"huge") + raw.varint(count * len(ZEROS)), b"\2" + raw.sized(b"type") + raw.sized(b"job-finish")
    begin = raw.varint(len(inside[0]) + count * len(ZEROS) + len(inside[1])) + inside[0]
    if codec == raw.LZ4:  # in one frame: the broker reads no second one
        frame = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
        for part in (begin, *[ZEROS] * count, inside[1]):
            frame.compress(part)
        return bytes(frame.finish())
    one = gzip.compress if codec == raw.GZIP else cramjam.zstd.compress
    return bytes(one(begin)) + bytes(one(ZEROS)) * count + bytes(one(inside[1]))


def bombs() -> dict[str, bytes]:
    noise = Random(1).randbytes(700_000)
    return {
        "gzip of 800 MiB": raw.batch(huge(raw.GZIP, 50), 1, raw.GZIP),
        "lz4 of 224 MiB": raw.batch(huge(raw.LZ4, 14), 1, raw.LZ4),
        "zstd of 1.9 GiB": raw.batch(huge(raw.ZSTD, 120), 1, raw.ZSTD),  # a record may not have more
        "a record that no topic takes": raw.batch(bytes(cramjam.zstd.compress(raw.record(b"r", noise * 6), level=19)), 1, raw.ZSTD),
        "something behind a gzip": raw.batch(gzip.compress(raw.record(b"r", JOB)) + b"more", 1, raw.GZIP),
        "a key of -5 bytes": raw.batch(gzip.compress(b"\x0c\0\0\0" + raw.varint(-5) + b"\1\0"), 1, raw.GZIP),
    }


async def all_of(site: Site, topic: str) -> list[Record]:
    """What a topic holds; a topic without bombs."""
    tps = [TopicPartition(topic, number) for number in range(site.partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=site.config.kafka.brokers, isolation_level="read_committed") as consumer:
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        found: list[Record] = []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                found += [Record(tp.partition, one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in records]
        return found


def wait_until_applied(site: Site, offset: int, seconds: float = SECONDS) -> None:
    """Return when the worker has committed what is at an offset of partition 0; no reader of ours touches it."""
    deadline = time.monotonic() + seconds
    while site.committed()[0] <= offset:
        site.workers[-1].assert_running()
        assert time.monotonic() < deadline, site.workers[-1].tail()
        time.sleep(0.05)


def test_bombs_are_rejected_as_they_came_and_cost_little(broker: Broker, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        worker = site.start().ready()
        topic, sent = site.config.kafka.events_topic, {}
        for number, (name, data) in enumerate(bombs().items()):
            sent[site.background.run(raw.send(site.producer, topic, data), 2 * SECONDS)] = name, data
            site.send("job-finish", "beside", {"uniqueid": str(number), "result": "pass"})
        wait_until_applied(site, site.send("regr-finish", "beside").offset, 2 * SECONDS)
        peak_kib = next(int(line.split()[1]) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert peak_kib < WORKER_MIB_MAX * KIB
        assert worker.stop()[0] == 0
        rejects = site.background.run(all_of(site, site.config.kafka.rejects_topic))
        assert len(rejects) == len(sent)
        for reject in rejects:
            head = dict(reject.headers)
            name, data = sent.pop(int(head[f"{ERRORS}offset"]))
            assert (reject.key, head["type"], head[f"{ERRORS}exception"]) == (None, b"_livejobs.refused-batch", b"bad-type"), name
            assert reject.value is not None
            assert reject.value[raw.HEAD_BYTES :] == data[raw.HEAD_BYTES :], name  # the broker writes the head anew
            assert head["livejobs.refused"], name
        (stats,) = [json.loads(record.value or b"") for record in site.background.run(all_of(site, site.config.kafka.stats_topic))][-1:]
        assert (stats["regression"], stats["status"], stats["pass"]) == ("beside", "COMPLETE", len(bombs()))
        done = command(["verify"], site.config_file)  # reads them as well
        assert done.returncode == 0, done.stdout + done.stderr


# --- holes that there were ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hole(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path, partitions=2) as site:
        site.start().ready()
        yield site


def test_a_malformed_batch_does_not_end_the_worker(hole: Site) -> None:
    data = raw.batch(b"\x0c\0\0\0" + raw.varint(-5) + b"\1\0")
    wait_until_applied(hole, hole.background.run(raw.send(hole.producer, hole.config.kafka.events_topic, data)))


@pytest.mark.parametrize("deltas", [(0, 1000, 2), (1, 0, 2), (-5, 1, 2)])
def test_offsets_of_its_own_do_not_make_messages_of_others_a_replay(deltas: tuple[int, ...], hole: Site) -> None:
    name = next(name for name in map(str, range(100)) if hole.partition_of(name) == 0)
    jobs = [b'{"uniqueid": "%d", "result": "pass"}' % number for number in range(len(deltas))]
    body = b"".join(raw.record(name.encode(), job, delta=delta) for job, delta in zip(jobs, deltas, strict=True))
    hole.background.run(raw.send(hole.producer, hole.config.kafka.events_topic, raw.batch(body, len(deltas)), len(deltas)))
    wait_until_applied(hole, hole.send("job-finish", name, {"uniqueid": "mine", "result": "pass"}).offset, 10)
    (stats,) = [json.loads(record.value or b"") for record in hole.background.run(all_of(hole, hole.config.kafka.stats_topic))][-1:]
    rejects = hole.background.run(all_of(hole, hole.config.kafka.rejects_topic))
    assert stats["pass"] == (1 if rejects else 1 + len(deltas))  # not a part of them


def test_the_largest_message_that_the_topic_takes_may_be_on_the_wrong_partition(hole: Site) -> None:
    name = next(name for name in map(str, range(100)) if hole.partition_of(name) == 1)
    value = Random(1).randbytes(1_064_960 - len(raw.batch(raw.record(name.encode(), b"x" * MIB))) + MIB)
    data = raw.batch(raw.record(name.encode(), value))
    assert len(data) == 1_064_960
    hole.background.run(raw.send(hole.producer, hole.config.kafka.events_topic, data))
    hole.wait_for(lambda: [record for record in hole.reader.rejects.records if record.value == value], 10)


def test_what_can_not_be_written_is_not_acknowledged(hole: Site) -> None:
    """A topic of rejects that takes no large ones: the worker ends, and when it takes them again nothing is lost."""
    topic = hole.config.kafka.rejects_topic

    def take(size: int) -> None:
        hole.admin("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(size)})])

    value = Random(1).randbytes(50_000)
    take(10_000)
    sent = hole.send("job-finish", "r", value)
    assert hole.workers[0].wait() == 70
    take(2 * MIB)
    hole.start("again").ready()
    hole.wait_for(lambda: [record for record in hole.reader.rejects.records if record.value == value], 10, lambda: f"the reject of {sent}")


def test_a_batch_of_rubbish_is_rejected_in_bounded_pieces() -> None:
    """More jobs than fit into a message if they are jobs: a KiB of such messages, compressed, took a worker to 4 GiB."""
    rubbish = MemoryRecord(0, 1000, b"r", b"[" + b"0," * 100_000 + b"0]", (("type", b"batch-job-finish"),))
    fold = fold_of()
    fold.run([rubbish._replace(offset=number) for number in range(5)], 0)
    assert len(fold.take().rejects) < 40_000


def test_many_keys_of_which_the_last_stands_twice_are_refused_soon() -> None:
    code = """if True:
        from livejobs.streams.core import messages
        body = b'{"uniqueid": "a", "result": "pass", %s, "0": 1}' % b", ".join(b'"%x": 1' % number for number in range(40_000, -1, -1))
        try: messages.finish(body)
        except messages.Reject as error: print(error.code)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout == "bad-json\n"
