"""The worker: a Faust app whose agent applies batches and whose timer sends ticks.

An unexpected error ends the process before anything is acknowledged; a supervisor starts it again, and the
transaction makes that exact. So there is no retry here, and no state to mend.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import faust
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from livejobs.streams import logs
from livejobs.streams.config import Config, ConfigError
from livejobs.streams.core import messages
from livejobs.streams.kafka import records, topics
from livejobs.streams.kafka.client import client_options, end_of_worker
from livejobs.streams.worker.commit import Partition
from livejobs.streams.worker.health import Health
from livejobs.streams.worker.lane import LaneApp, LaneConsumer, LaneThread, PartitionCodec, faust_settings
from livejobs.streams.worker.transactions import LostError, Transactions
from livejobs.streams.worker.watchdog import StalledError, Watchdog
from livejobs.tables.restore import RestoreError
from livejobs.tables.store import StoreError

EXIT_FAILED = 70
GIVE_BACK_SECONDS = 1.0
"""Between two times that freed memory is given back."""
STOP_SECONDS = 9.0
"""From SIGTERM to the end, whatever hangs."""
LEAVE_SECONDS = 3.0
"""Of that, for farewells to the broker."""
FAIL_SECONDS = 5.0
"""From an error to the end, even if nobody reads what is said of it."""
OPENING_MAX = 4
"""Partitions restored at the same time."""

log = logging.getLogger("livejobs.worker")


class Worker:
    """The partitions that this process owns, and the Faust app that feeds them."""

    def __init__(self, config: Config, partitions: int) -> None:
        self.config = config
        self.partitions = partitions
        self.topic = config.kafka.events_topic
        self.ready: dict[int, Partition] = {}
        self.assigned: set[int] = set()
        self.opening: dict[int, float] = {}
        self.lane: LaneThread | None = None
        self.loop = asyncio.get_event_loop()
        self.watchdog = Watchdog(self)
        self._opening: set[asyncio.Task[None]] = set()
        self._opening_slots = asyncio.Semaphore(OPENING_MAX)
        self._closing = asyncio.Lock()
        self._transactions = Transactions(config.kafka, lambda: list(self.ready.values()))
        self._connected: asyncio.Task[None] | None = None
        self._ticks: AIOKafkaProducer | None = None
        self.stopping = False
        self.app = self._app()

    def _app(self) -> LaneApp:
        config = self.config
        datadir = Path(config.worker.datadir)
        try:
            datadir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"[worker] datadir {datadir} can't be used: {error.strerror}") from error
        app = LaneApp(config.kafka.group, **faust_settings(config), datadir=datadir / "faust")
        app.owner = self
        codec = PartitionCodec()
        events = app.topic(self.topic, key_serializer="raw", value_serializer=codec, partitions=self.partitions)

        @app.agent(events, isolated_partitions=True)
        async def apply(stream: faust.StreamT[Partition]) -> None:
            """Apply the job events that are waiting to the live tables of their partition."""
            async for partition in stream:
                await asyncio.shield(asyncio.ensure_future(self._apply(partition)))

        if config.worker.tickseconds > 0:
            app.timer(interval=config.worker.tickseconds)(self._send_ticks)
        app.timer(interval=GIVE_BACK_SECONDS)(self._give_back_memory)
        return app

    async def _apply(self, partition: Partition) -> None:
        try:
            await partition.apply()
        except BaseException as error:
            self.fail(error)
            raise

    @staticmethod
    async def _give_back_memory() -> None:
        await asyncio.to_thread(give_back_memory)

    async def _send_ticks(self) -> None:
        """One tick into each partition whose last tick has been applied: none pile up behind a backlog."""
        try:
            if self._ticks is None:
                ticks = AIOKafkaProducer(**client_options(self.config.kafka), acks="all")
                await ticks.start()
                self._ticks = ticks
            for partition in list(self.ready.values()):
                if not partition.closed and partition.tick_offset < partition.next_offset:
                    batch = self._ticks.create_batch()  # `send` takes no message without key and value
                    batch.append(timestamp=None, key=None, value=None, headers=[("type", messages.TICK.encode())])
                    batch.close()
                    sent = await self._ticks.send_batch(batch, self.topic, partition=partition.number)
                    sent.add_done_callback(partial(self._tick_sent, partition))
        except KafkaError as error:
            log.warning("ticks were not sent: %r", error)

    @staticmethod
    def _tick_sent(partition: Partition, future: asyncio.Future[Any]) -> None:
        if future.cancelled() or future.exception() is not None:
            log.warning("a tick for partition %d was not sent: %s", partition.number, future)
        else:
            partition.tick_offset = future.result().offset

    @property
    def _consumer(self) -> LaneConsumer:
        return cast("LaneConsumer", self.app.consumer)

    # ------------------------------------------------------------------ partitions come and go

    def open_all(self, numbers: set[int]) -> None:
        """Open the stores of newly assigned partitions, each as soon as it can; none by a worker that is stopping."""
        if self.stopping:
            return
        self.assigned = numbers
        self._transactions.member = self._consumer.member()
        if self._connected is None:
            self._connected = asyncio.ensure_future(self._transactions.start())
        for number in sorted(numbers):
            task = asyncio.ensure_future(self._open(number))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, number: int) -> None:
        def moved() -> None:
            self.opening[number] = time.monotonic()

        try:
            async with self._opening_slots:
                moved()
                await asyncio.shield(cast("asyncio.Task[None]", self._connected))
                partition = await Partition.open(
                    number, self.partitions, self.config, self._transactions, moved, self.fail
                )
                try:
                    await self._consumer.start_at(number, partition.next_offset)
                except asyncio.CancelledError:
                    await partition.close()
                    raise
            self.ready[number] = partition
            at, restored = partition.next_offset, partition.restored
            log.info("partition %d is ready at offset %d, %d records restored", number, at, restored)
        except BaseException as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # by `close_all`
            self.fail(error)  # whatever it is, the process ends: else it would live on without the partition
        finally:
            self.opening.pop(number, None)

    async def close_all(self) -> None:
        """Give all partitions back: what is at work is finished first, also where they are being given back already.

        A rebalance while the worker stops must not join the group's next generation before: it would end the last
        transaction of this one.
        """
        async with self._closing:
            opening = list(self._opening)
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            partitions, self.ready = list(self.ready.values()), {}
            self.assigned = set()
            try:
                await asyncio.gather(*(partition.close() for partition in partitions))
            except BaseException as error:  # noqa: BLE001  whatever it is, the process ends: a cancellation that came
                self.fail(error)  # out of here would end aiokafka's coordinator, and we would be in no group, for ever
            if partitions:
                give_back_memory()

    # ------------------------------------------------------------------ what the watchdog asks, from its thread

    def next_to_fetch(self, number: int) -> int:
        """Offset of a partition's next message to fetch; -1: not known."""
        return -1 if self.lane is None else self.lane.next_to_fetch(number)

    def is_member(self) -> bool:
        """Whether this worker has its part in the group."""
        return self.lane is not None and self.lane.is_member()

    def loops(self) -> dict[str, asyncio.AbstractEventLoop]:
        """The event loops by what they are for."""
        own = {"worker's": self.loop}
        return own if self.lane is None else {**own, "consumer's": self.lane.thread_loop}

    # ------------------------------------------------------------------ the end

    def fail(self, error: BaseException) -> None:
        """The only answer to an error: say it, and end the process before anything is acknowledged."""
        if self.stopping and isinstance(error, asyncio.CancelledError):
            return
        threading.Timer(FAIL_SECONDS, os._exit, (EXIT_FAILED,)).start()  # should nobody read what we say
        known = end_of_worker(error)
        expected = known is not None or isinstance(error, StoreError | RestoreError | LostError | StalledError)
        reason = known or (error if expected else repr(error))
        log.critical("the worker ends: %s", reason, exc_info=None if expected else error)
        logging.shutdown()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)

    async def stop(self) -> None:
        """Finish what is at work, leave the group, end the process."""
        self.stopping = True
        threading.Timer(STOP_SECONDS, os._exit, (EXIT_FAILED,)).start()
        await self.close_all()
        try:  # all is committed, the rest is courtesy: no broker is waited for
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._consumer.leave()
                if self._ticks is not None:
                    await self._ticks.stop()
                await self._transactions.stop()
        except Exception as error:  # noqa: BLE001  nothing depends on it
            log.warning("the broker heard no farewell: %r", error)
        log.info("stopped")
        logging.shutdown()
        os._exit(0)


def give_back_memory() -> None:
    """Give the system what the C library keeps of freed memory: it takes a millisecond.

    That was 50 MiB of 250 after an hour of rebalances, 65 of 370 behind a backlog of 14,000,000 messages.
    """
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class _FaustWorker(faust.Worker):
    """Faust's worker with our answer to signals."""

    owner: Worker

    def on_worker_shutdown(self) -> None:
        """Faust has come to an end by itself: something in it crashed."""
        if not self.owner.stopping:
            self.owner.fail(self.crash_reason or RuntimeError("Faust has stopped"))

    def install_signal_handlers(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, lambda: asyncio.ensure_future(self.owner.stop(), loop=self.loop))


def run(config: Config) -> NoReturn:
    """Run one worker until a signal ends the process; raises TopicsError and ConfigError before it starts."""
    logs.to_stderr()
    for noisy in ("faust", "mode", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("aiokafka.producer.sender").setLevel(
        logging.ERROR
    )  # warns of each retry, and Kafka 4 makes it retry once a transaction
    records.install()
    uvloop.install()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    partitions = loop.run_until_complete(topics.assert_usable(config))
    worker = Worker(config, partitions)
    health = Health(worker)

    worker.app.task(health.start)
    worker.app.task(worker.watchdog.ask_broker)
    worker.watchdog.start()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # rows live long and hold no cycles
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # for Faust's spinner
        faust_worker = _FaustWorker(
            worker.app, loop=loop, override_logging=False, redirect_stdouts=False, quiet=True, stdout=nowhere
        )
        faust_worker.owner = worker
        faust_worker.execute_from_commandline()
