"""How fast one worker catches up with a topic, exactly once, and what that costs; beside other programs on the same topic.

The programs run one after the other, round robin, so that a slow change of the machine hits all alike; one run that does
not count goes before them, since a broker that has just started is slow to whoever comes first. Each answer of each run
is checked.
"""

from typing import Any

from bench import engines
from bench.generate import Shape, Stream
from bench.measure import column, ratios, shown, table
from bench.replay import replay
from bench.setting import Result, Setting

EVENTS = 2_000_000
PEERS = ("kafka-streams", "limit")
BASE = "kafka-streams"
HEAD = (
    "program", "k events/s", "CPU-s a million", "peak MB", "cores", "broker CPU-s a million", "others, cores", "right",
)  # fmt: skip


def measure(setting: Setting) -> Result:
    """All programs, all rounds."""
    stream = Stream(Shape(setting.events or EVENTS))
    source = setting.broker.preload("job-events", stream.shape.partitions, stream.expected, stream)
    programs: list[engines.Engine] = [engines.Livejobs(setting.livejobs)]
    programs += [engines.peer(name, setting.build) for name in setting.peers or PEERS]
    runs: dict[str, list[dict[str, Any]]] = {program.name: [] for program in programs}
    with setting.task(source, "warm-up") as task:
        replay(programs[0], task)
    for number in range(1, setting.runs + 1):
        for program in programs:
            with setting.task(source, program.name) as task:
                run = replay(program, task)
            setting.note("catch_up", program.name, number, run, runs[program.name])
    setting.broker.delete([source.topic])
    return Result("catch_up", f"{source.events:,} events, one worker", runs, [_absolute(runs), _ratios(runs)])


def _absolute(runs: dict[str, list[dict[str, Any]]]) -> str:
    return table(
        HEAD,
        (
            (
                name,
                shown(column(some, "rate"), scale=1e-3),
                shown(column(some, "cpu_s_per_million")),
                shown(column(some, "rss_mb"), ".0f"),
                shown(column(some, "cores"), ".2f"),
                shown(column(some, "broker_cpu_s_per_million")),
                shown(column(some, "other_cores"), ".2f"),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for name, some in runs.items()
        ),
    )


def _ratios(runs: dict[str, list[dict[str, Any]]]) -> str:
    ours = runs["livejobs"]
    return table(
        ("livejobs by", "events/s", "CPU an event", "peak memory"),
        (
            (name, *(shown(ratios(ours, some, key), ".2f") for key in ("rate", "cpu_s_per_million", "rss_mb")))
            for name, some in runs.items()
            if some is not ours
        ),
    )
