"""What becomes of rate and memory as things grow: a regression's jobs, the live jobs that rest, the open regressions.

One worker with its ticks on reads topics of its own. Every message changes its regression's version, so each record
of the statistics says how far the worker is. Two of the series have one partition: there it reads one thing after the
other, and all of it is in one store. The last series measures what ticks cost while nothing else comes: what a worker
takes with them, less what one takes without them.
"""

import time
from collections.abc import Callable
from itertools import chain, islice

from bench.engines import Livejobs, Task
from bench.generate import Resting, Shape, Stream
from bench.kafka import Broker, Input
from bench.measure import Run, column, ratios, shown, table
from bench.replay import replay
from bench.setting import Result, Runs, Setting

EVENTS = 2_000_000
"""About so many, or more, in each run with a rate: with fewer, what is bounded is not full in the small ones, and what came
before those that are measured is still being compacted."""
PARTITIONS = 8
JOBS = (1_000, 10_000, 100_000, 1_000_000)
LIVE = (1_000, 1_000_000)
OPEN = (100, 10_000, 100_000)
HEAD = ("events", "k events/s", "ratio", "CPU-s a million", "ratio", "peak MB", "ratio", "right")
IDLE_SECONDS, CALM_SECONDS = 20.0, 2.0


def jobs_of_one(broker: Broker, size: int, events: int, _largest: int) -> Input:
    """Regressions of this size, one after the other, in one partition; two messages a job."""
    shape = Shape(
        max(events, 2 * size), partitions=1, jobs=size, exact=True, concurrent=1,
        heartbeats=0, duplicates=0, late=0, lost=0, silent=0,
    )  # fmt: skip
    stream = Stream(shape)
    return broker.preload(f"jobs-{size}", shape.partitions, stream.expected, stream)


def live_at_rest(broker: Broker, size: int, events: int, largest: int) -> Input:
    """A farm's usual messages, while so many other live jobs say nothing; all in one partition.

    Whatever the size, as many messages come before those that are measured: what is bounded fills with them.
    """
    before = largest - size
    stream = Stream(Shape(before + events, partitions=1, duplicates=0, late=0))
    resting = Resting(size, partitions=1)
    stream.expected = resting.expected  # one object for both, filled while they are written
    messages = iter(stream)
    ground = chain(resting, islice(messages, before))
    return broker.preload(f"live-{size}", 1, resting.expected, messages, ground)


def open_regressions(broker: Broker, size: int, events: int, _largest: int) -> Input:
    """Messages of so many regressions that have all begun, in any order; two messages a job."""
    shape = Shape(
        max(events, 4 * size), PARTITIONS, concurrent=size, slots=2,
        heartbeats=0, duplicates=0, late=0, silent=0, open_end=True,
    )  # fmt: skip
    stream = Stream(shape)
    messages = iter(stream)
    return broker.preload(f"open-{size}", PARTITIONS, stream.expected, messages, islice(messages, size))


def only_rest(broker: Broker, size: int, _events: int, _largest: int) -> Input:
    """So many live jobs, and nothing behind them."""
    resting = Resting(size, PARTITIONS)
    return broker.preload(f"rest-{size}", PARTITIONS, resting.expected, resting)


IDLE = "ticks over live jobs"
SERIES: dict[str, tuple[tuple[int, ...], Callable[[Broker, int, int, int], Input]]] = {
    "jobs of one regression": (JOBS, jobs_of_one),
    "live jobs at rest": (LIVE, live_at_rest),
    "open regressions": (OPEN, open_regressions),
    IDLE: (LIVE, only_rest),
}


def measure(setting: Setting) -> Result:
    """All series, all sizes up to the largest wanted, all rounds."""
    runs: Runs = {}
    for what, (sizes, write) in SERIES.items():
        wanted = [size for size in sizes if size <= setting.largest]
        inputs = {size: write(setting.broker, size, setting.events or EVENTS, wanted[-1]) for size in wanted}
        for number in range(1, setting.runs + 1):
            for size, source in inputs.items():
                name = f"{what}: {size:,}"
                run = _run(setting, source, _idle if what == IDLE else _nothing)
                if what == IDLE:
                    silent = _run(setting, source, _idle, tickseconds=0)
                    run["ticks_share"] = run["idle_share"] - silent["idle_share"]
                setting.note("growth", name, number, run, runs.setdefault(name, []))
        setting.broker.delete([source.topic for source in inputs.values()])
    tables = []
    for what in SERIES:
        some = {name.removeprefix(f"{what}: "): found for name, found in runs.items() if name.startswith(what)}
        tables.append(_idle_table(some) if what == IDLE else _table(what, some))
    return Result("growth", "one worker, ticks on; ratios are to the smallest", runs, tables)


def _run(setting: Setting, source: Input, then: Callable[[Task], Run], tickseconds: float = 1) -> Run:
    with setting.task(source, f"growth-{source.topic}") as task:
        return replay(Livejobs(setting.livejobs, tickseconds=tickseconds), task, all_records=True, then=then)


def _nothing(_task: Task) -> Run:
    return {}


def _idle(task: Task) -> Run:
    """Share of a core that the worker takes while nothing comes but its ticks."""
    time.sleep(CALM_SECONDS)
    begin, before = time.monotonic(), sum(program.cpu_s() for program in task.programs)
    time.sleep(IDLE_SECONDS)
    used = sum(program.cpu_s() for program in task.programs) - before
    return {"idle_share": used / (time.monotonic() - begin)}


def _table(what: str, runs: Runs) -> str:
    smallest = next(iter(runs.values()), [])
    return table(
        (what, *HEAD),
        (
            (
                size,
                f"{some[0]['events']:,}",
                shown(column(some, "rate"), scale=1e-3),
                shown(ratios(some, smallest, "rate"), ".2f"),
                shown(column(some, "cpu_s_per_million")),
                shown(ratios(some, smallest, "cpu_s_per_million"), ".2f"),
                shown(column(some, "rss_mb"), ".0f"),
                shown(ratios(some, smallest, "rss_mb"), ".2f"),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for size, some in runs.items()
        ),
    )


def _idle_table(runs: Runs) -> str:
    smallest = next(iter(runs.values()), [])
    return table(
        (IDLE, "% of a core", "of that, ticks", "ratio", "peak MB", "ratio", "right"),
        (
            (
                size,
                shown(column(some, "idle_share"), ".2f", 100),
                shown(column(some, "ticks_share"), ".2f", 100),
                shown(ratios(some, smallest, "ticks_share"), ".2f"),
                shown(column(some, "rss_mb"), ".0f"),
                shown(ratios(some, smallest, "rss_mb"), ".2f"),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for size, some in runs.items()
        ),
    )
