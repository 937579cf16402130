"""The commands as a farm starts them: real processes, real files, exit codes, what is on which stream."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from harness import MakeConfig
from reading import events

from livejobs.streams.config import Config
from livejobs.streams.kafka.broker import Broker, free_port

LIVE = '{"uniqueid": "1", "result": "live"}'
STARTED = {
    "start_time": "2021-05-07T02:00:11.123-05:00",
    "category": "sim",
    "config": "sim +rand +tbuf +seed=123",
    "build": "mybuild",
    "testgroup": "mytestgroup",
}
COMMANDS = ("broker", "demo", "publish", "tank", "topics", "untank", "verify", "worker")

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith("LIVEJOBS_")} | more


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Start `livejobs ARGUMENTS` in a directory of its own and wait for its end."""

    def start(*arguments: str, stdin: str = "", module: str = "cli", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", f"livejobs.streams.{module}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(**more),
            timeout=90,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    return start


@pytest.fixture
def here(config: Config, tmp_path: Path) -> Config:
    """A `livejobs.toml` in the directory that `run` runs in, without a spool; and two files with jobs, one is bad."""
    kafka = f'brokers = "{config.kafka.brokers}"\ntopicprefix = "{config.kafka.topicprefix}"\npartitions = 3\n'
    (tmp_path / "livejobs.toml").write_text(f'[kafka]\n{kafka}[tunnel]\nspool = ""\n')
    (tmp_path / "good.json").write_text(LIVE)
    (tmp_path / "bad.json").write_text('{"uniqueid": "2", "result": "live", "cycles": 7}')
    return config


@pytest.fixture
def away() -> str:
    return f"kafka.brokers=127.0.0.1:{free_port()}"


def numbers(config: Config) -> list[str]:
    return [json.loads(record.value)["uniqueid"] for record in events(config)]


# Help, usage, configuration


def test_help_explains_each_command(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {name} "))
        assert line.endswith(".")
        assert not line.endswith("...")
        help_text = run(name, "--help").stdout
        assert "--config FILE" in help_text or name == "topics"
    for name in ("create", "check"):
        assert "--config FILE" in run("topics", name, "--help").stdout
    assert "--regression NAME" in run("--help", module="tunnel.cli").stdout


def test_help_imports_no_kafka_client() -> None:
    """A farm starts a publisher for every job: what is heavy comes only when it is used."""
    code = "import sys, livejobs.streams.cli; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"aiokafka", "asyncio", "faust", "msgspec", "rich", "ssl"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish"],
        ["publish", "job-live"],
        ["publish", "job-live", "--regression", "r/1", "--what"],
        ["nothing"],
        ["tank"],
        ["topics", "check", "--set", "kafka"],
        ["broker", "--port", "70000"],
    ],
)
def test_usage(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: livejobs" in done.stderr


def test_usage_of_the_tunnel(run: Run) -> None:
    assert run("--publish", "job-live", module="tunnel.cli").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--set", "kafka.brokerss=x"], "[kafka] brokerss is unknown"),
        (["--set", "kafka.partitions=0"], "[kafka] partitions must be"),
        (["--set", "kafka.protocol=SSL", "--set", "kafka.cafile=nowhere.pem"], "[kafka] cafile"),
    ],
)
@pytest.mark.parametrize(
    "command", [["topics", "check"], ["publish", "regr-start", "--regression", "r/1"], ["tank", "r"]]
)
def test_a_bad_configuration_is_one_line(run: Run, command: list[str], arguments: list[str], text: str) -> None:
    done = run(*command, *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("livejobs: ")
    assert text in done.stderr


def test_where_the_configuration_comes_from(run: Run, tmp_path: Path) -> None:
    def partitions(*arguments: str, **more: str) -> str:
        # A bad value names itself.
        return run(*arguments, **more).stderr.rsplit("not ", 1)[1].strip()

    for name, value in (("livejobs.toml", -1), ("variable.toml", -2), ("flag.toml", -3)):
        (tmp_path / name).write_text(f"[kafka]\npartitions = {value}\n")
    assert partitions("topics", "check") == "-1"
    assert partitions("topics", "check", LIVEJOBS_CONFIG="variable.toml") == "-2"
    assert partitions("topics", "check", "--config", "flag.toml", LIVEJOBS_CONFIG="variable.toml") == "-3"
    assert partitions("--config", "flag.toml", "topics", "check") == "-3"
    assert partitions("--config", "variable.toml", "topics", "check", "--config", "flag.toml") == "-3"
    assert partitions("topics", "check", LIVEJOBS_KAFKA_PARTITIONS="-4") == "-4"
    assert partitions("topics", "check", "--set", "kafka.partitions=-5", LIVEJOBS_KAFKA_PARTITIONS="-4") == "-5"
    assert partitions("--set", "kafka.partitions=-5", "topics", "check", "--set", "kafka.partitions=-6") == "-6"


# Topics


def test_topics_are_made_and_checked(run: Run, loose_config: MakeConfig) -> None:
    config = loose_config()
    kafka = {"LIVEJOBS_KAFKA_BROKERS": config.kafka.brokers, "LIVEJOBS_KAFKA_TOPICPREFIX": config.kafka.topicprefix}
    missing = run("topics", "check", **kafka)
    assert missing.returncode == 1
    assert f"{config.kafka.events_topic}: missing" in missing.stdout
    made = run("topics", "create", **kafka)
    assert (made.returncode, made.stdout) == (0, "")
    assert f"created {config.kafka.events_topic}" in made.stderr
    assert run("topics", "check", **kafka).returncode == 0
    other = run("topics", "check", "--set", "kafka.partitions=5", **kafka)
    assert other.returncode == 1
    assert "5" in other.stdout


def test_topics_without_a_broker(run: Run, away: str) -> None:
    done = run("topics", "check", "--set", away)
    assert (done.returncode, done.stdout) == (69, "")
    assert "no Kafka broker answers" in done.stderr


# Publishing


def test_files_standard_input_and_none(run: Run, here: Config, tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text('\n{"uniqueid": "2", "result": "live"}\n')
    publish = ("publish", "job-live", "--regression", "r/1")
    done = run(*publish, "good.json", "-", "two.json", stdin='{"uniqueid": "in", "result": "live"}')
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "livejobs: sent 3 messages\n"
    assert run(*publish, stdin='{"uniqueid": "none", "result": "live"}').returncode == 0
    assert run("publish", "regr-finish", "--regression", "r/1").returncode == 0
    records = events(here)
    assert [json.loads(record.value)["uniqueid"] for record in records[:4]] == ["1", "in", "2", "none"]
    assert (records[4].value, records[4].headers) == (b"", (("type", b"regr-finish"),))
    assert {record.key for record in records} == {b"r/1"}


def test_the_good_ones_are_sent_and_each_bad_one_is_named(run: Run, here: Config, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no json")
    files = ("bad.json", "good.json", "nowhere.json", "text.json", "good.json", ".")
    done = run("publish", "job-live", "--regression", "r/1", *files, "--json")
    assert done.returncode == 65
    lines = done.stderr.splitlines()
    assert lines[0] == "livejobs: bad.json: cycles: not allowed in a live job"
    assert lines[1].startswith("livejobs: nowhere.json: can't be read: No such file")
    assert lines[2].startswith("livejobs: text.json: body: ")
    assert lines[3].startswith("livejobs: .: can't be read: Is a directory")
    assert lines[4:] == ["livejobs: sent 2 messages"]
    report = json.loads(done.stdout)
    assert (report["sent"], report["bad"], report["undelivered"], report["kept"], report["exit"]) == (2, 4, 0, 0, 65)
    assert report["errors"][0] == {"source": "bad.json", "code": "bad-field", "message": lines[0].split(": ", 2)[2]}
    assert numbers(here) == ["1", "1"]


def test_ndjson_names_bad_lines(run: Run, here: Config, tmp_path: Path) -> None:
    lines = [json.dumps({"uniqueid": str(number), "result": "live"}) for number in range(5000)]
    lines[2] = "{"
    lines[10] = ""
    lines[4000] = json.dumps({"uniqueid": "x", "result": "live", "sourcecode": "y" * 3_000_000})
    (tmp_path / "jobs.ndjson").write_text("\r\n".join(lines))
    arguments = ("publish", "job-live", "--regression", "r/1", "--ndjson")
    for done in (run(*arguments, "jobs.ndjson"), run(*arguments, stdin="\r\n".join(lines))):
        assert done.returncode == 65
        bad = [line.split(": ")[1] for line in done.stderr.splitlines()[:-1]]
        assert [name.rpartition(":")[2] for name in bad] == ["3", "4001"]
        assert bad[0].rpartition(":")[0] in ("jobs.ndjson", "standard input")
        assert done.stderr.splitlines()[-1] == "livejobs: sent 4,997 messages"
    good = [str(number) for number in range(5000) if number not in (2, 10, 4000)]
    assert numbers(here) == good + good


def test_errors_in_the_middle_of_much_ndjson(run: Run, here: Config, tmp_path: Path) -> None:
    """Many blocks and batches: every good line arrives once, in order, also behind a bad one and one that is not plain."""
    count, bad, blank, odd = 30_000, {1, 7_000, 7_001, 29_999}, {50, 15_000}, {9_000, 9_001, 20_000}

    def line(number: int) -> str:
        if number in bad:
            return '{"uniqueid": "x", "result": "live"}'
        text = json.dumps({"uniqueid": str(number), "result": "pass", "sourcecode": "y" * 400})
        return " " if number in blank else text.replace("uniqueid", "\\u0075niqueid") if number in odd else text

    (tmp_path / "jobs.ndjson").write_text("\n".join(map(line, range(count))))
    done = run("publish", "job-finish", "--regression", "r/1", "--ndjson", "--json", "jobs.ndjson")
    assert done.returncode == 65
    assert [told.split(": ")[1] for told in done.stderr.splitlines()[:-1]] == [f"jobs.ndjson:{n + 1}" for n in sorted(bad)]
    report = json.loads(done.stdout)
    assert (report["sent"], report["bad"], report["kept"], report["undelivered"]) == (count - 6, 4, 0, 0)
    assert [error["source"] for error in report["errors"]] == [f"jobs.ndjson:{n + 1}" for n in sorted(bad)]
    assert numbers(here) == [str(number) for number in range(count) if number not in bad | blank]


def test_batches_of_jobs_line_by_line(run: Run, here: Config) -> None:
    def job(number: int, result: str = "pass") -> dict[str, str]:
        return {"uniqueid": str(number), "result": result}

    batches = [[job(1), job(2)], [], [job(3), job(4, "live")], [job(5)]]
    stdin = "\n".join(map(json.dumps, batches))
    done = run("publish", "batch-job-finish", "--regression", "r/1", "--ndjson", stdin=stdin)
    assert done.returncode == 65
    assert done.stderr.splitlines()[0].startswith("livejobs: standard input:3: job 1: result")
    assert [json.loads(record.value) for record in events(here)] == [batches[0], [], batches[3]]


def test_a_frozen_broker_stops_the_reading(run: Run, tmp_path: Path) -> None:
    """Standard input without an end: what is on the way is bounded, so is the memory, and nothing is lost when it goes on."""
    line = json.dumps({"uniqueid": "1", "result": "pass", "sourcecode": "y" * 400}).encode() + b"\n"
    block, most = line * 200, 100 * 1024 * 1024
    with Broker(free_port(), tmp_path / "own-broker") as broker:
        assert broker.pid is not None
        flags = ("--set", f"kafka.brokers={broker.bootstrap}", "--set", "kafka.partitions=3")
        assert run("topics", "create", *flags).returncode == 0
        command = [sys.executable, "-m", "livejobs.streams.cli", "publish", "job-finish", "--regression", "r/1", "--ndjson", *flags]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment()) as process:
            assert process.stdin is not None
            written = os.write(process.stdin.fileno(), block)
            os.set_blocking(process.stdin.fileno(), False)
            while sum(read_ends(broker.bootstrap)) == 0:  # it is connected
                assert process.poll() is None
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                # It has stopped reading when the pipe takes nothing for a time in which it could have read all of it.
                while written < most and select.select([], [process.stdin], [], 3)[1]:
                    at = written % len(block)
                    written += os.write(process.stdin.fileno(), block[at:])
                memory = Path(f"/proc/{process.pid}/status").read_text()
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            os.set_blocking(process.stdin.fileno(), True)
            process.stdin.write(block[written % len(block) :])
            _, talk = process.communicate()
        lines = -(-written // len(block)) * 200
        assert talk.decode() == f"livejobs: sent {lines:,} messages\n"
        assert process.returncode == 0
        assert sum(read_ends(broker.bootstrap)) == lines
    assert written < 40 * 1024 * 1024
    peak_kib = int(memory.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 200 * 1024


def read_ends(bootstrap: str) -> list[int]:
    """The end of each partition of `job-events`."""

    async def read() -> list[int]:
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            return list((await consumer.end_offsets([TopicPartition("job-events", number) for number in range(3)])).values())

    return asyncio.run(read())


def until_the_first_is_there(here: Config) -> None:
    deadline = time.monotonic() + 60
    while not events(here):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_slow_pipe_is_sent_as_it_comes(here: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "livejobs.streams.cli", "publish", "job-live", "--regression", "r/1", "--ndjson"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, cwd=tmp_path, env=environment(), text=True) as process:
        assert process.stdin is not None
        process.stdin.write(LIVE + "\n")
        process.stdin.flush()
        until_the_first_is_there(here)
        process.stdin.write(LIVE)
        _, talk = process.communicate()
    assert (process.returncode, talk) == (0, "livejobs: sent 2 messages\n")
    assert len(events(here)) == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_on_a_signal_while_it_waits_for_input(here: Config, tmp_path: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "livejobs.streams.cli", "publish", "job-live", "--regression", "r/1", "--ndjson"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, cwd=tmp_path, env=environment(), text=True) as process:
        assert process.stdin is not None
        process.stdin.write(LIVE + "\n")
        process.stdin.flush()
        until_the_first_is_there(here)
        process.send_signal(stop)
        code = process.wait(10)
        assert process.stderr is not None
        talk = process.stderr.read()
    assert code != 0
    assert "Traceback" not in talk


@pytest.mark.parametrize(
    ("kind", "regression", "text"),
    [
        ("_livejobs.tick", "r/1", "reserved"),
        ("job-started", "r/1", "allowed are batch-job-finish"),
        ("job-live", "", "key"),
        ("job-live", os.fsdecode(b"\xff"), "UTF-8"),
    ],
)
def test_a_bad_target_is_refused_before_anything_is_read(
    run: Run, here: Config, kind: str, regression: str, text: str
) -> None:
    done = run("publish", kind, "--regression", regression, "good.json")
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert events(here) == []


def test_tank_and_untank(run: Run, here: Config) -> None:
    assert run("tank", "r/1", "--reason", "wrong model").returncode == 0
    assert run("tank", "r/1").returncode == 0
    done = run("untank", "r/1", "--json")
    assert json.loads(done.stdout)["sent"] == 1
    records = events(here)
    assert {record.headers for record in records} == {(("type", b"regr-tank"),)}
    bodies: list[Any] = [json.loads(record.value) for record in records]
    assert bodies == [{"tank": True, "reason": "wrong model"}, {"tank": True}, {"tank": False}]
    assert run("tank", "").returncode == 65


# The broker is away


def test_without_a_spool_the_broker_away_is_69(run: Run, here: Config, away: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.ndjson").write_text(f"{LIVE}\n" * 7)
    arguments = ("publish", "job-live", "--regression", "r/1", "--set", away)
    done = run(*arguments, "good.json", "bad.json", "good.json", "--json")
    assert done.returncode == 69
    assert "bad.json: cycles" in done.stderr
    assert "no Kafka broker answers" in done.stderr
    assert "livejobs: not delivered: good.json\n" in done.stderr
    report = json.loads(done.stdout)
    assert (report["sent"], report["undelivered"], report["bad"], report["exit"]) == (0, 2, 1, 69)
    done = run(*arguments, "--ndjson", "jobs.ndjson")
    assert done.returncode == 69
    assert "livejobs: not delivered: jobs.ndjson: 7 messages, lines 1 to 7\n" in done.stderr
    assert not (tmp_path / "spool").exists()


def test_with_a_spool_it_is_75_and_the_next_call_sends(run: Run, here: Config, away: str, tmp_path: Path) -> None:
    spool = ("--set", "tunnel.spool=kept")
    gone = (*spool, "--set", away)

    def body(number: int) -> str:
        return json.dumps({"uniqueid": str(number), "result": "live"})

    for number in range(3):
        done = run("publish", "job-live", "--regression", "r/1", *gone, stdin=body(number))
        assert done.returncode == 75
        assert "kept 1 message in kept; the next call sends them" in done.stderr
    both = run("publish", "job-live", "--regression", "r/1", *gone, "good.json", "bad.json", "--json")
    assert both.returncode == 65  # to call again would not help the bad one
    assert json.loads(both.stdout)["kept"] == 1
    assert run("tank", "r/1", *gone).returncode == 75
    assert events(here) == []
    done = run("publish", "job-live", "--regression", "r/1", *spool, stdin=body(9))
    assert done.returncode == 0
    assert done.stderr == "livejobs: sent 5 messages from the spool\nlivejobs: sent 1 message\n"
    records = events(here)
    assert [json.loads(record.value).get("uniqueid") for record in records] == ["0", "1", "2", "1", None, "9"]
    full = run("publish", "job-live", "--regression", "r/1", *gone, "--set", "tunnel.spoolbytes=30", stdin=body(1))
    assert full.returncode == 69
    assert "is full: [tunnel] spoolbytes is 30" in full.stderr
    assert "not delivered: standard input" in full.stderr


# As simscope-tunnel


def test_the_smallest_full_flow_by_the_tunnel(run: Run, here: Config, tmp_path: Path) -> None:
    """12 messages, each by a call of its own."""

    def publish(kind: str, *files: str) -> None:
        done = run("--config=livejobs.toml", "--publish", kind, "--regression=myrun/123", *files, module="tunnel.cli")
        assert done.returncode == 0, done.stderr

    (tmp_path / "regr.json").write_text('{"name": "myrun/123", "submitted": 5}')
    publish("regr-start", "regr.json")
    jobs = [{**STARTED, "jobdir": f"/home/runs/myregr/2/job-{number}", "seed": str(number)} for number in range(5)]
    for job in jobs:
        (tmp_path / "job.json").write_text(json.dumps({**job, "result": "live"}))
        publish("job-live", "job.json")
    for job in jobs:
        (tmp_path / "job.json").write_text(json.dumps({**job, "result": "pass", "cycles": 3}))
        publish("job-finish", "job.json")
    publish("regr-finish")
    records = events(here)
    kinds = [record.headers[0][1].decode() for record in records]
    assert kinds == ["regr-start"] + ["job-live"] * 5 + ["job-finish"] * 5 + ["regr-finish"]
    assert {(record.key, record.partition) for record in records} == {(b"myrun/123", records[0].partition)}
    assert [json.loads(record.value)["seed"] for record in records[1:11]] == list("0123401234")


def test_the_tunnel_has_the_same_exit_codes(run: Run, here: Config, away: str) -> None:
    def code(*arguments: str, **more: str) -> int:
        return run(*arguments, module="tunnel.cli", **more).returncode

    target = ("--publish=job-live", "--regression=r/1")
    gone = {"LIVEJOBS_KAFKA_BROKERS": away.partition("=")[2]}
    assert code(*target, "good.json") == 0
    assert code(*target, "good.json", "bad.json") == 65
    assert code(*target, "good.json", **gone) == 69
    assert code(*target, "good.json", LIVEJOBS_TUNNEL_SPOOL="kept", **gone) == 75
    assert code("--config=nowhere.toml", *target, "good.json") == 78
    assert code("--publish=_livejobs.tick", "--regression=r/1", "good.json") == 65
