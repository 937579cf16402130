"""A local Kafka for development, tests and the demo: the real one, a single KRaft node that listens on 127.0.0.1 only.

Its jars come once, through Maven and the pinned POM in `livejobs.deploy`, into the user's cache. Everything here
blocks; nothing here is meant for production.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from livejobs.streams.config import Config, split_address

KAFKA_VERSION = "4.1.1"
JAVA_MIN = 17
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
HEAP_MAX = "512m"
# Below the range from which Linux takes the ports of outgoing connections: such a one could take a free port of ours
# between the moment we find it and the moment the broker listens on it.
PORTS = range(20_000, 32_000)
LOG_LINES_SHOWN = 15
DOCKER_HINT = (
    "or run a broker with Docker (deploy/compose.yaml) and name it under [kafka] brokers in the file given to --config"
)

Progress = Callable[[str], None]


class BrokerError(RuntimeError):
    """The local broker can't be started, or died; the message says what to do."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens now."""
    for port in random.sample(PORTS, 200):  # no secret: two calls at once should not meet
        if _is_free(port):
            return port
    raise BrokerError(f"no free TCP port found in {PORTS.start}-{PORTS.stop - 1} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Broker:
    """One Kafka node on 127.0.0.1:`port` with its data in `data_dir`.

    Start again on the same two and all is still there. As a context manager it runs inside the block.
    `progress` gets lines for a person to read while `start` is slow. One that is to run for long, `lasting`, uses more
    of its first minute to become fast.
    """

    def __init__(
        self,
        port: int,
        data_dir: Path | str,
        progress: Progress = lambda _line: None,
        *,
        lasting: bool = False,
    ) -> None:
        self.port = port
        self.data_dir = Path(data_dir).absolute()
        self._progress = progress
        self._lasting = lasting
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients take as `bootstrap_servers`, and `[kafka] brokers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The running node's process id; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Return when the node answers. Raises BrokerError: no Java, no Maven, port taken, a crash, 60 s are over."""
        if self.pid is not None:
            raise BrokerError(f"the broker already runs on {self.bootstrap} as process {self.pid}")
        java = find_java()
        jars = fetch_jars(self._progress)
        self._refuse_a_second()
        if not _is_free(self.port):
            raise BrokerError(f"port {self.port} of 127.0.0.1 is taken; stop what listens there or give another port")
        self._logs.mkdir(parents=True, exist_ok=True)
        self._write_properties()
        command = [*_java_command(java, jars, lasting=self._lasting), f"-Dlivejobs.logs={self._logs}"]
        if not (self.data_dir / "log" / "meta.properties").exists():
            self._format(command)
        self._progress(f"starting Kafka {KAFKA_VERSION} on {self.bootstrap}")
        with self._console.open("wb") as console:
            # A session of its own: Ctrl-C in the terminal reaches us, and we decide what ends when.
            self._process = subprocess.Popen(
                [*command, f"-Xmx{HEAP_MAX}", "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._pid_file.write_text(f"{self._process.pid}\n")
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the node in an orderly way, after 20 s by force. Does nothing when it is not running."""
        try:
            self._signal(signal.SIGTERM)
            if self._process is not None:
                self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the node at once, as a power cut would; what was acknowledged is on disk or in the page cache."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._pid_file.unlink(missing_ok=True)
        self._process = None

    def wait(self) -> None:
        """Block while the node runs. Raises BrokerError when it ends by itself."""
        if self._process is not None:
            code = self._process.wait()
            raise BrokerError(f"the broker ended by itself (exit code {code}){self._last_lines()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def _console(self) -> Path:
        return self._logs / "console.log"

    @property
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    @property
    def _pid_file(self) -> Path:
        return self.data_dir / "broker.pid"

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _refuse_a_second(self) -> None:
        """Raises BrokerError when a node that we lost, or another's, still runs on this data directory."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if os.fsencode(self._properties) in command.split(b"\0"):
            raise BrokerError(f"a broker already runs on {self.data_dir} as process {pid}; stop it: kill {pid}")

    def _settings(self) -> dict[str, str]:
        """The node's configuration, made anew at each start."""
        controller = f"127.0.0.1:{free_port()}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.data_dir / "log"),
            # Topics are made by `livejobs topics create` only, as a production broker should have it.
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill the node is let in again only when its old session is over; by default that takes 9 s.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",
            # One node: one replica of everything, and few partitions to open at the start.
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "log.retention.check.interval.ms": "10000",
            # Small enough for the heap; the default of 128 MiB would be a quarter of it.
            "log.cleaner.dedupe.buffer.size": str(32 << 20),
            "num.network.threads": "2",
            "num.io.threads": "4",
        }

    def _cluster_id(self) -> str:
        """The id that a new data directory gets."""
        return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")

    def _format_options(self) -> list[str]:
        """More options of the command that formats the data directory."""
        return []

    def _write_properties(self) -> None:
        settings = self._settings()
        # Backslashes are the only characters that a path may have and a properties file reads otherwise.
        lines = (f"{key}={value}".replace("\\", "\\\\") for key, value in settings.items())
        self._properties.write_text("\n".join(lines) + "\n")

    def _format(self, command: list[str]) -> None:
        arguments = ["--cluster-id", self._cluster_id(), "--config", str(self._properties), *self._format_options()]
        done = subprocess.run(
            [*command, "kafka.tools.StorageTool", "format", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"{self.data_dir} can't be formatted for Kafka:\n{done.stdout.decode(errors='replace')}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _answers(self.port):
            if self.pid is None:
                raise BrokerError(f"the broker crashed at its start{self._last_lines()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker does not answer after {START_SECONDS_MAX:.0f} s{self._last_lines()}")
            time.sleep(0.1)

    def _last_lines(self) -> str:
        """The ends of the two logs: a JVM that can't start writes to the one, Kafka to the other."""
        found = []
        for path in (self._console, self._logs / "server.log"):
            with contextlib.suppress(OSError):
                found += path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n  ".join(["; its last lines:", *found, f"(all in {self._logs})"])


def _answers(port: int) -> bool:
    """Whether the node serves: a Metadata request (v1, no topics) is answered and names a broker.

    It listens before it has registered itself; until then no broker is in the answer.
    """
    head = struct.Struct(">iii")  # size, correlation id, number of brokers
    request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                answer = stream.read(head.size)  # shorter when the connection ends
    except OSError:
        return False
    return len(answer) == head.size and head.unpack(answer)[2] > 0


def find_java() -> str:
    """The `java` of JAVA_HOME, else that of PATH. Raises BrokerError when there is none or it is older than 17."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "in PATH"
        raise BrokerError(f"no java {where}: install Java {JAVA_MIN} or newer, {DOCKER_HINT}")
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', done.stderr + done.stdout)
    if version is None or int(version[1]) < JAVA_MIN:
        found = f"it is {version[1]}" if version else "its version can't be read"
        raise BrokerError(f"{java} is too old for Kafka ({found}): install Java {JAVA_MIN} or newer, {DOCKER_HINT}")
    return java


def _java_command(java: str, jars: Path, *, lasting: bool) -> list[str]:
    # Where a broker soon ends again, its second compiler costs more than it gains.
    flags = ["-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto"]
    if not lasting:
        flags.append("-XX:TieredStopAtLevel=1")
    return [java, *flags, f"-Dlog4j2.configurationFile={jars / 'log4j2.xml'}", "-cp", f"{jars}/*"]


def fetch_jars(progress: Progress = lambda _line: None) -> Path:
    """The directory that holds the broker's jars; fills it by one run of Maven when they are not there yet.

    Another POM is another directory, so jars are never replaced under a broker that runs. Raises BrokerError.
    """
    files = resources.files("livejobs.deploy").joinpath("broker")
    pom, logging = files.joinpath("pom.xml").read_bytes(), files.joinpath("log4j2.xml").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livejobs" / f"kafka-{KAFKA_VERSION}"
    jars = cache / hashlib.sha256(pom + logging).hexdigest()[:12]
    complete = jars / "complete"  # written last
    if complete.exists():
        return jars
    jars.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock", progress):
        if not complete.exists():
            (jars / "pom.xml").write_bytes(pom)  # a copy: Maven may write beside it
            (jars / "log4j2.xml").write_bytes(logging)
            _run_maven(jars, progress)
            complete.touch()
    return jars


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress("waiting for another process that fetches Kafka's jars")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_maven(jars: Path, progress: Progress) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(f"no mvn in PATH: install Maven 3.6 or newer (it fetches Kafka once), {DOCKER_HINT}")
    progress(f"fetching Kafka {KAFKA_VERSION} with Maven, once, into {jars}")
    command = [maven, "--batch-mode", "--file", str(jars / "pom.xml"), f"-DoutputDirectory={jars}"]
    lines: list[str] = []
    with subprocess.Popen(
        [*command, "dependency:copy-dependencies"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            downloaded = re.search(r"Downloaded from .*/([^/]+\.jar)", line)
            if downloaded:
                progress(f"fetched {downloaded[1]}")
    if process.returncode != 0:
        wrong = [line for line in lines if "ERROR" in line][:5] or lines[-5:]
        raise BrokerError("Maven can't fetch Kafka (is the network there?):\n  " + "\n  ".join(wrong))


def run(config: Config, port: int | None, data_dir: Path) -> None:
    """`livejobs broker`: the node in the foreground, until Ctrl-C or SIGTERM.

    Without `port`, that of `[kafka] brokers`. Says on standard error what it does. Raises BrokerError.
    """
    wanted = port if port is not None else split_address(config.kafka.brokers.split(",")[0].strip())[1]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # one way out for both

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    broker = Broker(wanted, data_dir, progress=say, lasting=True)
    with contextlib.suppress(KeyboardInterrupt), broker:
        say(f"ready on {broker.bootstrap}, data in {broker.data_dir}; Ctrl-C ends it")
        broker.wait()
    say("stopped")
