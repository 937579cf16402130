"""The tunnel's door for local processes: a Unix socket. The protocol is in `streams/framing.py`."""

import asyncio
import contextlib
import socket
from pathlib import Path

from livejobs.streams import framing
from livejobs.streams.framing import Answer, Greeting
from livejobs.streams.relay import Relay

CONNECTIONS_MAX = 500
"""Below the 1024 files that a process may commonly have open."""
REQUESTS_MAX = 64
"""Of one connection, not yet answered; further ones are not read."""
IDLE_SECONDS_MAX = 600.0
REQUEST_SECONDS_MAX = 30.0
"""For a client to send what it has begun, and to take its answers."""
BACKLOG = 512


class SocketDoor:
    """Takes requests from the connections of a listening socket, which it owns, and its file with it."""

    def __init__(self, relay: Relay, listener: socket.socket, path: Path) -> None:
        self._relay, self._listener, self._path = relay, listener, path
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def open(self) -> str:
        """Listen."""
        self._server = await asyncio.start_unix_server(
            self._come, sock=self._listener, limit=framing.LINE_BYTES_MAX, backlog=BACKLOG
        )
        return str(self._path)

    def shut(self) -> None:
        """Listen no longer, and read no more requests."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for connection in self._connections.values():
            connection.shut()

    async def leave(self) -> None:
        """Wait for the answers to be taken, in limited time, and close the connections."""
        tasks = set(self._connections)
        if tasks:
            await asyncio.wait(tasks, timeout=framing.LEAVE_SECONDS_MAX)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.write(framing.line(Greeting(error="busy")))
            writer.close()
            return
        connection = _Connection(self._relay, reader, writer)
        task = asyncio.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)


class _Connection:
    """One client: requests in, answers out in the same order."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay, self._reader, self._writer = relay, reader, writer
        self._answers: asyncio.Queue[asyncio.Future[Answer] | Answer | None] = asyncio.Queue(REQUESTS_MAX)
        self._reading: asyncio.Task[None] | None = None
        self._shut = False

    def shut(self) -> None:
        """Read no more; the answers still go out."""
        self._shut = True
        if self._reading is not None:
            self._reading.cancel()

    async def serve(self) -> None:
        """Until the client ends it, or we do. What is not answered then is sent again by the client."""
        self._writer.write(framing.line(Greeting(framing.VERSION)))
        self._reading = asyncio.create_task(self._read())
        try:
            with contextlib.suppress(OSError, TimeoutError):  # the client is gone, or does not read
                await self._answer()
        finally:
            self._shut = False
            self._reading.cancel()
            with contextlib.suppress(OSError):
                self._writer.close()

    async def _answer(self) -> None:
        while (item := await self._answers.get()) is not None:
            last = isinstance(item, Answer)
            self._writer.write(framing.line(item if isinstance(item, Answer) else await item))
            if last or self._answers.empty():
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    await self._writer.drain()
            if last:
                return

    async def _read(self) -> None:
        last: Answer | None = None
        try:
            while await self._take():
                pass
        except ValueError as error:
            last = Answer(error="bad-request", reason=str(error))
        except asyncio.CancelledError:
            if not self._shut:
                raise
            last = Answer(error="ending", reason="the tunnel ends")
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        await self._answers.put(last)

    async def _take(self) -> bool:
        """Take the next request; False at the end."""
        async with asyncio.timeout(IDLE_SECONDS_MAX):
            text = await framing.read_line(self._reader)
        if not text:
            return False
        request = framing.request(text)
        await self._relay.room(request.size)
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                body = await self._reader.readexactly(request.size)
        except BaseException:
            self._relay.unused(request.size)
            raise
        await self._answers.put(self._relay.put(request, body))
        return True
