"""From publishing a message to the statistics record that knows of it, read committed, at fixed rates.

A publisher in a process of its own sends each message when its time has come, whatever became of those before; a
message's latency counts from the time at which it was *due*, so a publisher or a broker that stalls does not hide what
waited behind it. Every message changes its regression's version, which is the offset of the last message that changed
it: a message at offset o is answered by the first record of its regression with a version of at least o. The same
receiver reads the messages themselves, too: how long they take to any consumer is the floor.

Percentiles are given twice: of all messages, and of the *calm* ones, in whose time the machine did not stand still
(`stalls.py`). That is from before a message was due, since what had waited is to be worked off, to when its answer is
to be expected, and not to when it came: a slow answer is not left out for being slow.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from confluent_kafka import Producer

from bench import engines
from bench.engines import Livejobs, Task
from bench.generate import Event, Shape, Stream
from bench.kafka import EVENTS_SETTINGS, Input
from bench.measure import BenchError, Run, Sampler, answer, column, percentile, shown, spawned, table
from bench.setting import Result, Runs, Setting
from bench.stalls import Stalls

RATES = (1_000, 10_000)
EVENTS = 250_000
"""At the highest rate; each rate runs as long as that one."""
WARM_UP_SECONDS = 90
"""Of the broker, before the first run."""
WARM_UP = 0.2
"""Share of each run that does not count."""
LINGER_MS = 5
"""Of the publisher: librdkafka's default, and what our own publisher has."""
AHEAD_SECONDS = 0.5
"""From the word to start to the first message."""
CALM_SECONDS = (0.1, 0.15)
"""Before and after the time at which a message was due."""
DRAIN_SECONDS_MAX = 60.0
QUIET_SECONDS = 2.0
READY_SECONDS_MAX = 60.0
SLEEP_SECONDS_MIN = 0.0002
PARTITIONS = 8
HEAD = (
    "events", "p50 ms", "p99 ms", "max ms", "calm p99 ms", "floor p50 ms", "floor p99 ms", "calm floor p99 ms", "calm %",
    "publisher late p99 ms", "cores", "broker cores", "right",
)  # fmt: skip
SHARES = {"p50": 0.5, "p99": 0.99}


def measure(setting: Setting) -> Result:
    """All rates, all rounds."""
    seconds = (setting.events or EVENTS) / max(RATES)
    runs: Runs = {f"{rate:,}/s": [] for rate in RATES}
    # A broker that has just started still compiles itself, for minutes, on one of the cores that are measured.
    _run(setting, max(RATES), WARM_UP_SECONDS * max(RATES))
    for number in range(1, setting.runs + 1):
        for rate, (name, some) in zip(RATES, runs.items(), strict=True):
            setting.note("latency", name, number, _run(setting, rate, int(rate * seconds)), some)
    warm_up = WARM_UP * seconds
    title = f"{seconds - warm_up:.0f} s behind {warm_up:.0f} s that do not count; one worker, {PARTITIONS} partitions, ticks on"
    return Result("latency", title, runs, [_absolute(runs), _ratios(runs)])


def _absolute(runs: Runs) -> str:
    keys = (
        "p50_ms", "p99_ms", "max_ms", "calm_p99_ms", "floor_p50_ms", "floor_p99_ms", "calm_floor_p99_ms", "calm_percent",
        "late_p99_ms",
    )  # fmt: skip
    return table(
        HEAD,
        (
            (
                name,
                *(shown(column(some, key)) for key in keys),
                *(shown(column(some, key), ".2f") for key in ("cores", "broker_cores")),
                f"{sum(run['correct'] for run in some)} of {len(some)}",
            )
            for name, some in runs.items()
        ),
    )


def _ratios(runs: Runs) -> str:
    return table(
        ("events", "p50 by floor", "p99 by floor"),
        ((name, *(shown(column(some, f"{key}_by_floor")) for key in SHARES)) for name, some in runs.items()),
    )


# ---------------------------------------------------------------------- the publisher


class Sent(NamedTuple):
    """What the publisher's process hands back, in the order of the messages; times are time.monotonic()."""

    called: list[float]
    offsets: list[int]


def _messages(events: int) -> list[Event]:
    """Exactly so many: a stream ends where its regressions do, so a longer one is cut off."""
    return list(islice(Stream(Shape(2 * events, PARTITIONS, duplicates=0, late=0)), events))


def publish(pipe: Connection, address: str, topic: str, rate: int, events: int) -> None:
    """The publisher's process: make the messages, say so, wait for the time to begin, keep to the schedule."""
    messages = _messages(events)
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": LINGER_MS})
    producer.list_topics(topic, timeout=READY_SECONDS_MAX)
    offsets: list[list[int]] = [[] for _ in range(PARTITIONS)]
    called: list[float] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            raise BenchError(f"a message was not delivered: {error}")
        offsets[message.partition()].append(message.offset())

    gc.disable()
    pipe.send("ready")
    begin = pipe.recv()
    while len(called) < events:
        now = time.monotonic()
        due = min(events, int((now - begin) * rate) + 1) if now >= begin else 0
        for event in messages[len(called) : due]:
            called.append(time.monotonic())
            producer.produce(
                topic, event.body, event.key, event.partition, headers=[("type", event.kind)], on_delivery=delivered
            )
        producer.poll(0)
        time.sleep(max(SLEEP_SECONDS_MIN, begin + len(called) / rate - time.monotonic()))
    producer.flush(DRAIN_SECONDS_MAX)
    in_order = [iter(part) for part in offsets]  # a partition's messages are acknowledged in the order of the calls
    pipe.send(Sent(called, [next(in_order[event.partition], -1) for event in messages]))


# ---------------------------------------------------------------------- one run


class Received(NamedTuple):
    """A message as it came in."""

    moment: float
    partition: int
    offset: int
    key: bytes
    value: bytes


def _run(setting: Setting, rate: int, events: int) -> Run:
    topic = setting.broker.name("paced-events")
    setting.broker.create(topic, PARTITIONS, EVENTS_SETTINGS)
    zeros = [0] * PARTITIONS
    source = Input(topic, PARTITIONS, events, zeros, zeros, {}, {})
    publisher, pipe = spawned(publish, setting.broker.address, topic, rate, events)
    try:
        with setting.task(source, f"latency-{rate}") as task:
            return _measured(task, Livejobs(setting.livejobs, tickseconds=1), pipe, rate)
    finally:
        publisher.join(1)
        if publisher.is_alive():
            publisher.kill()
        setting.broker.delete([topic])


def _measured(task: Task, engine: Livejobs, pipe: Connection, rate: int) -> Run:
    source, events = task.source, task.source.events
    engine.start(task)
    engines.wait_until_ready(engine, task, READY_SECONDS_MAX)
    answer(pipe, task.seconds_max, "the publisher")
    begin = time.monotonic() + AHEAD_SECONDS
    clocks = time.time() - time.monotonic()
    pipe.send(begin)
    sent: list[Sent] = []

    def told() -> bool:
        if not sent and pipe.poll():
            sent.append(answer(pipe, 1, "the publisher"))
        return bool(sent)

    topics = {task.output: source.partitions, source.topic: source.partitions}
    with Stalls() as stalls, Sampler(task.programs, task.broker.pid) as sampler:
        received = _receive(task, topics, told, deadline=begin + events / rate + DRAIN_SECONDS_MAX)
    schedule = [begin + number / rate for number in range(events)]
    used = sampler.between(schedule[0] + clocks, schedule[-1] + clocks)
    return _latencies(schedule, sent[0], received, source.topic, task.output, engine, events, stalls) | {
        "stalled_share": stalls.share,
        "events": events,
        "rate": rate,
        "cores": used.programs / (schedule[-1] - schedule[0]),
        "broker_cores": used.broker / (schedule[-1] - schedule[0]),
        "other_cores": used.others / (schedule[-1] - schedule[0]),
        "rss_mb": sampler.rss_bytes_max / 2**20,
    }


def _receive(
    task: Task, topics: dict[str, int], told: Callable[[], bool], deadline: float
) -> dict[str, list[Received]]:
    """Note when each message comes in, until the publisher is done and nothing but ticks has come for some time."""
    found: dict[str, list[Received]] = {topic: [] for topic in topics}
    consumer = task.broker.consumer(topics, **{"fetch.wait.max.ms": 100})
    gc.collect()
    gc.disable()  # its pauses would be counted as latency
    try:
        quiet_since = time.monotonic()
        while not told() or time.monotonic() - quiet_since < QUIET_SECONDS:
            message = consumer.poll(0.1)
            now = time.monotonic()
            if now > deadline:
                raise BenchError(f"{task.name}: messages are still on their way after {DRAIN_SECONDS_MAX:.0f} s")
            if message is None or message.error() or message.key() is None:
                task.assert_running()
                continue
            quiet_since = now
            at = Received(now, message.partition(), message.offset(), message.key(), message.value())
            found[message.topic()].append(at)
    finally:
        gc.enable()
        consumer.close()
    return found


def _latencies(
    schedule: Sequence[float],
    sent: Sent,
    received: dict[str, list[Received]],
    events_topic: str,
    output: str,
    engine: Livejobs,
    events: int,
    stalls: Stalls,
) -> Run:
    messages = _messages(events)
    arrived = {(one.partition, one.offset): one.moment for one in received[events_topic]}
    answers: dict[bytes, list[tuple[float, int]]] = defaultdict(list)
    for one in received[output]:
        answers[one.key].append((one.moment, engine.read(one.value).offset or 0))
    at: dict[bytes, int] = defaultdict(int)
    found: dict[str, list[float]] = {"": [], "floor_": [], "calm_": [], "calm_floor_": []}
    unanswered = 0
    first = schedule[0] + WARM_UP * (schedule[-1] - schedule[0])
    for event, due, offset in zip(messages, schedule, sent.offsets, strict=True):
        given = answers[event.key]
        while at[event.key] < len(given) and given[at[event.key]][1] < offset:
            at[event.key] += 1
        if at[event.key] == len(given) or (event.partition, offset) not in arrived:
            unanswered += 1
        elif due >= first:
            calm = not stalls.between(due - CALM_SECONDS[0], due + CALM_SECONDS[1])
            for kind, moment in (("", given[at[event.key]][0]), ("floor_", arrived[event.partition, offset])):
                for prefix in ("", "calm_") if calm else ("",):
                    found[prefix + kind].append((moment - due) * 1000)
    late = sorted((called - due) * 1000 for called, due in zip(sent.called, schedule, strict=True))
    latencies = found[""]
    run: Run = {
        "unanswered": unanswered,
        "correct": unanswered == 0,
        "measured": len(latencies),
        "calm_percent": 100 * len(found["calm_"]) / max(1, len(latencies)),
        "max_ms": max(latencies, default=None),
        "late_p99_ms": percentile(late, 0.99),
    }
    return run | _percentiles(found)


def _percentiles(found: dict[str, list[float]]) -> Run:
    run: Run = {
        f"{prefix}{name}_ms": percentile(ordered, share)
        for prefix, ordered in ((prefix, sorted(values)) for prefix, values in found.items() if values)
        for name, share in SHARES.items()
    }
    by_floor = {f"{name}_by_floor": run[f"{name}_ms"] / run[f"floor_{name}_ms"] for name in SHARES if found[""]}
    return run | by_floor
