"""`livejobs demo`: broker, topics, worker, web view and a simulated farm on this machine, and what comes out of them.

It ends on Ctrl-C, SIGTERM or SIGHUP, within ten seconds, and leaves nothing: no process, no file, no topic.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.live import Live

from livejobs.streams.config import TOPIC_KEYS, Config, Kafka, Sigs, Web, split_address
from livejobs.streams.demo import farm
from livejobs.streams.demo.board import Board
from livejobs.streams.kafka import broker as brokers
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker, BrokerError
from livejobs.streams.kafka.client import client_options
from livejobs.streams.publisher.publish import BrokerAwayError, Publisher

EXIT_FAILED = 1
EXIT_NO_BROKER = 69
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Since the signal: when what still runs is ended by force. All in all less than ten seconds.
CLIENTS_END_SECONDS = 2.0
WORKER_END_SECONDS = 4.5
BROKER_END_SECONDS = 7.5
WATCH_SECONDS = 0.2
REFRESH_SECONDS = 0.25
PLAIN_SECONDS = 1.0
RATE_SECONDS = 5.0
LOG_LINES_SHOWN = 15
JOBS_A_SECOND = 25.0
CONFIG_FILE = "livejobs.toml"
WEB_PACKAGES = ("starlette", "sse_starlette", "uvicorn")

RULES = Sigs(
    enablelivejobs=True,
    livetimeoutsignature="LIVE Job Timeout or Missing",
    autotimeouthours=1 / 60,  # so that one sees it
    # A demo that is forgotten over a weekend stays small.
    liveprunedays=0.01,
    eventsretentiondays=0.05,
    retentiondays=0.02,
    statsdays=0.02,
)
"""The rules where the configuration does not turn live tracking on."""


class DemoError(RuntimeError):
    """Something of the demo failed; the message says what, with its last log lines."""


def run(config: Config) -> int:
    """Run the demo until a signal ends it: 0; 1 when a part of it failed, 69 when there is no broker to be had.

    Of `config` count the [sigs] if they turn live tracking on, partitions and tickseconds. The broker is our own; where
    Java or Maven is missing, one that runs on this machine at `[kafka] brokers`, with topics that are deleted then.
    """
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    for noisy in ("aiokafka", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # their lines would tear the table
    try:
        with tempfile.TemporaryDirectory(prefix="livejobs-demo-", ignore_cleanup_errors=True) as folder:
            demo = Demo(config, Path(folder), _own_broker(config, Path(folder)))
            asyncio.run(demo.run())
    except KeyboardInterrupt:
        pass
    except (BrokerError, topics.TopicsError) as error:
        _say(f"livejobs demo: {error}")
        return EXIT_NO_BROKER
    except (DemoError, BrokerAwayError, KafkaError) as error:
        _say(f"livejobs demo: {error}")
        return EXIT_FAILED
    return 0


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone must not keep us from cleaning up
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _own_broker(config: Config, folder: Path) -> Broker | None:
    """A broker to start, its jars fetched; None when we can't have one and there may be another on this machine."""
    try:
        brokers.find_java()
        brokers.fetch_jars(_say)
    except BrokerError as error:
        hosts = {split_address(broker.strip())[0] for broker in config.kafka.brokers.split(",")}
        if not hosts <= {"localhost", "127.0.0.1", "::1"}:
            raise
        _say(f"no broker of our own: {error}\ntrying the one at {config.kafka.brokers}")
        return None
    return Broker(brokers.free_port(), folder / "kafka", progress=_say)


def demo_config(config: Config, folder: Path, bootstrap: str | None) -> Config:
    """The configuration of the demo's worker and web view, all its files in `folder`.

    `bootstrap` is our own broker's address; None: the configured one, on topics that no one else has.
    """
    replace = msgspec.structs.replace
    if bootstrap is not None:
        kafka = Kafka(brokers=bootstrap, partitions=config.kafka.partitions)
    else:
        kafka = replace(config.kafka, topicprefix=f"{folder.name}-", **dict.fromkeys(TOPIC_KEYS))
    worker = replace(
        config.worker,
        datadir=str(folder / "data"),
        tickseconds=config.worker.tickseconds or 1.0,
        healthbind=f"127.0.0.1:{brokers.free_port()}",
        instanceid="",
    )
    web = Web(bind=f"127.0.0.1:{brokers.free_port()}", datadir=str(folder / "view"))
    return Config(sigs=config.sigs if config.sigs.enablelivejobs else RULES, kafka=kafka, worker=worker, web=web)


def to_toml(config: Config) -> str:
    """The configuration as the text of a file that `config.load` reads."""
    lines = []
    for section in ("sigs", "kafka", "worker", "web"):
        values = msgspec.structs.asdict(getattr(config, section))
        lines.append(f"[{section}]")
        given = ((key, value) for key, value in values.items() if value is not None)
        # JSON's strings, numbers and booleans are TOML's.
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in given]
    return "\n".join([*lines, ""])


class Demo:
    """The parts of one demo, from the start of the first to the end of the last."""

    def __init__(self, config: Config, folder: Path, broker: Broker | None) -> None:
        self.folder, self.broker = folder, broker
        self.config = demo_config(config, folder, broker.bootstrap if broker is not None else None)
        self.board = Board()
        self.changed = asyncio.Event()
        self._starting: asyncio.Future[None] | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._publisher: Publisher | None = None
        self._has_topics = False
        self._began = time.monotonic()
        self._sent: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Return after a signal, when all has ended. Raises what made a part fail, then too."""
        stop = asyncio.Event()
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            stopped.cancel()
            await self._end(work)

    async def _work(self) -> None:
        if self.broker is not None:
            # In a thread: it blocks. Cancelling does not end it, so `_end` does.
            self._starting = asyncio.get_running_loop().run_in_executor(None, self.broker.start)
            await asyncio.shield(self._starting)
        _say("creating the topics")
        self._has_topics = True  # some of them, whatever ends it
        try:
            await topics.create(self.config)
        except topics.BrokerAwayError:
            self._has_topics = False
            raise
        _say("starting a worker and the farm; Ctrl-C ends it all")
        (self.folder / CONFIG_FILE).write_text(to_toml(self.config), encoding="utf-8")
        self._start("worker")
        if self.page is not None:
            self._start("web")
            _say(f"the page is at {self.page}")
        else:
            _say("no page: it needs `pip install livejobs[web]`")
        watch = asyncio.create_task(self._watch())
        parts = {watch, *(asyncio.create_task(part) for part in (self._farm(), self._read(), self._show()))}
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watch}, timeout=5 * WATCH_SECONDS)  # a dead child is why the others fail
            for part in (watch, *done):
                if part.done():
                    part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    @property
    def page(self) -> str | None:
        """Address of the page; None where its packages are not installed."""
        return f"http://{self.config.web.bind}/" if all(map(find_spec, WEB_PACKAGES)) else None

    def _start(self, command: str) -> None:
        code = "import sys; from livejobs.streams.cli import main; sys.exit(main())"
        with self._log(command).open("wb") as log:
            self._children[command] = subprocess.Popen(
                [sys.executable, "-P", "-c", code, command, "--config", str(self.folder / CONFIG_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The file says it all; the environment would beat it.
                env={name: value for name, value in os.environ.items() if not name.startswith("LIVEJOBS_")},
                start_new_session=True,  # Ctrl-C reaches only us, and we decide what ends when
            )

    def _log(self, command: str) -> Path:
        return self.folder / f"{command}.log"

    async def _watch(self) -> None:
        """Raise when a child has ended by itself."""
        while True:
            if self.broker is not None and self.broker.pid is None:
                try:
                    self.broker.wait()  # raises, with its last lines
                except BrokerError as error:
                    raise DemoError(str(error)) from error
            for command, child in self._children.items():
                if child.poll() is not None:
                    lines = self._log(command).read_text(encoding="utf-8", errors="replace").splitlines()
                    what = f"the {command} ended by itself (exit code {child.returncode}); its last lines:"
                    raise DemoError("\n  ".join([what, *lines[-LOG_LINES_SHOWN:]]))
            await asyncio.sleep(WATCH_SECONDS)

    async def _farm(self) -> None:
        async with Publisher(self.config.kafka) as self._publisher:
            start = datetime.now(UTC).astimezone()
            stream = farm.events(time.time_ns(), jobs_a_second=JOBS_A_SECOND, start=start)
            await farm.publish(self._publisher, stream)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            self.config.kafka.stats_topic,
            **client_options(self.config.kafka),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            async for record in consumer:
                self.board.apply(record.key, record.value)
                self.changed.set()
        finally:
            await consumer.stop()

    # ------------------------------------------------------------------ what one sees

    async def _show(self) -> None:
        console = Console()
        if not console.is_terminal:
            while True:
                await asyncio.sleep(PLAIN_SECONDS)
                sys.stdout.write(f"{time.monotonic() - self._began:.0f} s: {self.board.line(*self._events())}\n")
                sys.stdout.flush()
        health = f"http://{self.config.worker.healthbind}/metrics"
        page = "" if self.page is None else f"page {self.page}, "
        footer = f"{page}broker {self.config.kafka.brokers}, worker {health}; Ctrl-C ends it all"
        with Live(console=console, auto_refresh=False) as live:
            while True:
                now_ms = time.time_ns() // 1_000_000
                live.update(self.board.screen(console.height, now_ms, *self._events(), footer), refresh=True)
                # Ages grow also when nothing changes.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), PLAIN_SECONDS)
                self.changed.clear()
                await asyncio.sleep(REFRESH_SECONDS)

    def _events(self) -> tuple[int, float]:
        """Messages published, and messages a second over the last seconds."""
        now, count = time.monotonic(), self._publisher.acknowledged if self._publisher is not None else 0
        self._sent.append((now, count))
        while len(self._sent) > 2 and now - self._sent[1][0] > RATE_SECONDS:  # noqa: PLR2004  a rate needs two
            self._sent.popleft()
        then, before = self._sent[0]
        return count, (count - before) / max(now - then, 0.001)

    # ------------------------------------------------------------------ the end

    async def _end(self, work: asyncio.Task[None]) -> None:
        """End everything that was started, in whatever state it is; what does not obey in time, by force."""
        began = time.monotonic()

        def left(deadline_seconds: float) -> float:
            return max(began + deadline_seconds - time.monotonic(), 0.1)

        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        work.cancel()
        await asyncio.wait({work}, timeout=left(CLIENTS_END_SECONDS))
        _say("stopping")
        for child in self._children.values():
            await self._end_child(child, left(WORKER_END_SECONDS))
        if self.broker is None:
            await self._delete_topics(left(BROKER_END_SECONDS))
        else:
            await self._end_broker(self.broker, left(BROKER_END_SECONDS))

    async def _end_child(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            await asyncio.to_thread(child.wait, seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    async def _end_broker(self, broker: Broker, seconds: float) -> None:
        if self._starting is not None:
            while not self._starting.done():  # it gives up when its process ends
                _kill(broker)
                await asyncio.sleep(0.05)
            self._starting.exception()  # seen
        force = asyncio.get_running_loop().call_later(seconds, _kill, broker)
        await asyncio.to_thread(broker.stop)
        force.cancel()

    async def _delete_topics(self, seconds: float) -> None:
        if not self._has_topics:
            return
        names = [topic.name for topic in topics.wanted(self.config)]
        admin = AIOKafkaAdminClient(**client_options(self.config.kafka))
        try:
            async with asyncio.timeout(seconds):
                await admin.start()
                await admin.delete_topics(names)
        except (TimeoutError, KafkaError) as error:
            _say(f"these topics are left on the broker: {', '.join(names)} ({error!r})")
        finally:
            await admin.close()


def _kill(broker: Broker) -> None:
    """As `broker.kill`, but safe while another thread is in `start` or `stop`: it waits for nothing."""
    pid = broker.pid
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
