"""When the machine itself stands still: a virtual machine's host may take its cores away without telling it.

A process of its own does the same small piece of work again and again. What counts is the *CPU time* that it takes, not
the time until it is done: waiting for a core that other processes have is none of that, so CPU time that is a multiple
of the usual was taken by the host, and is in no statistics of the guest. As jHiccup does for pauses of all kinds.
"""

import bisect
import contextlib
import statistics
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple, Self

from bench.measure import answer, spawned

LOOK_SECONDS = 0.004
WORK = range(1_500)
"""What is added up at each look: some 40 us, 1 % of a core."""
STALLED = 3.0
"""Times the usual CPU time. A core whose other thread is busy takes less than twice its time."""
END_SECONDS_MAX = 10.0


class Look(NamedTuple):
    """When a piece of work began (`time.monotonic()`), and the CPU time that it took."""

    moment: float
    cpu_s: float


def _look(pipe: Connection) -> None:
    looks: list[Look] = []
    while not looks or not pipe.poll():
        moment, before = time.monotonic(), time.thread_time()
        sum(WORK)
        looks.append(Look(moment, time.thread_time() - before))
        time.sleep(LOOK_SECONDS)
    pipe.send(looks)


class Stalls:
    """As a context manager: notes when the machine stands still; to be asked afterwards. Its end raises BenchError."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self.share = 0.0
        """Of the looks, those at which it stood still."""

    def __enter__(self) -> Self:
        self._process, self._pipe = spawned(_look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with contextlib.suppress(ConnectionError):  # then the answer says that it has ended
                    self._pipe.send("end")
                self._add(answer(self._pipe, END_SECONDS_MAX, "who looks whether the machine stands still"))
        finally:
            self._process.kill()
            self._process.join()

    def _add(self, looks: list[Look]) -> None:
        usual_s = statistics.median(look.cpu_s for look in looks)
        self._moments = [look.moment for look in looks if look.cpu_s > STALLED * usual_s]
        self.share = len(self._moments) / len(looks)

    def between(self, begin: float, end: float) -> bool:
        """Whether the machine stood still between two moments (`time.monotonic()`)."""
        at = bisect.bisect_left(self._moments, begin)
        return at < len(self._moments) and self._moments[at] <= end
