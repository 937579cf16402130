"""The tunnel's door: HTTP on a Unix socket, and on loopback where that is wanted.

    POST /publish/TYPE?regression=NAME

The body is a message's (`Content-Type: application/json`), or with `application/x-ndjson` one a line; the answer is in
`answer.py`. `traceparent` and `tracestate` become headers of the messages. The socket's access rights decide
who may come in; on loopback every user of the machine may, but no web page that a browser on it shows.
"""

import asyncio
import logging
import socket

from aiohttp import web

from livejobs.streams.config import ConfigError, is_loopback, split_address
from livejobs.streams.tunnel import answer as answers
from livejobs.streams.tunnel.answer import BODY_BYTES_MAX, Answer
from livejobs.streams.tunnel.relay import REQUEST_SECONDS_MAX, Relay, Request

CONNECTIONS_MAX = 400
BACKLOG = 400
"""Connections that come at the same moment are taken all, or none. Both together stay below 1024 open files."""
IDLE_SECONDS_MAX = 60.0
BODY_SECONDS_MAX = 30.0
"""For a body to get room and to come."""
LEAVE_SECONDS_MAX = 2.0
"""For clients to take their answers when the tunnel ends."""
JSON, NDJSON = "application/json", "application/x-ndjson"
TRACE = ("traceparent", "tracestate")


class Door:
    """Takes requests for the relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/publish/{type}", self._publish)
        # A client that goes cancels its request. Nothing is unpacked: what comes is as large as it says.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS_MAX,
            shutdown_timeout=LEAVE_SECONDS_MAX,
        )
        self._servers: list[asyncio.Server] = []
        self._shut = False
        logging.getLogger("aiohttp").addHandler(logging.NullHandler())  # it tells of each client that speaks no HTTP

    async def listen_at(self, listener: socket.socket) -> None:
        """Take requests from a listening Unix socket."""
        await self._setup()
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._connected, sock=listener, backlog=BACKLOG))

    async def listen_on(self, bind: str) -> str:
        """Take requests on `host:port`; returns the address. Raises ConfigError."""
        await self._setup()
        host, port = split_address(bind)
        try:
            server = await asyncio.get_running_loop().create_server(self._connected, host, port)
        except OSError as error:
            raise ConfigError(f"[tunnel] bind {bind} can't be used: {error.strerror or error}") from error
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def shut(self) -> None:
        """Listen no longer, and take no more requests."""
        self._shut = True
        for server in self._servers:
            server.close()

    async def leave(self) -> None:
        """Wait for the answers to be taken, in limited time, and close the connections."""
        await self._runner.cleanup()

    async def _setup(self) -> None:
        if self._runner.server is None:
            await self._runner.setup()

    def _connected(self) -> asyncio.Protocol:
        server = self._runner.server
        return _Full() if server is None or len(server.connections) >= CONNECTIONS_MAX else server()

    async def _publish(self, request: web.Request) -> web.Response:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        deadline = asyncio.get_running_loop().time() + REQUEST_SECONDS_MAX
        size = request.content_length or 0
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                await self._relay.room(size)
                try:
                    body = await request.read()
                except BaseException:
                    self._relay.unused(size)
                    raise
        except TimeoutError:
            return _answered(Answer(error="busy", reason="there is no room, or the body does not come"))
        if self._shut:
            self._relay.unused(size)
            return _answered(Answer(error="ending", reason="it ends"))
        headers = tuple((name, request.headers[name].encode()) for name in TRACE if name in request.headers)
        kind, regression = request.match_info["type"], request.query.get("regression", "")
        lines = request.content_type == NDJSON
        return _answered(await self._relay.put(Request(kind, regression, body, lines, headers, deadline)))


class _Full(asyncio.Protocol):
    """What meets a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = answers.encode(Answer(error="busy", reason="it has too many connections"))
        head = f"HTTP/1.1 503 Busy\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        if isinstance(transport, asyncio.Transport):
            transport.write(head.encode() + body)
        transport.close()


def _refusal(request: web.Request) -> web.Response | None:
    """Why a request is not looked at."""
    # A page of another site can send neither this type nor without these headers: a browser asks us first.
    if "Origin" in request.headers or not _is_here(request.host):
        return _refused(403, "not for web pages")
    if request.content_type not in (JSON, NDJSON):
        return _refused(415, f"Content-Type must be {JSON} or {NDJSON}")
    if request.content_length is None and request.body_exists:
        return _refused(411, "Content-Length is missing")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        return _refused(413, f"body: {request.content_length} bytes, allowed are {BODY_BYTES_MAX}")
    return None


def _is_here(authority: str) -> bool:
    host, colon, port = authority.rpartition(":")
    return is_loopback((host if colon and port.isdecimal() else authority).strip("[]"))


def _refused(status: int, reason: str) -> web.Response:
    body = answers.encode(Answer(error="bad-request", reason=reason))
    return web.Response(status=status, body=body, content_type=JSON)


def _answered(answer: Answer) -> web.Response:
    if answer.error or answer.refused:
        status = 503
    elif answer.bad:
        status = 400
    else:
        status = 202 if answer.kept else 200
    return web.Response(status=status, body=answers.encode(answer) + b"\n", content_type=JSON)
