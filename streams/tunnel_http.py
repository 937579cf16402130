"""The tunnel's door for programs that speak HTTP: `POST /publish/TYPE?regression=NAME`, on loopback only.

The body is a message's (`Content-Type: application/json`), or with `application/x-ndjson` one a line; the answer is
that of the socket, as JSON. `traceparent` and `tracestate` become headers of the messages. Every user of the machine
may come in; web pages that a browser on it shows may not.
"""

import asyncio

from aiohttp import web

from livejobs.streams import framing
from livejobs.streams.config import ConfigError, is_loopback, split_address
from livejobs.streams.framing import Answer, Request
from livejobs.streams.relay import Relay

CONNECTIONS_MAX = 200
IDLE_SECONDS_MAX = 60.0
REQUEST_SECONDS_MAX = 30.0
JSON, NDJSON = "application/json", "application/x-ndjson"
TRACE = ("traceparent", "tracestate")


class HttpDoor:
    """Takes requests on `bind`, an address of this machine only."""

    def __init__(self, relay: Relay, bind: str) -> None:
        self._relay, self._bind = relay, bind
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._shut = False

    async def open(self) -> str:
        """Listen. Raises ConfigError."""
        host, port = split_address(self._bind)
        app = web.Application(client_max_size=framing.BODY_BYTES_MAX)
        app.router.add_post("/publish/{type}", self._publish)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS_MAX,
            shutdown_timeout=framing.LEAVE_SECONDS_MAX,
        )
        await self._runner.setup()
        handlers = self._runner.server
        if handlers is None:
            raise RuntimeError("aiohttp gave no server")

        def connected() -> asyncio.Protocol:
            return _Full() if len(handlers.connections) >= CONNECTIONS_MAX else handlers()

        try:
            self._server = await asyncio.get_running_loop().create_server(connected, host, port)
        except OSError as error:
            raise ConfigError(f"[tunnel] bind {self._bind} can't be used: {error.strerror or error}") from error
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def shut(self) -> None:
        """Listen no longer, and take no more requests."""
        self._shut = True
        if self._server is not None:
            self._server.close()

    async def leave(self) -> None:
        """Wait for the answers to be taken, in limited time, and close the connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _publish(self, request: web.Request) -> web.Response:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        size = request.content_length or 0
        await self._relay.room(size)
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                body = await request.read()
        except BaseException:
            self._relay.unused(size)
            raise
        if self._shut:
            self._relay.unused(size)
            return _answered(Answer(error="ending", reason="the tunnel ends"))
        headers = {name: request.headers[name] for name in TRACE if name in request.headers}
        kind, regression = request.match_info["type"], request.query.get("regression", "")
        asked = Request(kind, regression, size, request.content_type == NDJSON, headers)
        return _answered(await self._relay.put(asked, body))


class _Full(asyncio.Protocol):
    """What meets a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _refusal(request: web.Request) -> web.Response | None:
    """Why a request is not looked at."""
    # A page of another site can send neither this type nor without these headers: a browser asks us first.
    if "Origin" in request.headers or not _is_here(request.host):
        return web.json_response({"error": "bad-request", "reason": "not for web pages"}, status=403)
    if request.content_type not in (JSON, NDJSON):
        reason = f"Content-Type must be {JSON} or {NDJSON}"
        return web.json_response({"error": "bad-request", "reason": reason}, status=415)
    if request.content_length is None and request.body_exists:
        return web.json_response({"error": "bad-request", "reason": "Content-Length is missing"}, status=411)
    if (request.content_length or 0) > framing.BODY_BYTES_MAX:
        reason = f"body: allowed are {framing.BODY_BYTES_MAX} bytes"
        return web.json_response({"error": "bad-request", "reason": reason}, status=413)
    return None


def _is_here(authority: str) -> bool:
    host, colon, port = authority.rpartition(":")
    return is_loopback((host if colon and port.isdecimal() else authority).strip("[]"))


def _answered(answer: Answer) -> web.Response:
    if answer.error or answer.refused:
        status = 503
    elif answer.bad:
        status = 400
    else:
        status = 202 if answer.kept else 200
    return web.Response(status=status, body=framing.line(answer), content_type=JSON)
