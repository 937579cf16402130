"""What the end-to-end tests are made of: real workers, a producer that may send anything, and readers that follow the topics.

Nothing here sleeps for luck: a reader wakes whoever waits at each record, and every wait has a deadline. A `Site` is one set of topics with the workers on it;
`Site.assert_as_the_model` folds the very log that the workers read with the naive model and compares all that they wrote.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2
from model import Model

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.core.rules import Rules
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import free_port

SECONDS = 30.0
"""Until when anything must have happened, if a test says nothing else: much more than it takes."""
READ_SECONDS_MAX = 300.0
"""The same for reading all that is there: a million messages in the long form."""
STOP_SECONDS_MAX = 10.0
READY_SECONDS_MAX = 60.0
OUTAGE_SECONDS_MAX = 600.0
"""Longer than any test keeps the broker away: until then messages are tried again."""
TICK = "_livejobs.tick"
SIGNATURE = "LIVE Job Timeout or Missing"
SIGS = {"enablelivejobs": True, "livetimeoutsignature": SIGNATURE}
HOUR, DAY = 3600.0, 86_400.0
LOG_LINES_SHOWN = 30

T = TypeVar("T")
Headers = list[tuple[str, bytes]]
MakeConfig = Callable[..., Config]
"""The fixtures `make_config` and `loose_config`: flags to a configuration."""


class Record(NamedTuple):
    """A message as a reader got it; the timestamp is in ms."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def kind(self) -> str | None:
        """The `type` header's text, the last one's if there are several."""
        kinds = [data for name, data in self.headers if name == "type"]
        return kinds[-1].decode(errors="replace") if kinds and kinds[-1] is not None else None


class Sent(NamedTuple):
    """Where a message that was sent now stands."""

    partition: int
    offset: int


class Background:
    """An event loop in a thread of its own, so that plain test functions can use Kafka's asynchronous client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float = SECONDS) -> T:
        """The coroutine's result; raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, seconds), self._loop).result()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Job":
        """Let it run beside the test."""
        return Job(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()


class Job(NamedTuple):
    """Something that runs beside the test."""

    future: Any

    def result(self, seconds: float = 2 * SECONDS) -> Any:
        """Its result; raises TimeoutError."""
        return self.future.result(seconds)


class Topic:
    """What a reader has seen of one topic: every record, and the last value of each key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self.last: dict[bytes, Any] = {}
        """Key -> its value, read as JSON, of those that are not deleted."""
        self.went_back: list[str] = []
        """Keys whose `version` fell from one record to the next: there must be none."""

    def __getitem__(self, name: str) -> Any:
        """The last value of a regression's key; None where there is none."""
        return self.last.get(name.encode())

    def add(self, record: Record, *, keyed: bool) -> None:
        """Note a record."""
        self.records.append(record)
        if not keyed:
            return
        assert record.key is not None
        before = self.last.get(record.key)
        if record.value is None:
            self.last.pop(record.key, None)
            return
        value = json.loads(record.value)
        self.last[record.key] = value
        if before is not None and value.get("version", 0) < before.get("version", 0):
            self.went_back.append(
                f"{record.key!r} at {record.partition}/{record.offset}: {before['version']} -> {value['version']}"
            )


class Reader:
    """Follows the four topics from their beginning, read committed."""

    def __init__(self, background: Background, config: Config) -> None:
        self._background, self._kafka = background, config.kafka
        self.jobs, self.stats = Topic(config.kafka.jobs_topic), Topic(config.kafka.stats_topic)
        self.rejects, self.events = Topic(config.kafka.rejects_topic), Topic(config.kafka.events_topic)
        self._topics = {topic.name: topic for topic in (self.jobs, self.stats, self.rejects, self.events)}
        self._news = threading.Condition()
        self._positions: dict[TopicPartition, int] = {}
        self._stopped = False
        self._consumer, self._ends = background.run(self._open())
        self._pumping = background.start(self._pump())

    async def _open(self) -> tuple[AIOKafkaConsumer, AIOKafkaConsumer]:
        """Who reads, and who asks for ends: the first one's questions would wait for messages, too.

        The ends are those of all that is written: a transaction is committed, and seen so in one partition, a moment before it is in all.
        """
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.brokers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=250,
            max_partition_fetch_bytes=4 << 20,
        )
        ends = AIOKafkaConsumer(bootstrap_servers=self._kafka.brokers)
        for one in (consumer, ends):
            await one.start()
        consumer.assign(
            [TopicPartition(name, number) for name in self._topics for number in range(self._kafka.partitions)]
        )
        return consumer, ends

    async def _pump(self) -> None:
        consumer = self._consumer
        while not self._stopped:
            fetched = await consumer.getmany(timeout_ms=100, max_records=5000)
            positions = {tp: await consumer.position(tp) for tp in consumer.assignment()}
            with self._news:
                for tp, records in fetched.items():
                    topic = self._topics[tp.topic]
                    for one in records:
                        record = Record(tp.partition, one.offset, one.timestamp, one.key, one.value, list(one.headers))
                        topic.add(record, keyed=topic in (self.jobs, self.stats))
                if fetched or positions != self._positions:
                    self._positions = positions
                    self._news.notify_all()

    def wait_for(self, predicate: Callable[[], T], seconds: float, still: Callable[[], None] = lambda: None) -> T:
        """The predicate's first true answer, asked at each record; `still` is asked beside and may raise. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (answer := predicate()):
                still()
                if time.monotonic() > deadline:
                    raise TimeoutError
                if self._pumping.future.done():
                    self._pumping.result()
                self._news.wait(0.25)
            return answer

    def read_to_the_end(self, *topics: Topic, seconds: float = READ_SECONDS_MAX) -> None:
        """Return when all that was written before this call has been read, or passed over because it was aborted."""
        names = {topic.name for topic in topics or self._topics.values()}
        tps = [tp for tp in self._consumer.assignment() if tp.topic in names]
        ends = self._background.run(self._ends.end_offsets(tps))
        self.wait_for(lambda: all(self._positions.get(tp, -1) >= ends[tp] for tp in tps), seconds)

    def close(self) -> None:
        """Stop following."""
        self._stopped = True
        with contextlib.suppress(Exception):  # whoever waited has seen it
            self._pumping.result()
        for consumer in (self._consumer, self._ends):
            self._background.run(consumer.stop())


COMMAND = (sys.executable, "-c", "from livejobs.streams.cli import main; main()")


class WorkerProcess:
    """A real worker in a process of its own; its output is kept in `log`."""

    def __init__(self, config: Path, log: Path, health: str, command: Sequence[str] = COMMAND) -> None:
        self.config, self.log, self.health = config, log, health
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "worker", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.expected_to_run = True

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def output(self) -> str:
        """All that it and its predecessors with the same log have said."""
        return self.log.read_text(errors="replace")

    def assert_running(self) -> None:
        """Fail, and show the log, when the process has ended although nobody asked it to."""
        if self.expected_to_run and self.process.poll() is not None:
            raise AssertionError(f"the worker ended by itself, exit code {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.output().splitlines()[-LOG_LINES_SHOWN:])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its health endpoint's answer; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.health}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def poll(self, path: str, until: Callable[[int, str], bool], seconds: float = READY_SECONDS_MAX) -> "WorkerProcess":
        """Return when an endpoint answers with such a status and body."""
        deadline = time.monotonic() + seconds
        while not until(*(answer := self.get(path))):
            self.assert_running()
            assert time.monotonic() < deadline, f"after {seconds} s {path} says {answer}\n{self.tail()}"
            time.sleep(0.02)
        return self

    def ready(self) -> "WorkerProcess":
        """Return when `/ready` says so."""
        return self.poll("/ready", lambda status, _body: status == 200)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values over the labels that are not given."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [
            line
            for line in self.get("/metrics")[1].splitlines()
            if line.startswith(name) and all(one in line for one in wanted)
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self, seconds: float = SECONDS) -> tuple[int, float]:
        """SIGTERM; the exit code, and how many seconds it took."""
        self.expected_to_run = False
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds), time.monotonic() - begin

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self.expected_to_run = False
        self.process.kill()
        self.process.wait(SECONDS)

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code of a worker that is to end by itself."""
        self.expected_to_run = False
        return self.process.wait(seconds)

    def close(self) -> None:
        """No process is left behind."""
        if self.process.poll() is None:
            self.kill()


def toml(sections: dict[str, dict[str, Any]]) -> str:
    """A TOML document of sections with plain values."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


class Site:
    """Topics with a prefix of their own, a producer, a reader, and the workers that a test starts."""

    def __init__(
        self,
        bootstrap: str,
        folder: Path,
        sigs: dict[str, Any] | None = None,
        *,
        partitions: int = 2,
        replication: int = 1,
        tickseconds: float = 0.2,
        create: bool = True,
        events: str | None = None,
    ) -> None:
        """`events` names another site's `job-events`, to be read by this one, too."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.partitions = partitions
        prefix = f"t{uuid.uuid4().hex[:8]}-"
        kafka: dict[str, Any] = {"brokers": bootstrap, "topicprefix": prefix, "partitions": partitions, "replication": replication}
        if events is not None:
            kafka["eventstopic"] = events
        self._sections: dict[str, dict[str, Any]] = {
            "sigs": SIGS if sigs is None else sigs,
            "kafka": kafka,
            "worker": {"tickseconds": tickseconds},
        }
        self._sections["tunnel"] = {"spool": str(folder / "spool")}
        self.config_file = self._write("site", {}, {})
        self.config = configuration.load(self.config_file)
        self.rules = Rules.of(self.config.sigs)
        self.workers: list[WorkerProcess] = []
        self.background = Background()
        self._reader: Reader | None = None
        self._producer: AIOKafkaProducer | None = None
        self._probes = 0
        if create:
            self.background.run(topics.create(self.config))

    def _write(self, name: str, worker: dict[str, Any], kafka: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.toml"
        own = {"worker": {**self._sections["worker"], **worker}, "kafka": {**self._sections["kafka"], **kafka}}
        path.write_text(toml({**self._sections, **own}))
        return path

    def change_sigs(self, sigs: dict[str, Any]) -> None:
        """From now on, workers that start and `livejobs verify` have these; the model has them, too, and for all messages."""
        self._sections["sigs"] = sigs
        self.config_file = self._write("site", {}, {})
        self.config = configuration.load(self.config_file)
        self.rules = Rules.of(self.config.sigs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()
        if self._reader is not None:
            self._reader.close()
        if self._producer is not None:
            self.background.run(self._producer.stop())
        self.background.close()

    # ------------------------------------------------------------------ workers

    def start(
        self,
        name: str = "worker",
        *,
        command: Sequence[str] = COMMAND,
        kafka: dict[str, Any] | None = None,
        **worker: Any,
    ) -> WorkerProcess:
        """Start a worker with a disk and a log named `name`; keywords go to its section of the configuration."""
        health = f"127.0.0.1:{free_port()}"
        path = self._write(name, {"datadir": str(self.disk(name)), "healthbind": health, **worker}, kafka or {})
        process = WorkerProcess(path, self.folder / f"{name}.log", health, command)
        self.workers.append(process)
        return process

    def await_shares(self, *workers: WorkerProcess) -> None:
        """Return when these workers have all partitions at work, each at least one."""
        deadline = time.monotonic() + 2 * SECONDS
        while True:
            self._assert_running()
            shares = [worker.metric("livejobs_partitions_ready") for worker in workers]
            if min(shares) > 0 and sum(shares) == self.partitions:
                return
            assert time.monotonic() < deadline, f"{shares} of {self.partitions} partitions"
            time.sleep(0.02)

    def disk(self, name: str = "worker") -> Path:
        """Where the worker of that name keeps its state."""
        return self.folder / f"{name}.data"

    def _assert_running(self) -> None:
        for worker in self.workers:
            worker.assert_running()

    # ------------------------------------------------------------------ in

    @property
    def producer(self) -> AIOKafkaProducer:
        """A plain producer."""
        if self._producer is None:
            self._producer = self.background.run(self._open_producer())
        return self._producer

    async def _open_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.config.kafka.brokers,
            acks="all",
            max_request_size=4 << 20,
            max_batch_size=1 << 20,  # the topic takes no larger one
            request_timeout_ms=int(1000 * OUTAGE_SECONDS_MAX),
        )
        await producer.start()
        return producer

    def partition_of(self, name: str | bytes) -> int:
        """Where a regression's messages belong."""
        key = name.encode() if isinstance(name, str) else name
        return int((murmur2(key) & 0x7FFFFFFF) % self.partitions)

    def send(
        self,
        kind: str | None,
        regression: str | bytes | None,
        body: Any = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> Sent:
        """Send one message and wait until the broker has it. A body that is no bytes is written as JSON; None is none.

        A `kind` of None: no `type` header. Without `partition`: where the regression belongs, else 0.
        """
        key = regression.encode() if isinstance(regression, str) else regression
        value = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        number = partition if partition is not None else self.partition_of(key) if key else 0
        head = ([] if kind is None else [("type", kind.encode())]) + (headers or [])
        return self.background.run(self._send(self.producer, number, key, value, head))

    async def _send(
        self, producer: AIOKafkaProducer, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Sent:
        batch = producer.create_batch()  # `send` takes no message without key and value
        assert batch.append(timestamp=None, key=key, value=value, headers=headers) is not None
        batch.close()
        future = await producer.send_batch(batch, self.config.kafka.events_topic, partition=partition)
        return Sent(partition, (await future).offset)

    def load(self, messages: Iterable[tuple[str, str, bytes]], rate: float) -> Job:
        """Send (type, regression, body) after each other beside the test, about `rate` a second; the result is how many."""
        return self.background.start(self._load(self.producer, messages, rate))

    async def _load(self, producer: AIOKafkaProducer, messages: Iterable[tuple[str, str, bytes]], rate: float) -> int:
        begin = time.monotonic()
        futures = []
        for number, (kind, regression, body) in enumerate(messages):
            futures.append(
                await producer.send(
                    self.config.kafka.events_topic,
                    key=regression.encode(),
                    value=body,
                    partition=self.partition_of(regression),
                    headers=[("type", kind.encode())],
                )
            )
            if number % 100 == 0:
                await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
        for future in futures:
            await future
        return len(futures)

    # ------------------------------------------------------------------ out

    @property
    def reader(self) -> Reader:
        """Follows the four topics from their beginning."""
        if self._reader is None:
            self._reader = Reader(self.background, self.config)
        return self._reader

    def wait_for(self, predicate: Callable[[], T], seconds: float = SECONDS, what: Callable[[], Any] = lambda: "") -> T:
        """The predicate's first true answer. Fails after `seconds`, or when a worker ends, and shows the logs and `what()`."""
        try:
            return self.reader.wait_for(predicate, seconds, self._assert_running)
        except TimeoutError:
            logs = "\n".join(f"--- {worker.log.name}\n{worker.tail()}" for worker in self.workers)
            raise AssertionError(f"not seen within {seconds} s; {what()}\n{logs}") from None

    def stats(self, regression: str, sent: Sent | None = None, seconds: float = SECONDS) -> dict[str, Any]:
        """A regression's record as soon as its version has reached the message sent."""
        least = -1 if sent is None else sent.offset

        def found() -> Any:
            record = self.reader.stats[regression]
            return record if record is not None and record["version"] >= least else None

        record: dict[str, Any] = self.wait_for(
            found, seconds, lambda: f"{regression} at {sent}: {self.reader.stats[regression]}"
        )
        return record

    def status(self, regression: str, status: str, seconds: float = SECONDS, **counts: int) -> dict[str, Any]:
        """A regression's record as soon as it has that status and those counts."""

        def found() -> Any:
            record = self.reader.stats[regression]
            return record if record and {**record, **counts} == record and record["status"] == status else None

        record: dict[str, Any] = self.wait_for(
            found, seconds, lambda: f"{regression} not {status} {counts}: {self.reader.stats[regression]}"
        )
        return record

    def jobs(self, regression: str) -> dict[Any, Any]:
        """The records of a regression's jobs, up to now: by uniqueid, or by the tuple of the five key fields."""
        self.reader.read_to_the_end(self.reader.jobs)
        return self.jobs_seen(regression)

    def jobs_seen(self, regression: str) -> dict[Any, Any]:
        """The same of what has been read: for a predicate of `wait_for`."""
        found: dict[Any, Any] = {}
        for key, value in list(self.reader.jobs.last.items()):
            name, *parts = json.loads(key)
            if name == regression:
                found[parts[0] if len(parts) == 1 else tuple(parts)] = value
        return found

    def settle(self, partition: int) -> None:
        """Return when all messages sent into a partition before this call have been applied, and what they made has been read."""
        name = next(
            name for number in range(1000) if self.partition_of(name := f"probe/{self._probes}/{number}") == partition
        )
        self._probes += 1
        self.stats(name, self.send("regr-update", name))
        self.reader.read_to_the_end(self.reader.jobs, self.reader.stats, self.reader.rejects)

    def unchanged(self, regression: str, send: Callable[[], Sent]) -> None:
        """Send a message, and assert that it changed neither the regression's record nor any of its jobs, nor wrote one anew."""

        def state() -> tuple[Any, ...]:
            self.settle(self.partition_of(regression))
            written = [
                record for record in self.reader.jobs.records if record.key and json.loads(record.key)[0] == regression
            ]
            return len(written), self.jobs(regression), self.reader.stats[regression]

        before = state()
        send()
        assert state() == before

    def reject_of(self, sent: Sent, index: int | None = None) -> Record:
        """The reject of a message (or of one job of a batch)."""

        def found() -> Record | None:
            for record in self.reader.rejects.records:
                head = dict(record.headers)
                where = (int(head["__streams.errors.partition"]), int(head["__streams.errors.offset"]))
                if where == tuple(sent) and (index is None or head.get("livejobs.batch.index") == b"%d" % index):
                    return record
            return None

        return self.wait_for(found, what=lambda: f"the reject of {sent}")  # type: ignore[return-value]

    # ------------------------------------------------------------------ the truth

    def committed(self) -> dict[int, int]:
        """The group's committed offset of each partition; 0 where there is none."""
        offsets = self.admin("list_consumer_group_offsets", self.config.kafka.group)
        known = {
            tp.partition: found.offset for tp, found in offsets.items() if tp.topic == self.config.kafka.events_topic
        }
        return {number: max(0, known.get(number, 0)) for number in range(self.partitions)}

    def lag(self) -> int:
        """How many messages, ticks aside, are sent and not committed."""
        committed = self.committed()
        self.reader.read_to_the_end(self.reader.events)
        return sum(
            record.offset >= committed[record.partition] and record.kind != TICK
            for record in self.reader.events.records
        )

    async def _admin(self, what: str, arguments: tuple[Any, ...]) -> Any:
        client = AIOKafkaAdminClient(bootstrap_servers=self.config.kafka.brokers)
        await client.start()
        try:
            return await getattr(client, what)(*arguments)
        finally:
            await client.close()

    def admin(self, what: str, *arguments: Any) -> Any:
        """What a method of Kafka's admin client returns."""
        return self.background.run(self._admin(what, arguments))

    def wait_for_no_lag(self, seconds: float = 2 * SECONDS) -> None:
        """Return when the workers have committed all messages."""
        deadline = time.monotonic() + seconds
        while lag := self.lag():
            self._assert_running()
            assert time.monotonic() < deadline, f"a lag of {lag} after {seconds} s\n" + "\n".join(
                worker.tail() for worker in self.workers
            )
            time.sleep(0.1)

    def assert_as_the_model(self) -> None:
        """What the topics hold is what the model makes of the same log, message for message; call it when no worker runs."""
        assert self.lag() == 0
        reader, committed = self.reader, self.committed()
        reader.read_to_the_end()
        assert reader.stats.went_back == []
        models = [Model(self.rules) for _ in range(self.partitions)]
        for record in sorted(reader.events.records, key=lambda record: record.offset):
            if record.offset >= committed[record.partition] or (record.key and self._is_elsewhere(record)):
                continue
            models[record.partition].apply(record.offset, record.timestamp, record.key, record.kind, record.value)
        _assert_equal(reader.stats.last, _bytes_keyed(model.stats() for model in models), "regression-stats")
        jobs = {
            json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode(): job
            for model in models
            for key, job in model.jobs().items()
        }
        _assert_equal(reader.jobs.last, jobs, "jobs")
        rejects = sorted((number, *reject) for number, model in enumerate(models) for reject in model.rejects)
        assert sorted(map(_reject, reader.rejects.records), key=str) == sorted(rejects, key=str)

    def _is_elsewhere(self, record: Record) -> bool:
        with contextlib.suppress(UnicodeDecodeError):
            (record.key or b"").decode()
            return len(record.key or b"") <= 1024 and self.partition_of(record.key or b"") != record.partition
        return False


def _reject(record: Record) -> tuple[int, str, int, int | None]:
    head = dict(record.headers)
    index = head.get("livejobs.batch.index")
    number, offset = int(head["__streams.errors.partition"]), int(head["__streams.errors.offset"])
    return number, head["__streams.errors.exception"].decode(), offset, None if index is None else int(index)


def _bytes_keyed(parts: Iterable[dict[str, Any]]) -> dict[bytes, Any]:
    return {name.encode(): record for part in parts for name, record in part.items()}


def _assert_equal(got: dict[bytes, Any], want: dict[bytes, Any], what: str) -> None:
    """Equal but for the last digits of a quotient; shows the first difference, not all of both."""
    for key in sorted(got.keys() | want.keys()):
        one, other = got.get(key), want.get(key)
        assert _rounded(one) == _rounded(other), f"{what}: {key!r}"


def _rounded(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: float(f"{value:.10g}") if isinstance(value, float) else value for key, value in record.items()}
