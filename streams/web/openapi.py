"""The OpenAPI document, from the code's types. `deploy/schema/openapi.json` is the same text (`streams.schema`)."""

from typing import Any

import msgspec

from livejobs.streams.web import shapes
from livejobs.streams.web.problems import MEDIA_TYPE, ProblemBody
from livejobs.streams.web.resources import API, RESOURCES
from livejobs.streams.web.shapes import SessionBody, TankBody, UntankBody

Schema = dict[str, Any]

API_VERSION = "1.0.0"
ANSWERS: dict[str, tuple[type, str]] = {
    "/regressions": (shapes.RegressionList, "Regressions, a page of them."),
    "/facets": (shapes.FacetsAnswer, "Values to filter regressions by."),
    "/regression": (shapes.RegressionAnswer, "One regression; `SERIES/$` is the latest of a series."),
    "/jobs": (shapes.JobList, "Jobs of a regression, or a search over all live jobs."),
    "/job": (shapes.JobAnswer, "One job, with earlier records."),
    "/charts": (shapes.ChartsAnswer, "Charts of a regression's finished jobs."),
    "/hosts": (shapes.HostList, "Hosts with live jobs."),
}
PLAIN: dict[str, tuple[type, str]] = {
    "/whoami": (shapes.WhoamiAnswer, "Who asks, and what is allowed."),
    "/health": (shapes.HealthAnswer, "How fresh the view is; 503 while it is made."),
}
CHANGES: dict[str, tuple[type, type | None, str]] = {
    "/tank": (TankBody, shapes.TankAnswer, "Kill or hide a regression: publishes regr-tank."),
    "/untank": (UntankBody, shapes.TankAnswer, "Take that back."),
    "/session": (SessionBody, None, "A cookie for a token."),
}
EVENTS = (
    "Server-sent events. `watch` is one of the paths that are read, with its parameters. First comes `state` (again at "
    "least every 5 s), then a `snapshot` for each watch, then `change`s. See the README."
)


def document() -> bytes:
    """As JSON."""
    types = [kind for kind, _ in (*ANSWERS.values(), *PLAIN.values())]
    types += [kind for body, answer, _ in CHANGES.values() for kind in (body, answer) if kind is not None]
    queries = [resource.query for resource in RESOURCES.values()]
    types += [*queries, ProblemBody]
    _, made = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    parameters = {path: _parameters(made[resource.query.__name__]) for path, resource in RESOURCES.items()}
    for query in {query.__name__ for query in queries}:
        del made[query]
    paths: dict[str, Schema] = {}
    for path, (kind, text) in ANSWERS.items():
        paths[API + path] = {"get": _reading(path, text, kind, parameters[path])}
    for path, (kind, text) in PLAIN.items():
        paths[API + path] = {"get": _reading(path, text, kind, [])}
    paths[f"{API}/health"]["get"]["responses"]["503"] = _answer("It is being made.", _ref(shapes.HealthAnswer))
    for path, (body, answer, text) in CHANGES.items():
        paths[API + path] = {"post": _changing(path, text, body, answer)}
    paths[f"{API}/session"]["delete"] = _forgetting()
    paths[f"{API}/events"] = {"get": _events()}
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "livejobs",
            "version": API_VERSION,
            "description": "What the page shows, as JSON. Errors are problem details (RFC 9457).",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": made,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
    encoded = msgspec.json.Encoder(order="sorted").encode(whole)
    return msgspec.json.format(encoded, indent=2) + b"\n"


def _ref(kind: type) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _answer(text: str, schema: Schema, media: str = "application/json") -> Schema:
    return {"description": text, "content": {media: {"schema": schema}}}


def _problems(*statuses: int) -> Schema:
    found = {str(status): _answer("A problem.", _ref(ProblemBody), MEDIA_TYPE) for status in statuses}
    return {**found, "default": _answer("Another problem.", _ref(ProblemBody), MEDIA_TYPE)}


def _parameters(schema: Schema) -> list[Schema]:
    """A query's fields as parameters; what is null when it is absent can't be given as null."""
    found = []
    for name, field in schema["properties"].items():
        options = [option for option in field.get("anyOf", [field]) if option != {"type": "null"}]
        given = {key: value for key, value in {**field, **options[0]}.items() if key != "anyOf"}
        if given.get("default", 0) is None:
            del given["default"]
        found.append({"name": name, "in": "query", "required": name in schema["required"], "schema": given})
    return found


def _reading(path: str, text: str, kind: type, parameters: list[Schema]) -> Schema:
    return {
        "operationId": f"get_{path.strip('/')}",
        "summary": text,
        "parameters": parameters,
        "responses": {"200": _answer(text, _ref(kind)), **_problems(400, 401, 404, 503)},
    }


def _changing(path: str, text: str, body: type, answer: type | None) -> Schema:
    good = {"204": {"description": "Done."}} if answer is None else {"202": _answer("Published.", _ref(answer))}
    return {
        "operationId": f"post_{path.strip('/')}",
        "summary": text,
        "parameters": [_change_header()],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {**good, **_problems(400, 401, 403, 404, 413, 415, 503)},
    }


def _forgetting() -> Schema:
    return {
        "operationId": "delete_session",
        "summary": "Forget the cookie.",
        "parameters": [_change_header()],
        "responses": {"204": {"description": "Done."}, **_problems(403)},
    }


def _change_header() -> Schema:
    return {"name": "X-Livejobs", "in": "header", "required": True, "schema": {"type": "string", "const": "1"}}


def _events() -> Schema:
    watch = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 4}
    return {
        "operationId": "get_events",
        "summary": "What changes, as it changes.",
        "description": EVENTS,
        "parameters": [
            {"name": "watch", "in": "query", "required": True, "schema": watch},
            {"name": "last", "in": "query", "required": False, "schema": {"type": "string"}},
            {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}},
        ],
        "responses": {"200": _answer("Events.", {"type": "string"}, "text/event-stream"), **_problems(400, 401, 503)},
    }
