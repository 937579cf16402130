"""A client of the tunnel, for a program that publishes more than now and then.

    async with await tunnel_client.connect("/run/livejobs/tunnel.sock") as tunnel:
        answer = await tunnel.publish("job-live", "nightly/core_17", body)

What is answered as sent or kept is safe. When the tunnel is gone, what has no answer must be sent again in another way,
as `livejobs publish` does. Needs msgspec only.
"""

import asyncio
import contextlib
from collections import deque
from os import PathLike
from types import TracebackType
from typing import Self

from livejobs.streams import framing
from livejobs.streams.framing import Answer, Request

GREETING_SECONDS_MAX = 2.0
ANSWER_SECONDS_MAX = 60.0
"""Much more than it takes the tunnel to give up on a broker and to write to a disk."""
WAITING_BYTES_MAX = 8 * 1024 * 1024
WAITING_MAX = 32
"""Less than the tunnel reads ahead of its answers: so both never wait for each other."""


class TunnelGoneError(Exception):
    """There is no tunnel, or it does not answer any more: one line that says why."""


async def connect(path: str | PathLike[str]) -> "TunnelClient":
    """A client of the tunnel that listens at `path`. Raises TunnelGoneError."""
    try:
        async with asyncio.timeout(GREETING_SECONDS_MAX):
            reader, writer = await asyncio.open_unix_connection(path, limit=framing.LINE_BYTES_MAX)
            try:
                greeting = framing.greeting(await framing.read_line(reader))
            except BaseException:
                writer.close()
                raise
    except TimeoutError as error:
        raise TunnelGoneError(f"no tunnel at {path}: no answer in time") from error
    except (OSError, ValueError) as error:
        raise TunnelGoneError(f"no tunnel at {path}: {error}") from error
    if greeting.error is not None or greeting.tunnel != framing.VERSION:
        writer.close()
        raise TunnelGoneError(f"the tunnel at {path} takes nothing: {greeting.error or 'another version'}")
    return TunnelClient(reader, writer)


class TunnelClient:
    """A connection to the tunnel; an async context manager. Requests keep their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: deque[tuple[asyncio.Future[Answer], int]] = deque()
        self._bytes = 0
        self._answered = asyncio.Event()
        self._gone: str | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._receiving = asyncio.create_task(self._receive())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiving
        self._writer.close()

    async def publish(
        self, kind: str, regression: str, body: bytes, *, lines: bool = False, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a message, or with `lines` one for each line of `body`; the answer. Raises TunnelGoneError."""
        return await (await self.send(kind, regression, body, lines=lines, headers=headers))

    async def send(
        self, kind: str, regression: str, body: bytes, *, lines: bool = False, headers: dict[str, str] | None = None
    ) -> asyncio.Future[Answer]:
        """As `publish`, without waiting for the answer: the future is it. Waits while too many are not answered."""
        while self._gone is None and (len(self._waiting) >= WAITING_MAX or self._bytes > WAITING_BYTES_MAX):
            self._answered.clear()
            await self._answered.wait()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._gone is None:
            self._waiting.append((future, len(body)))
            self._bytes += len(body)
            if len(self._waiting) == 1:
                self._watch()
            self._writer.write(framing.line(Request(kind, regression, len(body), lines, headers or {})) + body)
            with contextlib.suppress(OSError):  # `_receive` notices it, too
                await self._writer.drain()
        else:
            future.set_exception(TunnelGoneError(self._gone))
        return future

    async def _receive(self) -> None:
        reason = "it is closed"
        try:
            while True:
                await self._receive_one()
        except TimeoutError:
            reason = f"the tunnel does not answer within {ANSWER_SECONDS_MAX:g} s"
        except (OSError, ValueError) as error:
            reason = f"the tunnel is gone: {error}"
        finally:
            self._gone = reason
            for future, _ in self._waiting:
                if not future.done():
                    future.set_exception(TunnelGoneError(reason))
                    future.exception()  # not everybody asks
            self._answered.set()

    async def _receive_one(self) -> None:
        async with asyncio.timeout(None) as self._limit:
            self._watch()
            text = await framing.read_line(self._reader)
        if not text:
            raise ValueError("it has closed the connection")
        answer = framing.answer(text)
        if answer.error is not None or not self._waiting:
            raise ValueError(answer.reason or "an answer to nothing")
        future, size = self._waiting.popleft()
        self._bytes -= size
        if not future.done():
            future.set_result(answer)
        self._answered.set()

    def _watch(self) -> None:
        """Limit the time of the next answer, where one is to come."""
        if self._waiting and self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX)
