"""Run the real command in a process that is changed in one place, so that a fault comes at the very point wanted.

    python patched.py FAULT=ARGUMENT ... worker --config FILE

The product holds no hooks for this: what is changed here are its own and its libraries' methods, from outside.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from livejobs.streams import cli
from livejobs.tables.store import Store

STEPS = ("before", "inside", "after", "written")
"""Of a commit: before its transaction; inside it, its records written; after it and before the write to RocksDB; after that."""


def patched(*faults: str) -> Sequence[str]:
    """The command line of a livejobs with these faults."""
    return [sys.executable, __file__, *faults]


def die(step: str, count: int) -> None:
    """Be killed at a step of the commit with that number, or soon after: partitions commit side by side."""
    commits = 0

    def reached(now: str) -> None:
        if now == step and commits >= count:
            os.kill(os.getpid(), signal.SIGKILL)

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


FAULTS: dict[str, Callable[[str], None]] = {
    "die": lambda argument: die(argument.partition(":")[0], int(argument.partition(":")[2])),
}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    while "=" in arguments[0]:
        name, _, argument = arguments.pop(0).partition("=")
        FAULTS[name](argument)
    sys.argv[1:] = arguments
    cli.main()
