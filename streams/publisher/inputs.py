"""Files and pipes as blocks of bytes, and as whole lines."""

import asyncio
import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import AsyncIterator

from livejobs.streams.core.messages import MESSAGE_BYTES_MAX

BLOCK_BYTES = 1024 * 1024
IDLE_SECONDS = 1.0


def is_endless(descriptor: int) -> bool:
    """Whether nobody knows when it ends: a pipe or a terminal, not a file."""
    return not stat.S_ISREG(os.fstat(descriptor).st_mode)


async def lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Text of whole lines for each block, maybe empty; only the last line of all has no end.

    A line that is too long for a message is cut, and stays too long for one.
    """
    rest = b""
    async for block in blocks:
        end = block.rfind(b"\n") + 1
        text = b"".join((rest, memoryview(block)[:end])) if end else b""
        rest = block[end:] if end else rest + block
        if len(rest) > MESSAGE_BYTES_MAX:
            rest = rest[:MESSAGE_BYTES_MAX].lstrip() + b"."  # the end is no white space, which would not count
        yield text
    yield rest


async def blocks(descriptor: int) -> AsyncIterator[bytes]:
    """The bytes of a file or a pipe; an empty block for each second in which nothing comes. Raises OSError."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        while block := os.read(descriptor, BLOCK_BYTES):
            yield block
        return
    _widen(descriptor)
    queue: asyncio.Queue[bytes | OSError] = asyncio.Queue(2)
    loop = asyncio.get_running_loop()

    def read() -> None:
        block: bytes | OSError = b"."
        with contextlib.suppress(RuntimeError):  # the loop has ended
            while block and not isinstance(block, OSError):
                try:
                    block = os.read(descriptor, BLOCK_BYTES)
                except OSError as error:
                    block = error
                asyncio.run_coroutine_threadsafe(queue.put(block), loop).result()

    # A thread of our own and not the executor's: the process must be able to end while this waits for input.
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            # Not wait_for: Python 3.11's may lose a Ctrl-C that comes together with a block.
            async with asyncio.timeout(IDLE_SECONDS):
                item = await queue.get()
        except TimeoutError:
            yield b""
            continue
        if isinstance(item, OSError):
            raise item
        if not item:
            return
        yield item


def _widen(descriptor: int) -> None:
    """Let a pipe hold a block: by default it holds 64 KiB, and each turn of the reading thread costs."""
    with contextlib.suppress(OSError):  # no pipe, or not allowed
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BLOCK_BYTES)
