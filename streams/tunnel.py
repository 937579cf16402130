"""`livejobs tunnel`: a farm's long-lived publisher, on a Unix socket, and over HTTP on loopback where that is wanted.

Each door puts its requests into the relay, which sends or keeps them and answers. At the end the doors are shut, what
is here already is answered, and only then are the connections closed.
"""

import asyncio
import logging
import os
import signal
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from livejobs.streams import spool
from livejobs.streams.config import Config, ConfigError
from livejobs.streams.kafka import client_options
from livejobs.streams.relay import Relay
from livejobs.streams.spool import Spool
from livejobs.streams.talk import say
from livejobs.streams.tunnel_socket import SocketDoor

CLAIM_SECONDS = 10.0
CLAIM_PAUSE_SECONDS = 0.1
DRAIN_SECONDS_MAX = 5.0
"""At the end, for requests that are here already; then what the broker has not acknowledged goes into the spool."""
KEEP_SECONDS_MAX = 5.0
PATH_BYTES_MAX = 107
"""Linux's limit for a socket's name."""


class TunnelError(Exception):
    """It can't start: one line that says why."""


class Door(Protocol):
    """A way in."""

    async def open(self) -> str:
        """Begin to take requests; returns the address. Raises ConfigError."""
        ...

    def shut(self) -> None:
        """Take no further requests."""
        ...

    async def leave(self) -> None:
        """Give the answers that are there, in limited time, and close all connections."""
        ...


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. Raises ConfigError, TunnelError."""
    # aiokafka tells of each failed attempt; we tell how it ends.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    log, tunnel = spool.of(config, say), config.tunnel
    if log is None or tunnel.socket is None:
        key = "spool" if log is None else "socket"
        raise ConfigError(f"[tunnel] {key} is missing: `livejobs tunnel` needs a spool and a socket")
    client_options(config.kafka)  # what can't be used is told now, and not at each attempt
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await _claim(log)
    path = Path(tunnel.socket)
    relay = Relay(config, log, say)
    doors: list[Door] = [SocketDoor(relay, _listener(path, int(tunnel.socketmode, 8)), path)]
    if tunnel.bind is not None:
        doors.append(_http_door(relay, tunnel.bind))
    await _serve(relay, doors, stop)
    log.sending_ends()
    left = log.backlog_bytes()
    say(f"ended; {left:,} bytes are left in {log.path}" if left else "ended")
    return 0


def _http_door(relay: Relay, bind: str) -> Door:
    try:
        from livejobs.streams.tunnel_http import HttpDoor  # noqa: PLC0415  needs aiohttp, which not every host has
    except ModuleNotFoundError as error:
        raise ConfigError(f"[tunnel] bind needs {error.name}: `pip install 'livejobs[tunnel]'`") from None
    return HttpDoor(relay, bind)


async def _serve(relay: Relay, doors: Sequence[Door], stop: asyncio.Event) -> None:
    """Until `stop` is set; then all that has come is answered, in limited time."""
    working, stopping = asyncio.create_task(relay.run()), asyncio.create_task(stop.wait())
    try:
        for door in doors:
            say(f"listening on {await door.open()}")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for door in doors:
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
        for door in doors:
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


def _listener(path: Path, mode: int) -> socket.socket:
    """A socket that listens at `path`, with the access rights `mode`. Raises ConfigError, TunnelError."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigError(f"[tunnel] socket must have at most {PATH_BYTES_MAX} bytes: {path}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o777 & ~mode)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
    except OSError as error:
        listener.close()
        raise ConfigError(f"[tunnel] socket {path} can't be used: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


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
