"""`livejobs tunnel`: a farm's long-lived publisher, for all processes of a head node.

Its door takes requests, its relay sends or keeps them and answers. At the end the door is shut, what is here already is
answered, and only then are the connections closed.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from livejobs.streams.config import Config, ConfigError
from livejobs.streams.kafka.client import client_options
from livejobs.streams.publisher import spool
from livejobs.streams.publisher.spool import Spool
from livejobs.streams.terminal.talk import say
from livejobs.streams.tunnel.http import BACKLOG, Door
from livejobs.streams.tunnel.relay import Relay

CLAIM_SECONDS = 10.0
CLAIM_PAUSE_SECONDS = 0.1
SETTLE_SECONDS_MAX = 3.0
"""At the start, until we know whether the broker takes messages; calls that come meanwhile wait for us."""
DRAIN_SECONDS_MAX = 5.0
"""At the end, for requests that are here already; then what the broker has not acknowledged goes into the spool."""
KEEP_SECONDS_MAX = 5.0
PATH_BYTES_MAX = 107
"""Linux's limit for a socket's name."""


class TunnelError(Exception):
    """It can't start: one line that says why."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. Raises ConfigError, TunnelError."""
    # aiokafka tells of each failed attempt; we tell how it ends.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    log, path = spool.of(config, say), config.tunnel.socket
    if log is None or not path:
        key = "spool" if log is None else "socket"
        raise ConfigError(f"[tunnel] {key} is missing: `livejobs tunnel` needs a spool and a socket")
    client_options(config.kafka)  # what can't be used is told now, and not at each attempt
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await _claim(log)
    with _listener(Path(path), int(config.tunnel.socketmode, 8)) as listener:
        await _serve(config, log, listener, stop)
    log.sending_ends()
    left = log.backlog_bytes()
    say(f"ended; {left:,} bytes are left in {log.path}" if left else "ended")
    return 0


async def _serve(config: Config, log: Spool, listener: socket.socket, stop: asyncio.Event) -> None:
    """Until `stop` is set; then all that has come is answered, in limited time."""
    relay = Relay(config, log, say)
    door = Door(relay)
    working, stopping = asyncio.create_task(relay.run()), asyncio.create_task(stop.wait())
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relay.settled.wait(), SETTLE_SECONDS_MAX)
        await door.listen_at(listener)
        say(f"listening at {config.tunnel.socket}")
        if config.tunnel.bind:
            say(f"listening on {await door.listen_on(config.tunnel.bind)}")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        door.shut()
        relay.close()
        if not (await asyncio.wait({working}, timeout=DRAIN_SECONDS_MAX))[0]:
            relay.hurry()
            await asyncio.wait({working}, timeout=KEEP_SECONDS_MAX)
        if working.done():
            working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
        door.shut()
        await door.leave()


async def _claim(log: Spool) -> None:
    """Become the one that sends the spool; a call that sends it just now gets some time. Raises TunnelError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CLAIM_SECONDS
    while not log.try_to_send():
        if loop.time() > deadline:
            raise TunnelError(f"another process, maybe another tunnel, is sending {log.path}")
        await asyncio.sleep(CLAIM_PAUSE_SECONDS)


@contextlib.contextmanager
def _listener(path: Path, mode: int) -> Iterator[socket.socket]:
    """A socket that listens at `path`, with the access rights `mode`. Raises ConfigError, TunnelError."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigError(f"[tunnel] socket must have at most {PATH_BYTES_MAX} bytes: {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            before = os.umask(0o777 & ~mode)
            try:
                listener.bind(os.fspath(path))
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(f"[tunnel] socket {path} can't be used: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Take away the socket that a killed tunnel has left. Raises ConfigError, TunnelError, OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"[tunnel] socket {path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # it listens, and many are waiting
            pass
    raise TunnelError(f"another tunnel listens at {path}")
