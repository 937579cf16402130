"""A timeout against a finish, a prune against an update, a tank against a regr-finish: one outcome each, and the same when the log is read again.

How: publishers race each other into one partition, whose ticks they send as well: so what is due is taken somewhere between the others' messages, inside a batch or at its
edge. The log decides who was first; the naive model says what that means, and a second worker, that reads the same log from its beginning in other batches into topics
of its own, must come to the same records.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import DAY, HOUR, SIGS, TICK, Site
from publishers import Item, Publisher
from verdict import verdict

from livejobs.streams.kafka.broker import Broker

DUE_SECONDS = 2.0
RATE = 400.0
RULES = {
    "timeout": {**SIGS, "autotimeouthours": DUE_SECONDS / HOUR},
    "prune": {**SIGS, "liveprunedays": DUE_SECONDS / DAY},
    "tank": SIGS,
}


@pytest.fixture
def rules(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = RULES[request.param]
    return chosen


@pytest.fixture
def site(broker: Broker, tmp_path: Path, rules: dict[str, Any]) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path / "site", rules, partitions=1, tickseconds=0) as site:
        site.start().ready()
        yield site


def live(name: str, host: str = "h") -> Item:
    return Item("job-live", name.encode(), json.dumps({"uniqueid": "j", "host": host, "result": "live"}).encode())


def ticks(draw: random.Random, count: int) -> Iterator[Item]:
    """None at first, then many: what the others send before them is first, what they send behind is not."""
    return (Item(TICK, None, None) if number > count * 0.3 and draw.random() < 0.3 else Item("regr-update", b"beside", b"{}") for number in range(count))


def race(site: Site, *lines: Iterator[Item]) -> None:
    for job in [Publisher(site, str(number)).start(line, RATE) for number, line in enumerate(lines)]:
        job.result()


def wait_until_due(site: Site) -> None:
    """Return when the broker's clock is so far that all before is due."""
    first = site.send("regr-update", "beside").offset
    while True:
        last = site.send("regr-update", "beside").offset
        site.stats("beside", site.send("regr-update", "beside"))
        at = {record.offset: record.timestamp for record in site.reader.events.records}
        if at[last] - at[first] > 1000 * DUE_SECONDS:
            return


def outcomes(site: Site) -> dict[str, list[str]]:
    """Regression -> what the records of its one job have been, one after the other, without repetition."""
    found: dict[str, list[str]] = {}
    for record in site.reader.jobs.records:
        value = json.loads(record.value) if record.value else {"result": "pruned"}
        said = value.get("verdict") or value["result"]
        line = found.setdefault(json.loads(record.key or b"[]")[0], [])
        if line[-1:] != [said]:
            line.append(said)
    return found


def assert_the_same_again(site: Site, broker: Broker, folder: Path, rules: dict[str, Any]) -> None:
    events = site.config.kafka.events_topic
    with Site(broker.bootstrap, folder / "again", rules, partitions=1, tickseconds=0, events=events) as again:
        again.start().ready()
        again.wait_for_no_lag()
        again.reader.read_to_the_end()
        for one, other in ((site.reader.jobs, again.reader.jobs), (site.reader.stats, again.reader.stats)):
            assert one.last == other.last
        assert again.workers[0].stop()[0] == 0


def rounds(soak: bool) -> Iterator[tuple[list[str], random.Random]]:
    """Names of regressions that nobody else knows, and a seed, for each round."""
    for number in range(50 if soak else 1):
        yield [f"race/{number}/{name}" for name in range(200)], random.Random(1500 + number)


def wait_for_counts(site: Site, names: list[str], **counts: int) -> None:
    for name in names:
        site.wait_for(lambda: counts.items() <= (site.reader.stats[name] or {}).items())  # noqa: B023


@pytest.mark.parametrize("rules", ["timeout"], indirect=True)
def test_a_timeout_and_a_finish(site: Site, broker: Broker, tmp_path: Path, rules: dict[str, Any], soak: bool) -> None:
    finish = b'{"uniqueid": "j", "result": "pass"}'
    for names, draw in rounds(soak):
        race(site, map(live, names))
        wait_until_due(site)
        race(site, (Item("job-finish", name.encode(), finish) for name in draw.sample(names, len(names))), ticks(draw, len(names)))
        wait_for_counts(site, names, live=0, fail=0, **{"pass": 1})
    verdict(site)
    assert set(map(tuple, outcomes(site).values())) == {("live", "pass"), ("live", "timeout", "pass")}
    assert_the_same_again(site, broker, tmp_path, rules)


@pytest.mark.parametrize("rules", ["prune"], indirect=True)
def test_a_prune_and_an_update(site: Site, broker: Broker, tmp_path: Path, rules: dict[str, Any], soak: bool) -> None:
    kept, anew = 0, 0
    for names, draw in rounds(soak):
        race(site, map(live, names))
        wait_until_due(site)
        before = jobs_of(site)
        race(site, (live(name, "other") for name in draw.sample(names, len(names))), ticks(draw, len(names)))
        site.settle(0)
        after = jobs_of(site)
        for name in names:
            assert after[name]["job"]["host"] == "other"
            same = after[name]["first_seen"] == before[name]["first_seen"]
            kept, anew = kept + same, anew + (not same)
    assert kept
    assert anew  # it was pruned first
    verdict(site)
    assert_the_same_again(site, broker, tmp_path, rules)


def jobs_of(site: Site) -> dict[str, Any]:
    """Regression -> the record of its one job."""
    site.reader.read_to_the_end(site.reader.jobs)
    return {json.loads(key)[0]: record for key, record in list(site.reader.jobs.last.items())}


@pytest.mark.parametrize("rules", ["tank"], indirect=True)
def test_a_tank_and_a_regr_finish(site: Site, broker: Broker, tmp_path: Path, rules: dict[str, Any], soak: bool) -> None:
    for names, draw in rounds(soak):
        race(site, map(live, names))
        ends = [[Item(kind, name.encode(), None) for name in draw.sample(names, len(names))] for kind in ("regr-tank", "regr-finish")]
        race(site, *map(iter, ends))
        wait_for_counts(site, names, live=0, fail=1)
    verdict(site)
    assert {record["status"] for name, record in site.reader.stats.last.items() if name.startswith(b"race/")} == {"TANKED"}
    assert set(map(tuple, outcomes(site).values())) == {("live", "tank"), ("live", "finish")}
    assert_the_same_again(site, broker, tmp_path, rules)
