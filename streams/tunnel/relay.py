"""The heart of the tunnel: requests in, in their order to the broker or into the spool, and only then answered.

While the broker takes messages, and nothing is in the spool, requests are sent, all that have come in the meantime
together, and answered when the broker has acknowledged them. When it takes no more, what has no acknowledgement goes
into the spool, with one sync for all that has come, and is answered then. The spool is sent as soon as the broker is
back, and everything that comes meanwhile goes behind it; only when it is empty are requests sent directly again. So no
message overtakes another one of its regression.

What is not answered is not promised: a client that gets no answer sends again in another way, maybe something newer
behind it. So what its client no longer waits for is neither sent nor kept.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from livejobs.streams.config import Config, ConfigError
from livejobs.streams.core import messages
from livejobs.streams.publisher.outgoing import Headers, Lines, Message, Source, checked
from livejobs.streams.publisher.producer import BrokerAwayError
from livejobs.streams.publisher.publish import Publisher, Undelivered
from livejobs.streams.publisher.spool import CHUNK_BYTES, Say, Spool, SpoolError, SpoolFullError
from livejobs.streams.tunnel.answer import ERRORS_MAX, Answer, Error

QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""Of all requests that are not answered yet; further ones are not read."""
GROUP_BYTES_MAX = 4 * 1024 * 1024
REQUEST_OVERHEAD_BYTES = 1024
"""Memory of a request beside its body, about."""
REQUEST_SECONDS_MAX = 40.0
"""How old a request may be when it is sent or kept. Our client waits longer."""
DELIVERY_SECONDS = 10.0
"""With a spool nothing is lost by giving up soon."""
PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 5.0
LINES_SAID_MAX = 20
LOOK_SECONDS = 1.0
"""How often we look whether another process has put something into the spool, and whether a disk that failed works."""


class Request(NamedTuple):
    """A message, or with `lines` one a line of `body`, to be taken until `deadline` (the event loop's time)."""

    kind: str
    regression: str
    body: bytes
    lines: bool
    headers: Headers
    deadline: float


class Work:
    """A request at work: what of its messages is still to be taken, and its answer, `done` when it may be given."""

    def __init__(self, number: int, request: Request) -> None:
        kind, regression, body, lines, headers, self._deadline = request
        self.size = len(body) + REQUEST_OVERHEAD_BYTES
        self.answer = Answer()
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.good = 0
        self.rest: Iterator[Message] = iter(())
        name = str(number)
        try:
            if lines:
                self.rest = Lines(kind, regression, body, Source(name, 1), self._refuse, headers=headers)
            else:
                self.rest = iter([checked(kind, regression, body, headers, Source(name))])
        except messages.Reject as reject:
            self._refuse(Source(name), reject)

    def _refuse(self, source: Source, reject: messages.Reject) -> None:
        self.answer.bad += 1
        if len(self.answer.errors) < ERRORS_MAX:
            self.answer.errors.append(Error(source.line, reject.code, reject.message))

    def is_void(self) -> bool:
        """Whether its client waits no longer, as far as we know: we may have been frozen."""
        return self.done.cancelled() or asyncio.get_running_loop().time() > self._deadline

    def finish(self, reason: str) -> None:
        """All is decided: the answer may be given."""
        self.answer.sent = self.good - self.answer.kept - self.answer.refused
        if self.answer.kept or self.answer.refused:
            self.answer.reason = reason
        if not self.done.done():
            self.done.set_result(self.answer)


def _rest(works: list[Work]) -> list[Message]:
    """What is still to be taken. Many lines take long to check: not for the event loop."""
    rest: list[Message] = []
    for work in works:
        before = len(rest)
        rest += work.rest
        work.good += len(rest) - before
    return rest


class Relay:
    """Takes requests. `run` does the work, until `close` ends it; `spool` must be one that we send (`try_to_send`).

    `say` gets a line when the way to the broker opens or closes, and when the spool is full.
    """

    def __init__(self, config: Config, spool: Spool, say: Say) -> None:
        self._kafka, self._spool, self._say = config.kafka, spool, say
        self._queue: deque[tuple[int, Work]] = deque()
        self._numbers = 0
        self._bytes = 0
        self._came, self._freed, self._lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._order = asyncio.Lock()
        """Held by whoever decides about the order: a group on its way, or the end of the spool."""
        self._publisher: Publisher | None = None
        """Where requests go directly; None: into the spool. `_open` tells whether that still holds."""
        self._connected: Publisher | None = None
        self._reason = "the broker has not answered yet"
        self._full: str | None = None
        """Why the spool takes nothing, until `_full_until`."""
        self._full_until = math.inf
        self._refused = 0
        self._said: set[str] = set()
        self._closing = False
        self.settled = asyncio.Event()
        """Set when it is known for the first time whether the broker takes messages."""

    async def room(self, size: int) -> None:
        """Reserve the memory of a request; waits where there is too little. `put` or `unused` must follow."""
        size += REQUEST_OVERHEAD_BYTES
        while self._bytes and self._bytes + size > QUEUE_BYTES_MAX:
            self._freed.clear()
            await self._freed.wait()
        self._bytes += size

    def unused(self, size: int) -> None:
        """The memory reserved for a request that did not come."""
        self._free(size + REQUEST_OVERHEAD_BYTES)

    def put(self, request: Request) -> asyncio.Future[Answer]:
        """Take a request with reserved memory; the future is its answer. Cancelled: nobody waits for it."""
        self._numbers += 1
        work = Work(self._numbers, request)
        self._queue.append((self._numbers, work))
        self._came.set()
        return work.done

    async def run(self) -> None:
        """Work until `close` is called and all requests are answered."""
        async with asyncio.TaskGroup() as tasks:
            link = tasks.create_task(self._link())
            while group := await self._group():
                async with self._order:
                    reason = await self._process(group)
                for work in group.values():
                    work.finish(reason)
                    self._free(work.size)
            link.cancel()

    def close(self) -> None:
        """Let `run` end when all that was put is answered."""
        self._closing = True
        self._came.set()

    def hurry(self) -> None:
        """Wait no longer for the broker: what it has not acknowledged goes into the spool."""
        if self._connected is not None:
            self._connected.give_up("the tunnel ends")

    def _free(self, size: int) -> None:
        self._bytes -= size
        self._freed.set()

    async def _group(self) -> dict[str, Work]:
        """The oldest requests, by their numbers; empty when there will be none."""
        while not self._queue and not self._closing:
            self._came.clear()
            await self._came.wait()
        group: dict[str, Work] = {}
        size = 0
        while self._queue and (not group or size + self._queue[0][1].size <= GROUP_BYTES_MAX):
            number, work = self._queue.popleft()
            group[str(number)] = work
            size += work.size
        return group

    async def _process(self, group: dict[str, Work]) -> str:
        """Send or keep a group, and note that in the answers; returns why not all was sent."""
        left: list[Message] = []
        publisher = await self._open()
        if publisher is not None:
            try:
                await self._send(publisher, group)
            except Undelivered as error:
                left = error.messages
                self._lose(str(error))
        left += await asyncio.to_thread(_rest, list(group.values()))
        if left:
            await self._keep(group, left)
        return self._full or self._reason

    async def _open(self) -> Publisher | None:
        """Where requests go directly; None while the spool holds something, which another process may have kept."""
        if self._publisher is not None:
            try:
                if not await asyncio.to_thread(self._spool.is_empty):
                    self._publisher, self._reason = None, f"what is in {self._spool.path} is sent first"
            except SpoolError as error:
                self._publisher, self._reason = None, str(error)
        return self._publisher

    async def _send(self, publisher: Publisher, group: dict[str, Work]) -> None:
        """Raises Undelivered."""
        for work in group.values():
            if work.is_void():
                continue
            before = publisher.taken
            try:
                await publisher.post_all(work.rest)
            finally:
                work.good += publisher.taken - before
        await publisher.flush()

    async def _keep(self, group: dict[str, Work], left: list[Message]) -> None:
        """Into the spool, those that fit in: the first ones. What does not is refused."""
        wanted = [message for message in left if not group[message.source.name].is_void()]
        kept = 0
        now = asyncio.get_running_loop().time()
        if self._full is None or now > self._full_until:
            try:
                await asyncio.to_thread(self._spool.append, wanted)
                kept, self._full = len(wanted), None
            except SpoolFullError as error:
                # Until there is room, also what would fit in is refused: it would overtake what was.
                kept, self._full, self._full_until = error.kept, str(error), math.inf
            except SpoolError as error:
                self._full, self._full_until = str(error), now + LOOK_SECONDS
        if self._full is not None:
            self._tell(f"{self._full}; messages are refused")
        self._refused += len(wanted) - kept
        for message in left:
            group[message.source.name].answer.refused += 1
        for message in wanted[:kept]:
            answer = group[message.source.name].answer
            answer.kept, answer.refused = answer.kept + 1, answer.refused - 1

    def _lose(self, reason: str) -> None:
        self._reason = reason
        self._publisher = None
        self._lost.set()
        self._tell(f"{reason}; what comes is kept in {self._spool.path}")

    def _tell(self, line: str) -> None:
        """Say it, once until the broker takes messages again."""
        if line not in self._said and len(self._said) < LINES_SAID_MAX:
            self._said.add(line)
            self._say(line)

    async def _link(self) -> None:
        """Keep the way to the broker open, and send what is in the spool."""
        pause = PAUSE_SECONDS
        while True:
            try:
                async with Publisher(self._kafka, delivery_seconds=DELIVERY_SECONDS) as self._connected:
                    self._lost.clear()
                    while not self._lost.is_set():
                        await self._drain(self._connected)
                        pause = PAUSE_SECONDS
                        await self._wait_for_a_change(self._connected)
            except (BrokerAwayError, ConfigError, SpoolError) as error:
                self._reason = str(error)
                self._tell(f"{error}; what comes is kept in {self._spool.path}")
            self._connected = None
            self.settled.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _drain(self, publisher: Publisher) -> None:
        """Send the spool until it is empty, and from then on directly. Raises BrokerAwayError, SpoolError."""
        sent = 0
        while await asyncio.to_thread(self._spool.backlog_bytes) > CHUNK_BYTES:
            sent += await self._drain_chunk(publisher)
        # The rest with nothing coming behind it: else there would be no end while messages keep coming.
        async with self._order:
            while not await asyncio.to_thread(self._spool.is_empty):
                sent += await self._drain_chunk(publisher)
            self._full, self._publisher = None, publisher
        self.settled.set()
        refused, self._refused = self._refused, 0
        told = (f"{sent:,} messages from the spool are sent", f"{refused:,} were refused")
        more = "".join(f"; {part}" for part, count in zip(told, (sent, refused), strict=True) if count)
        self._said.clear()
        self._say(f"sending to {self._kafka.brokers}{more}")

    async def _drain_chunk(self, publisher: Publisher) -> int:
        oldest, offset = await asyncio.to_thread(self._spool.first)
        await publisher.post_all(iter(oldest))
        await publisher.flush()
        await asyncio.to_thread(self._spool.sent_up_to, offset)
        if await asyncio.to_thread(self._spool.shorten):
            self._full = None
        return len(oldest)

    async def _wait_for_a_change(self, publisher: Publisher) -> None:
        """Return when requests no longer go directly: the broker is gone, or another process has kept something."""
        while self._publisher is publisher:
            try:
                await asyncio.wait_for(self._lost.wait(), LOOK_SECONDS)
            except TimeoutError:
                async with self._order:
                    await self._open()
