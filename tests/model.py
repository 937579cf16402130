"""The specification as a naive model: plain dicts, slow, written to be believed by reading it.

The real core is compared with this after generated histories. Nothing is kept that can be computed: statistics are a
fold over the rows each time they are asked for, and a status is read off the flags. Times are milliseconds since 1970
inside, RFC 3339 text outside.

What is bounded in the real core and is not here: a tick does everything that is due, however much (the core does at
most TICK_ROWS), and sealing drops all rows of a regression at once. Histories stay far below those limits.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

# Lower these in a test (monkeypatch) to reach the limits with short histories.
LIMIT_SIGNATURES = 25
ENDING_STEP = 10_000
TICK_ROWS = 10_000  # only documented: see above
MESSAGE_BYTES = 1024 * 1024
JOB_BYTES = 512 * 1024
FIELDS_BYTES = 64 * 1024
KEY_BYTES = 1024
SIGNATURE_BYTES = 256
NESTING = 64

TICK = "_livejobs.tick"
REGRESSION_TYPES = ("regr-start", "regr-update", "regr-finish", "regr-tank")
TYPES = (*REGRESSION_TYPES, "job-live", "job-finish", "batch-job-finish")
OVERFLOW = "Regression Bucket Overflow"
NO_MESSAGE = "(no message)"

KEY_FIELDS = ("start_time", "category", "jobdir", "seed", "config")
JOB_TEXTS = (
    "category",
    "jobdir",
    "config",
    "uniqueid",
    "build",
    "testgroup",
    "host",
    "username",
    "sourcecode",
    "extid",
)
JOB_NUMBERS = ("compute_ms", "runtime_ms", "cycles", "exit_code")
NOT_WHEN_LIVE = ("fail_message", "compute_ms", "runtime_ms", "cycles")
FINISH_FIELDS = (*NOT_WHEN_LIVE, "exit_code", "finish_time", "bucket")
REGRESSION_TEXTS = (
    "name",
    "component",
    "project",
    "group",
    "queue",
    "host",
    "dir",
    "command",
    "username",
    "tag",
    "changelist_path",
    "model_branch",
    "starttime",
)

Verdict = Literal["timeout", "finish", "tank"]


class Rules(Protocol):
    """What a model needs of the configuration; times in ms."""

    @property
    def enable_live(self) -> bool:
        """Is a job-live more than ignored."""

    @property
    def timeout_signature(self) -> str | None:
        """The signature of verdicts, if live jobs are to get any."""

    @property
    def silence_ms(self) -> int | None:
        """After this a regression times out."""

    @property
    def prune_ms(self) -> int:
        """After this a live job is dropped."""

    @property
    def retention_ms(self) -> int:
        """After this a closed regression is sealed, and an idle one without live jobs closed."""

    @property
    def stats_ms(self) -> int:
        """After this a sealed regression is forgotten."""


class Bad(Exception):  # noqa: N818 - it is a verdict on a message, not an error of ours
    """A message, or one job of a batch, is rejected with `code`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# --- times ------------------------------------------------------------------------------------------------------------

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:)(\d\d)(?:\.(\d+))?([Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def to_ms(text: str) -> int:
    """Milliseconds of an RFC 3339 time (finer digits are cut off); ValueError when it is none."""
    found = RFC_3339.fullmatch(text)
    if not found:
        raise ValueError(text)
    date, hour_minute, second, fraction, _, sign, hours, minutes = found.groups()
    leap = second == "60"
    when = datetime.fromisoformat(f"{date}T{hour_minute}{'59' if leap else second}+00:00")
    ms = (when - EPOCH) // timedelta(milliseconds=1) + 1000 * leap + int((fraction or "0").ljust(3, "0")[:3])
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError(text)
        ms -= int(sign + "1") * (int(hours) * 60 + int(minutes)) * 60_000
    if to_text(ms) is None:
        raise ValueError(text)
    return ms


def to_text(ms: int) -> str | None:
    """RFC 3339 in UTC with milliseconds; None when the year is not 1 to 9999."""
    try:
        return (EPOCH + timedelta(milliseconds=ms)).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    except OverflowError:
        return None


# --- JSON -------------------------------------------------------------------------------------------------------------


class Int(int):
    """A JSON integer that remembers how it was written."""

    literal: str


class Float(float):
    """A JSON number with a fraction or an exponent, that remembers how it was written."""

    literal: str


def _int(literal: str) -> Int:
    number = Int(literal)
    number.literal = literal
    return number


def _float(literal: str) -> Float:
    number = Float(literal)
    number.literal = literal
    return number


def _no_constant(_name: str) -> Any:
    raise Bad("bad-json")  # NaN, Infinity, -Infinity


def decode(text: str, start: int = 0) -> tuple[Any, int, bool]:
    """Give the JSON value that begins at `start`, where it ends, and whether it obeys our rules beyond the grammar."""
    repeated: list[str] = []

    def pairs_to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            repeated.append("a key")
        return dict(pairs)

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs_to_dict, parse_int=_int, parse_float=_float, parse_constant=_no_constant
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        raise Bad("bad-json") from None
    return value, end, not repeated and _depth(value) <= NESTING and all(_scalar_is_sound(one) for one in _walk(value))


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _walk(value: Any) -> Iterator[Any]:
    """Every key and every scalar."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _walk(one)
    else:
        yield value


def _scalar_is_sound(value: Any) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    return not isinstance(value, float) or value - value == 0  # finite


def whole(value: bytes | None) -> tuple[Any, str]:
    """Decode a message's whole value: what it says and its text without surrounding space."""
    try:
        text = (value or b"").decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError:
        raise Bad("bad-json") from None
    result, end, sound = decode(text)
    # A batch's jobs are judged one by one; its text has only to be JSON.
    if end < len(text) or not (sound or isinstance(result, list)):
        raise Bad("bad-json")
    return result, text


def same(left: Any, right: Any) -> bool:
    """Equal as JSON values: 1 is 1.0, true is not 1, the order of keys is nothing."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def is_number(value: Any) -> bool:
    """A non-negative integer below 2^63; 3.0 is one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value) and 0 <= value < 2**63


# --- validation -------------------------------------------------------------------------------------------------------


def need(condition: bool) -> None:
    if not condition:
        raise Bad("bad-field")


def check_key(key: bytes | None) -> str:
    if not key:
        raise Bad("bad-key")
    if len(key) > KEY_BYTES:
        raise Bad("too-large")
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        raise Bad("bad-key") from None


def check_time(value: Any) -> None:
    need(isinstance(value, str))
    try:
        to_ms(value)
    except ValueError:
        raise Bad("bad-field") from None


def is_empty(value: Any) -> bool:
    """Tolerated in a live job's finish fields: null, the empty text, zero."""
    return value is None or value == "" or (value == 0 and not isinstance(value, bool))


def check_job(job: Any, kind: str, text: str, *, sound: bool) -> None:
    """Raise Bad unless this is a job that a message of this type may carry."""
    if len(text.encode()) > JOB_BYTES:
        raise Bad("too-large")
    if not sound:
        raise Bad("bad-json")
    need(isinstance(job, dict))
    job = {name: value for name, value in job.items() if value is not None}  # null is the same as absent
    if kind == "job-live":
        need(job.get("result") == "live")
        need(all(is_empty(job.get(name)) for name in NOT_WHEN_LIVE))
        job = {name: value for name, value in job.items() if not (name in FINISH_FIELDS and is_empty(value))}
    else:
        need(job.get("result") in ("pass", "fail", "skip"))
    check_job_types(job)
    if not job.get("uniqueid"):
        need(all(name in job for name in KEY_FIELDS))
        need(job["category"] != "" and job["jobdir"] != "")
    if len(job.get("bucket", "").encode()) > SIGNATURE_BYTES:
        raise Bad("too-large")


def check_job_types(job: dict[str, Any]) -> None:
    """Check every field that has a type; null ones have been left out."""
    for name in (*JOB_TEXTS, "fail_message", "bucket"):
        need(isinstance(job.get(name, ""), str))
    for name in JOB_NUMBERS:
        need(is_number(job.get(name, 0)))
    for name in ("start_time", "finish_time"):
        if name in job:
            check_time(job[name])
    need(isinstance(job.get("seed", ""), str | Int | Float))
    need(isinstance(job.get("metadata", []), list))
    for pair in job.get("metadata", []):
        need(isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair))


def check_regression(body: Any, kind: str) -> dict[str, Any]:
    """Raise Bad unless this is a regression's body; an empty one in any form is {}."""
    if body is None:
        return {}
    need(isinstance(body, dict))
    assert isinstance(body, dict)
    if kind == "regr-tank":
        need(body.get("tank") is None or isinstance(body["tank"], bool))
        return body
    for name in REGRESSION_TEXTS:
        need(body.get(name) is None or isinstance(body[name], str))
    need(body.get("submitted") is None or is_number(body["submitted"]))
    return body


Item = dict[str, Any] | Bad


def read_batch(text: str) -> list[Item]:
    """The jobs of a batch (its text is known to be a JSON array): each body, or why it is rejected."""
    items: list[Item] = []
    at = 1
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return items
        job, end, sound = decode(text, at)
        try:
            check_job(job, "batch-job-finish", text[at:end], sound=sound)
            items.append(job)
        except Bad as bad:
            items.append(bad)
        at = end


# --- what is kept -----------------------------------------------------------------------------------------------------

Key = tuple[str, ...]


def key_of(regression: str, job: dict[str, Any]) -> Key:
    if job.get("uniqueid"):
        return (regression, job["uniqueid"])
    seed = job["seed"]
    parts = {**job, "seed": seed if isinstance(seed, str) else seed.literal}
    return (regression, *(parts[name] for name in KEY_FIELDS))


def key_bytes(key: Key) -> bytes:
    """Canonical JSON: UTF-8, no spaces, only mandatory escapes."""
    return json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass
class Row:
    """One job. A verdict leaves the body as received, so `result` is not always the body's."""

    job: dict[str, Any]
    result: str
    first_seen: int
    updated: int
    offset: int  # of the last message of this job: its last job-live, while it is live
    signature: str | None = None
    verdict: Verdict | None = None


@dataclass
class Ending:
    """Live jobs still to be ended, in key order after `cursor`, unless a job-live came after `offset`."""

    verdict: Verdict
    offset: int
    cursor: bytes = b""


@dataclass
class Regression:
    """One regression and its rows. Closed = `closed_by` is set; sealed = `final` is set."""

    rows: dict[Key, Row] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    last_start: dict[str, Any] | None = None
    tanked: bool = False
    closed_by: Literal["finish", "timeout"] | None = None
    closed_at: int = 0
    ending: Ending | None = None
    final: dict[str, Any] | None = None
    sealed_at: int = 0
    heard: int = 0
    updated: int = 0
    version: int = -1

    def live(self) -> dict[Key, Row]:
        """Give the rows of live jobs."""
        return {key: row for key, row in self.rows.items() if row.result == "live"}


def merged(fields: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Top-level merge, the later wins, null changes nothing; raises Bad when that grows too large."""
    result = {**fields, **{name: value for name, value in body.items() if value is not None}}
    if len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()) > FIELDS_BYTES:
        raise Bad("too-large")
    return result


def reduce_message(fail_message: str) -> str:
    """The one line to which a fail message is reduced (a test of the model may replace this)."""
    from livejobs.streams.core.signature import reduce  # noqa: PLC0415 - only where a fail needs it

    return str(reduce(fail_message))


def last_moment(row: Row) -> int:
    """When a finished job ended: its finish_time, else start_time + runtime_ms, else the broker's time."""
    if row.job.get("finish_time") is not None:
        return to_ms(row.job["finish_time"])
    if row.job.get("start_time") is not None and row.job.get("runtime_ms") is not None:
        end = to_ms(row.job["start_time"]) + int(row.job["runtime_ms"])
        if to_text(end) is not None:
            return end
    return row.updated


def fold(rows: list[Row]) -> dict[str, Any]:
    """All statistics that come from the rows."""
    real = [row for row in rows if row.result != "live" and row.verdict is None]
    count = {result: sum(row.result == result for row in rows) for result in ("live", "pass", "fail", "skip")}
    tried = count["pass"] + count["fail"]

    def total(name: str, jobs: list[Row]) -> int:
        return sum(int(row.job.get(name) or 0) for row in jobs)

    both = [row for row in real if row.job.get("cycles") is not None and row.job.get("runtime_ms") is not None]
    runtime = total("runtime_ms", both)
    first = min((to_ms(row.job["start_time"]) for row in real if row.job.get("start_time") is not None), default=None)
    last = max(map(last_moment, real), default=None)
    names = [row.signature for row in rows if row.result == "fail"]
    return {
        **count,
        "finished": tried + count["skip"],
        "pass_rate": count["pass"] / tried if tried else None,
        **{name: total(name, real) for name in ("cycles", "compute_ms", "runtime_ms")},
        "cycles_per_second": total("cycles", both) * 1000 / runtime if runtime else None,
        "first_start": None if first is None else to_text(first),
        "last_finish": None if last is None else to_text(last),
        "duration_ms": None if first is None or last is None else last - first,
        "signatures": dict(Counter(names)),
    }


# --- the model --------------------------------------------------------------------------------------------------------


class Model:
    """Messages in, public records out."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.rejects: list[tuple[str, int, int | None]] = []
        self._regressions: dict[str, Regression] = {}

    def apply(self, offset: int, timestamp_ms: int, key: bytes | None, kind: str | None, value: bytes | None) -> None:
        """Take one record of `job-events`; `kind` is the text of its `type` header."""
        if kind == TICK:  # whatever it carries
            self._tick(offset, timestamp_ms)
            return
        try:
            self._message(offset, timestamp_ms, key, kind, value)
        except Bad as bad:
            self.rejects.append((bad.code, offset, None))

    # Reading

    def jobs(self) -> dict[Key, dict[str, Any]]:
        """Every job's public record, by the parts of its key."""
        records = {}
        for regression in self._regressions.values():
            for key, row in regression.rows.items():
                record: dict[str, Any] = {"regression": key[0], "result": row.result, "job": row.job}
                record |= {"first_seen": to_text(row.first_seen), "updated": to_text(row.updated)}
                if row.result == "fail":
                    record["signature"] = row.signature
                if row.verdict is not None:
                    record["verdict"] = row.verdict
                records[key] = record
        return records

    def stats(self) -> dict[str, dict[str, Any]]:
        """Every regression's public record, by its name."""
        records = {}
        for name, regression in self._regressions.items():
            totals = regression.final or fold(list(regression.rows.values()))
            submitted = regression.fields.get("submitted")
            submitted = None if submitted is None else int(submitted)
            if regression.tanked:
                status = "TANKED"
            elif regression.closed_by is None:
                status = "LIVE"
            elif regression.closed_by == "timeout" or (submitted is not None and totals["finished"] < submitted):
                status = "ABORTED"
            else:
                status = "COMPLETE"
            records[name] = {
                "regression": name,
                "status": status,
                "version": regression.version,
                "updated": to_text(regression.updated),
                "heard": to_text(regression.heard),
                "submitted": submitted,
                "remaining": None if submitted is None else submitted - totals["finished"],
                "fields": regression.fields,
                **totals,
            }
        return records

    # Messages

    def _message(self, offset: int, time: int, key: bytes | None, kind: str | None, value: bytes | None) -> None:
        if kind not in TYPES:
            raise Bad("bad-type")
        if kind == "job-live" and not self.rules.enable_live:
            return  # ignored, whatever it holds
        name = check_key(key)
        if len(value or b"") > MESSAGE_BYTES:
            raise Bad("too-large")
        known = self._regressions.get(name)
        if known and offset <= known.version:
            return  # a replay

        if kind in REGRESSION_TYPES:
            body = check_regression(whole(value)[0] if value else None, kind)
            self._refuse_if_sealed(known, kind)
            self._regression_message(name, offset, time, kind, body)
            return

        content, text = whole(value)
        if kind == "batch-job-finish":
            need(isinstance(content, list))
            self._refuse_if_sealed(known, kind)
            items = read_batch(text)
            self.rejects += [(bad.code, offset, index) for index, bad in enumerate(items) if isinstance(bad, Bad)]
            jobs = [item for item in items if not isinstance(item, Bad)]
            if items and not jobs:
                return
        else:
            _, _, sound = decode(text)
            check_job(content, kind, text, sound=sound)
            self._refuse_if_sealed(known, kind)
            jobs = [content]

        regression = self._regressions.setdefault(name, Regression())
        now = max(time, regression.updated)
        take = self._job_live if kind == "job-live" else self._job_finish
        news = [take(regression, key_of(name, job), job, now, offset) for job in jobs]
        if any(news) or not jobs:  # an empty batch is heard too
            self._hear(regression, now, offset)

    def _refuse_if_sealed(self, regression: Regression | None, kind: str) -> None:
        if regression and regression.final is not None and kind not in ("regr-start", "regr-tank"):
            raise Bad("sealed")

    def _hear(self, regression: Regression, now: int, offset: int) -> None:
        """Note that the regression was heard of; one that timed out is open again."""
        if regression.closed_by == "timeout" and regression.final is None:
            regression.closed_by = None
            regression.ending = None
        regression.heard = now
        self._change(regression, now, offset)

    def _change(self, regression: Regression, now: int, offset: int) -> None:
        regression.updated = now
        regression.version = offset

    # Regressions

    def _regression_message(self, name: str, offset: int, time: int, kind: str, body: dict[str, Any]) -> None:
        old = self._regressions.get(name) or Regression()
        now = max(time, old.updated)
        if kind == "regr-start":
            self._regr_start(name, old, now, offset, body)
            return
        fields = old.fields if kind == "regr-tank" else merged(old.fields, body)
        regression = self._regressions[name] = old
        regression.fields = fields
        self._hear(regression, now, offset)
        if kind == "regr-finish":
            if regression.closed_by is None:
                regression.closed_by = "finish"
                regression.closed_at = now
            self._end_live(regression, "finish", now, offset)
        if kind == "regr-tank":
            regression.tanked = body.get("tank") is not False
            if regression.tanked and regression.final is None:
                self._end_live(regression, "tank", now, offset)
            elif regression.ending and regression.ending.verdict == "tank":
                regression.ending = None

    def _regr_start(self, name: str, regression: Regression, now: int, offset: int, body: dict[str, Any]) -> None:
        last = regression.last_start
        if regression.final is not None:
            regression = Regression()  # a new run
        elif regression.closed_by is not None and last is not None and (body == {} or same(body, last)):
            return  # a duplicate
        fields = merged(regression.fields, body)
        self._regressions[name] = regression
        regression.fields = fields
        regression.last_start = body
        regression.closed_by = None
        regression.ending = None
        self._hear(regression, now, offset)

    # Jobs

    def _job_live(self, regression: Regression, key: Key, job: dict[str, Any], now: int, offset: int) -> bool:
        """True: heard. False: the job has finished already."""
        old = regression.rows.get(key)
        if old and old.result != "live" and old.verdict is None:
            return False
        regression.rows[key] = Row(job, "live", old.first_seen if old else now, now, offset)
        return True

    def _job_finish(self, regression: Regression, key: Key, job: dict[str, Any], now: int, offset: int) -> bool:
        """True: heard. False: exactly this finish is known."""
        old = regression.rows.get(key)
        if old and old.result != "live" and old.verdict is None and same(old.job, job):
            return False
        regression.rows.pop(key, None)  # first, so that a signature only it had is free again
        row = Row(job, job["result"], old.first_seen if old else now, now, offset)
        if row.result == "fail":
            row.signature = self._signature(regression, job)
        regression.rows[key] = row
        return True

    def _signature(self, regression: Regression, job: dict[str, Any]) -> str:
        name: str = job.get("bucket") or ""
        if not name:
            name = reduce_message(job["fail_message"]) if job.get("fail_message") else NO_MESSAGE
            name = name.encode()[:SIGNATURE_BYTES].decode("utf-8", "ignore")
        free = {OVERFLOW, self.rules.timeout_signature}  # these take no place
        taken = {row.signature for row in regression.rows.values() if row.result == "fail"} - free
        return name if name in free or name in taken or len(taken) < LIMIT_SIGNATURES else OVERFLOW

    # Endings

    def _end_live(self, regression: Regression, verdict: Verdict, now: int, offset: int) -> None:
        """Turn what is live into fails, if a signature is configured: the first step now, the rest by ticks."""
        if self.rules.timeout_signature is not None:
            regression.ending = Ending(verdict, offset)
            self._end_step(regression, now, offset)

    def _end_step(self, regression: Regression, now: int, offset: int) -> None:
        ending = regression.ending
        assert ending is not None
        live = sorted(((key_bytes(key), row) for key, row in regression.live().items()), key=lambda pair: pair[0])
        waiting = [pair for pair in live if pair[0] > ending.cursor]
        for cursor, row in waiting[:ENDING_STEP]:
            ending.cursor = cursor
            if row.offset <= ending.offset:  # else it was heard of since, and is spared
                row.result, row.verdict, row.signature = "fail", ending.verdict, self.rules.timeout_signature
                row.updated = now
                self._change(regression, now, offset)
        if len(waiting) <= ENDING_STEP:
            regression.ending = None

    # Ticks

    def _tick(self, offset: int, time: int) -> None:
        """For each regression one thing that is due (an ending's next step first), and then the live jobs to be pruned."""
        for name, regression in list(self._regressions.items()):
            if offset <= regression.version:
                continue  # a replay
            now = max(time, regression.updated)
            if regression.ending:
                self._end_step(regression, now, offset)
            else:
                due = [what for at, what, _ in self._deadlines(regression) if at <= time and what != "prune"]
                if due:
                    self._fire(name, due[0], (), now, offset)
            if name in self._regressions:
                for key in [key for at, what, key in self._deadlines(regression) if at <= time and what == "prune"]:
                    self._fire(name, "prune", key, now, offset)

    def _deadlines(self, regression: Regression) -> Iterator[tuple[int, str, Key]]:
        """When, what, and for "prune" which job."""
        none: Key = ()
        if regression.final is not None:
            yield regression.sealed_at + self.rules.stats_ms, "forget", none
            return
        for key, row in regression.live().items():
            yield row.updated + self.rules.prune_ms, "prune", key
        if regression.closed_by is not None:
            yield regression.closed_at + self.rules.retention_ms, "seal", none
            return
        if self.rules.silence_ms is not None and not regression.tanked:
            yield regression.heard + self.rules.silence_ms, "a timeout", none
        if not regression.live():
            yield regression.heard + self.rules.retention_ms, "a timeout", none

    def _fire(self, name: str, what: str, key: Key, now: int, offset: int) -> None:
        regression = self._regressions[name]
        self._change(regression, now, offset)
        if what == "forget":
            del self._regressions[name]
        elif what == "prune":
            del regression.rows[key]
        elif what == "seal":
            regression.rows = {key: row for key, row in regression.rows.items() if row.result != "live"}
            regression.final = fold(list(regression.rows.values()))
            regression.rows = {}
            regression.ending = None
            regression.sealed_at = now
        else:
            regression.closed_by = "timeout"
            regression.closed_at = now
            self._end_live(regression, "timeout", now, offset)
