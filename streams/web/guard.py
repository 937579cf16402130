"""What holds for every request and every answer: limits, who may, headers; and errors as problems."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response

from livejobs.streams.web.access import Access
from livejobs.streams.web.problems import MEDIA_TYPE, Problem
from livejobs.streams.web.resources import API, QUERY_BYTES_MAX

FREE = frozenset({f"{API}/health", f"{API}/whoami", f"{API}/session", f"{API}/openapi.json"})
"""What everyone may ask for."""
BODY_BYTES_MAX = 8 * 1024
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "vary": "Accept-Encoding, Authorization, Cookie",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("livejobs.web")


class Guard:
    """Around the whole application."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # no lifespan to speak of, and no web sockets
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                message["headers"] = headers.raw
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except SendTimeoutError:
            log.info("a reader of a stream has stalled: it is dropped")
        except Exception as error:
            if not isinstance(error, Problem):
                log.exception("a request failed: %s", scope["path"][:200])
            if not begun:
                await response_of(problem_of(error))(scope, receive, sending)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        self._access.check(scope["method"], headers)
        if len(scope["query_string"]) > QUERY_BYTES_MAX:
            raise Problem(400, f"the query is longer than {QUERY_BYTES_MAX} bytes")
        if path.startswith(f"{API}/") and path not in FREE and not self._access.person(headers).may_read:
            raise Problem(401, "not allowed without a token", headers={"www-authenticate": "Bearer"})


def problem_of(error: Exception) -> Problem:
    """What a request's error is told as."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):  # no such path, no such method
        return Problem(error.status_code, error.detail or "not possible", headers=dict(error.headers or {}))
    return Problem(500, "the service failed; its log says why")


def response_of(problem: Problem) -> Response:
    """A problem as an answer."""
    headers = {"cache-control": "no-store", **problem.headers}
    return Response(problem.body(), problem.status, headers=headers, media_type=MEDIA_TYPE)
