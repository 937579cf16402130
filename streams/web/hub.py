"""Streams of server-sent events, and the watches that they share."""

import asyncio
import base64
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from livejobs.streams.web.ingest import State
from livejobs.streams.web.problems import unavailable
from livejobs.streams.web.readers import Readers
from livejobs.streams.web.resources import Asked
from livejobs.streams.web.watches import Clock, Watch
from livejobs.tables.view import Changes, Positions

STREAMS_MAX = 500
WATCHES_MAX = 2000
"""Of all streams together, and of those that have just ended."""
LINGER_SECONDS = 60.0
"""A watch that nobody looks at is kept so long, for streams that are resumed."""
PAUSE_SECONDS = 0.25
"""From one group of events of a stream to the next."""
HEARTBEAT_SECONDS = 5.0
RETRY_MS = 2000
ID_BYTES_MAX = 600
"""Offsets beyond are left out of an id."""


class Hub:
    """All streams and watches of the service."""

    def __init__(self, readers: Readers, state: Callable[[], State], positions: Callable[[], Positions]) -> None:
        self._readers, self._state, self._positions = readers, state, positions
        self._clock = Clock()
        self._watches: dict[Asked, Watch] = {}
        self._streams: set[Stream] = set()
        self._instance = secrets.token_hex(6)
        self.closing = False

    # ------------------------------------------------------------------ what happens

    def changed(self, changes: Changes) -> None:
        """The view has changed."""
        for asked, watch in self._watches.items():
            if asked.is_concerned(changes):
                watch.poke()

    def turned(self) -> None:
        """The state of the view has turned."""
        for stream in self._streams:
            stream.turn()

    def renewed(self, generation: int) -> None:
        """The view is another one; 0: there is none."""
        self._readers.generation = generation
        for watch in self._watches.values():
            watch.forget()

    async def sweep(self) -> None:
        """Drop watches that nobody looks at, for ever."""
        while True:
            await asyncio.sleep(LINGER_SECONDS / 4)
            limit = time.monotonic() - LINGER_SECONDS
            for asked, watch in list(self._watches.items()):
                if not watch.is_seen and watch.left_at < limit:
                    del self._watches[asked]
                    await watch.close()

    async def close(self) -> None:
        """End all streams at once, then the watches."""
        self.closing = True
        for stream in self._streams:
            stream.wake.set()
        for watch in list(self._watches.values()):
            await watch.close()

    # ------------------------------------------------------------------ streams

    def open(self, questions: Sequence[Asked], last: str | None) -> "Stream":
        """A stream; `last` is the id that it was served last. Raises Problem."""
        new = {asked for asked in questions if asked not in self._watches}
        if self.closing or len(self._streams) >= STREAMS_MAX or len(self._watches) + len(new) > WATCHES_MAX:
            raise unavailable(f"too many streams; {STREAMS_MAX} are allowed at a time", 10)
        watches = []
        for asked in questions:
            watch = self._watches.get(asked)
            if watch is None:
                watch = self._watches[asked] = Watch(asked, self._readers, self._clock)
            watches.append(watch)
        return Stream(self, watches, self._since(last))

    def _since(self, last: str | None) -> int:
        """When an id of ours was given; 0: it is none of ours."""
        match = re.match(rf"{self._instance}\.([0-9]{{1,15}})\.", last or "")
        number = int(match[1]) if match is not None else 0
        return number if number <= self._clock.now else 0

    def id(self) -> bytes:
        """An id for what has been sent up to now."""
        vector = bytearray()
        for offset in self._positions().values():
            while offset > 127:  # noqa: PLR2004  seven bits a byte
                vector.append(offset & 127 | 128)
                offset >>= 7  # noqa: PLW2901
            vector.append(offset)
            if len(vector) > ID_BYTES_MAX:
                break
        text = base64.urlsafe_b64encode(vector).rstrip(b"=")
        return f"{self._instance}.{self._clock.now}.".encode() + text

    def state(self) -> bytes:
        """The state of the view as an event."""
        return event(b"state", msgspec.json.encode(self._state()))

    def add(self, stream: "Stream") -> None:
        """A stream begins to be read."""
        self._streams.add(stream)
        for watch in stream.watches:
            watch.enter(stream.wake)

    def remove(self, stream: "Stream") -> None:
        """A stream ends."""
        self._streams.discard(stream)
        for watch in stream.watches:
            watch.leave(stream.wake)


class Stream:
    """The events for one reader. A slow one gets less often what is new, never what was."""

    def __init__(self, hub: Hub, watches: Sequence[Watch], since: int) -> None:
        self._hub, self.watches = hub, list(watches)
        self._since = [since] * len(watches)
        self.wake = asyncio.Event()
        self._turned = True

    def turn(self) -> None:
        """The state of the view has turned."""
        self._turned = True
        self.wake.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Until the reader goes or the hub closes."""
        hub = self._hub
        hub.add(self)
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            heartbeat = 0.0
            while not hub.closing:
                self.wake.clear()
                group = self._group()
                now = time.monotonic()
                if self._turned or now >= heartbeat:
                    self._turned, heartbeat = False, now + HEARTBEAT_SECONDS
                    group.insert(0, hub.state())
                if group:
                    yield b"".join(group)
                    await asyncio.sleep(PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(heartbeat - time.monotonic(), 0)):
                        await self.wake.wait()
        finally:
            hub.remove(self)

    def _group(self) -> list[bytes]:
        """Events for all that has changed; the last one has the id."""
        found = []
        for place, watch in enumerate(self.watches):
            frame = watch.frame(place, self._since[place])
            if frame is not None:
                found.append(frame)
                self._since[place] = watch.changed_at
        events = [event(name.encode(), data) for name, data in found]
        if found:
            name, data = found[-1]
            events[-1] = event(name.encode(), data, self._hub.id())
        return events


def event(name: bytes, data: bytes, id_: bytes | None = None) -> bytes:
    """A server-sent event; the data has no line breaks, for it is JSON."""
    head = b"id: %b\n" % id_ if id_ is not None else b""
    return b"%bevent: %b\ndata: %b\n\n" % (head, name, data)
