"""The web view: made from 1,000,000 jobs beside a plain consumer, lists and searches at that size, changes on streams.

Its two topics are filled here, as a worker would leave them. Then, with 100 streams open, 1,000 updates a second are
written into `jobs`; each carries the time at which it was written, and what a stream brings is compared with that.
"""

import asyncio
import http.client
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.engines import toml
from bench.generate import Event
from bench.kafka import OUTPUT_SETTINGS, free_port
from bench.measure import BenchError, Program, Run, Sampler, column, percentile, poll, shown, table
from bench.setting import Result, Runs, Setting

JOBS = 1_000_000
JOBS_A_REGRESSION = 1_000
LIVE_SHARE = 0.1
PARTITIONS = 8
QUERIES = 200
"""Of each kind."""
STREAMS = 100
UPDATES_A_SECOND = 1_000
UPDATE_SECONDS = 30.0
WATCHED = 10
"""Regressions whose jobs are updated."""
READ_SECONDS_MAX = 300.0
MOMENT = "2026-03-02T13:01:32.377Z"


def measure(setting: Setting) -> Result:
    """All of it, as often as is asked for."""
    jobs = setting.events or JOBS
    runs: Runs = {"livejobs web": []}
    latencies: dict[str, list[float]] = {}
    for number in range(1, setting.runs + 1):
        run, kinds = _run(setting, jobs)
        setting.note("web", "livejobs web", number, run, runs["livejobs web"])
        for kind, seconds in kinds.items():
            latencies.setdefault(kind, []).extend(seconds)
    title = f"{jobs:,} jobs, {LIVE_SHARE:.0%} of them live, {STREAMS} streams, {UPDATES_A_SECOND:,} updates a second"
    return Result("web", title, runs, [_absolute(runs["livejobs web"]), _queries(latencies)])


def _absolute(runs: list[Run]) -> str:
    rows = (
        ("view made, s", "made_seconds", ".1f"),
        ("plain consumer, s", "plain_seconds", ".1f"),
        ("CPU-s of that, view", "made_cpu_s", ".1f"),
        ("peak MB", "rss_mb", ".0f"),
        ("view on disk, MB", "disk_mb", ".0f"),
        ("change on a stream, p50 ms", "change_p50_ms", ".0f"),
        ("p99 ms", "change_p99_ms", ".0f"),
        ("greatest ms", "change_max_ms", ".0f"),
        ("cores used meanwhile", "stream_cores", ".2f"),
        ("rows that came", "rows", ".0f"),
    )
    return table(("", "livejobs web"), ((name, shown(column(runs, key), form)) for name, key, form in rows))


def _queries(latencies: dict[str, list[float]]) -> str:
    def line(kind: str, seconds: list[float]) -> tuple[str, ...]:
        ordered = sorted(seconds)
        return kind, *(f"{1000 * percentile(ordered, share):.1f}" for share in (0.5, 0.99)), f"{1000 * ordered[-1]:.1f}"

    every = [one for some in latencies.values() for one in some]
    rows = [line(kind, seconds) for kind, seconds in latencies.items()] + [line("all", every)]
    return table(("question", "p50 ms", "p99 ms", "greatest ms"), rows)


def _run(setting: Setting, jobs: int) -> tuple[Run, dict[str, list[float]]]:
    broker, prefix = setting.broker, setting.broker.name("web") + "-"
    topics = [prefix + "jobs", prefix + "regression-stats"]
    for topic in topics:
        broker.create(topic, PARTITIONS, OUTPUT_SETTINGS)
    broker.write(topics[0], _job_records(jobs))
    broker.write(topics[1], _stats_records(jobs))
    plain_seconds = _read_plainly(broker.address, topics, jobs + jobs // JOBS_A_REGRESSION)
    port = free_port()
    folder = setting.folder / prefix
    folder.mkdir()
    config = folder / "livejobs.toml"
    web = {"bind": f"127.0.0.1:{port}", "datadir": str(folder / "view")}
    config.write_text(toml(kafka={"brokers": broker.address, "topicprefix": prefix}, web=web))
    command = [setting.livejobs, "web", "--config", config]
    begin = time.monotonic()
    program = Program(command, setting.logs / f"{prefix}web.log", seconds_max=setting.seconds_max)
    try:
        with Sampler([program], broker.pid) as sampler:
            poll(lambda: _get(port, "/health")[0] == 200, setting.seconds_max, "the view is made")
            made_seconds, made_cpu_s = time.monotonic() - begin, program.cpu_s()
            latencies = {kind: _timed(port, questions) for kind, questions in _questions(jobs).items()}
            before, since = program.cpu_s(), time.monotonic()
            delays, rows = _changes(broker.address, topics[0], port, jobs)
            cores = (program.cpu_s() - before) / (time.monotonic() - since)
        disk = sum(path.stat().st_size for path in (folder / "view").iterdir())
    finally:
        program.stop()
        broker.delete(topics)
    delays.sort()
    run: Run = {
        "made_seconds": made_seconds,
        "plain_seconds": plain_seconds,
        "made_cpu_s": made_cpu_s,
        "rss_mb": sampler.rss_bytes_max / 1e6,
        "disk_mb": disk / 1e6,
        "change_p50_ms": 1000 * percentile(delays, 0.5),
        "change_p99_ms": 1000 * percentile(delays, 0.99),
        "change_max_ms": 1000 * delays[-1],
        "stream_cores": cores,
        "rows": rows,
        "correct": rows > 0,
    }
    return run, latencies


# ---------------------------------------------------------------------- what is in the topics


def _name(number: int) -> str:
    return f"nightly_{number % 7}/{number}"


def _job(number: int, rng: random.Random) -> dict[str, Any]:
    seed = rng.randrange(10**9)
    return {
        "start_time": f"2026-03-02T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.123-05:00",
        "category": f"block/alu_{number % 11}",
        "jobdir": f"/runs/{_name(number // JOBS_A_REGRESSION)}/job-{number}",
        "seed": str(seed),
        "config": f"rtl_cov +UVM_VERBOSITY=UVM_LOW +seed={seed}",
        "host": f"farm{rng.randrange(2000):04d}",
        "username": f"user{number // JOBS_A_REGRESSION % 40}",
        "build": f"build_{number // JOBS_A_REGRESSION % 100}",
        "testgroup": f"uart_test_{rng.randrange(500)}",
        "result": "live",
    }


def _record(number: int, job: dict[str, Any]) -> tuple[bytes, bytes]:
    name = _name(number // JOBS_A_REGRESSION)
    key = [name, *(job[field] for field in ("start_time", "category", "jobdir", "seed", "config"))]
    record = {"regression": name, "result": job["result"], "job": job, "first_seen": MOMENT, "updated": MOMENT}
    if job["result"] == "fail":
        record["signature"] = f"mismatch in block {number % 20}"
    return orjson.dumps(key), orjson.dumps(record)


def _job_records(jobs: int) -> Iterator[Event]:
    rng = random.Random(1)
    for number in range(jobs):
        job = _job(number, rng)
        if rng.random() >= LIVE_SHARE:
            job |= {"result": "fail" if rng.random() < 0.05 else "pass", "runtime_ms": rng.randrange(10**6)}
            job |= {"cycles": rng.randrange(10**8), "finish_time": "2026-03-03T08:00:00-05:00", "fail_message": ""}
        key, value = _record(number, job)
        yield Event(number // JOBS_A_REGRESSION % PARTITIONS, key, b"", value)


def _stats_records(jobs: int) -> Iterator[Event]:
    rng = random.Random(2)
    counts = ("live", "pass", "fail", "skip", "finished", "submitted", "remaining", "cycles", "compute_ms", "runtime_ms")
    for number in range(jobs // JOBS_A_REGRESSION):
        record: dict[str, Any] = {name: rng.randrange(1000) for name in counts}
        record |= {"regression": _name(number), "status": rng.choice(("LIVE", "COMPLETE", "ABORTED")), "version": 1}
        record |= {"updated": MOMENT, "heard": MOMENT, "pass_rate": rng.random(), "cycles_per_second": 1.5}
        record |= dict.fromkeys(("first_start", "last_finish", "duration_ms"))
        record |= {"signatures": {}, "fields": {"project": f"soc{number % 5}", "username": f"user{number % 40}"}}
        yield Event(number % PARTITIONS, _name(number).encode(), b"", orjson.dumps(record))


def _read_plainly(address: str, topics: list[str], wanted: int) -> float:
    """Seconds that a consumer takes that does nothing with what it reads."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "plain", "isolation.level": "read_committed"})
    begin = time.monotonic()
    consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)])
    read = 0
    try:
        while read < wanted:
            read += len(consumer.consume(10_000, 1.0))
            if time.monotonic() - begin > READ_SECONDS_MAX:
                raise BenchError(f"a plain consumer has read {read} of {wanted} records")
        return time.monotonic() - begin
    finally:
        consumer.close()


# ---------------------------------------------------------------------- questions


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"/api/v1{path}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def _timed(port: int, questions: list[str]) -> list[float]:
    found = []
    for path in questions:
        begin = time.monotonic()
        status, body = _get(port, path)
        found.append(time.monotonic() - begin)
        if status != 200:
            raise BenchError(f"{path}: {status} {body[:200]!r}")
    return found


def _questions(jobs: int) -> dict[str, list[str]]:
    """Kind -> questions, as a person at the page asks them."""
    rng = random.Random(3)
    quote = urllib.parse.quote

    def many(make: Callable[[], str]) -> list[str]:
        return [make() for _ in range(QUERIES)]

    def regression() -> str:
        return quote(_name(rng.randrange(jobs // JOBS_A_REGRESSION)))

    orders = ("started", "-finish", "runtime_ms", "-cycles", "host", "test", "-updated")
    words = (
        lambda: f"farm{rng.randrange(2000):04d}", lambda: f"user{rng.randrange(40)} uart_test_{rng.randrange(500)}",
        lambda: f"build_{rng.randrange(100)}", lambda: str(rng.randrange(10**6)), lambda: "rtl_cov", lambda: "no_such",
        lambda: f"uart_test_{rng.randrange(9)}", lambda: f"alu_{rng.randrange(11)} user{rng.randrange(40)}",
    )  # fmt: skip
    return {
        "regressions": many(lambda: f"/regressions?limit=200&sort={rng.choice(('-started', 'name', '-heard', '-fail'))}"),
        "regressions, filtered": many(lambda: f"/regressions?user=user{rng.randrange(40)}&q=nightly"),
        "one regression": many(lambda: f"/regression?name={regression()}"),
        "live jobs of one": many(lambda: f"/jobs?regression={regression()}&limit=200&sort={rng.choice(orders)}"),
        "all jobs of one": many(
            lambda: f"/jobs?regression={regression()}&limit=200&result=live,pass,fail&sort={rng.choice(orders)}"
        ),
        "all live jobs": many(lambda: f"/jobs?limit=200&sort={rng.choice(('started', '-started'))}"),
        "live jobs by a field": many(lambda: f"/jobs?host=farm{rng.randrange(2000):04d}"),
        "search by words": many(lambda: f"/jobs?q={quote(rng.choice(words)())}"),
    }


# ---------------------------------------------------------------------- changes


def _changes(address: str, topic: str, port: int, jobs: int) -> tuple[list[float], int]:
    """Seconds from the write of an update to the row on a stream, for every such row; and how many rows came."""
    stop = threading.Event()
    updating = threading.Thread(target=_update, args=(address, topic, jobs, stop))
    try:
        return asyncio.run(_watch(port, jobs, updating))
    finally:
        stop.set()
        if updating.is_alive():
            updating.join()


def _update(address: str, topic: str, jobs: int, stop: threading.Event) -> None:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5})
    rng = random.Random(4)
    pause, due = 1 / UPDATES_A_SECOND, time.monotonic()
    regressions = min(WATCHED, jobs // JOBS_A_REGRESSION)
    while not stop.is_set():
        number = rng.randrange(regressions) * JOBS_A_REGRESSION + rng.randrange(100)
        job = _job(number, random.Random(number)) | {"extid": str(time.time_ns())}
        key, value = _record(number, job)
        producer.produce(topic, value, key, number // JOBS_A_REGRESSION % PARTITIONS)
        producer.poll(0)
        due += pause
        time.sleep(max(0.0, due - time.monotonic()))
    producer.flush(30)


async def _watch(port: int, jobs: int, updating: threading.Thread) -> tuple[list[float], int]:
    delays: list[float] = []
    quote = urllib.parse.quote
    watches = []
    for number in range(STREAMS):
        name = quote(_name(number % min(WATCHED, jobs // JOBS_A_REGRESSION)))
        order = ("started", "-updated", "host")[number % 3]
        watches.append(f"watch={quote(f'/jobs?regression={name}&limit=200&sort={order}')}&watch=/regressions")
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_read(port, watch, delays)) for watch in watches]
        updating.start()
        await asyncio.sleep(2.0)  # until the jobs that are updated are the same all the time
        delays.clear()
        await asyncio.sleep(UPDATE_SECONDS)
        found = list(delays)
        for reader in readers:
            reader.cancel()
    if not found:
        raise BenchError("no change has come on a stream")
    return found, len(found)


async def _read(port: int, watch: str, delays: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(f"GET /api/v1/events?{watch} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        name = b""
        while line := await reader.readline():
            if line.startswith(b"event: "):
                name = line[7:].strip()
            elif name == b"change" and line.startswith(b"data: "):
                now = time.time_ns()
                rows = orjson.loads(line[6:]).get("rows", ())
                written = (row["job"].get("extid") for row in rows if "job" in row)
                delays.extend((now - int(moment)) / 1e9 for moment in written if moment)
        raise BenchError("a stream has ended")
    finally:
        writer.close()
