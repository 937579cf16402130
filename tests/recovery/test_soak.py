"""Everything at once and for long: workers killed, stopped, frozen, wiped; good traffic, poison, wrong partitions. Memory, file handles and disk stay flat.

How: one worker is left alone and watched; beside it others have one mishap after the other (seeded). Rules are short, so what comes also goes. Now and then, while all
runs, `livejobs verify` checks, and job-events is cut behind it, as its retention would. Ten seconds' mishaps by default; an hour, or SOAK_MINUTES, with --soak.
"""

import os
import random
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from harness import DAY, HOUR, SIGS, Site, WorkerProcess
from load import Load
from publishers import Item, Publisher, crc32
from test_poison import poison
from verdict import verified

from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker


class Use(NamedTuple):
    """What a worker uses: memory and disk in MiB, and open files."""

    memory_mib: float
    own_mib: float
    """Without what stores fill up to their limits: the cache of blocks takes most of an hour for that."""
    handles: int
    disk_mib: float


RULES = {
    **SIGS,
    "autotimeouthours": 20 / HOUR,
    "liveprunedays": 30 / DAY,
    "retentiondays": 60 / DAY,
    "statsdays": 60 / DAY,
}
RATE = 600.0
CHECK_SECONDS = 300.0
SAMPLE_SECONDS = 1.0
VICTIMS = 3
MOST = Use(400, 300, 400, 400)
GROWTH_MIB_MAX = 24.0
HANDLES_GROWTH_MAX = 20
SECONDS_MAX = 120.0
STORES = re.compile(r"^livejobs_store_memory_bytes\{.*\} (\S+)$", re.MULTILINE)


def use_of(site: Site, worker: WorkerProcess, disk: Path) -> Use:
    process = Path(f"/proc/{worker.pid}")
    rss_kib = next(int(line.split()[1]) for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    size = 0
    for path in disk.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # compacted meanwhile
            continue
    stores = sum(float(value) for value in STORES.findall(worker.get("/metrics")[1]))
    return Use(rss_kib / 1024, rss_kib / 1024 - stores / 2**20, sum(1 for _ in (process / "fd").iterdir()), size / 2**20)


class Versions:
    """Follows regression-stats, and keeps no more than each regression's version."""

    def __init__(self, site: Site) -> None:
        self.went_back: list[str] = []
        self.seen = 0
        self._site, self._ended = site, False
        self._job = site.background.start(self._follow())

    async def _follow(self) -> None:
        kafka, latest = self._site.config.kafka, dict[bytes, int]()
        async with AIOKafkaConsumer(bootstrap_servers=kafka.brokers, isolation_level="read_committed", enable_auto_commit=False) as consumer:
            tps = [TopicPartition(kafka.stats_topic, number) for number in range(self._site.partitions)]
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            while not self._ended:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        version = -1 if record.value is None else msgspec.json.decode(record.value)["version"]
                        if 0 <= version < latest.get(record.key, -1):
                            self.went_back.append(f"{record.key!r}: {latest[record.key]} -> {version}")
                        latest[record.key] = version
                        self.seen += 1

    def stop(self) -> None:
        self._ended = True
        self._job.result()


class Chaos:
    """Victims, and what happens to them."""

    def __init__(self, site: Site, draw: random.Random) -> None:
        self._site, self._draw = site, draw
        self._started = 0
        self.victims = {f"victim-{number}": self._start(f"victim-{number}") for number in range(VICTIMS)}
        self.publishers: list[Publisher] = []
        self.happened: dict[str, int] = {}

    def _start(self, name: str) -> WorkerProcess:
        worker = self._site.start(name, tickseconds=0.5)
        worker.expected_to_run = False  # whatever happens to it, it is started again
        return worker

    def step(self) -> None:
        """One mishap; who ended by himself (one that was frozen for too long) is started again."""
        for name, worker in self.victims.items():
            if (code := worker.process.poll()) is not None:
                assert code in {0, 70, -signal.SIGKILL}, worker.tail()
                self._replace(name)
        what: Callable[[], None] = self._draw.choice([self._kill, self._wipe, self._end, self._freeze, self._poison, self._astray])
        self.happened[what.__name__] = self.happened.get(what.__name__, 0) + 1
        what()

    def _replace(self, name: str) -> None:
        self._site.workers.remove(self.victims[name])
        self.victims[name] = self._start(name)

    def _any(self) -> str:
        return self._draw.choice(list(self.victims))

    def _kill(self) -> None:
        self.victims[name := self._any()].kill()
        self._replace(name)

    def _wipe(self) -> None:
        self.victims[name := self._any()].kill()
        shutil.rmtree(self._site.disk(name), ignore_errors=True)
        self._replace(name)

    def _end(self) -> None:
        worker = self.victims[name := self._any()]
        if worker.process.poll() is None:
            worker.stop()
        self._replace(name)

    def _freeze(self) -> None:
        """For less than its session, or for longer."""
        worker = self.victims[self._any()]
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(self._draw.choice([1.0, 8.0]))
        worker.process.send_signal(signal.SIGCONT)

    def _poison(self) -> None:
        items = poison(self._draw, [b"poisoned"], 1_000)
        Publisher(self._site, "poison", keep=False).start(items, 10_000).result(SECONDS_MAX)

    def _astray(self) -> None:
        load = Load(f"astray {self._draw.random()}", 500, 5)
        items = (Item(kind, name.encode(), body) for kind, name, body in load.messages)
        Publisher(self._site, "astray", crc32, keep=False).start(items, 10_000).result(SECONDS_MAX)


def traffic(ended: Callable[[], bool]) -> Iterator[Item]:
    number = 0
    while not ended():
        number += 1
        for kind, name, body in Load(f"soak {number}", 2_000, 10).messages:
            yield Item(kind, name.encode(), body)


async def ends(site: Site) -> dict[int, int]:
    tps = {number: TopicPartition(site.config.kafka.events_topic, number) for number in range(site.partitions)}
    async with AIOKafkaConsumer(bootstrap_servers=site.config.kafka.brokers) as consumer:
        found = await consumer.end_offsets(list(tps.values()))
        return {number: found[tp] for number, tp in tps.items()}


def wait_until_applied(site: Site) -> None:
    """Return when all that is in job-events now is committed."""
    wanted, deadline = site.background.run(ends(site)), time.monotonic() + SECONDS_MAX
    while any(site.committed()[number] < end for number, end in wanted.items()):
        assert time.monotonic() < deadline, "\n".join(worker.tail() for worker in site.workers)
        time.sleep(0.5)


def cut(site: Site, before: dict[int, int]) -> None:
    topic = site.config.kafka.events_topic
    site.admin("delete_records", {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()})


def test_all_at_once_and_for_long(broker: Broker, tmp_path: Path, soak: bool) -> None:
    seconds = 60 * float(os.environ.get("SOAK_MINUTES", "60")) if soak else 10.0
    draw = random.Random(2001)
    with Site(broker.bootstrap, tmp_path, RULES, partitions=8) as site:
        for one in topics.wanted(site.config)[1:3]:  # what is old is compacted within minutes, not days
            wanted = {**one.settings, "segment.ms": "30000"}
            site.admin("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, one.name, configs=wanted)])
        steady = site.start("steady", tickseconds=0.5).ready()
        versions, chaos = Versions(site), Chaos(site, draw)
        begin = checked_at = time.monotonic()
        ended = False
        sending = Publisher(site, "good", keep=False).start(traffic(lambda: ended), RATE)
        used, safe = [], site.committed()
        while time.monotonic() < begin + seconds:
            steady.assert_running()
            chaos.step()
            used.append(use_of(site, steady, site.disk("steady")))
            if time.monotonic() > checked_at + CHECK_SECONDS:
                verified(site, not_checked=10**9, seconds=CHECK_SECONDS)
                cut(site, safe)
                checked_at, safe = time.monotonic(), site.committed()
                _say(begin, used, chaos)
            time.sleep(draw.uniform(0.2, 3.0) if soak else 0.2)
        ended = True
        assert sending.result(SECONDS_MAX) > 0
        wait_until_applied(site)
        verified(site, not_checked=10**9, seconds=CHECK_SECONDS)
        steady.assert_running()
        versions.stop()
        _say(begin, used, chaos)
        assert versions.seen
        assert versions.went_back == []
        assert len(chaos.happened) > 2
        assert all(a <= b for use in used for a, b in zip(use, MOST, strict=True))
        if soak:  # within seconds, caches fill
            assert_flat(used)


def _say(begin: float, used: list[Use], chaos: Chaos) -> None:
    print(f"{time.monotonic() - begin:.0f} s: {used[-1]}, {chaos.happened}")  # noqa: T201  for whoever waits, with -s


def assert_flat(used: list[Use]) -> None:
    """The last quarter uses no more than the second one, but for what comes and goes."""
    quarter = max(1, len(used) // 4)
    early, late = used[quarter : 2 * quarter] or used, used[-quarter:]
    for field, most in (("own_mib", GROWTH_MIB_MAX), ("handles", HANDLES_GROWTH_MAX), ("disk_mib", GROWTH_MIB_MAX)):
        before, after = (statistics.median(getattr(one, field) for one in part) for part in (early, late))
        assert after - before < most, f"{field}: {before} -> {after}"
