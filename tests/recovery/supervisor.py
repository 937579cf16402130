"""Starts a worker again whenever it has ended by itself, as systemd does; and knows how it ended."""

import threading
from typing import Any, Self

from harness import SECONDS, Site, WorkerProcess

RESTART_SECONDS = 1.0


class Supervisor:
    """One worker that is always started again while the block lasts; after it, it is ready and runs on."""

    def __init__(self, site: Site, name: str = "worker", **start: Any) -> None:
        self._site, self._name, self._start = site, name, start
        self.exits: list[int] = []
        """The codes with which it ended by itself."""
        self._over = threading.Event()
        self.worker = self._started()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def _started(self) -> WorkerProcess:
        worker = self._site.start(self._name, **self._start)
        worker.expected_to_run = False  # it may end
        return worker

    def _supervise(self) -> None:
        while not self._over.wait(RESTART_SECONDS):
            if self.worker.process.poll() is not None:
                self.exits.append(self.worker.process.returncode)
                self.worker = self._started()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.ready()
        finally:
            self._over.set()
            self._thread.join(SECONDS)
        self.worker.expected_to_run = True
        if kind is None:
            assert 0 not in self.exits, "it ended as if that were right"

    def ready(self) -> None:
        """Return when the worker, or a successor, says that it is ready."""
        try:
            self._site.reader.wait_for(lambda: self.worker.get("/ready")[0] == 200, 3 * SECONDS)
        except TimeoutError:
            raise AssertionError(f"{self.worker.get('/ready')}\n{self.worker.tail()}") from None
