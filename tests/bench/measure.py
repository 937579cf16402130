"""What everything is measured with: programs in sessions of their own, their CPU and memory from /proc, spreads, tables."""

import bisect
import contextlib
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, Self

HERTZ = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.25
STOP_SECONDS_MAX = 25.0
LOG_LINES_SHOWN = 15
KILL_SECONDS = "5"
"""After SIGTERM at a program's time limit."""


class BenchError(RuntimeError):
    """Something can't be measured: one line that says why."""


# ---------------------------------------------------------------------- processes


class Stat(NamedTuple):
    """A process in /proc: CPU seconds with those of children that have ended, resident bytes."""

    session: int
    cpu_s: float
    rss_bytes: int


def stat(pid: int) -> Stat | None:
    """A process; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except OSError:
        return None
    return Stat(int(fields[3]), sum(map(int, fields[11:15])) / HERTZ, int(fields[21]) * PAGE_BYTES)


def machine_cpu_s() -> float:
    """CPU seconds that the machine has used since it started."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / HERTZ  # without idle and waiting for disks


def machine_speed() -> float:
    """Millions of turns of an empty Python loop a second, best of five: shared machines change their speed."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(1_000_000):
            pass
        best = min(best, time.perf_counter() - begin)
    return 1 / best


class Program:
    """A program that we start, in a session of its own: all its processes are measured, and end with it.

    `timeout` stands above it, so that it ends even when we are killed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        seconds_max: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        timeout = shutil.which("timeout")
        if timeout is None:
            raise BenchError("no timeout in PATH: it is one of GNU's coreutils")
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [timeout, "--foreground", "-k", KILL_SECONDS, f"{seconds_max:.0f}", *map(str, command)],
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started = time.time()

    @property
    def session(self) -> int:
        """The id of its session; no other program can have it as long as we have not waited for this one."""
        return self._process.pid

    def assert_running(self) -> None:
        """Raises BenchError, with the end of its log, when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"{self.log.stem} ended early with exit code {code}:\n{self.tail()}")

    def wait(self) -> None:
        """Return when it has ended well; its time is limited. Raises BenchError."""
        code = self._process.wait()  # with a time limit of ours it would look only now and then
        if code != 0:
            raise BenchError(f"{self.log.stem} ended with exit code {code}:\n{self.tail()}")

    def says(self, line: str) -> bool:
        """Whether there is such a line in its log."""
        return line in self.log.read_text(errors="replace").splitlines()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def members(self) -> list[int]:
        """The process ids of its session."""
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  a sampler's inner loop
        return [pid for pid in pids if (found := stat(pid)) is not None and found.session == self.session]

    def cpu_s(self) -> float:
        """CPU seconds that it has used."""
        return sum(found.cpu_s for pid in self.members() if (found := stat(pid)) is not None)

    def stop(self) -> None:
        """End all of its session: SIGTERM, and after a time SIGKILL. Does nothing when it has ended."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS_MAX
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._process.poll() is None:
                self._signal(signal.SIGKILL)
                self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Used(NamedTuple):
    """CPU seconds used up to a moment."""

    programs: float
    broker: float
    others: float
    """All else on this machine, without us."""


def spawned(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    """A process that runs `target`, and the pipe to it; the other end is its first argument."""
    context = multiprocessing.get_context("spawn")  # not a copy of a process with Kafka's threads
    pipe, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()  # should it die, we read the end
    return process, pipe


def answer(pipe: Connection, seconds: float, who: str) -> Any:
    """What the process behind a pipe says next. Raises BenchError when it says nothing, or has ended."""
    if not pipe.poll(seconds):
        raise BenchError(f"{who} says nothing for {seconds:.0f} s")
    try:
        return pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise BenchError(f"{who} has ended") from error


class Sampler:
    """As a context manager: samples the CPU and memory of programs, of the broker, and of the rest of the machine."""

    def __init__(self, programs: Sequence[Program], broker_pid: int) -> None:
        self._sessions = {program.session for program in programs}
        self._broker_pid = broker_pid
        self._times: list[float] = []
        self._used: list[Used] = []
        self.rss_bytes_max = 0
        """The greatest sum of the programs' resident memory; what processes share is counted in each."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._sample()
            self._stop.wait(SAMPLE_SECONDS)
        self._sample()

    def _sample(self) -> None:
        cpu_s, rss_bytes = 0.0, 0
        for name in os.listdir("/proc"):  # noqa: PTH208  no need of a Path for each process
            if name.isdigit() and (found := stat(int(name))) is not None and found.session in self._sessions:
                cpu_s += found.cpu_s
                rss_bytes += found.rss_bytes
        found = stat(self._broker_pid)
        broker_s = found.cpu_s if found is not None else 0.0
        self._times.append(time.time())
        self._used.append(Used(cpu_s, broker_s, machine_cpu_s() - cpu_s - broker_s - sum(os.times()[:2])))
        self.rss_bytes_max = max(self.rss_bytes_max, rss_bytes)

    def at(self, moment: float) -> Used:
        """What was used up to a moment (`time.time()`), between two samples by the straight line through them."""
        if len(self._times) == 1:
            return self._used[0]
        index = min(max(bisect.bisect(self._times, moment), 1), len(self._times) - 1)
        begin, end = self._times[index - 1], self._times[index]
        share = min(max((moment - begin) / (end - begin), 0.0), 1.0)
        pairs = zip(self._used[index - 1], self._used[index], strict=True)
        return Used(*(before + share * (after - before) for before, after in pairs))

    def between(self, begin: float, end: float) -> Used:
        """What was used between two moments."""
        return Used(*(after - before for before, after in zip(self.at(begin), self.at(end), strict=True)))


# ---------------------------------------------------------------------- numbers


Run = dict[str, Any]
"""What one run has given: names and numbers, as they go into the JSON file."""


class Spread(NamedTuple):
    """The least, the median and the greatest of some runs."""

    least: float
    median: float
    greatest: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of those that are there."""
    there = [value for value in values if value is not None]
    return Spread(min(there), statistics.median(there), max(there)) if there else None


def shown(values: Iterable[float | None], form: str = ".1f", scale: float = 1.0) -> str:
    """A spread for a table: `median (least-greatest)`; only the median where there is one value."""
    found = spread(values)
    if found is None:
        return "-"
    low, middle, high = (f"{value * scale:{form}}" for value in found)
    return middle if found.least == found.greatest else f"{middle} ({low}-{high})"


def column(runs: Iterable[Run], key: str) -> list[float | None]:
    """A number of each run."""
    return [run.get(key) for run in runs]


def ratios(runs: Iterable[Run], others: Iterable[Run], key: str) -> list[float | None]:
    """A number of each run by that of the other run of the same round."""
    by_round = {other["round"]: other.get(key) for other in others}
    pairs = [(run.get(key), by_round.get(run["round"])) for run in runs]
    return [one / other if one is not None and other else None for one, other in pairs]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which such a share of the ordered values is."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def poll(what: Callable[[], bool], seconds: float, name: str, pause: float = 0.05) -> None:
    """Ask until the answer is yes. Raises BenchError with `name` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise BenchError(f"{name}: not after {seconds:.0f} s")
        time.sleep(pause)
