"""The bare loop: the benchmark's task with no framework at all, on one core of Python.

aiokafka, orjson and dicts; each second the entries that changed are written, the last value of each key, to RocksDB
and to a changelog topic, then the offsets are committed: at least once, with the same durable writes as the others.
It leaves out what a framework is for: restore, rebalancing, transactions, bounds. It is a bound, not a program.
"""

import asyncio
import gc
import os
import signal
import time
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rocksdict import Options, Rdict, WriteBatch

BROKER, INPUT, OUTPUT = os.environ["BROKER"], os.environ["INPUT_TOPIC"], os.environ["OUTPUT_TOPIC"]
GROUP, STATE_DIR = os.environ["GROUP"], os.environ["STATE_DIR"]
CHANGELOG = f"{GROUP}-changelog"
COMMIT_SECONDS = 1.0
WRITE_BUFFER_BYTES = 64 << 20

loads = orjson.loads
join = "\x1f".join


class Regression:
    """What is known of one regression."""

    __slots__ = (
        "compute_ms",
        "cycles",
        "done",
        "duplicates",
        "failed",
        "jobs",
        "live",
        "passed",
        "runtime_ms",
        "skipped",
    )

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.done: set[str] = set()
        self.jobs = self.passed = self.failed = self.skipped = 0
        self.cycles = self.compute_ms = self.runtime_ms = self.duplicates = 0

    def row(self) -> bytes:
        """Its sums, for the store."""
        counts = [self.jobs, self.passed, self.failed, self.skipped]
        return orjson.dumps([*counts, self.cycles, self.compute_ms, self.runtime_ms, self.duplicates])

    def answer(self, name: str) -> bytes:
        """Its record in the output topic."""
        return orjson.dumps(
            {
                "regression": name,
                "status": "complete",
                "jobs": self.jobs,
                "pass": self.passed,
                "fail": self.failed,
                "skip": self.skipped,
                "cycles": self.cycles,
                "compute_ms": self.compute_ms,
                "runtime_ms": self.runtime_ms,
                "duplicates": self.duplicates,
                "live_remaining": len(self.live),
                "aborted": len(self.live),
            }
        )


class Partition:
    """The state of one partition of the input, and what changed since the last commit."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.offset: int | None = None
        self.answers: list[tuple[bytes, bytes]] = []
        self._regressions: dict[bytes, Regression] = {}
        self._dirty: dict[bytes, bytes | None] = {}
        self._dirty_sums: dict[bytes, Regression | None] = {}
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        self.store = Rdict(f"{STATE_DIR}/{number}", options)

    def apply(self, key: bytes, kind: bytes, body: bytes) -> None:
        """Apply one message."""
        regression = self._regressions.get(key)
        if regression is None:
            regression = self._regressions[key] = self._dirty_sums[key] = Regression()
        if kind == b"job-live":
            job = loads(body)
            identity = join((job["start_time"], job["category"], job["jobdir"], job["seed"], job["config"]))
            if identity not in regression.done:
                regression.live.add(identity)
                self._dirty[b"L" + key + b"\0" + identity.encode()] = body
        elif kind == b"job-finish":
            self._finish(key, regression, loads(body))
        elif kind == b"regr-finish":
            self._close(key, regression)

    def _finish(self, key: bytes, regression: Regression, job: dict[str, Any]) -> None:
        identity = join((job["start_time"], job["category"], job["jobdir"], job["seed"], job["config"]))
        self._dirty_sums[key] = regression
        if identity in regression.done:
            regression.duplicates += 1
            return
        regression.done.add(identity)
        tail = key + b"\0" + identity.encode()
        if identity in regression.live:
            regression.live.remove(identity)
            self._dirty[b"L" + tail] = None
        self._dirty[b"F" + tail] = b"1"
        regression.jobs += 1
        result = job["result"]
        if result == "pass":
            regression.passed += 1
        elif result == "skip":
            regression.skipped += 1
        else:
            regression.failed += 1
        regression.cycles += job["cycles"]
        regression.compute_ms += job["compute_ms"]
        regression.runtime_ms += job["runtime_ms"]

    def _close(self, key: bytes, regression: Regression) -> None:
        self.answers.append((key, regression.answer(key.decode())))
        for letter, identities in ((b"L", regression.live), (b"F", regression.done)):
            for identity in identities:
                self._dirty[letter + key + b"\0" + identity.encode()] = None
        del self._regressions[key]
        self._dirty_sums[key] = None

    def take(self) -> dict[bytes, bytes | None]:
        """What changed since the last call: store keys, and None to delete."""
        dirty, self._dirty = self._dirty, {}
        for key, regression in self._dirty_sums.items():
            dirty[b"S" + key] = None if regression is None else regression.row()
        self._dirty_sums = {}
        return dirty


class Loop:
    """The consumer, the producer, and the commits."""

    def __init__(self, partitions: int) -> None:
        self._partitions = [Partition(number) for number in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=BROKER,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_bytes=64 << 20,
            max_partition_fetch_bytes=2 << 20,
        )
        self._producer = AIOKafkaProducer(
            bootstrap_servers=BROKER, acks="all", max_batch_size=512 << 10, max_request_size=8 << 20, linger_ms=5
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        await self._producer.start()
        self._consumer.assign([TopicPartition(INPUT, part.number) for part in self._partitions])
        await self._consumer.start()
        commit: asyncio.Task[None] | None = None
        next_commit = time.monotonic() + COMMIT_SECONDS
        while not stop.is_set():
            await self._fetch()
            if time.monotonic() >= next_commit and (commit is None or commit.done()):
                if commit is not None:
                    commit.result()
                next_commit = time.monotonic() + COMMIT_SECONDS
                commit = asyncio.create_task(self._commit())
        if commit is not None:
            await commit
        await self._commit()
        await self._producer.stop()
        await self._consumer.stop()

    async def _fetch(self) -> None:
        for tp, messages in (await self._consumer.getmany(timeout_ms=100, max_records=5000)).items():
            part = self._partitions[tp.partition]
            for message in messages:
                part.apply(message.key, message.headers[0][1], message.value)
            part.offset = messages[-1].offset + 1
            for key, value in part.answers:
                await self._producer.send(OUTPUT, value=value, key=key)
            part.answers.clear()

    async def _commit(self) -> None:
        taken, sent, offsets = [], [], {}
        for part in self._partitions:
            if part.offset is not None:
                offsets[TopicPartition(INPUT, part.number)] = part.offset
                part.offset = None
                taken.append((part, part.take()))
                sent += await self._send(part.number, taken[-1][1])
        for future in sent:
            await future
        for part, dirty in taken:
            batch = WriteBatch(raw_mode=True)
            for key, value in dirty.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            part.store.write(batch)
        await self._producer.flush()
        if offsets:
            await self._consumer.commit(offsets)

    async def _send(self, number: int, dirty: dict[bytes, bytes | None]) -> list[asyncio.Future[Any]]:
        sent = []
        batch = self._producer.create_batch()
        for key, value in dirty.items():
            if batch.append(key=key, value=value, timestamp=None) is None:
                sent.append(await self._producer.send_batch(batch, CHANGELOG, partition=number))
                batch = self._producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        if batch.record_count():
            sent.append(await self._producer.send_batch(batch, CHANGELOG, partition=number))
        return sent


async def main() -> None:
    """Make the changelog topic, and work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    count = len((await admin.describe_topics([INPUT]))[0]["partitions"])
    await admin.create_topics([NewTopic(CHANGELOG, count, 1, topic_configs={"cleanup.policy": "compact"})])
    await admin.close()
    os.makedirs(STATE_DIR, exist_ok=True)  # noqa: PTH103  before anything runs
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    await Loop(count).run(stop)


if __name__ == "__main__":
    uvloop.run(main())
