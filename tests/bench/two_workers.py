"""Two workers against one on the same topic: two processes that share its partitions; beside them peers with two threads.

They also share the machine with the broker: with no more than two cores, what the second one adds is what the first
and the broker leave over. CPU an event does not depend on that.
"""

from bench.engines import Engine, Livejobs, Task, peer
from bench.generate import Shape, Stream
from bench.measure import Run, column, ratios, shown, table
from bench.replay import replay
from bench.setting import Result, Runs, Setting

EVENTS = 4_000_000
"""With a million, much of a run is in the broker's first minutes, in which it takes up to three times the CPU."""
PEERS = ("kafka-streams",)
ONE, TWO = "one", "two"


def measure(setting: Setting) -> Result:
    """One worker, two, and the peers, in turn, behind a run that does not count."""
    stream = Stream(Shape(setting.events or EVENTS))
    source = setting.broker.preload("job-events", stream.shape.partitions, stream.expected, stream)
    engines: dict[str, Engine] = {ONE: Livejobs(setting.livejobs), TWO: Livejobs(setting.livejobs, workers=2)}
    engines |= {f"{name}, two threads": peer(name, setting.build, threads=2) for name in setting.peers or PEERS}
    runs: Runs = {name: [] for name in engines}
    with setting.task(source, "warm-up") as task:
        replay(engines[ONE], task)
    for number in range(1, setting.runs + 1):
        for name, engine in engines.items():

            def partitions(task: Task, engine: Engine = engine) -> Run:
                return {"partitions": engine.assigned(task)} if isinstance(engine, Livejobs) else {}

            with setting.task(source, f"two-{engine.name}") as task:
                run = replay(engine, task, then=partitions)
            setting.note("two_workers", name, number, run, runs[name])
    setting.broker.delete([source.topic])
    title = f"{source.events:,} events, {source.partitions} partitions"
    return Result("two_workers", title, runs, [_absolute(runs), _ratios(runs)])


def _absolute(runs: Runs) -> str:
    head = (
        "workers",
        "k events/s",
        "CPU-s a million",
        "cores",
        "peak MB",
        "others, cores",
        "partitions of each",
        "right",
    )
    return table(
        head,
        (
            (
                name,
                shown(column(some, "rate"), scale=1e-3),
                shown(column(some, "cpu_s_per_million")),
                shown(column(some, "cores"), ".2f"),
                shown(column(some, "rss_mb"), ".0f"),
                shown(column(some, "other_cores"), ".2f"),
                "; ".join("+".join(map(str, run["partitions"])) for run in some if "partitions" in run),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for name, some in runs.items()
        ),
    )


def _ratios(runs: Runs) -> str:
    keys = ("rate", "cpu_s_per_million", "rss_mb")
    return table(
        ("two by", "events/s", "CPU an event", "peak memory"),
        (
            (name, *(shown(ratios(runs[TWO], some, key), ".2f") for key in keys))
            for name, some in runs.items()
            if name != TWO
        ),
    )
