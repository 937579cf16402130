"""`livejobs web`: reads the topics into the view, and serves it until a signal ends it."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from livejobs.streams import logs
from livejobs.streams.config import Config, ConfigError, split_address
from livejobs.streams.kafka import records
from livejobs.streams.web.access import Access
from livejobs.streams.web.app import Api
from livejobs.streams.web.hub import Hub
from livejobs.streams.web.ingest import Ingest
from livejobs.streams.web.readers import Readers

VIEW_FILE = "view.db"
STOP_SECONDS = 3
SWITCH_SECONDS = 0.0005
CONNECTIONS_MAX = 2000
HEAD_BYTES_MAX = 32 * 1024

log = logging.getLogger("livejobs.web")


class _Server(uvicorn.Server):
    """Signals are ours: streams must end first, for the server waits for them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config) -> int:
    """Run the service until SIGTERM or Ctrl-C; the exit code. Raises ConfigError."""
    logs.to_stderr()
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    for noisy in ("uvicorn", "sse_starlette"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    access = Access(config.web)
    listener = _listen(config.web.bind)
    records.install()
    # SQLite gives Python's lock away at each row: whoever has it then must not keep it for long.
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, access, listener))


def _listen(bind: str) -> socket.socket:
    host, port = split_address(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError(f"[web] bind {bind} can't be listened on: {error.strerror or error}") from error


async def _serve(config: Config, access: Access, listener: socket.socket) -> int:
    path = Path(config.web.datadir) / VIEW_FILE
    ingest = Ingest(config, path)
    readers = Readers(path, ingest.spoil)
    hub = Hub(readers, ingest.state, lambda: ingest.positions)

    def turned() -> None:
        hub.renewed(ingest.generation if ingest.ready else 0)
        hub.turned()

    ingest.changed, ingest.turned = hub.changed, turned
    await ingest.open()
    turned()
    server = _Server(
        uvicorn.Config(
            Api(config.kafka, access, ingest, readers, hub).application(),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = listener.getsockname()[:2]
    log.info("serving on http://%s", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if access.open and not ipaddress.ip_address(host).is_loopback:
        log.warning("everyone who reaches %s may read: see [web] tokenfile and trustedheader", host)
    serving = asyncio.create_task(server.serve([listener]))
    others = {asyncio.create_task(ingest.run()), asyncio.create_task(hub.sweep())}
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({serving, stopped, *others}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await hub.close()
        server.should_exit = True  # it answers what it has begun
        await asyncio.wait({serving}, timeout=2 * STOP_SECONDS)
        for task in (serving, stopped, *others):
            task.cancel()
        await asyncio.gather(serving, stopped, *others, return_exceptions=True)
        readers.close()
        await ingest.close()
    return 0
