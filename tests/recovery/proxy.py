"""A TCP proxy before a broker: what goes through it can be slow, torn, or go nowhere.

`ProxiedBroker` has a second door, which tells its clients the proxy's address: a worker that comes through it talks to the broker through the proxy only, all others directly.
"""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any, Self

from harness import Background

from livejobs.streams.kafka.broker import Broker, free_port

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Passes bytes between its port and the broker's; the attributes may be changed at any time."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.port, self._target = port, target
        self.delay_seconds_max = 0.0
        """Each piece of data waits for a while up to this."""
        self.open = asyncio.Event()
        self._draw = random.Random(seed)
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._background = Background()

    def __enter__(self) -> Self:
        self._server = self._background.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._background.run(self._stop())
        self._background.close()

    async def _start(self) -> asyncio.Server:
        self.open.set()
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        self._server.close()
        self.open.set()
        while self._tasks:
            self._abort_all()
            await asyncio.wait(self._tasks, timeout=0.1)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refuses:
            writer.transport.abort()
            return
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers |= {writer, there}
            ways = [asyncio.ensure_future(self._pass(reader, there)), asyncio.ensure_future(self._pass(back, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the broker is away: so are we
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_seconds_max:
                    await asyncio.sleep(self._draw.uniform(0, self.delay_seconds_max))
                await self.open.wait()
                writer.write(data)
                await writer.drain()

    # ------------------------------------------------------------------ the faults

    def tear(self) -> None:
        """Reset all connections; new ones are taken."""
        self._call(self._abort_all)

    def refuse(self) -> None:
        """Reset all connections, and each new one."""
        self._refuses = True
        self.tear()

    def swallow(self) -> None:
        """Let nothing through, and say nothing: a cable that is cut."""
        self._call(self.open.clear)

    def heal(self) -> None:
        """Be a good network again; what was swallowed arrives, late."""
        self._refuses = False
        self.delay_seconds_max = 0.0
        self._call(self.open.set)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _call(self, what: Any) -> None:
        async def call() -> None:
            what()

        self._background.run(call())


class ProxiedBroker(Broker):
    """A broker with a second door behind a proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(free_port(), folder)
        self._inner_port, self.proxy_port = free_port(), free_port()

    def proxy(self, seed: int) -> Proxy:
        """The proxy before the second door."""
        return Proxy(self.proxy_port, self._inner_port, seed)

    def _settings(self) -> dict[str, str]:
        own = super()._settings()
        return {
            **own,
            "listeners": f"{own['listeners']},FAR://127.0.0.1:{self._inner_port}",
            "advertised.listeners": f"{own['advertised.listeners']},FAR://127.0.0.1:{self.proxy_port}",
            "listener.security.protocol.map": own["listener.security.protocol.map"] + ",FAR:PLAINTEXT",
        }
