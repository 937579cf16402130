"""Readers of the view in a few threads: the event loop waits for none of them."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from livejobs.streams.web.problems import unavailable
from livejobs.streams.web.resources import Asked
from livejobs.tables.listing import Page
from livejobs.tables.queries import Reader

THREADS = 3
WAITING_MAX = 200
"""Questions that wait for a reader; one more is refused."""


class Readers:
    """Answers questions from the view; tells `damaged` when that can't be read."""

    def __init__(self, path: Path, damaged: Callable[[], None]) -> None:
        self._path, self._damaged = path, damaged
        self._threads = ThreadPoolExecutor(THREADS, "view-reader")
        self._own = threading.local()
        self._all: list[Reader] = []
        self._waiting = 0
        self.generation = 0
        """Of the view that can be read; 0: there is none."""

    async def read(self, asked: Asked) -> Page | bytes:
        """The answer. Raises Problem."""
        if not self.generation:
            raise unavailable("the view is being made from the topics; /health says how far it is", 2)
        if self._waiting >= WAITING_MAX:
            raise unavailable("too many requests at a time", 1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, asked, self.generation)
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                self._damaged()
            raise
        finally:
            self._waiting -= 1

    def _read(self, asked: Asked, generation: int) -> Page | bytes:
        own = self._own
        if getattr(own, "generation", None) != generation:
            reader = getattr(own, "reader", None)
            if reader is not None:
                reader.close()
                self._all.remove(reader)
            own.reader, own.generation = Reader(self._path), generation
            self._all.append(own.reader)
        return asked.read(own.reader)

    def close(self) -> None:
        """Close all of them; waits for what they are at."""
        self._threads.shutdown()
        for reader in self._all:
            reader.close()
