"""Streams of job events, the same for the same shape, and what their statistics must be in the end.

The sums are added up here while the messages are made, so they are an answer independent of every program measured.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from aiokafka.partitioner import murmur2

FIRST_MOMENT = datetime(2026, 3, 2, 8, tzinfo=UTC)
CATEGORIES = ("block/alu", "block/lsu", "block/fetch", "soc/boot", "soc/power", "soc/dma", "noc/mesh", "noc/cred")
CONFIGS = ("rtl", "rtl_cov", "gls_min", "gls_max", "upf")
USERS = ("ada", "bob", "chen", "dewi", "emil", "fatma")
SCOPES = ("uvm_test_top.env.scoreboard", "uvm_test_top.env.axi_agent.monitor", "tb.dut.core0.rob", "tb.dut.l2.tagram")
EXIT_CODES = (1, 2, 137, 139)
FAILS, SKIPS = 0.05, 0.02
"""Shares of the finished jobs."""
SUMS = ("cycles", "compute_ms", "runtime_ms")


class Event(NamedTuple):
    """A message of `job-events`."""

    partition: int
    key: bytes
    kind: bytes
    body: bytes


@dataclass(frozen=True)
class Shape:
    """What a stream is like. About `events` messages: regressions that have begun are brought to their ends."""

    events: int
    partitions: int = 8
    jobs: int = 500
    """Jobs of a regression: from half of it to one and a half times it, or exactly if `exact`."""
    exact: bool = False
    concurrent: int = 64
    """Regressions that run at the same time."""
    slots: int = 64
    """Jobs of a regression that run at the same time."""
    heartbeats: float = 1.0
    """Mean number of live messages of a job after its first."""
    duplicates: float = 0.01
    """Share of the finishes that are sent again as they are."""
    lost: float = 0.005
    """Share of the jobs that never finish."""
    late: float = 0.005
    """Share of the jobs with a live message after the finish."""
    silent: float = 0.01
    """Share of the jobs without a live message."""
    open_end: bool = False
    """No regression ends: all begin first, and the stream is over at `events`."""
    seed: int = 1

    @property
    def telling(self) -> bool:
        """Whether every message changes its regression's statistics, at least their version."""
        return self.duplicates == 0 == self.late


@dataclass
class Expected:
    """What a regression's statistics must be after its last message."""

    partition: int
    submitted: int
    sums: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("pass", "fail", "skip", "finished", "live", "duplicates", *SUMS), 0)
    )
    closed: bool = False

    @property
    def status(self) -> str:
        """How livejobs shows it."""
        if not self.closed:
            return "LIVE"
        return "ABORTED" if self.sums["finished"] < self.submitted else "COMPLETE"


class Clock:
    """A simulated clock: a millisecond passes at each look. Formats once a second."""

    def __init__(self) -> None:
        self._ms = 0
        self._second, self._text = -1, ""

    def now(self) -> str:
        """The time as RFC 3339."""
        self._ms += 1
        second, ms = divmod(self._ms, 1000)
        if second != self._second:
            self._second = second
            self._text = (FIRST_MOMENT + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._text}{ms:03d}Z"


class Job:
    """A job that runs: its live body, and what is still to be said of it, last first."""

    __slots__ = ("body", "finish", "plan", "seen")

    def __init__(self, body: dict[str, Any], plan: list[str]) -> None:
        self.body, self.plan = body, plan
        self.finish: bytes | None = None
        self.seen = False


class Regression:
    """A regression that runs: gives its messages one by one."""

    def __init__(self, number: int, jobs: int, shape: Shape, draw: random.Random, clock: Clock) -> None:
        self._shape, self._draw, self._clock = shape, draw, clock
        self.name = f"nightly_core{number % 13}_{draw.choice(('main', 'rel', 'dev'))}/{number}"
        self.key = self.name.encode()
        self.expected = Expected((murmur2(self.key) & 0x7FFFFFFF) % shape.partitions, jobs)
        self._build = f"build-{draw.getrandbits(40):010x}"
        self._user = draw.choice(USERS)
        self._left = jobs
        self._running: list[Job] = []
        self._started = False

    def next(self) -> Event:
        """Its next message; after the one that closes it there is none."""
        kind, body = self._next()
        return Event(self.expected.partition, self.key, kind, orjson.dumps(body) if isinstance(body, dict) else body)

    def _next(self) -> tuple[bytes, dict[str, Any] | bytes]:
        if not self._started:
            self._started = True
            return b"regr-start", {
                "name": self.name, "build": self._build, "username": self._user, "starttime": self._clock.now(),
                "project": "core", "group": "nightly", "submitted": self._left,
            }  # fmt: skip
        index = int(self._draw.random() * self._shape.slots)
        if self._left and index >= len(self._running):
            self._left -= 1
            self._running.append(self._new_job())
            index = len(self._running) - 1
        elif not self._running:
            self.expected.closed = True
            return b"regr-finish", {"name": self.name, "finish_time": self._clock.now()}
        else:
            index %= len(self._running)
        job = self._running[index]
        told = self._tell(job, job.plan.pop())
        if not job.plan:
            self._running[index] = self._running[-1]
            self._running.pop()
        return told

    def _new_job(self) -> Job:
        chance, shape = self._draw.random, self._shape
        seed = self._draw.getrandbits(31)
        category = CATEGORIES[int(chance() * len(CATEGORIES))]
        test = f"{category[-3:]}_test_{seed % 60}"
        body = {
            "start_time": self._clock.now(),
            "jobdir": f"/proj/core/regr/{self.name}/{category}/{test}.{self._left}",
            "category": category,
            "config": CONFIGS[int(chance() * len(CONFIGS))],
            "seed": str(seed),
            "build": self._build,
            "testgroup": f"tg_{int(chance() * 20)}",
            "host": f"farm{int(chance() * 400):03d}.example.net",
            "username": self._user,
            "metadata": [["transactions", "0"], ["test_name", test]],
            "result": "live",
        }
        plan = []
        if chance() >= shape.silent:
            plan.append("live")
            while chance() >= 1.0 / (1.0 + shape.heartbeats):
                plan.append("live")
        if not plan or chance() >= shape.lost:
            plan.append("finish")
            if chance() < shape.duplicates:
                plan.append("again")
            if chance() < shape.late:
                plan.append("live")
        plan.reverse()
        return Job(body, plan)

    def _tell(self, job: Job, what: str) -> tuple[bytes, dict[str, Any] | bytes]:
        sums = self.expected.sums
        if what == "live":
            job.body["metadata"][0][1] = str(int(job.body["metadata"][0][1]) + 100)
            if not job.seen and job.finish is None:
                job.seen = True
                sums["live"] += 1
            return b"job-live", job.body
        if job.finish is not None:
            sums["duplicates"] += 1
            return b"job-finish", job.finish
        sums["live"] -= job.seen
        job.finish = orjson.dumps(self._finished(job.body))
        return b"job-finish", job.finish

    def _finished(self, live: dict[str, Any]) -> dict[str, Any]:
        chance, sums = self._draw.random, self.expected.sums
        runtime_ms = int(20_000 + chance() * 3_000_000)
        body = live | {
            "metadata": [["transactions", str(100 * (1 + int(chance() * 9)))], live["metadata"][1]],
            "runtime_ms": runtime_ms,
            "compute_ms": int(runtime_ms * (0.8 + 0.2 * chance())),
            "cycles": int(runtime_ms * (5 + 40 * chance())),
            "exit_code": 0,
            "fail_message": "",
            "result": "pass",
            "finish_time": self._clock.now(),
        }
        drawn = chance()
        if drawn < FAILS:
            body["result"] = "fail"
            body["exit_code"] = EXIT_CODES[int(chance() * len(EXIT_CODES))]
            body["fail_message"] = (
                f"UVM_ERROR @ {int(chance() * 1e9)}ps: {SCOPES[int(chance() * len(SCOPES))]} [SCBD] data mismatch "
                f"exp=0x{self._draw.getrandbits(32):08x} got=0x{self._draw.getrandbits(32):08x}"
            )
        elif drawn < FAILS + SKIPS:
            body["result"] = "skip"
        sums["finished"] += 1
        sums[body["result"]] += 1
        for name in SUMS:
            sums[name] += body[name]
        return body


class Stream:
    """Iterate over it once; `expected` is then complete, and `regressions` in the order in which they began."""

    def __init__(self, shape: Shape, first: int = 1) -> None:
        self.shape = shape
        self.expected: dict[str, Expected] = {}
        self._number = first
        self._draw = random.Random(shape.seed)
        self._clock = Clock()

    def __iter__(self) -> Iterator[Event]:
        if self.shape.open_end:
            yield from self._open_ended()
        else:
            yield from self._with_ends()

    def _begin(self, jobs: int) -> Regression:
        regression = Regression(self._number, jobs, self.shape, self._draw, self._clock)
        self._number += 1
        self.expected[regression.name] = regression.expected
        return regression

    def _jobs(self) -> int:
        return self.shape.jobs if self.shape.exact else max(1, int(self.shape.jobs * (0.5 + self._draw.random())))

    def _open_ended(self) -> Iterator[Event]:
        running = [self._begin(self.shape.events) for _ in range(self.shape.concurrent)]
        for regression in running:
            yield regression.next()
        for _ in range(self.shape.events - len(running)):
            yield running[int(self._draw.random() * len(running))].next()

    def _with_ends(self) -> Iterator[Event]:
        shape, draw = self.shape, self._draw
        running: list[Regression] = []
        planned = 0.0
        for _ in range(shape.concurrent):  # some are at their beginning, others near their end
            jobs = self._jobs() if shape.exact else max(1, int(self._jobs() * draw.random()))
            if planned < shape.events:
                running.append(self._begin(jobs))
                planned += jobs * (2 + shape.heartbeats) + 2
        while running:
            index = int(draw.random() * len(running))
            yield running[index].next()
            if not running[index].expected.closed:
                continue
            if planned < shape.events:
                jobs = self._jobs()
                running[index] = self._begin(jobs)
                planned += jobs * (2 + shape.heartbeats) + 2
            else:
                running[index] = running[-1]
                running.pop()


class Resting:
    """So many jobs that are said to be live, and never again; `each` in a regression. Iterate over it once."""

    def __init__(self, jobs: int, partitions: int = 8, each: int = 1000, first: int = 1_000_000) -> None:
        self._jobs, self._each, self._first = jobs, each, first
        self._shape = Shape(
            jobs, partitions=partitions, slots=each, heartbeats=0, duplicates=0, lost=1, late=0, silent=0
        )
        self.expected: dict[str, Expected] = {}

    def __iter__(self) -> Iterator[Event]:
        draw, clock = random.Random(2), Clock()
        for number, begin in enumerate(range(0, self._jobs, self._each), self._first):
            jobs = min(self._each, self._jobs - begin)
            regression = Regression(number, jobs, self._shape, draw, clock)
            self.expected[regression.name] = regression.expected
            for _ in range(jobs + 1):
                yield regression.next()
