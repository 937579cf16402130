"""Rebuilding an empty disk from the changelogs, beside Kafka Streams with as many rows of the same jobs.

The input holds live jobs only: both programs then keep each job's body. A program fills its changelogs, ends, and is
started twice: with the disk kept, and with an empty one. The difference of the two times until it is ready is the
restore; start and group membership are in both, and what a program restores while it would wait in any case does not
show, so the whole start is given too. Then every regression is closed, and the answers prove that all rows are there.
"""

import shutil
import time

from bench import engines
from bench.engines import Engine, Task
from bench.generate import Event, Resting
from bench.measure import BenchError, Run, Sampler, column, poll, ratios, shown, table
from bench.replay import Watch, follow
from bench.setting import Result, Runs, Setting

ROWS = 500_000
PARTITIONS = 8
PEER = "kafka-streams"
EMPTY_SECONDS_MAX = 60.0
HEAD = (
    "program", "k rows/s", "k rows/s of the whole start", "start s, disk kept", "start s, disk empty",
    "CPU-s a million rows", "peak MB", "right",
)  # fmt: skip


def measure(setting: Setting) -> Result:
    """Our worker and Kafka Streams, in turn."""
    jobs = setting.events or ROWS
    programs: list[Engine] = [engines.Livejobs(setting.livejobs), engines.peer(PEER, setting.build)]
    runs: Runs = {program.name: [] for program in programs}
    for number in range(1, setting.runs + 1):
        for program in programs:
            setting.note("restore", program.name, number, _run(setting, program, jobs), runs[program.name])
    return Result("restore", f"{jobs:,} live jobs, {PARTITIONS} partitions", runs, [_absolute(runs), _ratios(runs)])


def _absolute(runs: Runs) -> str:
    return table(
        HEAD,
        (
            (
                name,
                *(shown(column(some, key), scale=1e-3) for key in ("rows_a_second", "rows_a_second_of_start")),
                *(shown(column(some, key), ".2f") for key in ("kept_seconds", "empty_seconds")),
                shown(column(some, "cpu_s_per_million")),
                shown(column(some, "rss_mb"), ".0f"),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for name, some in runs.items()
        ),
    )


def _ratios(runs: Runs) -> str:
    keys = ("rows_a_second", "rows_a_second_of_start", "cpu_s_per_million", "rss_mb")
    values = [shown(ratios(runs["livejobs"], runs[PEER], key), ".2f") for key in keys]
    return table(("livejobs by", "rows/s", "rows/s of the whole start", "CPU a row", "peak memory"), [(PEER, *values)])


def _run(setting: Setting, engine: Engine, jobs: int) -> Run:
    resting = Resting(jobs, PARTITIONS)
    source = setting.broker.preload("resting", PARTITIONS, resting.expected, resting)
    rows = jobs + len(source.expected)
    try:
        with setting.task(source, f"restore-{engine.name}") as task:
            engine.start(task)
            poll(
                lambda: _has_committed(task, engine), setting.seconds_max, f"{task.name} has filled its changelogs", 0.5
            )
            _end(task, engine)
            kept_seconds, kept_cpu_s, _ = _start(task, engine)
            _end(task, engine)
            shutil.rmtree(task.folder / "state")
            empty_seconds, empty_cpu_s, rss_bytes = _start(task, engine)
            correct = _all_there(task, engine)
    finally:
        setting.broker.delete([source.topic])
    restore_seconds = empty_seconds - kept_seconds
    return {
        "rows": rows,
        "kept_seconds": kept_seconds,
        "empty_seconds": empty_seconds,
        "restore_seconds": restore_seconds,
        "rows_a_second": rows / restore_seconds if restore_seconds > 0 else None,
        "rows_a_second_of_start": rows / empty_seconds,
        "cpu_s_per_million": (empty_cpu_s - kept_cpu_s) / rows * 1e6,
        "rss_mb": rss_bytes / 2**20,
        "correct": correct,
    }


def _has_committed(task: Task, engine: Engine) -> bool:
    task.assert_running()
    return task.broker.committed(engine.group(task), task.source) == task.source.ends


def _end(task: Task, engine: Engine) -> None:
    """Stop the program, and wait until the group has forgotten it."""
    task.stop()
    poll(lambda: task.broker.is_empty(engine.group(task)), EMPTY_SECONDS_MAX, f"{task.name} has left its group", 0.2)


def _start(task: Task, engine: Engine) -> tuple[float, float, int]:
    """Start the program; seconds and CPU seconds until it is ready, and its greatest memory."""
    engine.start(task)
    with Sampler(task.programs, task.broker.pid) as sampler:
        engines.wait_until_ready(engine, task, task.seconds_max)
        moment = time.time()
        cpu_s = sum(program.cpu_s() for program in task.programs)
    return moment - task.programs[0].started, cpu_s, sampler.rss_bytes_max


def _all_there(task: Task, engine: Engine) -> bool:
    """Close every regression; whether the answers are those that all the rows give."""
    source = task.source
    ends = list(source.ends)
    closing = []
    for name, expected in source.expected.items():
        expected.closed = True
        closing.append(Event(expected.partition, name.encode(), b"regr-finish", b"{}"))
        source.last[name] = (expected.partition, ends[expected.partition])
        ends[expected.partition] += 1
    watch = Watch(engine, source, all_records=False)
    consumer = task.broker.consumer({task.output: source.partitions})
    try:
        task.broker.write(source.topic, closing)
        follow(consumer, watch, task)
    except BenchError as error:
        raise BenchError(f"{task.name}, after its restore: {error}") from error
    finally:
        consumer.close()
    return watch.right() == len(source.expected) and not watch.unexpected
