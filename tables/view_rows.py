"""From records of the topics to the columns of the view (pure): what lists sort and filter by, beside the record."""

import re
from typing import Any, Literal

import msgspec

from livejobs.tables import times

RESULTS = ("live", "pass", "fail", "skip")
"""A result's number in the view is its place here."""
LIVE, FAIL = 0, 2
VERDICTS = ("timeout", "finish", "tank")
TEXT_MAX = 500
"""Characters of a text in a list; the whole record has all of it."""
LONG_BYTES = 1500
"""A record of fewer bytes is not looked through for texts to cut."""
NUMBER_MAX = 2**63 - 1
NONE = -1
"""Stands for a number that is not there: keyset cursors compare, and null is not comparable."""
LISTED_FIELDS = ("project", "group", "username", "component", "tag", "queue", "host")
_SERIES = re.compile(r"(.+)/(\d{1,18})", re.DOTALL)
_word = re.compile(r"\w+").findall


class UnreadableError(ValueError):
    """A record that is none of the worker's."""


class _Body(msgspec.Struct):
    start_time: str | None = None
    finish_time: str | None = None
    category: str | None = None
    jobdir: str | None = None
    seed: msgspec.Raw = msgspec.Raw(b"null")
    config: str | None = None
    uniqueid: str | None = None
    build: str | None = None
    testgroup: str | None = None
    host: str | None = None
    username: str | None = None
    extid: str | None = None
    runtime_ms: int | float | None = None
    cycles: int | float | None = None


class _Job(msgspec.Struct):
    regression: str
    result: Literal["live", "pass", "fail", "skip"]
    job: _Body
    first_seen: str
    updated: str
    signature: str | None = None
    verdict: Literal["timeout", "finish", "tank"] | None = None


class ListedBody(msgspec.Struct):
    """What a list shows of a job's body; what was not given is not there."""

    start_time: str | msgspec.UnsetType | None = msgspec.UNSET
    finish_time: str | msgspec.UnsetType | None = msgspec.UNSET
    category: str | msgspec.UnsetType | None = msgspec.UNSET
    jobdir: str | msgspec.UnsetType | None = msgspec.UNSET
    seed: str | int | float | msgspec.UnsetType | None = msgspec.UNSET
    config: str | msgspec.UnsetType | None = msgspec.UNSET
    uniqueid: str | msgspec.UnsetType | None = msgspec.UNSET
    build: str | msgspec.UnsetType | None = msgspec.UNSET
    testgroup: str | msgspec.UnsetType | None = msgspec.UNSET
    host: str | msgspec.UnsetType | None = msgspec.UNSET
    username: str | msgspec.UnsetType | None = msgspec.UNSET
    extid: str | msgspec.UnsetType | None = msgspec.UNSET
    compute_ms: int | float | msgspec.UnsetType | None = msgspec.UNSET
    runtime_ms: int | float | msgspec.UnsetType | None = msgspec.UNSET
    cycles: int | float | msgspec.UnsetType | None = msgspec.UNSET
    exit_code: Any | msgspec.UnsetType = msgspec.UNSET
    fail_message: str | msgspec.UnsetType | None = msgspec.UNSET
    bucket: str | msgspec.UnsetType | None = msgspec.UNSET


class ListedJob(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A job in a list: its record, the body cut down to what a list shows."""

    id: str = ""
    """Key of the record, canonical JSON text."""
    regression: str
    result: Literal["live", "pass", "fail", "skip"]
    job: ListedBody
    first_seen: str
    updated: str
    started: str = ""
    """The body's start_time in UTC, else first_seen."""
    signature: str | None = None
    verdict: Literal["timeout", "finish", "tank"] | None = None


_decode_job = msgspec.json.Decoder(_Job).decode
_decode_listed = msgspec.json.Decoder(ListedJob).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode

JOB_COLUMNS = (
    "key", "regression", "result", "verdict", "started_ms", "finish_ms", "updated", "host", "user", "test", "build",
    "seed", "config", "signature", "runtime_ms", "cycles", "words", "record",
)  # fmt: skip
JobColumns = tuple[Any, ...]


def job_columns(key: bytes, value: bytes) -> tuple[str, str, JobColumns]:
    """Its regression's name, when it was first seen, and the values of JOB_COLUMNS with None as regression.

    Raises UnreadableError.
    """
    if b"\0" in value or b"\0" in key:
        raise UnreadableError("a zero byte")
    try:
        key.decode(), value.decode()  # also what the decoder skips
        record = _decode_job(value)
        body = record.job
        seed = _text_of(bytes(body.seed))
        started_ms = _ms(body.start_time, NONE)
        if started_ms == NONE:
            started_ms = times.from_text(record.first_seen)
    except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors
        raise UnreadableError(str(error)) from error
    live = record.result == "live"
    runtime_ms = _number(body.runtime_ms)
    if live:
        finish_ms = NONE
    elif body.finish_time:
        finish_ms = _ms(body.finish_time, NONE)
    elif runtime_ms >= 0 and body.start_time and record.verdict is None:
        finish_ms = started_ms + runtime_ms
    else:
        finish_ms = _ms(record.updated, NONE)
    columns = (
        key,
        None,
        RESULTS.index(record.result),
        NONE if record.verdict is None else VERDICTS.index(record.verdict),
        started_ms,
        finish_ms,
        record.updated,
        body.host or "",
        body.username or "",
        body.testgroup or "",
        body.build or "",
        seed,
        body.config or "",
        record.signature or "",
        NONE if live else runtime_ms,
        NONE if live else _number(body.cycles),
        _words(body, seed) if live else None,
        value,
    )
    return record.regression, record.first_seen, columns


def _ms(text: str | None, otherwise: int) -> int:
    if not text:
        return otherwise
    try:
        return max(times.from_text(text), 0)
    except (ValueError, TypeError, OverflowError):  # TypeError: without an offset
        return otherwise


def _number(value: float | None) -> int:
    return NONE if value is None or not 0 <= value <= NUMBER_MAX else int(value)


def _text_of(raw: bytes) -> str:
    """A seed as text; a bare number is its literal."""
    if raw == b"null":
        return ""
    return str(_decode_any(raw)) if raw[:1] == b'"' else raw.decode()


def _words(body: _Body, seed: str) -> str:
    """What a search finds a live job by: its words, each with a blank before it."""
    texts = (body.host, body.username, body.testgroup, body.build, seed, body.config)
    more = (body.category, body.jobdir, body.uniqueid, body.extid)
    return words_of(" ".join(text for text in (*texts, *more) if text))


def words_of(text: str) -> str:
    """The words of a text in lower case, each with a blank before it."""
    found = _word(text.lower())
    return " " + " ".join(found) if found else ""


def listed_job(key: str, started_ms: int, record: str) -> bytes:
    """A job as a list shows it."""
    listed = _decode_listed(record)
    listed.id = key
    listed.started = times.to_text(started_ms)
    if len(record) > LONG_BYTES:
        for name in ListedBody.__struct_fields__:
            text = getattr(listed.job, name)
            if isinstance(text, str) and len(text) > TEXT_MAX:
                setattr(listed.job, name, cut(text))
        if not isinstance(listed.job.exit_code, int):
            listed.job.exit_code = msgspec.UNSET
    return _encode(listed)


def cut(text: str) -> str:
    """At most TEXT_MAX characters of it."""
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


class _Stats(msgspec.Struct):
    regression: str
    status: Literal["LIVE", "COMPLETE", "ABORTED", "TANKED"]
    updated: str
    live: int
    fail: int
    finished: int
    heard: str
    remaining: int | None
    pass_rate: float | None
    fields: dict[str, Any]


_decode_stats = msgspec.json.Decoder(_Stats).decode

STATS_COLUMNS = (
    "status", "project", "team", "user", "series", "number", "start_text", "heard", "updated", "live", "fail",
    "finished", "remaining", "pass_rate", "words",
)  # fmt: skip


def stats_columns(value: bytes) -> tuple[tuple[Any, ...], bytes]:
    """The values of STATS_COLUMNS, and the record as a list shows it. Raises UnreadableError."""
    if b"\0" in value:
        raise UnreadableError("a zero byte")
    try:
        value.decode()
        stats = _decode_stats(value)
        whole = _decode_any(value)
    except (ValueError, OverflowError) as error:
        raise UnreadableError(str(error)) from error
    texts = {name: cut(text) for name in LISTED_FIELDS if isinstance(text := stats.fields.get(name), str) and text}
    project, team, user = (texts.get(name, "") for name in ("project", "group", "username"))
    series, number = series_of(stats.regression)
    columns = (
        stats.status,
        project,
        team,
        user,
        series or "",
        NONE if number is None else number,
        _start(stats.fields.get("starttime")),
        stats.heard,
        stats.updated,
        stats.live,
        stats.fail,
        stats.finished,
        -(2**62) if stats.remaining is None else stats.remaining,
        NONE if stats.pass_rate is None else round(stats.pass_rate * 1e9),
        f"{stats.regression}\n{project}\n{team}\n{user}".lower(),
    )
    whole.pop("signatures", None)
    whole["fields"] = texts
    return columns, _encode(whole)


def _start(text: object) -> str:
    ms = _ms(text, NONE) if isinstance(text, str) else NONE
    return "" if ms == NONE else times.to_text(ms)


def series_of(name: str) -> tuple[str | None, int | None]:
    """Series and number of a regression named `series/NUMBER`; (None, None) of another one."""
    match = _SERIES.fullmatch(name)
    return (match[1], int(match[2])) if match else (None, None)
