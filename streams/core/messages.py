"""Messages in: what a body must be, and what is read from it (pure).

The publisher refuses by these rules and the worker rejects by them: there is one set. msgspec's types check most of
it while decoding; what JSON itself leaves open (duplicate keys, depth) is checked here, without a second parse where
the text allows it. Plain job bodies, nearly all, are read by `tables._native` where that is built.
"""

import json
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from livejobs.streams.core.signature import BYTES_MAX as SIGNATURE_BYTES_MAX
from livejobs.tables import times
from livejobs.tables.compiled import native

KEY_BYTES_MAX = 1024
JOB_BYTES_MAX = 512 * 1024
MESSAGE_BYTES_MAX = 1024 * 1024
FIELDS_BYTES_MAX = 64 * 1024
DEPTH_MAX = 64
NUMBER_MAX = 2**63 - 1
YEAR_MAX = 9999

RESERVED_PREFIX = "_livejobs."
TICK = "_livejobs.tick"
REGRESSION_TYPES = frozenset({"regr-start", "regr-update", "regr-finish", "regr-tank"})
TYPES = REGRESSION_TYPES | {"job-live", "job-finish", "batch-job-finish"}

BATCH_JOBS_MAX = 2**15
"""In one batch-job-finish: more than that can't all be jobs within its largest size. It is rejected as one."""

REJECT_CODES = {
    "bad-type": "no `type` header, or an unknown or reserved type",
    "bad-key": "the key is empty or no UTF-8",
    "bad-json": "no valid JSON in UTF-8, or with a key twice in one object, NaN, or nested deeper than 64",
    "bad-field": "a field is missing, of the wrong type, out of range, or not allowed in this type",
    "too-large": "over a limit: a key 1 KiB, a job 512 KiB, a message 1 MiB, a signature 256 bytes, `fields` 64 KiB",
    "sealed": "the regression's job rows were dropped, its statistics are final",
}
"""The closed list of reject codes, and what each means."""


class Reject(ValueError):  # noqa: N818  the name of what happens to the message
    """A message that can't be taken: `code` is one of REJECT_CODES, `message` one line that names the field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


T = TypeVar("T")
_NUMBERS = ("compute_ms", "runtime_ms", "cycles", "exit_code")
_IDENTITY = ("start_time", "category", "jobdir", "seed", "config")

Text = str | None
Count = int | float | None


class Job(msgspec.Struct, kw_only=True):
    """The fields of a job that have a meaning here; all others are kept unread."""

    start_time: datetime | None = None
    """RFC 3339, with or without fraction, any offset."""
    category: Text = None
    jobdir: Text = None
    seed: str | int | float | None = None
    """A string; a bare number is kept as its text."""
    config: Text = None
    uniqueid: Text = None
    build: Text = None
    testgroup: Text = None
    host: Text = None
    username: Text = None
    sourcecode: Text = None
    extid: Text = None
    metadata: list[tuple[str, str]] | None = None
    """Pairs of name and value."""
    result: Text = None
    """`live`, or `pass`, `fail` or `skip`."""
    compute_ms: Count = None
    runtime_ms: Count = None
    cycles: Count = None
    exit_code: Count = None
    finish_time: datetime | None = None
    fail_message: Text = None
    """Empty on pass."""
    bucket: Text = None
    """A fail signature of the farm's own."""


class RegressionFields(msgspec.Struct, kw_only=True):
    """The fields of a regression whose types are checked; all others are kept as they come."""

    name: Text = None
    component: Text = None
    project: Text = None
    group: Text = None
    queue: Text = None
    host: Text = None
    dir: Text = None
    command: Text = None
    username: Text = None
    tag: Text = None
    changelist_path: Text = None
    model_branch: Text = None
    starttime: Text = None
    submitted: Count = None
    """Expected number of jobs."""


class TankFields(msgspec.Struct, kw_only=True):
    """The body of a regr-tank."""

    tank: bool | None = None
    reason: Text = None


class _Seed(msgspec.Struct):
    seed: msgspec.Raw


_decode = msgspec.json.Decoder().decode
_decode_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_seed = msgspec.json.Decoder(_Seed).decode
_encode = msgspec.json.encode
_convert = msgspec.convert


def check_key(key: bytes | None) -> str:
    """The regression's name that a Kafka key holds. Raises Reject (bad-key, too-large)."""
    if not key:
        raise Reject("bad-key", "key: the regression's name is missing")
    if len(key) > KEY_BYTES_MAX:
        raise Reject("too-large", f"key: {len(key)} bytes, allowed are {KEY_BYTES_MAX}")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Reject("bad-key", "key: the regression's name is no UTF-8") from None


def check(kind: str, body: bytes) -> None:
    """Raise Reject if the worker would reject a message of this type and body; for a batch, at its first bad job."""
    if kind in ("job-live", "job-finish"):
        finished = kind == "job-finish"
        if native is not None and native.is_job(body, finished):
            return
        if finished:
            checked_finish(body)
        else:
            checked_live(body)
    elif kind == "batch-job-finish":
        for index, item in enumerate(batch(body)):
            try:
                finish(item)
            except Reject as error:
                raise Reject(error.code, f"job {index}: {error.message}") from None
    elif kind == "regr-tank":
        tank(body)
    elif kind in REGRESSION_TYPES:
        fields, _ = regression(body)
        if len(_encode(fields)) > FIELDS_BYTES_MAX:
            raise Reject("too-large", f"fields: more than {FIELDS_BYTES_MAX} bytes")
    else:
        refuse_type(kind.encode(errors="replace"))


def refuse_type(kind: bytes) -> NoReturn:
    """Raise Reject for a type that is none."""
    shown = kind[:64].decode(errors="replace")
    raise Reject("bad-type", f"type {shown!r}: allowed are {', '.join(sorted(TYPES))}")


class Finish(NamedTuple):
    """What the rules need of a finished job."""

    key: bytes
    """What follows the regression in its key: see `identity`."""
    result: str
    cycles: int
    compute_ms: int
    runtime_ms: int
    rated: bool
    """It has both cycles and runtime."""
    start_ms: int | None
    """Start, ms since the epoch."""
    finish_ms: int | None
    """End, given or start + runtime; None: the broker's time stands for it."""
    bucketed: bool
    """`reason` is a fail signature of the farm's own."""
    reason: bytes | None
    """Of a fail: the JSON text of its `bucket`, or else of its `fail_message`."""


def live(body: bytes | None) -> bytes:
    """What follows the regression in the key of a job-live's job. Raises Reject."""
    if native is not None:
        plain: bytes | None = native.live(body)
        if plain is not None:
            return plain
    return checked_live(body)


def checked_live(body: bytes | None) -> bytes:
    """`live`, for any body."""
    job, key = _job(body)
    if job.result != "live":
        raise Reject("bad-field", f'result: must be "live", not {job.result!r}')
    if job.fail_message or job.compute_ms or job.runtime_ms or job.cycles:
        for name in ("fail_message", "compute_ms", "runtime_ms", "cycles"):
            if getattr(job, name):
                raise Reject("bad-field", f"{name}: not allowed in a live job")
    return key


def finish(body: bytes | None) -> Finish:
    """What a finished job gives. Raises Reject."""
    if native is not None:
        plain = native.finish(body)
        if plain is not None:
            return tuple.__new__(Finish, plain)
    return checked_finish(body)


def checked_finish(body: bytes | None) -> Finish:
    """`finish`, for any body."""
    job, key = _job(body)
    if job.result not in ("pass", "fail", "skip"):
        raise Reject("bad-field", f"result: must be pass, fail or skip, not {job.result!r}")
    if job.bucket and len(job.bucket.encode()) > SIGNATURE_BYTES_MAX:
        raise Reject("too-large", f"bucket: more than {SIGNATURE_BYTES_MAX} bytes")
    start_ms = None if job.start_time is None else times.to_ms(job.start_time)
    finish_ms = None if job.finish_time is None else times.to_ms(job.finish_time)
    if finish_ms is None and start_ms is not None and job.runtime_ms is not None:
        finish_ms = start_ms + int(job.runtime_ms)
        if finish_ms > times.MS_MAX:
            finish_ms = None
    reason = job.bucket or job.fail_message
    return Finish(
        key,
        job.result,
        int(job.cycles or 0),
        int(job.compute_ms or 0),
        int(job.runtime_ms or 0),
        job.cycles is not None and job.runtime_ms is not None,
        start_ms,
        finish_ms,
        bool(job.bucket),
        None if reason is None or job.result != "fail" else _encode(reason),
    )


def batch(body: bytes | None) -> list[bytes]:
    """The bodies in a batch-job-finish, each still to be checked. Raises Reject."""
    if not body:
        raise Reject("bad-json", "body: empty, a JSON array of jobs is needed")
    if len(body) > MESSAGE_BYTES_MAX:
        raise Reject("too-large", f"body: {len(body)} bytes, allowed are {MESSAGE_BYTES_MAX}")
    try:
        raws = _decode_raw_array(body)
        if len(raws) > BATCH_JOBS_MAX:
            raise Reject("too-large", f"body: {len(raws)} jobs, allowed are {BATCH_JOBS_MAX}")
        return [bytes(raw) for raw in raws]
    except msgspec.ValidationError:
        _value(body)
        raise Reject("bad-field", "body: a JSON array of jobs is needed") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Reject("bad-json", f"body: {_line(error)}") from None


def regression(body: bytes | None) -> tuple[dict[str, msgspec.Raw], int | None]:
    """A regression's fields (nulls left out) and its expected number of jobs, None where not given. Raises Reject."""
    if not body or body.strip() in (b"", b"null"):
        return {}, None
    values = _object(body)
    known = _typed(values, RegressionFields)
    submitted = None if known.submitted is None else _number("submitted", known.submitted)
    raws = _decode_raw_object(body)
    return {name: raws[name] for name, value in values.items() if value is not None}, submitted


def tank(body: bytes | None) -> bool:
    """Whether a regr-tank tanks (or untanks) the regression. Raises Reject."""
    if not body or body.strip() in (b"", b"null"):
        return True
    return _typed(_object(body), TankFields).tank is not False


def same_json(a: bytes, b: bytes) -> bool:
    """Whether two valid JSON texts are equal as JSON values: order of keys and spelling of numbers aside."""
    return a == b or canonical(a) == canonical(b)


def canonical(body: bytes) -> bytes:
    """One spelling for all JSON texts of the same value."""
    return _encode(_plain(_decode(body)), order="sorted")


def _plain(value: Any) -> Any:
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is list:
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {name: _plain(item) for name, item in value.items()}
    return value


def _job(body: bytes | None) -> tuple[Job, bytes]:
    """A job, and what follows its regression in its key."""
    if not body:
        raise Reject("bad-json", "body: empty, a JSON object is needed")
    if len(body) > JOB_BYTES_MAX:
        raise Reject("too-large", f"body: {len(body)} bytes, allowed are {JOB_BYTES_MAX}")
    values = _object(body)
    job = _typed(values, Job)
    if job.start_time is not None:
        _check_time("start_time", job.start_time)
    if job.finish_time is not None:
        _check_time("finish_time", job.finish_time)
    for name in _NUMBERS:
        value = getattr(job, name)
        if value is not None:
            setattr(job, name, _number(name, value))
    if job.seed is not None and type(job.seed) is not str:
        job.seed = bytes(_decode_seed(body).seed).decode()
    return job, _encode(_identity(job, values.get("start_time")))[1:]


def _identity(job: Job, start_time: str | None) -> list[str]:
    """Who a job is inside its regression: uniqueid, or the five key fields, the time as it was given."""
    if job.uniqueid:
        return [job.uniqueid]
    given = (start_time, job.category or None, job.jobdir or None, job.seed, job.config)
    found = [value for value in given if value is not None]
    if len(found) < len(given):
        name = _IDENTITY[given.index(None)]
        raise Reject("bad-field", f"{name}: missing (a job needs uniqueid, or {', '.join(_IDENTITY)})")
    return found  # type: ignore[return-value]  # a number as seed became its text


def _check_time(name: str, moment: datetime) -> None:
    if moment.tzinfo is None or not 1 < moment.year < YEAR_MAX:
        raise Reject("bad-field", f"{name}: an RFC 3339 time with an offset is needed, year 2 to {YEAR_MAX - 1}")


def _number(name: str, value: float) -> int:
    """A non-negative integer below 2^63; 3.0 is 3."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:
        raise Reject("bad-field", f"{name}: must be a non-negative integer below 2^63, not {value!r:.40}")
    return value


def _value(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Reject("bad-json", f"body: {_line(error)}") from None


def _object(body: bytes) -> dict[str, Any]:
    values = _value(body)
    if type(values) is not dict:
        raise Reject("bad-field", "body: a JSON object is needed")
    # As many `":` as keys, and no white space before a colon: then each key of the object stands there once, and
    # it holds no other object.
    # One byte is found much faster than two, so white space is looked for first.
    if (
        body.count(b'":') != len(values)
        or (b" " in body and b" :" in body)
        or b"\n" in body
        or b"\t" in body
        or b"\r" in body
    ):
        _refuse_duplicates(body)
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX:
        _refuse_depth(values)
    return values


def _refuse_duplicates(body: bytes) -> None:
    def pairs(items: list[tuple[str, object]]) -> None:
        if len({name for name, _ in items}) != len(items):
            seen: set[str] = set()
            twice = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise Reject("bad-json", f"{twice[:64]!r}: the key stands twice in one object")

    try:
        json.loads(body, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except Reject:
        raise
    except (ValueError, RecursionError) as error:
        raise Reject("bad-json", f"body: {_line(error)}") from None


def _refuse_depth(value: object) -> None:
    level: list[Any] = [value]
    depth = 0
    while level:
        level = [item for item in level if isinstance(item, dict | list)]
        depth += bool(level)
        if depth > DEPTH_MAX:
            raise Reject("bad-json", f"body: nested deeper than {DEPTH_MAX}")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]


def _typed(values: dict[str, Any], type_: type[T]) -> T:
    try:
        return _convert(values, type_)
    except msgspec.ValidationError as error:
        _refuse_type(error)


def _refuse_type(error: msgspec.ValidationError) -> NoReturn:
    what, _, where = str(error).partition(" - at `$.")
    raise Reject("bad-field", f"{where.rstrip('`') or 'body'}: {what.replace('`', '')}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
