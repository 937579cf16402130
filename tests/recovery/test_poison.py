"""Poison: every kind of bad input, 10,000 messages a second, between good traffic and under its very names.

All of it is in `job-rejects` byte for byte and exactly once, the good traffic is as if it had been alone, and the worker is never started again. How: all that the tests of bad input know, drawn anew for each message; what is large comes once.
"""

import random
from collections import Counter
from collections.abc import Iterator

from harness import Record, Site
from histories import BAD_JOBS, BAD_KEYS, BAD_KINDS, BAD_LIVES, BAD_REGRESSIONS, NO_JSON
from load import Traffic
from publishers import Item, Publisher
from test_bad_input import BAD, TRACE
from verdict import verdict

RATE = 10_000.0
LARGE_BYTES = 2_000
ERRORS = "__streams.errors."
GOOD = b'{"uniqueid": "poison", "result": "pass"}'


def poison(draw: random.Random, names: list[bytes], count: int) -> Iterator[Item]:
    """So many bad messages, under good names or bad ones; each kind at least once."""
    kinds: list[tuple[str | None, bytes | None]] = [
        *((kind, value) for kind, value, _, _ in BAD),
        *(("job-finish", value) for value in [*BAD_JOBS, *NO_JSON]),
        *(("job-live", value) for value in BAD_LIVES),
        *(("batch-job-finish", b"[%s, %s,%s]" % tuple(draw.choices(BAD_JOBS[:-1], k=3))) for _ in range(20)),
        *((kind, value) for kind in ("regr-start", "regr-update", "regr-finish") for value in BAD_REGRESSIONS),
        *((kind, GOOD) for kind in BAD_KINDS),
    ]
    small = [(kind, value) for kind, value in kinds if len(value or b"") < LARGE_BYTES]
    large = iter([(kind, value) for kind, value in kinds if len(value or b"") >= LARGE_BYTES])
    every = iter(small)
    for number in range(count):
        one = next(large, None) if number % 100 == 0 else None
        kind, value = one or next(every, None) or draw.choice(small)
        key = draw.choice(names)
        if draw.random() < 0.02:
            kind, key, value = "job-finish", draw.choice(BAD_KEYS), GOOD
        yield Item(kind, key, value, TRACE if draw.random() < 0.1 else [])


def test_poison_at_ten_thousand_a_second(site: Site, soak: bool) -> None:
    worker = site.start().ready()
    draw = random.Random(1001)
    publisher = Publisher(site, "poison")
    with Traffic(site, 1001) as traffic:
        traffic.assert_flows(100)
        names = [key for key in site.reader.stats.last if site.reader.stats.last[key]["status"] == "LIVE"]
        count = 1_000_000 if soak else 25_000
        assert publisher.start(poison(draw, names, count), RATE).result(3 * count / RATE + 60) == count
    verdict(site, traffic, seconds=120)
    assert site.workers == [worker]
    assert_untouched(site)


def assert_untouched(site: Site) -> None:
    """Each reject is its message, untouched, in its partition's order; and each poisoned message has one, or one for each bad job of its batch."""
    messages = {(record.partition, record.offset): record for record in site.reader.events.records}
    said: Counter[tuple[int, int, bytes | None]] = Counter()
    for reject in site.reader.rejects.records:
        heads = dict(reject.headers)
        source = int(heads[f"{ERRORS}partition"]), int(heads[f"{ERRORS}offset"])
        message, index = messages[source], heads.get("livejobs.batch.index")
        said[*source, index] += 1
        assert reject.key == message.key
        assert reject.headers[: len(message.headers)] == message.headers
        assert [name for name, _ in reject.headers[len(message.headers) :]] == added(index)
        assert reject.value == message.value if index is None else is_inside(reject, message), source
    assert max(said.values()) == 1
    rejected = {(partition, offset) for partition, offset, _ in said}
    assert rejected == {place for place, record in messages.items() if is_poison(record)}


def added(index: bytes | None) -> list[str]:
    """The headers that a reject has beside those of its message."""
    names = [f"{ERRORS}{name}" for name in ("exception", "message", "topic", "partition", "offset")]
    return names if index is None else [*names, "livejobs.batch.index"]


def is_inside(reject: Record, message: Record) -> bool:
    return reject.value is not None and reject.value in (message.value or b"")


def is_poison(record: Record) -> bool:
    return any(name == "from" for name, _ in record.headers)
