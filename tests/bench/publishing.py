"""Publishing a file of finished jobs of one regression, a body a line: acks=all, idempotent, each message acknowledged.

Each program is a process that is started, sends all of it and ends; its start counts. The topic's end proves that all
has arrived. `livejobs tunnel` runs before, and its CPU counts too.
"""

import contextlib
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.engines import PEERS, toml
from bench.generate import Shape, Stream
from bench.kafka import EVENTS_SETTINGS
from bench.measure import BenchError, Program, Run, column, ratios, shown, table
from bench.setting import Result, Runs, Setting

MESSAGES = 500_000
PARTITIONS = 8
COMMAND, THROUGH, LIBRARY = "livejobs publish", "through the tunnel", "Publisher (Python)"
TUNNEL_SECONDS_MAX = 30.0
PAIRS = (
    (THROUGH, COMMAND),
    (COMMAND, "kcat"),
    (COMMAND, "confluent-kafka loop"),
    (LIBRARY, "confluent-kafka loop"),
    (LIBRARY, "aiokafka loop"),
)


class Call(NamedTuple):
    """What is to be sent where."""

    livejobs: Path
    config: Path
    address: str
    topic: str
    regression: str
    file: Path


Command = Callable[[Call], list[str | Path]]


def _livejobs(call: Call) -> list[str | Path]:
    target = ["publish", "job-finish", "--regression", call.regression]
    return [call.livejobs, *target, "--config", call.config, "--ndjson", call.file]


def _library(call: Call) -> list[str | Path]:
    python = call.livejobs.with_name("python")
    return [python, PEERS / "publish_library.py", call.config, call.regression, call.file]


def _kcat(call: Call) -> list[str | Path]:
    settings = ("acks=all", "enable.idempotence=true", "partitioner=murmur2_random")
    options = [part for setting in settings for part in ("-X", setting)]
    target = ["-b", call.address, "-t", call.topic, "-k", call.regression, "-H", "type=job-finish"]
    return ["kcat", "-P", "-q", *options, *target, "-l", call.file]


def _loop(script: str) -> Command:
    def command(call: Call) -> list[str | Path]:
        return [sys.executable, PEERS / script, call.address, call.topic, call.regression, call.file]

    return command


PROGRAMS: dict[str, Command] = {
    COMMAND: _livejobs,
    THROUGH: _livejobs,
    LIBRARY: _library,
    "kcat": _kcat,
    "confluent-kafka loop": _loop("publish_confluent.py"),
    "aiokafka loop": _loop("publish_aiokafka.py"),
}


def measure(setting: Setting) -> Result:
    """All programs that are there, all rounds."""
    messages = setting.events or MESSAGES
    programs = {name: command for name, command in PROGRAMS.items() if name != "kcat" or shutil.which("kcat")}
    remarks = [] if "kcat" in programs else ["kcat is not installed: it is left out."]
    file = setting.folder / "finishes.ndjson"
    regression = _write(file, messages)
    runs: Runs = {name: [] for name in programs}
    for number in range(1, setting.runs + 1):
        for name, command in programs.items():
            run = _run(setting, command, regression, file, messages, through=name == THROUGH)
            setting.note("publishing", name, number, run, runs[name])
    file.unlink()
    title = f"{messages:,} messages of one regression, acks=all, idempotent"
    return Result("publishing", title, runs, [_absolute(runs), _ratios(runs)], remarks)


def _write(file: Path, messages: int) -> str:
    """Fill the file with finished jobs; returns the regression's name."""
    shape = Shape(messages, jobs=messages, exact=True, concurrent=1, heartbeats=0, duplicates=0, late=0, silent=1)
    stream = Stream(shape)
    finishes = (event.body for event in stream if event.kind == b"job-finish")
    with file.open("wb") as output:
        output.writelines(body + b"\n" for body in islice(finishes, messages))
    return next(iter(stream.expected))


@contextlib.contextmanager
def _tunnel(setting: Setting, config: Path) -> Iterator[None]:
    """A tunnel that listens, for as long as the context lasts. Raises BenchError."""
    log = setting.logs / f"{config.stem}-tunnel.log"
    program = Program([setting.livejobs, "tunnel", "--config", config], log, seconds_max=setting.seconds_max)
    try:
        deadline = time.monotonic() + TUNNEL_SECONDS_MAX
        while "listening at" not in log.read_text():
            program.assert_running()
            if time.monotonic() > deadline:
                raise BenchError(f"the tunnel does not listen:\n{program.tail()}")
            time.sleep(0.05)
        yield
    finally:
        program.stop()


def _run(setting: Setting, command: Command, regression: str, file: Path, messages: int, *, through: bool) -> Run:
    broker = setting.broker
    topic = broker.name("published")
    broker.create(topic, PARTITIONS, EVENTS_SETTINGS)
    config = setting.folder / f"{topic}.toml"
    tunnel = {"spool": str(config.with_suffix(".spool")), "socket": str(config.with_suffix(".sock"))} if through else {}
    config.write_text(toml(kafka={"brokers": broker.address, "eventstopic": topic}, tunnel=tunnel))
    call = Call(setting.livejobs, config, broker.address, topic, regression, file)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with _tunnel(setting, config) if through else contextlib.nullcontext():
        begin = time.monotonic()
        program = Program(command(call), setting.logs / f"{topic}.log", seconds_max=setting.seconds_max)
        try:
            program.wait()
            seconds = time.monotonic() - begin
        finally:
            program.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    arrived = sum(broker.ends(topic, PARTITIONS))
    broker.delete([topic])
    if arrived < messages:
        raise BenchError(f"{topic}: {arrived} of {messages} messages have arrived")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "messages": messages,
        "seconds": seconds,
        "rate": messages / seconds,
        "cpu_s_per_million": cpu_s / messages * 1e6,
        "correct": arrived == messages,
    }


def _absolute(runs: Runs) -> str:
    return table(
        ("program", "k messages/s", "CPU-s a million", "right"),
        (
            (
                name,
                shown(column(some, "rate"), scale=1e-3),
                shown(column(some, "cpu_s_per_million")),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for name, some in runs.items()
        ),
    )


def _ratios(runs: Runs) -> str:
    return table(
        ("ratio", "messages/s", "CPU a message"),
        (
            (
                f"{one} by {other}",
                *(shown(ratios(runs[one], runs[other], key), ".2f") for key in ("rate", "cpu_s_per_million")),
            )
            for one, other in PAIRS
            if other in runs
        ),
    )
