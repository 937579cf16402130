"""The HTTP application: paths of the API, the stream of events, the page's files."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import cramjam
import msgspec
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from livejobs.streams.config import Kafka
from livejobs.streams.core.messages import KEY_BYTES_MAX, Reject
from livejobs.streams.publisher.producer import BrokerAwayError
from livejobs.streams.publisher.publish import Publisher, Undelivered
from livejobs.streams.web import answers, openapi, static
from livejobs.streams.web.access import COOKIE, SESSION_SECONDS, Access
from livejobs.streams.web.guard import BODY_BYTES_MAX, Guard, problem_of, response_of
from livejobs.streams.web.hub import Hub
from livejobs.streams.web.ingest import Ingest
from livejobs.streams.web.problems import Problem, unavailable
from livejobs.streams.web.readers import Readers
from livejobs.streams.web.resources import API, RESOURCES, Asked, NameQuery, NoQuery, asked, asked_by, pairs, parameters
from livejobs.streams.web.shapes import SessionBody, TankBody, UntankBody

GZIP_BYTES_MIN = 1000
GZIP_LEVEL = 3
WATCHES_A_STREAM_MAX = 4
STALL_SECONDS_MAX = 30.0
"""A reader of a stream that takes nothing for so long is dropped."""
PUBLISH_SECONDS = 10.0
PUBLISHING_MAX = 4
PAGES = ("/", "/regression", "/job", "/hosts", "/search")


class Api:
    """The handlers."""

    def __init__(self, kafka: Kafka, access: Access, ingest: Ingest, readers: Readers, hub: Hub) -> None:
        self._kafka, self._access, self._ingest = kafka, access, ingest
        self._readers, self._hub = readers, hub
        self._publishing = asyncio.Semaphore(PUBLISHING_MAX)
        self._files = static.files()
        self._openapi = b""

    def application(self) -> Guard:
        """All of it."""
        routes: list[BaseRoute] = [Route(API + path, self._get) for path in RESOURCES]
        routes += [
            Route(f"{API}/events", self._events),
            Route(f"{API}/whoami", self._whoami),
            Route(f"{API}/health", self._health),
            Route(f"{API}/openapi.json", self._document),
            Route(f"{API}/session", self._session, methods=["POST", "DELETE"]),
            Route(f"{API}/tank", self._tank, methods=["POST"]),
            Route(f"{API}/untank", self._untank, methods=["POST"]),
            Route("/static/{path:path}", self._file),
            *(Route(path, self._index) for path in PAGES),
        ]
        app = Starlette(routes=routes, exception_handlers={404: _told, 405: _told, Problem: _told, Exception: _told})
        app.router.redirect_slashes = False
        return Guard(app, self._access)

    # ------------------------------------------------------------------ reading

    async def _get(self, request: Request) -> Response:
        question = asked(request.url.path.removeprefix(API), request.scope["query_string"])
        return _json(request, answers.whole(await self._readers.read(question)))

    async def _events(self, request: Request) -> Response:
        given = pairs(request.scope["query_string"])
        for name, _ in given:
            if name not in {"watch", "last"}:
                raise Problem(400, f"{name[:100]}: no such parameter; allowed are watch, last", name[:100])
        questions = [asked_by(value) for name, value in given if name == "watch"]
        lasts = [value for name, value in given if name == "last"]
        if not 1 <= len(questions) <= WATCHES_A_STREAM_MAX:
            raise Problem(400, f"watch: 1 to {WATCHES_A_STREAM_MAX} times, not {len(questions)}", "watch")
        if len(lasts) > 1:
            raise Problem(400, "last: given twice", "last")
        last = request.headers.get("last-event-id", lasts[0] if lasts else None)
        stream = self._hub.open(questions, last)
        return EventSourceResponse(stream.events(), ping=0, send_timeout=STALL_SECONDS_MAX)

    async def _whoami(self, request: Request) -> Response:
        parameters(NoQuery, request.scope["query_string"])
        person = self._access.person(request.headers)
        return _json(request, msgspec.json.encode({**person._asdict(), "login": self._access.login}))

    async def _health(self, request: Request) -> Response:
        parameters(NoQuery, request.scope["query_string"])
        state, ready = self._ingest.state(), self._ingest.ready
        body = {"ready": ready, **msgspec.to_builtins(state), "unreadable": self._ingest.unreadable()}
        headers = {"cache-control": "no-store"}
        return Response(msgspec.json.encode(body), 200 if ready else 503, headers, "application/json")

    async def _document(self, request: Request) -> Response:
        parameters(NoQuery, request.scope["query_string"])
        self._openapi = self._openapi or openapi.document()
        return _json(request, self._openapi)

    # ------------------------------------------------------------------ changing

    async def _session(self, request: Request) -> Response:
        if request.method == "DELETE":
            response = Response(status_code=204)
            response.delete_cookie(COOKIE, httponly=True, samesite="strict")
            return response
        token = (await _body(request, SessionBody)).token
        if not self._access.is_token(token):
            raise Problem(403, "token: not a known one", "token")
        response = Response(status_code=204)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        response.set_cookie(
            COOKIE, self._access.session(token), SESSION_SECONDS, secure=secure, httponly=True, samesite="strict"
        )
        return response

    async def _tank(self, request: Request) -> Response:
        self._may_tank(request)
        body = await _body(request, TankBody)
        reason = {"reason": body.reason} if body.reason else {}
        return await self._publish(body.regression, {"tank": True, **reason})

    async def _untank(self, request: Request) -> Response:
        self._may_tank(request)
        return await self._publish((await _body(request, UntankBody)).regression, {"tank": False})

    def _may_tank(self, request: Request) -> None:
        if not self._access.person(request.headers).may_tank:
            raise Problem(403, "changes need a token or the administrators' role")

    async def _publish(self, regression: str, fields: Mapping[str, Any]) -> Response:
        if len(regression.encode()) > KEY_BYTES_MAX:
            raise Problem(400, f"regression: at most {KEY_BYTES_MAX} bytes", "regression")
        # Only what is there: a wrong name would make a new one.
        await self._readers.read(Asked(RESOURCES["/regression"], NameQuery(name=regression)))
        if self._publishing.locked():
            raise unavailable("too many changes at a time", 2)
        async with self._publishing:
            try:
                async with Publisher(
                    self._kafka, connect_seconds=PUBLISH_SECONDS, delivery_seconds=PUBLISH_SECONDS
                ) as publisher:
                    await publisher.send("regr-tank", regression, msgspec.json.encode(fields))
            except Reject as reject:
                raise Problem(400, str(reject)) from reject
            except (BrokerAwayError, Undelivered) as error:
                raise unavailable(str(error), 5) from error
        body = msgspec.json.encode({"regression": regression, "tank": fields["tank"]})
        return Response(body, 202, media_type="application/json")

    # ------------------------------------------------------------------ the page

    async def _index(self, request: Request) -> Response:
        return self._static(request, "index.html")

    async def _file(self, request: Request) -> Response:
        return self._static(request, request.path_params["path"])

    def _static(self, request: Request, path: str) -> Response:
        file = self._files.get(path)
        if file is None:
            raise Problem(404, f"{path[:100]}: there is no such file")
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if file.etag in _validators(request):
            return Response(status_code=304, headers=headers)
        data = file.data
        if file.gzip is not None and _takes_gzip(request):
            data, headers["content-encoding"] = file.gzip, "gzip"
        return Response(data, headers=headers, media_type=file.kind)


async def _told(_: Request, error: Exception) -> Response:
    return response_of(problem_of(error))


def _json(request: Request, body: bytes) -> Response:
    headers = {"etag": static.etag_of(body), "cache-control": "no-cache"}
    if headers["etag"] in _validators(request):
        return Response(status_code=304, headers=headers)
    if len(body) >= GZIP_BYTES_MIN and _takes_gzip(request):
        body, headers["content-encoding"] = bytes(cramjam.gzip.compress(body, level=GZIP_LEVEL)), "gzip"
    return Response(body, headers=headers, media_type="application/json")


def _validators(request: Request) -> set[str]:
    return {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


async def _body(request: Request, kind: type[Any]) -> Any:
    """The JSON body of a change. Raises Problem."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "content-type: application/json")
    data = bytearray()
    with contextlib.suppress(ClientDisconnect):
        async for chunk in request.stream():
            data += chunk
            if len(data) > BODY_BYTES_MAX:
                raise Problem(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body: {error}") from error
