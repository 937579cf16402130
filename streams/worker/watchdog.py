"""The watchdog: a worker that no longer works ends, with a reason, and its supervisor starts it anew.

It looks at what the worker does, not at what its parts believe: are messages in the topic, and is none applied? A
thread looks, so that an event loop that is stuck can't hide it. What the broker is to blame for is no reason to end,
since a restart would not help: then the worker is not ready, and goes on when the broker is back.
"""

import asyncio
import collections
import faulthandler
import logging
import threading
import time
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from livejobs.streams.kafka.client import client_options

if TYPE_CHECKING:
    from livejobs.streams.worker.commit import Partition
    from livejobs.streams.worker.worker import Worker

STALL_SECONDS = 120.0
"""So long may a partition with messages waiting apply none, a restore not move, a worker be no member of its group, an
event loop not answer."""
BROKER_SECONDS = 5.0
"""A broker that has not answered for so long is away; less than a session, after which others have our partitions."""
LOOK_SECONDS = 1.0
ASK_SECONDS = 2.0
"""Between two questions to the broker how long the partitions are."""

log = logging.getLogger("livejobs.watchdog")


class StalledError(Exception):
    """The worker no longer works: one line that says what stands still, and since when."""


class Pulse:
    """Whether an event loop answers, asked from another thread."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._lags: collections.deque[float] = collections.deque(maxlen=60)

    def ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask, unless an answer is still due."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._lags.append(self.due_seconds)
        self._asked_at = None

    @property
    def due_seconds(self) -> float:
        """Since when an answer is due; 0: none is."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    @property
    def lag_seconds(self) -> float:
        """The longest that an answer took, of the last ones."""
        return max([self.due_seconds, *self._lags])


class Watchdog:
    """Watches one worker. `stalled` is why it must end; `away_seconds` since when no broker answers."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.pulses: dict[str, Pulse] = collections.defaultdict(Pulse)
        self.ends: dict[int, int] = {}
        """Partition -> the offset behind its last message, as the broker last said."""
        self._level_at: dict[int, float] = {}  # partition -> when it last had nothing waiting
        now = time.monotonic()
        self._answered_at = self._back_at = self._member_at = now

    # ------------------------------------------------------------------ what it knows

    @property
    def away_seconds(self) -> float:
        """Since when no broker answers."""
        return time.monotonic() - self._answered_at

    @property
    def away(self) -> bool:
        """Whether the broker is to be taken for away."""
        return self.away_seconds > BROKER_SECONDS

    def lag(self, partition: "Partition") -> int:
        """Messages of the topic that are not applied; what a transaction adds to the topic for itself is none."""
        end = self.ends.get(partition.number, 0)
        if not partition.queued_records and self._worker.next_to_fetch(partition.number) >= end:
            return 0
        return max(partition.queued_records, end - partition.next_offset)

    def stalled(self) -> str | None:
        """Why the worker must end: one line, or None."""
        now = time.monotonic()
        for name, pulse in list(self.pulses.items()):
            if pulse.due_seconds > STALL_SECONDS:
                return f"the {name} event loop has answered nothing for {pulse.due_seconds:.0f} s"
        for partition in list(self._worker.ready.values()):
            waits = self.lag(partition)
            if not waits:
                self._level_at[partition.number] = now
            since = max(partition.moved_at, self._level_at.get(partition.number, 0.0), self._back_at)
            if not self.away and now - since > STALL_SECONDS:
                return f"partition {partition.number} has applied none of {waits} messages for {now - since:.0f} s"
        for number, moved_at in list(self._worker.opening.items()):
            since = max(moved_at, self._back_at)
            if not self.away and now - since > STALL_SECONDS:
                return f"partition {number} is being opened, and nothing has moved for {now - since:.0f} s"
        since = max(self._member_at, self._back_at)
        if not self.away and now - since > STALL_SECONDS:
            return f"no member of its group for {now - since:.0f} s"
        return None

    # ------------------------------------------------------------------ how it looks

    def start(self) -> None:
        """Look from now on, in a thread."""
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    def _look(self) -> None:
        while True:
            # Should something hold Python's lock for so long, this ends the process all the same.
            faulthandler.dump_traceback_later(STALL_SECONDS + LOOK_SECONDS, exit=True)
            time.sleep(LOOK_SECONDS)
            for name, loop in self._worker.loops().items():
                self.pulses[name].ask(loop)
            if self._worker.is_member():
                self._member_at = time.monotonic()
            reason = self.stalled()
            if reason is not None:
                faulthandler.dump_traceback()
                self._worker.fail(StalledError(reason))

    async def ask_broker(self) -> None:
        """Ask the broker how long the partitions are, again and again, over connections of its own."""
        consumer: AIOKafkaConsumer | None = None
        while True:
            try:
                if consumer is None:
                    consumer = await self._connected()
                tps = [TopicPartition(self._worker.topic, number) for number in self._worker.ready]
                ends = await consumer.end_offsets(tps or [TopicPartition(self._worker.topic, 0)])
                now = time.monotonic()
                if self.away:
                    self._back_at = now
                self._answered_at = now
                self.ends = {tp.partition: end for tp, end in ends.items()}
            except (KafkaError, OSError) as error:
                log.warning("no broker answers: %s", error)
            await asyncio.sleep(ASK_SECONDS)

    async def _connected(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._worker.config.kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            request_timeout_ms=int(BROKER_SECONDS * 1000),
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer
