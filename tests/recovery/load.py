"""Traffic as farms send it, seeded, and what it must come to.

A `Load` is so many messages with duplicates, corrections, lost jobs and late lives, of regressions that run side by side. `under_load` sends one and does the harm in
its middle; `Traffic` sends one after the other until the harm is done.
"""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

from harness import SECONDS, SIGNATURE, Site

EVENTS = 20_000
REGRESSIONS = 40
RATE = 4_000.0
"""Events a second: slow enough for harm in the middle."""
TRAFFIC_RATE = 1_000.0
TRAFFIC_SECONDS_MAX = 120.0
"""Until when what was held up by the fault must have been sent."""

Message = tuple[str, str, bytes]


class Load:
    """Messages as farms send them, and what they must come to."""

    def __init__(self, seed: int | str, events: int = EVENTS, regressions: int = REGRESSIONS) -> None:
        self._random = random.Random(seed)
        lives = [self._regression(f"load/{seed}/{number}", events // regressions) for number in range(regressions)]
        self.expected = {name: expected for name, _, expected in lives}
        queues = [iter(messages) for _, messages, _ in lives]
        self.messages: list[Message] = []
        while queues:  # in order within a regression, interleaved among them
            queue = self._random.choice(queues)
            taken = [message for _, message in zip(range(self._random.randint(1, 20)), queue, strict=False)]
            self.messages += taken
            if not taken:
                queues.remove(queue)

    def _regression(self, name: str, events: int) -> tuple[str, list[Message], dict[str, Any]]:
        draw = self._random
        steps: list[tuple[float, Message]] = []
        outcomes: dict[str, dict[str, Any]] = {}
        number = 0
        while len(steps) < events - 2:
            number += 1
            steps += self._job(name, f"job-{number}", outcomes)
        steps = sorted(steps, key=lambda step: step[0])
        ends = draw.random() < 0.8
        lost = number - len(outcomes)
        last = [("regr-finish", name, b"")] if ends else []
        messages = [
            ("regr-start", name, _json({"name": name, "submitted": number})),
            *(message for _, message in steps),
            *last,
        ]
        results = Counter(outcome["result"] for outcome in outcomes.values())
        signatures = Counter(outcome["bucket"] for outcome in outcomes.values() if outcome["result"] == "fail")
        if ends and lost:
            signatures[SIGNATURE] = lost
        return (
            name,
            messages,
            {
                "status": "COMPLETE" if ends else "LIVE",
                "submitted": number,
                "live": 0 if ends else lost,
                "pass": results["pass"],
                "fail": results["fail"] + (lost if ends else 0),
                "skip": results["skip"],
                "signatures": dict(signatures),
                "cycles": sum(outcome["cycles"] for outcome in outcomes.values()),
            },
        )

    def _job(self, name: str, job: str, outcomes: dict[str, dict[str, Any]]) -> list[tuple[float, Message]]:
        """A job's messages, each with its time."""
        draw = self._random
        start = draw.random()
        at = sorted(start + 0.2 * draw.random() for _ in range(4))
        identity = (
            {"uniqueid": job}
            if draw.random() < 0.5
            else {
                "start_time": "2026-03-02T08:00:00.123Z",
                "category": "sim",
                "jobdir": f"/runs/{job}",
                "seed": job,
                "config": "c",
            }
        )
        live = ("job-live", name, _json({**identity, "host": f"h{draw.randint(1, 50)}", "result": "live"}))
        steps = [(start, live)] if draw.random() < 0.95 else []
        steps += [(at[0], live)] * (draw.random() < 0.1)
        if steps and draw.random() < 0.05:
            return steps  # lost: no finish ever
        result = draw.choices(["pass", "fail", "skip"], [8, 2, 1])[0]
        outcome: dict[str, Any] = {
            "result": result,
            "cycles": draw.randint(0, 10_000),
            "runtime_ms": draw.randint(0, 99_999),
            "fail_message": "",
        }
        if result == "fail":
            outcome |= {"bucket": f"signature {draw.randint(1, 20)}", "fail_message": "some text"}
        if draw.random() < 0.03:  # a finish that is corrected by the next
            steps.append(
                (at[1], _finish(name, {**identity, "result": "fail", "bucket": "too early", "cycles": 7}, draw))
            )
        finish = _finish(name, {**identity, **outcome}, draw)
        steps.append((at[2], finish))
        steps += [(at[3], finish)] * (draw.random() < 0.05) + [(at[3], live)] * (draw.random() < 0.05)
        outcomes[job] = outcome
        return steps

    def parts(self, count: int) -> list[list[Message]]:
        """The messages, cut into so many parts."""
        size = -(-len(self.messages) // count)
        return [self.messages[start : start + size] for start in range(0, len(self.messages), size)]

    def assert_counts(self, site: Site) -> None:
        """What the generator meant is what the records say."""
        for name, expected in self.expected.items():
            record = site.reader.stats[name]
            assert {**record, **expected} == record, name


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _finish(name: str, body: dict[str, Any], draw: random.Random) -> Message:
    return ("batch-job-finish", name, _json([body])) if draw.random() < 0.1 else ("job-finish", name, _json(body))


class Traffic:
    """Loads one after the other, as long as the block lasts; the one that is being sent at its end is sent wholly."""

    def __init__(self, site: Site, seed: int, rate: float = TRAFFIC_RATE) -> None:
        self._site, self._seed, self._rate = site, seed, rate
        self._ended = False
        self._loads: list[Load] = []

    def _messages(self) -> Iterator[Message]:
        while not self._ended:
            self._loads.append(Load(f"{self._seed}.{len(self._loads)}", int(2 * self._rate), REGRESSIONS // 4))
            yield from self._loads[-1].messages

    def __enter__(self) -> Self:
        self._sending = self._site.load(self._messages(), self._rate)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        if kind is None:
            self._sending.result(TRAFFIC_SECONDS_MAX)

    def assert_flows(self, messages: int = 1_000, seconds: float = SECONDS) -> None:
        """Return when so many messages more have been applied; fails after `seconds`, or when a worker ends."""
        least = progress(self._site) + messages
        self._site.wait_for(lambda: progress(self._site) >= least, seconds, lambda: f"{messages} messages more")

    def assert_counts(self, site: Site) -> None:
        """What the generator meant is what the records say."""
        for load in self._loads:
            load.assert_counts(site)


def progress(site: Site) -> int:
    """About how many messages have been applied, ticks included: the sum of the partitions' latest versions."""
    latest = dict.fromkeys(range(site.partitions), -1)
    for name, record in list(site.reader.stats.last.items()):
        number = site.partition_of(name)
        latest[number] = max(latest[number], record["version"])
    return sum(latest.values()) + site.partitions


@contextlib.contextmanager
def under_load(site: Site, messages: list[Message]) -> Iterator[None]:
    """Send messages; the block, which does the harm, begins when half of them are applied. Ends when all are sent."""
    base = progress(site)
    sending = site.load(messages, RATE)
    site.wait_for(
        lambda: progress(site) >= base + len(messages) // 2,
        what=lambda: f"half of {len(messages)} messages after {base}",
    )
    assert not sending.future.done()
    yield
    assert sending.result() == len(messages)
