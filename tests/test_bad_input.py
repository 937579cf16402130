"""What other publishers may send: it goes to `job-rejects` untouched, its neighbours are applied, and the worker goes on.

One worker serves all tests, with two partitions; the last test proves that it was never started again and that the naive model agrees with every record.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from harness import SECONDS, Headers, Record, Sent, Site
from histories import AMBIGUOUS, BAD_JOBS, BAD_LIVES, BAD_REGRESSIONS, NO_JSON

from livejobs.streams.kafka.broker import Broker
from livejobs.tables.compiled import native

TRACE = [
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("own", b"\0\xff"),
    ("own", b"twice"),
]
ERRORS = "__streams.errors."
GOOD = b'{"uniqueid": "bad", "result": "pass"}'
KIB = 1024


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("bad")) as site:
        site.start().ready()
        yield site


@pytest.fixture(scope="module")
def wild_sites(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    sites: list[Site] = []
    try:
        yield sites
    finally:
        for site in sites:
            site.__exit__()


@pytest.fixture
def wild(broker: Broker, tmp_path_factory: pytest.TempPathFactory, wild_sites: list[Site]) -> Site:
    """Where things are sent of which only one thing is sure: the worker survives them. Anew after a test where it did not."""
    if not wild_sites or wild_sites[-1].workers[0].process.poll() is not None:
        wild_sites.append(Site(broker.bootstrap, tmp_path_factory.mktemp("wild"), partitions=1))
        wild_sites[-1].start().ready()
    return wild_sites[-1]


@pytest.fixture
def name() -> str:
    """A regression that nobody else knows."""
    return f"run/{uuid.uuid4().hex[:12]}"


def done(job: str, **more: Any) -> dict[str, Any]:
    return {"uniqueid": job, "result": "pass", **more}


def assert_reject(
    reject: Record, site: Site, sent: Sent, code: str, word: str, key: bytes | None, value: bytes | None, head: Headers
) -> None:
    """It is as received, and says why in the headers that the specification names."""
    assert (reject.key, reject.value) == (key, value)
    assert reject.headers[: len(head)] == head
    added = dict(reject.headers[len(head) :])
    message = added.pop(f"{ERRORS}message").decode()
    assert added == {
        f"{ERRORS}exception": code.encode(),
        f"{ERRORS}topic": site.config.kafka.events_topic.encode(),
        f"{ERRORS}partition": b"%d" % sent.partition,
        f"{ERRORS}offset": b"%d" % sent.offset,
    }
    assert word in message
    assert "\n" not in message


BAD = [
    # type
    (None, GOOD, "bad-type", "type"),
    ("", GOOD, "bad-type", "type"),
    ("job-done", GOOD, "bad-type", "job-done"),
    ("JOB-FINISH", GOOD, "bad-type", "JOB-FINISH"),
    ("_livejobs.other", GOOD, "bad-type", "_livejobs.other"),
    # JSON
    ("job-finish", None, "bad-json", "body"),
    ("job-finish", b"", "bad-json", "body"),
    ("job-finish", b"{", "bad-json", "body"),
    ("job-finish", b'{"uniqueid": "bad", "result": "pass"} x', "bad-json", "body"),
    ("job-finish", b'{"uniqueid": "\xff\xfe", "result": "pass"}', "bad-json", "body"),
    ("job-finish", b'{"uniqueid": "bad", "result": "pass", "x": NaN}', "bad-json", "body"),
    ("job-finish", b'{"uniqueid": "bad", "result": "pass", "result": "fail"}', "bad-json", "result"),
    ("job-finish", b'{"uniqueid": "bad", "result": "pass", "x": %s}' % (b"[" * 64 + b"]" * 64), "bad-json", "64"),
    (
        "job-finish",
        b'{"uniqueid": "bad", "result": "pass", "x": %s}' % (b"[" * 100_000 + b"]" * 100_000),
        "bad-json",
        "body",
    ),
    ("job-live", b"nonsense", "bad-json", "body"),
    ("batch-job-finish", b"[{]", "bad-json", "body"),
    ("regr-start", b"{'a': 1}", "bad-json", "body"),
    # fields
    ("job-finish", b"[]", "bad-field", "body"),
    ("job-finish", b"null", "bad-field", "body"),
    ("job-finish", b'{"uniqueid": "bad"}', "bad-field", "result"),
    ("job-finish", b'{"uniqueid": "bad", "result": "live"}', "bad-field", "result"),
    ("job-finish", b'{"uniqueid": "", "result": "pass"}', "bad-field", "uniqueid"),
    ("job-finish", b'{"uniqueid": 5, "result": "pass"}', "bad-field", "uniqueid"),
    (
        "job-finish",
        b'{"start_time": "2026-03-02T08:00:00Z", "category": "sim", "jobdir": "/r", "seed": "1", "result": "pass"}',
        "bad-field",
        "config",
    ),
    (
        "job-finish",
        b'{"start_time": "2026-03-02T08:00:00Z", "category": "", "jobdir": "/r", "seed": "1", "config": "", "result": "pass"}',
        "bad-field",
        "category",
    ),
    ("job-finish", b'{"uniqueid": "bad", "start_time": "yesterday", "result": "pass"}', "bad-field", "start_time"),
    (
        "job-finish",
        b'{"uniqueid": "bad", "finish_time": "2026-03-02T08:00:00", "result": "pass"}',
        "bad-field",
        "finish_time",
    ),
    ("job-finish", b'{"uniqueid": "bad", "cycles": -1, "result": "pass"}', "bad-field", "cycles"),
    ("job-finish", b'{"uniqueid": "bad", "runtime_ms": 1.5, "result": "pass"}', "bad-field", "runtime_ms"),
    (
        "job-finish",
        b'{"uniqueid": "bad", "compute_ms": 9223372036854775808, "result": "pass"}',
        "bad-field",
        "compute_ms",
    ),
    ("job-finish", b'{"uniqueid": "bad", "metadata": [["one"]], "result": "pass"}', "bad-field", "metadata"),
    ("job-live", b'{"uniqueid": "bad", "result": "pass"}', "bad-field", "result"),
    ("job-live", b'{"uniqueid": "bad", "fail_message": "x", "result": "live"}', "bad-field", "fail_message"),
    ("job-live", b'{"uniqueid": "bad", "compute_ms": 1, "result": "live"}', "bad-field", "compute_ms"),
    ("job-live", b'{"uniqueid": "bad", "runtime_ms": 1, "result": "live"}', "bad-field", "runtime_ms"),
    ("job-live", b'{"uniqueid": "bad", "cycles": 1, "result": "live"}', "bad-field", "cycles"),
    ("batch-job-finish", GOOD, "bad-field", "array"),
    ("regr-update", b"[]", "bad-field", "body"),
    ("regr-start", b'{"submitted": -1}', "bad-field", "submitted"),
    ("regr-finish", b'{"submitted": "5"}', "bad-field", "submitted"),
    ("regr-update", b'{"queue": 7}', "bad-field", "queue"),
    ("regr-tank", b'{"tank": "yes"}', "bad-field", "tank"),
    # sizes
    ("job-finish", b'{"uniqueid": "bad", "result": "pass", "x": "%s"}' % (b"x" * 512 * KIB), "too-large", "body"),
    ("job-live", b'{"uniqueid": "bad", "result": "live", "x": "%s"}' % (b"x" * 512 * KIB), "too-large", "body"),
    ("batch-job-finish", b"[%s]" % (b" " * 1024 * KIB), "too-large", "body"),
    ("job-finish", b'{"uniqueid": "bad", "result": "fail", "bucket": "%s"}' % (b"b" * 257), "too-large", "bucket"),
    ("regr-start", b'{"x": "%s"}' % (b"x" * 64 * KIB), "too-large", "fields"),
]


@pytest.mark.parametrize(("kind", "value", "code", "word"), BAD, ids=range(len(BAD)))
def test_a_bad_message_is_rejected_untouched_and_its_neighbours_are_applied(
    kind: str | None, value: bytes | None, code: str, word: str, site: Site, name: str
) -> None:
    site.send("job-finish", name, done("before"))
    sent = site.send(kind, name, value, headers=TRACE)
    after = site.send("job-finish", name, done("after"))
    own = [] if kind is None else [("type", kind.encode())]
    assert_reject(site.reject_of(sent), site, sent, code, word, name.encode(), value, own + TRACE)
    record = site.stats(name, after)
    assert (record["pass"], record["finished"], record["live"], record["fields"], record["status"]) == (
        2,
        2,
        0,
        {},
        "LIVE",
    )
    assert set(site.jobs(name)) == {"before", "after"}


@pytest.mark.parametrize(
    ("key", "code"),
    [(None, "bad-key"), (b"", "bad-key"), (b"run\xff", "bad-key"), (b"k" * 1025, "too-large")],
    ids=["none", "empty", "no UTF-8", "long"],
)
@pytest.mark.parametrize("partition", [0, 1])
def test_a_bad_key_is_rejected_wherever_it_stands(partition: int, key: bytes | None, code: str, site: Site) -> None:
    sent = site.send("job-finish", key, GOOD, partition=partition, headers=TRACE)
    assert_reject(site.reject_of(sent), site, sent, code, "key", key, GOOD, [("type", b"job-finish"), *TRACE])


def test_the_largest_that_is_allowed_is_applied(site: Site, name: str) -> None:
    frame = b'{"uniqueid": "big", "result": "pass", "x": "%s"}'
    body = frame % (b"x" * (512 * KIB - len(frame) + 2))
    assert len(body) == 512 * KIB
    assert site.stats(name, site.send("job-finish", name, body))["pass"] == 1
    item = b'{"uniqueid": "two", "result": "pass"}'
    batch = b"[%s%s]" % (item, b" " * (1024 * KIB - len(item) - 2))
    assert site.stats(name, site.send("batch-job-finish", name, batch))["pass"] == 2
    longest = f"{name}/".ljust(1024, "k")
    assert site.stats(longest, site.send("job-finish", longest, done("a")))["pass"] == 1
    signature = "é" * 128
    record = site.stats(
        name, site.send("job-finish", name, {"uniqueid": "three", "result": "fail", "bucket": signature})
    )
    assert record["signatures"] == {signature: 1}


def test_one_bad_job_of_a_batch_is_rejected_and_not_its_neighbours(site: Site, name: str) -> None:
    bad = [
        b'{"uniqueid": "c", "result": "live"}',
        b'{ "uniqueid": "d",  "result":"pass", "x": {"y": 1, "y": 2} }',
        b"17",
    ]
    value = b'[{"uniqueid": "a", "result": "pass"}, %s, %s,\n%s , {"uniqueid": "b", "result": "skip"}]' % tuple(bad)
    sent = site.send("batch-job-finish", name, value, headers=TRACE)
    record = site.stats(name, sent)
    assert (record["pass"], record["skip"], record["finished"], set(site.jobs(name))) == (1, 1, 2, {"a", "b"})
    for index, (item, code) in enumerate(zip(bad, ["bad-field", "bad-json", "bad-field"], strict=True), 1):
        reject = site.reject_of(sent, index)
        assert (reject.key, reject.value) == (name.encode(), item)
        assert reject.headers[:4] == [("type", b"batch-job-finish"), *TRACE]
        head = dict(reject.headers)
        assert (head[f"{ERRORS}exception"], head[f"{ERRORS}offset"], head["livejobs.batch.index"]) == (
            code.encode(),
            b"%d" % sent.offset,
            b"%d" % index,
        )


def test_a_batch_of_bad_jobs_opens_nothing(site: Site, name: str) -> None:
    sent = site.send("batch-job-finish", name, b"[1, 2]")
    assert [site.reject_of(sent, index).value for index in (0, 1)] == [b"1", b"2"]
    assert site.reader.stats[name] is None


# --- on the wrong partition -------------------------------------------------------------------------------------------


def copies(site: Site, name: str) -> list[Record]:
    """What `job-events` holds of a regression."""
    site.reader.read_to_the_end(site.reader.events)
    return [record for record in site.reader.events.records if record.key == name.encode()]


def test_a_message_on_the_wrong_partition_is_sent_on_once(site: Site, name: str) -> None:
    right = site.partition_of(name)
    wrong = 1 - right
    for number in range(5):  # in order, among the messages of one publisher
        site.send("regr-update", name, {"tag": str(number)}, partition=wrong, headers=TRACE)
    site.send("job-finish", name, done("a"), partition=wrong)
    record = site.status(name, "LIVE", **{"pass": 1})
    site.settle(wrong)
    site.settle(right)
    there = [found for found in copies(site, name) if found.partition == right]
    sent = [found for found in copies(site, name) if found.partition == wrong]
    assert [(one.value, one.headers) for one in there] == [(one.value, one.headers) for one in sent]
    assert len(there) == 6
    assert (record["fields"], record["version"]) == ({"tag": "4"}, there[-1].offset)
    assert {record.partition for record in site.reader.jobs.records if record.key and name.encode() in record.key} == {
        right
    }


def test_a_bad_message_on_the_wrong_partition_is_rejected_once(site: Site, name: str) -> None:
    right = site.partition_of(name)
    site.send("job-finish", name, b"{", partition=1 - right, headers=TRACE)
    site.settle(1 - right)
    site.settle(right)
    rejects = [record for record in site.reader.rejects.records if record.key == name.encode()]
    assert [(record.value, dict(record.headers)[f"{ERRORS}partition"]) for record in rejects] == [(b"{", b"%d" % right)]


# --- whatever else may come -------------------------------------------------------------------------------------------


def batch_of(kind: str, values: list[Any]) -> list[tuple[str, bytes]]:
    return [(kind, value) for value in values]


WILD = [
    *AMBIGUOUS,
    *batch_of("job-finish", [*BAD_JOBS, *NO_JSON]),
    *batch_of("job-live", BAD_LIVES),
    *batch_of("regr-start", BAD_REGRESSIONS),
    ("job-finish", b'{"uniqueid": "\\ud800", "result": "fail", "fail_message": "\\udfff"}'),
    ("job-finish", b'{"uniqueid": "u", "result": "fail", "bucket": "\\ud800"}'),
    ("regr-update", b'{"\\ud800": "\\ud800"}'),
    ("regr-update", b'{"x": 1e999, "y": -0.0, "z": 1%s}' % (b"0" * 5000)),
    ("job-finish", b'{"uniqueid": "u", "result": "pass", "cycles": 1%s}' % (b"0" * 5000)),
    ("job-finish", b'{"uniqueid": "u", "result": "pass", "cycles": 1e400}'),
    (
        "batch-job-finish",
        b"["
        + b",".join(b'{"uniqueid": "%d", "result": "fail", "fail_message": "%s"}' % (n, b"a" * n) for n in range(1000))
        + b"]",
    ),
    ("batch-job-finish", b"[" * 100_000),
    ("regr-tank", b'{"tank": null, "reason": {"a": []}}'),
]


def survives(site: Site) -> None:
    """A good message behind all that came is applied, by the worker that was there before."""
    site.settle(0)
    site.workers[0].assert_running()


def test_whatever_the_body_the_worker_goes_on(wild: Site) -> None:
    for kind, value in WILD:
        wild.send(kind, "wild", value)
    survives(wild)


@pytest.mark.parametrize(
    "body",
    [
        b'{"uniqueid": "t", "result": "pass", "start_time": "0001-01-01T00:00:00+23:59"}',
        b'{"uniqueid": "t", "result": "pass", "finish_time": "9999-12-31T23:59:59.999-23:59"}',
        b'{"uniqueid": "t", "result": "pass", "start_time": "2026-03-02T08:00:00Z", "runtime_ms": 1000000000000000}',
        b'{"uniqueid": "t", "result": "pass", "start_time": "2026-03-02T08:00:00Z", "runtime_ms": 9223372036854775807}',
    ],
    ids=["before year 1", "after year 9999", "a long run", "the longest run"],
)
def test_whatever_the_time_the_worker_goes_on(body: bytes, wild: Site) -> None:
    wild.send("job-finish", "wild", body)
    survives(wild)


@pytest.mark.parametrize(
    "headers",
    [
        [("type", None)],
        [("type", b"job-finish"), ("own", None)],
        [("", b"")],
        [("type", b"\xff\xfe")],
        [("type", b"x" * 10_000)],
        [("type", b"job-finish"), ("type", b"nonsense")],
        [(f"{ERRORS}offset", b"7"), ("type", b"nonsense")],
    ],
    ids=["null type", "null value", "empty", "no UTF-8", "long", "two types", "our own"],
)
def test_whatever_the_headers_the_worker_goes_on(headers: Any, wild: Site) -> None:
    wild.send(None, "wild", GOOD, headers=headers)
    survives(wild)


# Only a client that checks nothing can send it, so this one is aiokafka's slow path with a name that encodes itself as it likes.
RAW_HEADER_NAME = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_):
        return b"\\xff\\xfe"

async def main():
    async with AIOKafkaProducer(bootstrap_servers=sys.argv[1]) as producer:
        headers = [(Name("x"), b"1"), ("type", b"job-finish")]
        await producer.send_and_wait(sys.argv[2], key=b"wild", value=sys.argv[3].encode(), headers=headers)

asyncio.run(main())
"""


@pytest.mark.xfail(native is None, reason="aiokafka 0.14 decodes header names while it unpacks a batch, before the worker sees a message")
def test_a_header_name_that_is_no_utf_8_does_not_stop_the_worker(broker: Broker, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:  # no reader of ours: it could not read it either
        worker = site.start().ready()
        arguments = [broker.bootstrap, site.config.kafka.events_topic, GOOD.decode()]
        subprocess.run(
            [sys.executable, "-c", RAW_HEADER_NAME, *arguments],
            env={**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"},
            check=True,
        )
        sent = site.send("job-finish", "wild", done("after"))
        deadline = time.monotonic() + SECONDS
        while site.committed()[0] <= sent.offset:
            worker.assert_running()
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_forged_tick_does_no_harm(wild: Site) -> None:
    wild.send("_livejobs.tick", None, None)
    wild.send("_livejobs.tick", "wild", b"{}")
    survives(wild)


def test_messages_may_be_compressed_in_any_way(broker: Broker, tmp_path: Path, name: str) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        site.start().ready()
        for number, codec in enumerate(
            ("gzip", "snappy", "lz4", "zstd"), 1
        ):  # the broker compresses, as a publisher might
            settings = {"compression.type": codec, "message.timestamp.type": "LogAppendTime"}
            site.admin(
                "alter_configs",
                [ConfigResource(ConfigResourceType.TOPIC, site.config.kafka.events_topic, configs=settings)],
            )
            assert site.stats(name, site.send("job-finish", name, done(codec)))["pass"] == number


def test_what_a_publisher_aborts_was_never_sent(wild: Site, name: str) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=wild.config.kafka.brokers, transactional_id=name) as producer:
            for job, commit in (("a", False), ("b", True), ("c", False)):
                await producer.begin_transaction()
                await producer.send_and_wait(
                    wild.config.kafka.events_topic,
                    key=name.encode(),
                    value=b'{"uniqueid": "%s", "result": "pass"}' % job.encode(),
                    headers=[("type", b"job-finish")],
                )
                await (producer.commit_transaction() if commit else producer.abort_transaction())

    wild.background.run(send())
    assert wild.stats(name, wild.send("job-finish", name, done("d")))["pass"] == 2
    assert set(wild.jobs(name)) == {"b", "d"}


# --- and all of it together -------------------------------------------------------------------------------------------


def test_all_that_was_sent_came_to_what_the_model_says(site: Site) -> None:
    site.wait_for_no_lag()
    assert len(site.workers) == 1  # never restarted
    assert site.workers[0].stop()[0] == 0
    site.assert_as_the_model()


def test_what_the_worker_survived_is_as_it_was_committed(wild: Site) -> None:
    wild.wait_for_no_lag()
    assert wild.workers[0].stop()[0] == 0
    assert wild.reader.stats.went_back == []
