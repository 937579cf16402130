"""What can be asked for: each path of the API with its parameters, and how the view answers it."""

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from livejobs.streams.web.problems import Problem
from livejobs.tables import charts
from livejobs.tables.asks import HostsQuery, JobsQuery, Key, Name, QueryError, RegressionsQuery
from livejobs.tables.listing import Page
from livejobs.tables.queries import Reader, TooSlowError
from livejobs.tables.view import Changes
from livejobs.tables.view_rows import series_of

API = "/api/v1"
QUERY_BYTES_MAX = 8 * 1024
PARAMETERS_MAX = 20


class NameQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One regression by its name, or the latest of a series: `SERIES/$`."""

    name: Name


class ChartsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The charts of one regression."""

    regression: Name


class KeyQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job by its id."""

    key: Key


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class Resource(NamedTuple):
    """A path of the API that is read."""

    query: type[msgspec.Struct]
    read: Callable[[Reader, Any], Page | bytes]
    concerned: Callable[[Any, Changes], bool]
    """Whether changes may change its answer."""
    pause_seconds: float
    """Between two looks at it for a stream."""


class Asked(NamedTuple):
    """A resource with its parameters."""

    resource: Resource
    query: Any

    def read(self, reader: Reader) -> Page | bytes:
        """The answer. Raises Problem."""
        try:
            with reader.snapshot():
                return self.resource.read(reader, self.query)
        except QueryError as error:
            raise Problem(400, str(error), error.field) from error
        except TooSlowError as error:
            raise Problem(503, "the query took too long; ask for less", headers={"retry-after": "5"}) from error

    def is_concerned(self, changes: Changes) -> bool:
        """Whether changes may change the answer."""
        return changes.more or self.resource.concerned(self.query, changes)


def _regression(reader: Reader, query: NameQuery) -> bytes:
    return _there(reader.regression(query.name), "name", "no such regression")


def _job(reader: Reader, query: KeyQuery) -> bytes:
    return _there(reader.job(query.key), "key", "no such job")


def _charts(reader: Reader, query: ChartsQuery) -> bytes:
    return _there(charts.of(reader, query.regression), "regression", "no such regression")


def _there(found: bytes | None, field: str, otherwise: str) -> bytes:
    if found is None:
        raise Problem(404, otherwise, field)
    return found


def _concerns(name: str, names: set[str]) -> bool:
    return name in names or (name.endswith("/$") and any(series_of(one)[0] == name[:-2] for one in names))


def _concerns_neighbours(name: str, names: set[str]) -> bool:
    series = series_of(name)[0]
    return _concerns(name, names) or (series is not None and any(one.startswith(f"{series}/") for one in names))


def _concerns_jobs(query: JobsQuery, changes: Changes) -> bool:
    if query.regression is not None:
        return _concerns(query.regression, changes.with_jobs)
    return bool(changes.jobs)


RESOURCES: dict[str, Resource] = {
    "/regressions": Resource(
        RegressionsQuery, Reader.regressions, lambda _, changes: bool(changes.regressions or changes.jobs), 0.25
    ),
    "/facets": Resource(NoQuery, lambda reader, _: reader.facets(), lambda _, changes: bool(changes.regressions), 5.0),
    "/regression": Resource(
        NameQuery, _regression, lambda query, changes: _concerns_neighbours(query.name, changes.regressions), 0.25
    ),
    "/jobs": Resource(JobsQuery, Reader.jobs, _concerns_jobs, 0.25),
    "/job": Resource(KeyQuery, _job, lambda query, changes: query.key.encode() in changes.jobs, 0.25),
    "/charts": Resource(
        ChartsQuery, _charts, lambda query, changes: _concerns(query.regression, changes.with_jobs), 2.0
    ),
    "/hosts": Resource(HostsQuery, Reader.hosts, lambda _, changes: bool(changes.jobs), 1.0),
}


def asked(path: str, query_string: bytes | str) -> Asked:
    """What a path with parameters asks for. Raises Problem."""
    resource = RESOURCES.get(path)
    if resource is None:
        raise Problem(404, f"{path[:100]}: there is no such resource")
    return Asked(resource, parameters(resource.query, query_string))


def asked_by(target: str) -> Asked:
    """The same for both in one text, as a stream's `watch` has it. Raises Problem."""
    parts = urlsplit(target) if target.startswith("/") else None
    if parts is None or parts.netloc or parts.path not in RESOURCES:
        allowed = ", ".join(RESOURCES)
        raise Problem(400, f"watch: one of {allowed}, with its parameters", "watch")
    return asked(parts.path, parts.query)


def parameters(kind: type[msgspec.Struct], query_string: bytes | str) -> Any:
    """The parameters that a query has. Raises Problem."""
    given = pairs(query_string)
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise Problem(400, f"{name}: given twice", name)
        values[name] = value
    infos = {info.name: info for info in msgspec.structs.fields(kind)}
    for name in values:
        if name not in infos:
            allowed = ", ".join(infos) or "none"
            raise Problem(400, f"{name[:100]}: no such parameter; allowed are {allowed}", name[:100])
    for name, info in infos.items():
        if info.required and name not in values:
            raise Problem(400, f"{name}: missing", name)
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        name = where.rstrip("`")
        raise Problem(400, f"{name}: {text[:1].lower()}{text[1:]}", name) from error


def pairs(query_string: bytes | str) -> list[tuple[str, str]]:
    """Names and values of a query. Raises Problem."""
    if len(query_string) > QUERY_BYTES_MAX:
        raise Problem(400, f"the query is longer than {QUERY_BYTES_MAX} bytes")
    text = query_string.decode("latin-1") if isinstance(query_string, bytes) else query_string
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError as error:
        raise Problem(400, "the query is not UTF-8") from error
    except ValueError as error:
        raise Problem(400, f"more than {PARAMETERS_MAX} parameters") from error
