"""A simulated farm: regressions as a real one would publish them, for the demo and for tests.

`events` is pure: the same arguments give the same messages for ever; `publish` sends them at their times. A regression
and each of its jobs is a process, a generator that yields the messages it sends and, between them, how long it waits.
`events` runs the processes in the order of their times.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

import msgspec

from livejobs.streams.publisher.publish import Publisher

CONCURRENT = 6
"""Regressions that take jobs at a time."""
SIZES = (40, 160)
"""Jobs of a regression, least and most."""
HEARTBEAT_MS = 5_000
RUNTIME_MEDIAN_MS = 6_000
RUNTIME_MAX_MS = 40_000
POLL_MS = 1_000
"""How often a regression looks whether it is done; a farm that publishes in batches sends one so often."""
LOST_JOBS = 0.01
"""Part of the jobs that start and are never heard of again."""
KNOWN_FAILS = 0.1
"""Part of the fails that come with a signature of the farm's own."""

_FLOWS = ("nightly", "weekly", "smoke", "release")
_BLOCKS = ("core", "lsu", "l2cache", "noc", "ddr", "pcie", "fabric", "dma")
_TESTS = ("rand_instr", "irq_storm", "cache_evict", "dma_chain", "power_cycle", "axi_burst", "ecc_inject", "boot_smoke")
_USERS = ("ada", "grace", "edsger", "barbara", "donald")
_FAILS = (
    "UVM_ERROR {src}({line}) @ {time} ns: uvm_test_top.env.sb [SCBD] at 0x{a:08x}: expected 0x{b:08x}, got 0x{c:08x}",
    "UVM_ERROR {src}({line}) @ {time} ns: uvm_test_top.env.axi_agent[{n}].monitor [AXI_CHK] RRESP SLVERR on id {n}",
    "UVM_FATAL @ {time} ns: uvm_test_top.env.seqr [TIMEOUT] no objection dropped for {line} us",
    "UVM_ERROR {src}({line}) @ {time} ns: reporter [PHASE] {n} outstanding transactions at the end of the run phase",
    'Error: "{src}", {line}: tb.dut.u_stq[{n}].a_no_overflow: started at {time} ns failed',
    "simv: signal 11 (segmentation fault) at pc 0x{a:08x}\n  tb.dut.u_core.u_decode line {line}",
)


class Event(NamedTuple):
    """A message and when it is sent, in ms after the start."""

    at_ms: int
    kind: str
    regression: str
    body: bytes


_Said: TypeAlias = tuple[str, object]
"""Type and body of a message."""
_Process: TypeAlias = Iterator[_Said | int]


class _Regression:
    """One regression; `kind` is how it goes: `live`, `batch` (no live messages), `lost` or `tanked` on its way."""

    def __init__(self, number: int, rng: random.Random) -> None:
        block = _BLOCKS[number % len(_BLOCKS)]
        self.name = f"{_FLOWS[number % len(_FLOWS)]}/{block}_{number + 1}"
        self.block = block
        self.kind = {1: "lost", 2: "batch", 4: "tanked"}.get(number % 6, "live")
        self.has_uniqueids = number % 2 == 0
        self.size = rng.randint(*SIZES)
        self.begun = 0
        self.running = 0
        self.batch: list[dict[str, Any]] = []
        self.is_gone = False
        """Its head node is down, or an operator has killed it: nothing of it is heard any more."""

    @property
    def takes_jobs(self) -> bool:
        return self.begun < self.size and not self.is_gone


class _Farm:
    def __init__(self, seed: int, jobs_a_second: float, start: datetime, regressions: int | None) -> None:
        self.rng = random.Random(seed)  # noqa: S311  no secret, and repeatable
        self.pause_ms = 1000 / jobs_a_second
        self.start = start
        self.now_ms = 0
        self.numbers = iter(range(regressions)) if regressions is not None else itertools.count()
        self.open: list[_Regression] = []
        self.heap: list[tuple[int, int, _Regression | None, _Process]] = []
        self.order = itertools.count()  # of processes due at the same time

    def run(self) -> Iterator[Event]:
        self._spawn(None, self._dispatch())
        while self.heap:
            self.now_ms, _, regression, process = heapq.heappop(self.heap)
            for step in process:
                if isinstance(step, int):
                    heapq.heappush(self.heap, (self.now_ms + step, next(self.order), regression, process))
                    break
                if regression is not None:
                    kind, body = step
                    yield Event(self.now_ms, kind, regression.name, b"" if body is None else msgspec.json.encode(body))

    def _spawn(self, regression: _Regression | None, process: _Process) -> None:
        heapq.heappush(self.heap, (self.now_ms, next(self.order), regression, process))

    def _dispatch(self) -> _Process:
        """Open regressions and begin their jobs, at the farm's pace, as slots come free: at random."""
        owed_ms = 0.0
        while True:
            self.open = [regression for regression in self.open if regression.takes_jobs]
            while len(self.open) < CONCURRENT and (number := next(self.numbers, None)) is not None:
                self.open.append(_Regression(number, self.rng))
                self._spawn(self.open[-1], self._regression(self.open[-1]))
            if not self.open:
                return
            regression = self.rng.choice(self.open)
            regression.begun += 1
            self._spawn(regression, self._job(regression, regression.begun))
            owed_ms += self.rng.expovariate(1 / self.pause_ms)
            yield int(owed_ms)
            owed_ms -= int(owed_ms)

    def _regression(self, regression: _Regression) -> _Process:
        yield "regr-start", self._fields(regression)
        is_updated = False
        while regression.takes_jobs or regression.running:
            yield POLL_MS
            if regression.batch:
                yield "batch-job-finish", regression.batch
                regression.batch = []
            is_half = 2 * regression.begun > regression.size
            if is_half and regression.kind == "tanked":
                regression.is_gone = True
                yield "regr-tank", {"reason": "wrong model branch"}
                return
            if is_half and regression.kind == "lost":
                regression.is_gone = True
                return
            if is_half and not is_updated:
                is_updated = True
                regression.size += regression.size // 10  # more seeds for the tests that fail
                yield "regr-update", {"submitted": regression.size, "running": regression.running}
        if regression.batch:
            yield "batch-job-finish", regression.batch
        yield "regr-finish", None

    def _job(self, regression: _Regression, number: int) -> _Process:
        job, runtime_ms = self._live_job(regression, number), self._runtime_ms()
        is_live, is_lost = regression.kind != "batch", self.rng.random() < LOST_JOBS
        if is_live:
            yield "job-live", job
        if is_lost:
            return
        regression.running += 1
        left_ms = runtime_ms
        while is_live and left_ms > HEARTBEAT_MS:
            yield HEARTBEAT_MS
            if regression.is_gone:
                return
            left_ms -= HEARTBEAT_MS
            yield "job-live", job
        yield left_ms
        if regression.is_gone:
            return
        regression.running -= 1
        finished = job | self._outcome(runtime_ms, is_build=job["category"] == "build")
        if is_live:
            yield "job-finish", finished
        else:
            regression.batch.append(finished)

    def _runtime_ms(self) -> int:
        return min(int(RUNTIME_MEDIAN_MS * self.rng.lognormvariate(0, 0.7)) + 200, RUNTIME_MAX_MS)

    def _time(self) -> str:
        return (self.start + timedelta(milliseconds=self.now_ms)).isoformat(timespec="milliseconds")

    def _fields(self, regression: _Regression) -> dict[str, Any]:
        rng, flow = self.rng, regression.name.partition("/")[0]
        return {
            "name": regression.name,
            "component": regression.block,
            "project": "soc7",
            "group": flow,
            "queue": rng.choice(("normal", "long", "short")),
            "host": f"head{rng.randint(1, 3):02d}",
            "dir": f"/proj/soc7/runs/{regression.name}",
            "command": f"runregr --flow {flow} --block {regression.block}",
            "username": rng.choice(_USERS),
            "tag": f"{flow}-{rng.randint(1, 52):02d}",
            "changelist_path": "//soc7/main",
            "model_branch": "main",
            "model_version": str(rng.randint(410_000, 419_999)),
            "model_timestamp": (self.start - timedelta(hours=2)).isoformat(timespec="seconds"),
            "starttime": self._time(),
            "time_limit": 3600,
            "submitted": regression.size,
            "pending": regression.size,
            "running": 0,
            "custom_metadata": {"priority": rng.choice(("low", "normal", "high"))},
        }

    def _live_job(self, regression: _Regression, number: int) -> dict[str, Any]:
        rng = self.rng
        is_build = number == 1
        test, seed = ("build" if is_build else rng.choice(_TESTS)), str(rng.getrandbits(31))
        job: dict[str, Any] = {
            "start_time": self._time(),
            "category": "build" if is_build else "sim",
            "jobdir": f"/proj/soc7/runs/{regression.name}/job-{number}",
            "seed": seed,
            "config": f"{test} +seed={seed} +UVM_VERBOSITY=UVM_LOW",
            "build": f"{regression.block}_{rng.choice(('rtl', 'gls'))}",
            "testgroup": test.partition("_")[0],
            "host": f"farm{rng.randint(1, 240):03d}",
            "username": rng.choice(_USERS),
            "sourcecode": f"tests/{regression.block}/{test}.sv",
            "extid": str(rng.randint(1_000_000, 9_999_999)),
            "metadata": [["slots", str(rng.choice((1, 2, 4)))], ["os", "el8"]],
            "result": "live",
        }
        return job | {"uniqueid": f"{regression.name}#{number}"} if regression.has_uniqueids else job

    def _outcome(self, runtime_ms: int, *, is_build: bool) -> dict[str, Any]:
        rng = self.rng
        result = "pass" if is_build else rng.choices(("pass", "fail", "skip"), (90, 7, 3))[0]
        outcome: dict[str, Any] = {
            "result": result,
            "compute_ms": int(runtime_ms * rng.uniform(0.8, 0.99)),
            "runtime_ms": runtime_ms,
            "cycles": 0 if is_build else int(runtime_ms * rng.uniform(0.5, 2.5)),
            "exit_code": 1 if result == "fail" else 0,
            "finish_time": self._time(),
            "fail_message": self._fail_message() if result == "fail" else "",
        }
        is_known = result == "fail" and rng.random() < KNOWN_FAILS
        return outcome | {"bucket": "Known: license server"} if is_known else outcome

    def _fail_message(self) -> str:
        rng = self.rng
        return rng.choice(_FAILS).format(
            src=f"/proj/soc7/tb/{rng.choice(_BLOCKS)}_env.sv",
            line=rng.randint(20, 900),
            time=rng.randint(10_000, 9_999_999),
            n=rng.randint(0, 15),
            a=rng.getrandbits(32),
            b=rng.getrandbits(32),
            c=rng.getrandbits(32),
        )


def events(seed: int, *, jobs_a_second: float, start: datetime, regressions: int | None = None) -> Iterator[Event]:
    """The farm's messages in the order of their times; without `regressions` there is no end.

    `start` (aware) is what the times in the messages count from. All live jobs of a lost or tanked regression, and some
    of any other, never finish.
    """
    return _Farm(seed, jobs_a_second, start, regressions).run()


async def publish(publisher: Publisher, stream: Iterable[Event]) -> None:
    """Send each message when its time has come, late ones as fast as it can. Raises what `Publisher.send` raises."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for event in stream:
        wait_seconds = began + event.at_ms / 1000 - clock()
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
        await publisher.send(event.kind, event.regression, event.body)
