"""What streams look at: a question, its newest answer, and what of it has changed since when.

All streams with the same question share one watch. A watch keeps the newest state of each row and when it changed, so
a stream gets what has changed since it was served last, however long ago that is: there is no queue.
"""

import asyncio
import contextlib
import logging
import time

import msgspec

from livejobs.streams.web import answers
from livejobs.streams.web.problems import Problem
from livejobs.streams.web.readers import Readers
from livejobs.streams.web.resources import Asked
from livejobs.tables.listing import Page

FRAMES_CACHED_MAX = 50

log = logging.getLogger("livejobs.web")
_encode = msgspec.json.encode


class Clock:
    """Counts the answers that changed: what a watch knows of when is a number of it."""

    def __init__(self) -> None:
        self.now = 0

    def tick(self) -> int:
        """The next number."""
        self.now += 1
        return self.now


class Watch:
    """A question with its newest answer."""

    def __init__(self, asked: Asked, readers: Readers, clock: Clock) -> None:
        self.asked, self._readers, self._clock = asked, readers, clock
        self._wakes: set[asyncio.Event] = set()
        self.left_at = time.monotonic()
        self._born = 0  # since when changes are known; 0: there is no answer yet
        self._status = 200
        self._document: bytes = b""
        self._document_at = 0
        self._page: Page | None = None
        self._rows: dict[str, bytes] = {}
        self._rows_at: dict[str, int] = {}
        self._order: list[str] = []
        self._order_at = 0
        self.changed_at = 0
        self._frames: dict[int, bytes] = {}
        self._poked, self._wanted = asyncio.Event(), asyncio.Event()
        self._poked.set()
        self.task = asyncio.create_task(self._run())

    def poke(self) -> None:
        """Something that concerns it has changed."""
        self._poked.set()

    def forget(self) -> None:
        """Nothing of what it knows is of use: the view is another one, or there is none."""
        self._born = 0
        self._poked.set()
        self._want()

    def enter(self, wake: asyncio.Event) -> None:
        """A stream begins to look; `wake` is set at each change."""
        self._wakes.add(wake)
        self._want()

    def leave(self, wake: asyncio.Event) -> None:
        """A stream ends."""
        self._wakes.discard(wake)
        self.left_at = time.monotonic()
        self._want()

    @property
    def is_seen(self) -> bool:
        """Whether a stream looks at it."""
        return bool(self._wakes)

    def _want(self) -> None:
        if self._wakes and self._readers.generation:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def _run(self) -> None:
        pause = self.asked.resource.pause_seconds
        while True:
            await self._poked.wait()
            await self._wanted.wait()
            self._poked.clear()
            begin = time.monotonic()
            await self._look()
            # One that is slow must leave time for the others.
            await asyncio.sleep(max(pause, time.monotonic() - begin))

    async def _look(self) -> None:
        status, answer = 200, None
        try:
            answer = await self._readers.read(self.asked)
        except Problem as problem:
            status, answer = problem.status, problem.body()
        except Exception:
            log.exception("a watched question failed")
            status, answer = 500, Problem(500, "the question failed; the service's log says why").body()
        if self._take(status, answer):
            self._frames.clear()
            for wake in self._wakes:
                wake.set()

    def _take(self, status: int, answer: Page | bytes) -> bool:
        """Note an answer; whether it is another one."""
        if not self._born or status != self._status or isinstance(answer, Page) != (self._page is not None):
            self._born = self.changed_at = self._document_at = self._order_at = self._clock.tick()
            self._status = status
            self._set(answer, self._born)
            return True
        if isinstance(answer, bytes):
            if answer == self._document:
                return False
            self._document = answer
            self._document_at = self.changed_at = self._clock.tick()
            return True
        return self._take_page(answer)

    def _set(self, answer: Page | bytes, at: int) -> None:
        if isinstance(answer, bytes):
            self._page, self._document = None, answer
            return
        self._page = answer
        self._rows = dict(answer.rows)
        self._rows_at = dict.fromkeys(self._rows, at)
        self._order = [name for name, _ in answer.rows]

    def _take_page(self, page: Page) -> bool:
        assert self._page is not None  # noqa: S101  `_take` has looked
        rows, order = dict(page.rows), [name for name, _ in page.rows]
        moved, aside = order != self._order, page[1:] != self._page[1:]
        changed = [name for name, row in rows.items() if self._rows.get(name) != row]
        if not (moved or aside or changed):
            return False
        at = self.changed_at = self._clock.tick()
        known = self._rows_at
        self._rows_at = {name: known.get(name, at) for name in order}
        self._rows_at.update(dict.fromkeys(changed, at))
        self._page, self._rows, self._order = page, rows, order
        if moved:
            self._order_at = at
        return True

    # ------------------------------------------------------------------ for a stream

    def frame(self, place: int, since: int) -> tuple[str, bytes] | None:
        """What a stream that was served at `since` needs: an event's name and data; None: nothing, or not yet."""
        if not self._born or self.changed_at <= since:
            return None
        body = self._frames.get(since)
        name = "snapshot" if since < self._born else "change"
        if body is None:
            body = self._snapshot() if name == "snapshot" else self._change(since)
            if len(self._frames) < FRAMES_CACHED_MAX:
                self._frames[since] = body
        return name, b'{"watch":%d,%b' % (place, body)

    def _snapshot(self) -> bytes:
        answer = self._page if self._page is not None else self._document
        return b'"status":%d,"body":%b}' % (self._status, answers.whole(answer))

    def _change(self, since: int) -> bytes:
        if self._page is None:
            return self._snapshot()
        rows = [self._rows[name] for name, at in self._rows_at.items() if at > since]
        order = _encode(self._order) if self._order_at > since else b"null"
        return b'"rows":[%b],"order":%b,%b' % (b",".join(rows), order, answers.tail(self._page))

    async def close(self) -> None:
        """End it."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
