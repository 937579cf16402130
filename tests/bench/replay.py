"""One run of one program over a topic that is written beforehand: rate, CPU, memory, and whether the answers are right.

A record of the output topic says how far its program is in one partition, and the broker's clock stamps it; a
regression's last record is there when its last message is applied. The *window* is the time between the moments at
which a tenth and nine tenths of these records were written, so that start, warm-up and tail are left out; within each
partition the way from record to record is taken as a straight line. CPU is that used within the same window.
"""

import bisect
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import Consumer

from bench.engines import Engine, Task
from bench.kafka import Input
from bench.measure import BenchError, Run, Sampler

WINDOW_SECONDS_MIN = 1.0
"""In a shorter one there is no rate."""
SETTLE_SECONDS = 1.5
"""After the last record: none may follow it."""
BEGIN, END = 0.1, 0.9


class Point(NamedTuple):
    """Up to this offset a program was in a partition at this time."""

    moment: float
    offset: int


class Watch:
    """What a program's output topic has shown so far."""

    def __init__(self, engine: Engine, source: Input, *, all_records: bool) -> None:
        self._engine, self._source, self._all = engine, source, all_records
        self._left = dict(source.last)
        self.points: list[list[Point]] = [[] for _ in range(source.partitions)]
        self.numbers: dict[str, dict[str, Any]] = {}
        self.unexpected = 0
        """Records of regressions that are unknown or have given their answer."""

    @property
    def done(self) -> bool:
        """Whether each regression's last message is applied."""
        return not self._left

    def add(self, message: Any) -> None:
        """Note a record."""
        name, moment = message.key().decode(), message.timestamp()[1] / 1000
        offset, numbers = self._engine.read(message.value())
        if name not in self._left:
            self.unexpected += 1
            return
        partition, last = self._left[name]
        self.numbers[name] = numbers
        is_last = offset is None or offset >= last
        if is_last:
            del self._left[name]
        reached = last if offset is None else offset
        if (is_last or self._all) and reached >= self._source.begins[partition]:
            self.points[partition].append(Point(moment, reached + 1))

    def right(self) -> int:
        """How many regressions have the statistics that they must have."""
        return sum(
            self._engine.right(self.numbers[name], expected)
            for name, expected in self._source.expected.items()
            if name in self.numbers
        )


def replay(
    engine: Engine, task: Task, *, all_records: bool = False, then: Callable[[Task], Run] = lambda _task: {}
) -> Run:
    """Run a program over its input once. `then` measures more, before it is stopped.

    With `all_records` each record of the output counts for the rate, not only the last one of each regression: where
    there are few regressions, and every message changes its regression's version. Raises BenchError.
    """
    watch = Watch(engine, task.source, all_records=all_records)
    consumer = task.broker.consumer({task.output: task.source.partitions})
    try:
        begin = time.time()
        engine.start(task)
        with Sampler(task.programs, task.broker.pid) as sampler:
            follow(consumer, watch, task)
            end = time.time()
            more = then(task)
    finally:
        task.stop()
        consumer.close()
    found: Run = {
        "events": task.source.events,
        "seconds": end - SETTLE_SECONDS - begin,
        "rss_mb": sampler.rss_bytes_max / 2**20,
        "regressions": len(task.source.expected),
        "right": watch.right(),
        "unexpected": watch.unexpected,
    }
    found["correct"] = found["right"] == found["regressions"] and not watch.unexpected
    return found | _rates(watch.points, sampler, task.source, anchored=not all_records) | more


def follow(consumer: Consumer, watch: Watch, task: Task) -> None:
    """Read the output until all is there, and some time more. Raises BenchError."""
    deadline = time.monotonic() + task.seconds_max - 5
    settled = None
    while settled is None or time.monotonic() < settled:
        for message in consumer.consume(1000, 0.25):
            if not message.error() and message.value() is not None:
                watch.add(message)
        task.assert_running()
        if settled is None and watch.done:
            settled = time.monotonic() + SETTLE_SECONDS
        if time.monotonic() > deadline:
            raise BenchError(f"{task.name} is not done after {task.seconds_max:.0f} s")


def _rates(points: list[list[Point]], sampler: Sampler, source: Input, *, anchored: bool) -> Run:
    moments = sorted(point.moment for part in points for point in part)
    if not moments:
        return {}
    begin, end = moments[int(len(moments) * BEGIN)], moments[int(len(moments) * END)]
    if not anchored:  # partitions are opened one after the other
        begin = max(begin, *(min(part).moment for part in points if part))
    if end - begin < WINDOW_SECONDS_MIN:
        return {}
    events = 0.0
    for part, first in zip(points, source.begins, strict=True):
        way = [Point(moments[0], first)] if anchored else []
        for point in sorted(part):  # outputs of one partition may be appended out of order
            way.append(Point(point.moment, max(point.offset, way[-1].offset) if way else point.offset))
        if way:
            events += _position(way, end) - _position(way, begin)
    used = sampler.between(begin, end)
    return {
        "window_seconds": end - begin,
        "window_events": events,
        "rate": events / (end - begin),
        "cpu_s_per_million": used.programs / events * 1e6,
        "cores": used.programs / (end - begin),
        "broker_cpu_s_per_million": used.broker / events * 1e6,
        "other_cores": used.others / (end - begin),
    }


def _position(way: list[Point], moment: float) -> float:
    index = bisect.bisect(way, moment, key=lambda point: point.moment)
    if index == 0:
        return way[0].offset
    if index == len(way):
        return way[-1].offset
    before, after = way[index - 1], way[index]
    share = (moment - before.moment) / (after.moment - before.moment) if after.moment > before.moment else 1.0
    return before.offset + share * (after.offset - before.offset)
