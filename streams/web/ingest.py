"""From the topics into the view: one consumer without a group, one writer; an outage is waited out.

The offsets are in the view itself. What does not fit any more (other topics, offsets out of range, too old) is thrown
away and read anew, all of it in bulk.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError

from livejobs.streams.config import Config
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.client import Heard, client_options
from livejobs.streams.web import topic_ids
from livejobs.tables import times
from livejobs.tables.view import JOBS, STATS, Batch, Changes, Made, Positions, View

PAUSE_SECONDS = 0.05
"""From one transaction to the next at least: what comes meanwhile joins it."""
POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0
AWAY_SECONDS = 3.0
"""Without an answer of a partition's broker for so long, it is away."""
NOTE_SECONDS = 60.0
"""An idle view notes so often that it is up to date."""
TOMBSTONES_MS = 7 * times.DAY_MS
"""How long deploy/topics.toml has the topics tell of deletions."""
FETCH_BYTES_MAX = 16 << 20
PARTITION_BYTES_MAX = 4 << 20

log = logging.getLogger("livejobs.web")


class Progress(msgspec.Struct):
    """How far a rebuild is, in offsets."""

    read: int
    total: int


class State(msgspec.Struct, kw_only=True):
    """How fresh the view is."""

    now: str
    connected: bool
    """Whether the broker answers."""
    as_of: str | None
    """When the view last had all that the broker has."""
    behind: int
    """Offsets still to read."""
    rebuilding: Progress | None
    """While it is, nothing else can be asked for."""


class Ingest:
    """Keeps the view in `path` up to date, and tells `changed` what has changed, `turned` when its state turns."""

    def __init__(self, config: Config, path: Path) -> None:
        self._config, self._kafka, self._path = config, config.kafka, path
        self._topics = {config.kafka.jobs_topic: JOBS, config.kafka.stats_topic: STATS}
        self._writer = ThreadPoolExecutor(1, "view-writer")
        self._view: View | None = None
        self._spoiled = False
        self.generation = 0
        """Grows when the view is made anew; 0: there is none that can be read."""
        self.positions: Positions = {}
        self._first: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._connected, self._as_of_ms = False, 0
        self.changed: Callable[[Changes], None] = lambda _changes: None
        self.turned: Callable[[], None] = lambda: None

    @property
    def ready(self) -> bool:
        """Whether the view can be read."""
        return self._view is not None and not self._view.bulk

    async def open(self) -> None:
        """Open the view; one that was complete can be read from now on, also while the broker is away."""
        self._view = await self._in_writer(View, self._path)
        if self.ready:
            self.generation = 1

    def state(self) -> State:
        """How fresh the view is, now."""
        first = sum(self._first.values())
        read = sum(self.positions.get(self._place(tp), offset) for tp, offset in self._first.items())
        progress = None if self.ready else Progress(read=max(read - first, 0), total=sum(self._end.values()) - first)
        return State(
            now=_now(),
            connected=self._connected,
            as_of=times.to_text(self._as_of_ms) if self._as_of_ms and self.ready else None,
            behind=sum(max(end - self.positions.get(self._place(tp), 0), 0) for tp, end in self._end.items()),
            rebuilding=progress,
        )

    def unreadable(self) -> int:
        """Records that none of our workers wrote."""
        return self._view.unreadable if self._view is not None else 0

    async def run(self) -> None:
        """Until it is cancelled."""
        said = ""
        while True:
            heard = Heard()
            try:
                with heard:
                    consumer, tps = await self._connect()
                try:
                    said = ""
                    await self._follow(consumer, tps)
                finally:
                    await consumer.stop()
            except OffsetOutOfRangeError as error:  # the next round begins it anew
                log.warning("the topics have lost records: %s", error)
            except sqlite3.Error as error:
                log.exception("the view can't be written")
                # A full disk may have room again; what has no journal, or is damaged, is begun anew.
                self._spoiled = self._view_.bulk or not isinstance(error, sqlite3.OperationalError)
            except (KafkaError, OSError) as error:
                reason = f"no Kafka broker answers at {self._kafka.brokers}{heard}"
                if not isinstance(error, KafkaConnectionError):
                    reason = " ".join(str(error).split())
                if reason != said:
                    log.warning("%s; it is tried again", reason)
                said = reason
                self._turn(connected=False)
            await asyncio.sleep(RETRY_SECONDS)

    def spoil(self) -> None:
        """The view is damaged: begin it anew."""
        self._spoiled = True

    async def close(self) -> None:
        """Close the view; `run` has ended."""
        if self._view is not None:
            await self._in_writer(self._view.close)
        self._writer.shutdown()

    # ------------------------------------------------------------------ the consumer

    async def _connect(self) -> tuple[AIOKafkaConsumer, list[TopicPartition]]:
        consumer = AIOKafkaConsumer(
            **client_options(self._kafka),
            client_id="livejobs-web",
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=PARTITION_BYTES_MAX,
        )
        try:
            await consumer.start()
            await asyncio.sleep(0)  # aiokafka's tasks begin: it can't stop one that has not
            partitions = await self._partitions(consumer)
            tps = [TopicPartition(name, number) for name in self._topics for number in range(partitions)]
            # Before the consumer begins to fetch: it would make us wait for its long polls.
            self._first, self._end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            ids = await topic_ids.of(consumer._client, list(self._topics))  # noqa: SLF001
            await self._fit(Made(topics=list(self._topics), partitions=partitions, ids=ids))
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, self.positions.get(self._place(tp), self._first[tp]))
        except BaseException:
            await consumer.stop()
            raise
        return consumer, tps

    async def _partitions(self, consumer: AIOKafkaConsumer) -> int:
        # All topics are asked for: to ask for one by name makes it where brokers allow that.
        await consumer._client.force_metadata_update()  # noqa: SLF001
        counts = {name: len(consumer.partitions_for_topic(name) or ()) for name in self._topics}
        for name, count in counts.items():
            if not count:
                raise KafkaError(f"topic {name} is not there; make it with `livejobs topics create`")
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise KafkaError(f"these topics must have the same number of partitions, but have: {listed}")
        return next(iter(counts.values()))

    def _place(self, tp: TopicPartition) -> tuple[str, int]:
        return self._topics[tp.topic], tp.partition

    async def _fit(self, made: Made) -> None:
        """Begin the view anew if it does not fit what the topics hold; find where to go on."""
        view = self._view_
        fits = view.fits(made, await self._tombstones_ms()) and not self._spoiled
        self.positions = await self._in_writer(view.positions) if fits else {}
        for tp, first in self._first.items():
            place = self.positions.get(self._place(tp), first)
            if not first <= place <= self._end[tp]:
                reason = f"{tp.topic}/{tp.partition} has {first} to {self._end[tp]}, it had read up to {place}"
                log.warning("the view does not fit the topics: %s", reason)
                self.positions = {}
        if not self.positions:
            log.info("the view is made from the topics")
            view.bulk = True  # nobody begins to read it
            self.turned()
            await self._in_writer(view.begin, made)
            self._spoiled = False

    async def _tombstones_ms(self) -> float:
        """How long the topics tell of deletions."""
        try:
            return await topics.tombstones_ms(self._config)
        except topics.BrokerAwayError as error:
            raise KafkaError(str(error)) from error
        except topics.TopicsError:  # a viewer need not have that right
            return TOMBSTONES_MS

    # ------------------------------------------------------------------ following

    async def _follow(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        noted = 0.0
        while True:
            begin = time.monotonic()
            fetched = await consumer.getmany(timeout_ms=int(1000 * POLL_SECONDS))
            places = {tp: await consumer.position(tp) for tp in tps}
            moved = [tp for tp in tps if self.positions.get(self._place(tp)) != places[tp]]
            batches = [self._batch(tp, places[tp], fetched.get(tp, ())) for tp in moved]
            current = self._look(consumer, tps, places)
            note = current and time.monotonic() - noted > NOTE_SECONDS
            if batches or note:
                noted = time.monotonic() if current else noted
                await self._apply(batches, places, current=current)
            await self._settle(places)
            if self._spoiled:
                raise sqlite3.DatabaseError("a reader has found the view damaged")
            self._turn(connected=self._connected)
            if batches and not self._view_.bulk:
                await asyncio.sleep(max(0.0, begin + PAUSE_SECONDS - time.monotonic()))

    @property
    def _view_(self) -> View:
        assert self._view is not None  # noqa: S101  `_connect` has opened it
        return self._view

    def _batch(self, tp: TopicPartition, place: int, records: Any) -> Batch:
        pairs = [(record.key, record.value) for record in records if record.key is not None]
        return Batch(*self._place(tp), place, pairs)

    async def _apply(self, batches: list[Batch], places: dict[TopicPartition, int], *, current: bool) -> None:
        changes = await self._in_writer(lambda: self._view_.apply(batches, current=current))
        self.positions = {self._place(tp): place for tp, place in places.items()}
        if self.ready and changes:
            self.changed(changes)

    async def _settle(self, places: dict[TopicPartition, int]) -> None:
        """End the bulk load when all has been read that was there when it began."""
        if not self._view_.bulk or any(places[tp] < end for tp, end in self._end.items()):
            return
        log.info("all is read; indexes are made")
        await self._in_writer(self._view_.settle)
        self.generation += 1
        log.info("the view is made")
        self.turned()

    def _look(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition], places: dict[TopicPartition, int]) -> bool:
        """Note what the broker has said last; whether the view has, or is about to have, all of it."""
        heard_ms, current = time.time() * 1000, True
        for tp in tps:
            heard_ms = min(heard_ms, consumer.last_poll_timestamp(tp) or 0)
            end = consumer.last_stable_offset(tp)
            if end is not None and end >= 0:
                self._end[tp] = max(end, self._end[tp])
                current = current and places[tp] >= end
        self._connected = heard_ms > time.time() * 1000 - 1000 * AWAY_SECONDS
        if current and heard_ms:
            self._as_of_ms = int(heard_ms)
        return current and self._connected

    def _turn(self, *, connected: bool) -> None:
        turned = connected != self._told_connected
        self._connected = self._told_connected = connected
        if turned:
            self.turned()

    _told_connected = False

    async def _in_writer(self, call: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call, *values)


def _now() -> str:
    return times.to_text(int(time.time() * 1000))
