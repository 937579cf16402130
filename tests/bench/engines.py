"""The programs that do the benchmark's task: our worker, Kafka Streams, Flink, and the bare loop.

All read job events and write statistics; here is how each is started, and how its records are read.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import orjson

from bench.generate import SUMS, Expected
from bench.kafka import OUTPUT_SETTINGS, Broker, Input, free_port
from bench.measure import BenchError, Program, poll

PEERS = Path(__file__).resolve().parent / "peers"
BUILD_SECONDS_MAX = 900.0
REQUEST_SECONDS_MAX = 30.0
JAVA_OPTIONS = ("-Xms2g", "-Xmx2g", "-XX:+UseParallelGC")
FLINK_OPTIONS = ("--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED")
JAVA = {"kafka-streams": ("bench.LiveJobs", ()), "flink": ("bench.FlinkLiveJobs", FLINK_OPTIONS)}
"""Name -> main class, and options of its own."""


class Task:
    """One run of one program over an input: names, folders and topics of its own, which `close` takes away again."""

    def __init__(
        self, broker: Broker, source: Input, engine: str, folder: Path, logs: Path, seconds_max: float
    ) -> None:
        self.broker, self.source, self.seconds_max = broker, source, seconds_max
        self.name = broker.name(f"run-{engine}")
        self.output = f"{self.name}-stats"
        self.folder = folder / self.name
        self.folder.mkdir()
        self._logs = logs
        self.programs: list[Program] = []
        self._started = 0
        broker.create(self.output, source.partitions, OUTPUT_SETTINGS)

    def start(self, command: list[str | Path], environment: dict[str, str] | None = None) -> Program:
        """Start one of the run's programs."""
        self._started += 1
        log = self._logs / f"{self.name}-{self._started}.log"
        program = Program(command, log, seconds_max=self.seconds_max, environment=environment)
        self.programs.append(program)
        return program

    def assert_running(self) -> None:
        """Raises BenchError when a program has ended by itself."""
        for program in self.programs:
            program.assert_running()

    def stop(self) -> None:
        """End the programs."""
        while self.programs:
            self.programs.pop().stop()

    def close(self) -> None:
        """End the programs, and leave nothing behind but their logs."""
        self.stop()
        self.broker.delete(self.broker.topics(self.name))
        shutil.rmtree(self.folder, ignore_errors=True)


class Reading(NamedTuple):
    """What a record of the output topic says."""

    offset: int | None
    """Of the last job event that it knows of; None: it is the regression's last."""
    numbers: dict[str, Any]
    """To be compared with what is expected."""


class Engine(Protocol):
    """A program that does the task. `group` is its consumer group, `ready` says whether its state is restored."""

    name: ClassVar[str]

    def start(self, task: Task) -> None: ...
    def ready(self, task: Task) -> bool: ...
    def group(self, task: Task) -> str: ...
    def read(self, value: bytes) -> Reading: ...
    def right(self, numbers: dict[str, Any], expected: Expected) -> bool: ...


@dataclass(frozen=True)
class Livejobs:
    """Our worker, or several that share the partitions."""

    executable: Path
    workers: int = 1
    tickseconds: float = 0
    """0 where the input is read by others too: ticks are messages."""
    name: ClassVar[str] = "livejobs"

    def start(self, task: Task) -> None:
        """Make the topics and start the workers."""
        configs = [self.configure(task, number) for number in range(1, self.workers + 1)]
        self.create_topics(configs[0])
        for config in configs:
            task.start([self.executable, "worker", "--config", config])

    def configure(self, task: Task, number: int) -> Path:
        """The configuration file of the worker of this number."""
        path = task.folder / f"worker{number}.toml"
        health = f"127.0.0.1:{free_port()}"
        (task.folder / f"health{number}").write_text(health)
        path.write_text(
            toml(
                sigs={"enablelivejobs": True},
                kafka={
                    "brokers": task.broker.address,
                    "topicprefix": f"{task.name}.",
                    "eventstopic": task.source.topic,
                    "statstopic": task.output,
                    "partitions": task.source.partitions,
                },
                worker={
                    "datadir": str(task.folder / "state" / str(number)),
                    "tickseconds": self.tickseconds,
                    "healthbind": health,
                },
            )
        )
        return path

    def create_topics(self, config: Path) -> None:
        """Those that are missing; that the others are not quite as wanted is known."""
        done = subprocess.run(
            [self.executable, "topics", "create", "--config", config],
            capture_output=True, text=True, check=False, timeout=REQUEST_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            raise BenchError(f"the topics can't be made: {done.stderr.strip()}")

    def get(self, task: Task, number: int, path: str) -> tuple[int, str]:
        """Status and body of what a worker's health endpoint answers; status 0 when it does not."""
        address = (task.folder / f"health{number}").read_text()
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def ready(self, task: Task) -> bool:
        """Whether all workers say so."""
        return all(self.get(task, number, "/ready")[0] == 200 for number in range(1, self.workers + 1))

    def assigned(self, task: Task) -> list[int]:
        """How many partitions each worker has."""
        key = "livejobs_partitions_assigned "
        lines = [self.get(task, number, "/metrics")[1].splitlines() for number in range(1, self.workers + 1)]
        return [sum(int(float(line[len(key) :])) for line in part if line.startswith(key)) for part in lines]

    def group(self, task: Task) -> str:
        """As the configuration makes it."""
        return f"{task.name}.livejobs"

    def read(self, value: bytes) -> Reading:
        """Our records are the current statistics."""
        record = orjson.loads(value)
        names = ("status", "submitted", "pass", "fail", "skip", "finished", "live", *SUMS)
        return Reading(record["version"], {name: record[name] for name in names})

    def right(self, numbers: dict[str, Any], expected: Expected) -> bool:
        """We count no duplicates; a job that is lost stays live."""
        wanted = {"status": expected.status, "submitted": expected.submitted} | expected.sums
        return all(wanted[name] == value for name, value in numbers.items())


class Peer:
    """A program that gives one record a regression, at its end. Its task is described in README.md."""

    def environment(self, task: Task) -> dict[str, str]:
        """What it needs to know; topics that it makes begin with GROUP."""
        return {
            "BROKER": task.broker.address,
            "INPUT_TOPIC": task.source.topic,
            "OUTPUT_TOPIC": task.output,
            "GROUP": task.name,
            "STATE_DIR": str(task.folder / "state"),
        }

    def group(self, task: Task) -> str:
        """The run's name."""
        return task.name

    def ready(self, task: Task) -> bool:
        """Only those that are asked say so."""
        return all(program.says("ready") for program in task.programs)

    def read(self, value: bytes) -> Reading:
        """One record is the answer."""
        record = orjson.loads(value)
        numbers = {"finished": record["jobs"], "live": record["live_remaining"]}
        return Reading(None, numbers | {name: record[name] for name in ("pass", "fail", "skip", "duplicates", *SUMS)})

    def right(self, numbers: dict[str, Any], expected: Expected) -> bool:
        """All of it."""
        return numbers == expected.sums


@dataclass(frozen=True)
class Java(Peer):
    """A peer on the JVM."""

    name: str
    main: str
    build: Path
    options: tuple[str, ...] = ()
    threads: int = 1

    def environment(self, task: Task) -> dict[str, str]:
        """And how many threads it has."""
        return super().environment(task) | {"THREADS": str(self.threads)}

    def start(self, task: Task) -> None:
        """Start it."""
        home = os.environ.get("JAVA_HOME")
        java = Path(home) / "bin" / "java" if home else "java"
        options = os.environ.get("BENCH_JAVA_OPTIONS", " ".join(JAVA_OPTIONS)).split()
        paths = f"{self.build / 'classes'}:{self.build / 'lib'}/*"
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        task.start([java, *options, *self.options, quiet, "-cp", paths, self.main], self.environment(task))

    def compile(self) -> None:
        """Let Maven build it, when its sources are newer than what was built."""
        source, stamp = PEERS / self.name, self.build / "complete"
        newest = max(path.stat().st_mtime for path in source.rglob("*") if path.is_file())
        if stamp.exists() and stamp.stat().st_mtime > newest:
            return
        maven = shutil.which("mvn")
        if maven is None:
            raise BenchError("no mvn in PATH: install Maven 3.6 or newer")
        goals = [f"-Dbench.build={self.build}", "compiler:compile", "dependency:copy-dependencies"]
        done = subprocess.run(
            [maven, "--batch-mode", "--quiet", "--file", str(source / "pom.xml"), *goals],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=BUILD_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            raise BenchError(f"Maven can't build {self.name}:\n{done.stdout[-2000:]}")
        stamp.touch()


class Limit(Peer):
    """The bare loop: what Python could reach, not what a safe program reaches."""

    name: ClassVar[str] = "limit"

    def start(self, task: Task) -> None:
        """Start it with the benchmark's own Python."""
        task.start([sys.executable, PEERS / "limit.py"], self.environment(task))


def wait_until_ready(engine: Engine, task: Task, seconds: float) -> None:
    """Return when its state is restored. Raises BenchError."""

    def ready() -> bool:
        task.assert_running()
        return engine.ready(task)

    poll(ready, seconds, f"{task.name} is ready")


def toml(**sections: dict[str, Any]) -> str:
    """A TOML document of sections with plain values."""
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def peer(name: str, build: Path, threads: int = 1) -> Engine:
    """A peer by its name, built where it needs that. Raises BenchError."""
    if name == "limit" and threads == 1:
        return Limit()
    if name not in JAVA:
        raise BenchError(f"no such peer of {threads} threads: {name}; there are {', '.join(JAVA)} and, of one, limit")
    main, options = JAVA[name]
    java = Java(name, main, (build / name).resolve(), options, threads)
    java.compile()
    return java
