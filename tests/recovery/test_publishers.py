"""Several publishers at once, that send again, late, and out of order; two farms with one regression name.

How: publishers with a producer each share the jobs of the same regressions. Those that keep an order send again from some point back, as after an outage; for these the
generator knows what must come of it. Those that keep none (shuffled, anything twice, by chance) are judged by the naive model and `livejobs verify` alone.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Site
from load import Load, Message
from publishers import Item, Publisher
from verdict import verdict

PUBLISHERS = 4
RATE = 1_500.0
BACK_MAX = 300
"""Messages that are sent again at once, at most."""


def shares(draw: random.Random, messages: list[Message]) -> tuple[list[Message], list[list[Item]], list[Message]]:
    """What opens the regressions, what several publishers send of their jobs, each job by one of them, and what ends them."""
    first = [message for message in messages if message[0] == "regr-start"]
    last = [message for message in messages if message[0] == "regr-finish"]
    parts: list[list[Item]] = [[] for _ in range(PUBLISHERS)]
    whose: dict[str, int] = {}
    for kind, name, body in messages:
        if kind.startswith("regr-"):
            continue
        job = json.loads(body)
        job = job[0] if isinstance(job, list) else job
        number = whose.setdefault(f"{name} {job.get('uniqueid') or job['jobdir']}", draw.randrange(PUBLISHERS))
        parts[number].append(Item(kind, name.encode(), body))
    return first, parts, last


def resent(draw: random.Random, items: list[Item]) -> Iterator[Item]:
    """In order, but now and then all is sent again from some way back."""
    at = 0
    while at < len(items):
        yield items[at]
        at += 1
        if draw.random() < 0.005:
            at -= draw.randint(1, min(at, BACK_MAX))


def disordered(draw: random.Random, items: list[Item]) -> Iterator[Item]:
    """Each within some hundred places of its own, some twice, some much later."""
    twice = [item for item in items for _ in range(1 + (draw.random() < 0.2))]
    places = [(number + draw.choice([0, 0, 50, 500, len(twice)]) * draw.random(), number) for number in range(len(twice))]
    return (twice[number] for _, number in sorted(places))


@pytest.mark.parametrize("order", ["resent", "none"])
def test_several_publishers_share_the_jobs(order: str, site: Site, soak: bool) -> None:
    draw = random.Random(f"1301 {order}")
    load = Load("shared", 100_000 if soak else 10_000, 20)
    first, parts, last = shares(draw, load.messages)
    worker = site.start().ready()
    site.load(first, 4_000).result()
    lines = [resent(draw, part) if order == "resent" else disordered(draw, part) for part in parts]
    publishers = [Publisher(site, str(number)) for number in range(PUBLISHERS)]
    sending = [publisher.start(line, RATE) for publisher, line in zip(publishers, lines, strict=True)]
    if order == "none":  # also the ends come while jobs do
        site.load(last, 100).result()
    site.wait_for(lambda: sum(record["finished"] for record in list(site.reader.stats.last.values())) > 1_000)
    worker.kill()
    site.start().ready()
    for job in sending:
        job.result()
    if order == "resent":
        site.load(last, 4_000).result()
        verdict(site, load)
    else:
        verdict(site)


def test_two_farms_have_a_regression_of_the_same_name(site: Site) -> None:
    """One record, with the jobs of both; the fields of the last to say them; the end of one is not the end of the other's jobs."""
    site.start().ready()
    farms = {name: Publisher(site, name) for name in ("east", "west")}
    jobs = {"east": 300, "west": 200}

    def messages(farm: str) -> Iterator[Item]:
        bodies: list[tuple[str, Any]] = [("regr-start", {"name": "nightly", "host": farm, farm: True, "submitted": jobs[farm]})]
        bodies += [("job-live", {"uniqueid": f"{farm}/{number}", "result": "live"}) for number in range(jobs[farm])]
        bodies += [("job-live", {"uniqueid": "both", "host": farm, "result": "live"})]
        bodies += [("job-finish", {"uniqueid": f"{farm}/{number}", "result": "pass", "cycles": 1}) for number in range(jobs[farm])]
        return (Item(kind, b"nightly", json.dumps(body).encode()) for kind, body in bodies)

    sending = [farm.start(messages(name), 300) for name, farm in farms.items()]
    for job in sending:
        job.result()
    site.send("job-finish", "nightly", {"uniqueid": "both", "result": "fail", "bucket": "b"})
    site.send("regr-update", "nightly", {"submitted": 501})
    record = site.stats("nightly", site.send("regr-finish", "nightly"))
    assert (record["pass"], record["fail"], record["live"], record["cycles"], record["status"]) == (500, 1, 0, 500, "COMPLETE")
    assert (record["fields"]["east"], record["fields"]["west"]) == (True, True)
    assert len(site.jobs("nightly")) == 501
    verdict(site)


def test_one_farm_ends_what_the_other_has_not(site: Site) -> None:
    site.start().ready()
    for farm in ("east", "west"):
        site.send("job-live", "nightly", {"uniqueid": farm, "result": "live"})
    site.send("job-finish", "nightly", {"uniqueid": "east", "result": "pass"})
    record = site.stats("nightly", site.send("regr-finish", "nightly"))
    assert (record["pass"], record["fail"], record["live"]) == (1, 1, 0)
    record = site.stats("nightly", site.send("job-finish", "nightly", {"uniqueid": "west", "result": "pass"}))
    assert (record["pass"], record["fail"], record["signatures"]) == (2, 0, {})
    verdict(site)
