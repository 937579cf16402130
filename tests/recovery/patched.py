"""Run the real command in a process that is changed in one place, so that a fault comes at the very point wanted.

    python patched.py FAULT=ARGUMENT ... worker --config FILE

The product holds no hooks for this: what is changed here are its own and its libraries' methods, from outside.
"""

import asyncio
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from livejobs.streams import cli
from livejobs.streams.worker import transactions, watchdog
from livejobs.streams.worker.commit import Partition
from livejobs.streams.worker.lane import LaneConsumer, LaneThread
from livejobs.tables import restore
from livejobs.tables.store import Store

STEPS = ("before", "inside", "after", "written")
"""Of a commit: before its transaction; inside it, its records written; after it and before the write to RocksDB; after that."""


def patched(*faults: str) -> Sequence[str]:
    """The command line of a livejobs with these faults."""
    return [sys.executable, __file__, *faults]


def send_at(step: str, count: int, number: signal.Signals) -> None:
    """Send itself a signal at a step of the commit with that number, or soon after: partitions commit side by side."""
    sent = False
    commits = 0

    def reached(now: str) -> None:
        nonlocal sent
        if now == step and commits >= count and not sent:
            sent = True
            os.kill(os.getpid(), number)

    async def begin_transaction(producer: AIOKafkaProducer) -> None:
        nonlocal commits
        commits += 1
        reached("before")
        await begin(producer)

    async def commit_transaction(producer: AIOKafkaProducer) -> None:
        await producer.flush()
        reached("inside")
        await commit(producer)
        reached("after")

    def write(store: Store, ops: Any) -> None:
        put(store, ops)
        reached("written")

    begin, AIOKafkaProducer.begin_transaction = AIOKafkaProducer.begin_transaction, begin_transaction
    commit, AIOKafkaProducer.commit_transaction = AIOKafkaProducer.commit_transaction, commit_transaction
    put, Store.write = Store.write, write  # type: ignore[method-assign]


def step_of(argument: str) -> tuple[str, int]:
    """`inside:7`."""
    step, _, count = argument.partition(":")
    return step, int(count)


def after_commits(count: int, fault: Callable[[], object]) -> None:
    """Let a fault come after so many commits."""
    commits = 0

    async def commit_transaction(producer: AIOKafkaProducer) -> None:
        nonlocal commits
        await commit(producer)
        commits += 1
        if commits == count:
            fault()

    commit, AIOKafkaProducer.commit_transaction = AIOKafkaProducer.commit_transaction, commit_transaction


def lane() -> LaneThread:
    """The consumer's thread of this worker."""
    services = (getattr(thread, "service", None) for thread in threading.enumerate())
    return next(service for service in services if isinstance(service, LaneThread))


def forever() -> None:
    """Block the thread that calls it."""
    time.sleep(3600)


def hold_lock() -> None:
    """Never give Python's lock away: a regular expression that backtracks."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def deafen() -> None:
    """Let fetches bring nothing any more."""

    async def nothing(*_: object, **__: object) -> dict[Any, Any]:
        await asyncio.sleep(0.1)
        return {}

    LaneConsumer._getmany = nothing  # type: ignore[method-assign]


async def never(*_: object, **__: object) -> None:
    """Wait, and let the loop go on."""
    await asyncio.sleep(3600)


STALLS: dict[str, Callable[[], object]] = {
    "loop": forever,
    "consumer": lambda: lane().thread_loop.call_soon_threadsafe(forever),
    "lock": hold_lock,
    "deaf": deafen,
    "apply": lambda: setattr(Partition, "apply", never),
    "coordinator": lambda: lane().thread_loop.call_soon_threadsafe(lane()._consumer._coordinator._coordination_task.cancel),
}
"""How a worker may come to stand still, from a commit on."""


def hang_at_open() -> None:
    """Let no partition ever be open."""
    Partition.open = never  # type: ignore[method-assign, assignment]


def stall(seconds: float) -> None:
    """Let the watchdog wait so long only."""
    watchdog.STALL_SECONDS = seconds


def be_nobody_at_the_disk() -> None:
    """Have no rights on files from the first store on; only root can do this."""

    def init(store: Store, *arguments: Any, **named: Any) -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        make(store, *arguments, **named)

    make, Store.__init__ = Store.__init__, init  # type: ignore[method-assign]


def join_while_leaving() -> None:
    """Be given all four partitions by a rebalance that ends while the worker is leaving the group."""

    async def leave_late(consumer: LaneConsumer) -> None:
        consumer.app.owner.open_all(set(range(4)))
        await leave(consumer)

    leave, LaneConsumer.leave = LaneConsumer.leave, leave_late  # type: ignore[method-assign]


def begin_late(seconds: float) -> None:
    """Let each transaction take so much longer."""

    async def begin_transaction(producer: AIOKafkaProducer) -> None:
        await asyncio.sleep(seconds)
        await begin(producer)

    begin, AIOKafkaProducer.begin_transaction = AIOKafkaProducer.begin_transaction, begin_transaction


def begin_seldom(seconds: float) -> None:
    """Let so much time pass between transactions, as on a busy machine; end when calls of a partition's agent pile up."""
    calls: Counter[Partition] = Counter()

    def add(partition: Partition, records: list[Any]) -> bool:
        call = take_in(partition, records)
        calls[partition] += call
        if calls[partition] > 1:
            sys.stderr.write(f"partition {partition.number} is called again\n")
            os._exit(1)
        return call

    async def apply(partition: Partition) -> None:
        await work(partition)
        calls[partition] -= 1

    transactions.PAUSE_SECONDS = seconds
    take_in, Partition.add = Partition.add, add  # type: ignore[method-assign]
    work, Partition.apply = Partition.apply, apply  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[str], None]] = {
    "kill": lambda argument: send_at(*step_of(argument), signal.SIGKILL),
    "stop": lambda argument: send_at(*step_of(argument), signal.SIGSTOP),
    "file_bytes": lambda argument: resource.setrlimit(resource.RLIMIT_FSIZE, (int(argument), int(argument))),
    "bulk_records": lambda argument: setattr(restore, "BULK_RECORDS", int(argument)),
    "nobody": lambda _: be_nobody_at_the_disk(),
    "open": lambda _: hang_at_open(),
    "join": lambda _: join_while_leaving(),
    "late": lambda argument: begin_late(float(argument)),
    "seldom": lambda argument: begin_seldom(float(argument)),
    "room": lambda argument: setattr(transactions, "CHANGED_BYTES_MAX", int(argument)),
    "stand": lambda argument: after_commits(20, STALLS[argument]),
    "stall": lambda argument: stall(float(argument)),
}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    while "=" in arguments[0]:
        name, _, argument = arguments.pop(0).partition("=")
        FAULTS[name](argument)
    sys.argv[1:] = arguments
    cli.main()
