"""Hypothesis strategies: whole histories of `job-events` messages, as hostile as real farms and worse.

Few regressions, few jobs and few variants of each body, so that duplicates, corrections and late messages are common.
Inputs on which the specification leaves two readings open are kept apart: `histories(ambiguous=True)` adds them.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

BEGIN_MS = 1_772_438_400_000  # 2026-03-02T08:00:00Z
SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
TIMEOUT_SIGNATURE = "LIVE Job Timeout or Missing"


@dataclass(frozen=True)
class Rules:
    """The same attributes as the real rules, times in ms; `Rules(**asdict(rules))` converts."""

    enable_live: bool = True
    timeout_signature: str | None = TIMEOUT_SIGNATURE
    silence_ms: int | None = DAY
    prune_ms: int = 7 * DAY
    retention_ms: int = 7 * DAY
    stats_ms: int = 365 * DAY


@dataclass(frozen=True)
class Message:
    """One record of `job-events`; the timestamp is in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    kind: str | None
    value: bytes | None

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The headers as a Kafka client gives them."""
        return () if self.kind is None else (("type", self.kind.encode()),)


@dataclass(frozen=True)
class Step:
    """A message before it has a place in the log; `wait` is the time since the one before, and may be negative."""

    kind: str | None
    key: bytes | None
    value: bytes | None
    wait: int = 0


def rules() -> st.SearchStrategy[Rules]:
    """With and without live tracking, signature and silence; sometimes with short times."""

    def build(mode: str, silence: int | None, prune: int, retention: int, stats: int) -> Rules:
        signature = TIMEOUT_SIGNATURE if mode == "signature" else None
        return Rules(mode != "off", signature, silence, prune, retention, stats)

    return st.builds(
        build,
        st.sampled_from(["signature", "signature", "signature", "live", "off"]),
        st.sampled_from([DAY, None, 30 * 60 * SECOND + 7]),
        st.sampled_from([7 * DAY, 2 * DAY + 11]),
        st.sampled_from([7 * DAY, 3 * HOUR + 13]),
        st.sampled_from([365 * DAY, 10 * DAY + 17]),
    )


# --- bodies -----------------------------------------------------------------------------------------------------------


def raw(literal: str) -> str:
    """Stands for JSON text that `text` puts in as it is: a number as written."""
    return f"@@{literal}@@"


def text(body: Any) -> bytes:
    """JSON of a body, with what `raw` marked in it."""
    plain = json.dumps(body, ensure_ascii=False)
    return re.sub(r'"@@(.*?)@@"', r"\1", plain).encode()


REGRESSIONS = ["run", "run/1", "rün\0x"]  # one is a prefix of the others

FIVE = {"start_time": "2026-03-02T07:59:11.123-05:00", "category": "sim", "jobdir": "/r/1", "seed": "7", "config": "c"}
JOBS: list[dict[str, Any]] = [
    FIVE,
    {**FIVE, "seed": raw("7")},  # the same job
    {**FIVE, "seed": raw("7.0")},  # another one: a number keeps its text
    {**FIVE, "config": ""},
    {**FIVE, "start_time": "2026-03-02T12:59:11.123Z"},  # the same moment, another job
    {**FIVE, "uniqueid": None},  # the first job again
    {**FIVE, "uniqueid": "u"},
    {"uniqueid": "u"},  # the same job
    {"uniqueid": 'u\0"é\\😀', "start_time": "2026-03-01T00:00:00Z"},
    {"uniqueid": "u1", "seed": None, "start_time": "2026-03-02T09:30:00.123456+02:00"},
]

EXTRAS: list[dict[str, Any]] = [
    {},
    {},
    {"host": "h1"},
    {"host": "h2", "metadata": [["a", "b"]], "extid": "lsf 12"},
    {"mood": {"deep": [1, None, True, 1.5]}, "build": None},
]
TOLERATED: list[dict[str, Any]] = [
    {},
    {},
    {"fail_message": "", "cycles": 0, "compute_ms": None},
    {"runtime_ms": 0.0, "fail_message": None},
]
NUMBERS: list[dict[str, Any]] = [
    {},
    {"cycles": 1000, "runtime_ms": 500, "compute_ms": 400},
    {"cycles": 1000.0, "runtime_ms": 500, "compute_ms": 400},  # equal to the one before
    {"cycles": raw("1e3"), "compute_ms": 7},
    {"runtime_ms": 90_000, "exit_code": 3},
    {"cycles": 2**63 - 1, "compute_ms": 2**63 - 1, "runtime_ms": 0},
    {"cycles": 0, "runtime_ms": 250},
]
FINISH_TIMES = [
    None,
    None,
    "2026-03-02T08:10:00Z",
    "2026-03-02T10:10:00.5+02:00",
    "2026-03-02T09:10:00.999Z",
    "2026-03-05T00:00:00-11:30",
    "2020-01-01T00:00:00Z",
]
FAILS: list[dict[str, Any]] = [
    {},
    {"fail_message": ""},
    {"fail_message": "Error at 0x1f in /r/1/x.sv line 12"},
    {"fail_message": "Error at 0x2e in /r/9/y.sv line 99"},
    {"fail_message": "two\nlines é", "bucket": None},
    {"bucket": "mine", "fail_message": "whatever"},
    {"bucket": "x" * 256},
    {"bucket": TIMEOUT_SIGNATURE},
    {"bucket": "Regression Bucket Overflow"},
    {"bucket": "b3"},  # one of a flood's
]
FLOOD = 27


def lives() -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of good live jobs."""
    parts = st.tuples(st.sampled_from(JOBS), st.sampled_from(EXTRAS), st.sampled_from(TOLERATED))
    return parts.map(lambda part: {**part[0], **part[1], **part[2], "result": "live"})


def finishes() -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of good finished jobs."""

    def build(job: dict[str, Any], extra: dict[str, Any], numbers: dict[str, Any], end: Any, fail: Any) -> Any:
        outcome = fail if isinstance(fail, dict) else {"fail_message": ""}
        result = "fail" if isinstance(fail, dict) else fail
        body = {**job, **extra, **numbers, **outcome, "result": result}
        return body if end is None else {**body, "finish_time": end}

    return st.builds(
        build,
        st.sampled_from(JOBS),
        st.sampled_from(EXTRAS[:3]),
        st.sampled_from(NUMBERS),
        st.sampled_from(FINISH_TIMES),
        st.one_of(st.sampled_from(["pass", "skip", "pass"]), st.sampled_from(FAILS)),
    )


def flood(index: int) -> dict[str, Any]:
    """One of many fails with a signature of its own."""
    return {"uniqueid": f"f{index}", "result": "fail", "bucket": f"b{index}"}


STARTS = [
    None,
    b"",
    b"null",
    b"{}",
    b" { } ",
    b'{"name": "a", "submitted": 3}',
    b'{"submitted": 3.0, "name": "a"}',
    b'{"submitted": 1, "owner": {"x": null}, "tag": null}',
]
UPDATES = [
    b"",
    b"{}",
    b'{"submitted": 2, "pending": 1}',
    b'{"submitted": null, "name": null}',
    b'{"submitted": 0}',
    b'{"submitted": 2.0, "time_limit": "1h", "custom_metadata": [["a", 1]]}',
    b'{"queue": "q2", "model_version": 12}',
]
TANKS = [None, b"", b"{}", b'{"reason": "no"}', b'{"tank": true}', b'{"tank": null}']
UNTANK = b'{"tank": false}'

# --- bad input --------------------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    """An array `levels` deep."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


LIVE = {"uniqueid": "u", "result": "live"}
PASS = {"uniqueid": "u", "result": "pass"}

BAD_JOBS: list[bytes] = [
    # not our JSON, though each is JSON to a lenient reader
    b'{"uniqueid": "u", "result": "pass", "result": "pass"}',
    b'{"uniqueid": "u", "result": "pass", "\\u0072esult": "pass"}',
    b'{"uniqueid": "u", "result": "pass", "x": {"a": 1, "a"  \n: 2}}',
    b'{"uniqueid": "u", "result": "pass", "x": [[{"a":1,"b":2,"a":1}]]}',
    text({**PASS, "x": nested(70)}),
    # wrong types
    b"[]",
    b"17",
    b'"text"',
    b"null",
    b"true",
    text({**PASS, "cycles": -1}),
    text({**PASS, "cycles": 1.5}),
    text({**PASS, "cycles": "12"}),
    text({**PASS, "cycles": True}),
    text({**PASS, "compute_ms": 2**63}),
    text({**PASS, "compute_ms": 1e300}),
    text({**PASS, "runtime_ms": [1]}),
    text({**PASS, "exit_code": -1}),
    text({**PASS, "host": 5}),
    text({**PASS, "extid": 12}),
    text({**PASS, "build": {}}),
    text({**PASS, "metadata": {"a": "b"}}),
    text({**PASS, "metadata": [["a"]]}),
    text({**PASS, "metadata": [["a", 1]]}),
    text({**PASS, "metadata": [["a", "b", "c"]]}),
    text({**PASS, "fail_message": 1}),
    text({**PASS, "bucket": ["b"]}),
    text({**PASS, "seed": True}),
    text({**PASS, "seed": ["7"]}),
    text({**PASS, "uniqueid": 5}),
    text({**PASS, "finish_time": "yesterday"}),
    text({**PASS, "finish_time": 1_700_000_000}),
    text({**PASS, "finish_time": "2026-03-02T08:10:00"}),
    text({**PASS, "start_time": "2026-02-30T08:10:00Z"}),
    text({**PASS, "start_time": "2026-03-02"}),
    text({**PASS, "start_time": "2026-03-02T25:10:00Z"}),
    text({**PASS, "start_time": "2026-03-02T08:10:00.Z"}),
    text({**PASS, "start_time": "2026-03-02T08:10:00+99:00"}),
    # identity or result missing
    b"{}",
    text({"result": "pass"}),
    text({"result": "pass", "uniqueid": ""}),
    *(text({"result": "pass", **{name: value for name, value in FIVE.items() if name != less}}) for less in FIVE),
    *(text({"result": "pass", **FIVE, name: None}) for name in FIVE),
    *(text({"result": "pass", **FIVE, name: ""}) for name in ("category", "jobdir", "start_time")),
    text({"uniqueid": "u"}),
    text({**PASS, "result": None}),
    text({**PASS, "result": "passed"}),
    text({**PASS, "result": "PASS"}),
    text({**PASS, "result": "live"}),
    # sizes
    text({**PASS, "result": "fail", "bucket": "x" * 257}),
    text({**PASS, "result": "fail", "bucket": "é" * 129}),
    text({**PASS, "x": "y" * (512 * 1024)}),
]

NO_JSON: list[bytes | None] = [
    None,
    b"",
    b"{",
    b"nonsense",
    b'{"uniqueid": "u", "result": "pass"} {}',
    b'{"uniqueid": "u", "result": "pass",}',
    b"{'uniqueid': 'u', 'result': 'pass'}",
    b'{"uniqueid": "u", "result": "pass", "x": NaN}',
    b'{"uniqueid": "u", "result": "pass", "x": -Infinity}',
    b'{"uniqueid": "u", "result": "pass", "x": 07}',
    b'{"uniqueid": "u\xff", "result": "pass"}',
    b'{"uniqueid": "u", "result": "pass", "x": "\xed\xa0\x80"}',
    b'{"uniqueid": "u", "result": "pass", "x": "\n"}',
]

BAD_LIVES: list[bytes] = [
    *(text({**LIVE, **extra}) for extra in ({"fail_message": "x"}, {"cycles": 1}, {"runtime_ms": 1.0})),
    text({**LIVE, "compute_ms": -1}),
    text({**LIVE, "compute_ms": False}),
    text({**LIVE, "result": "pass"}),
    text({**LIVE, "host": 5}),
    text({"result": "live", **FIVE, "seed": None}),
    b'{"uniqueid": "u", "result": "live", "result" : "live"}',
]

BAD_REGRESSIONS: list[bytes] = [
    b"[]",
    b"3",
    b'"run"',
    b"{",
    b'{"submitted": -1}',
    b'{"submitted": 2.5}',
    b'{"submitted": "3"}',
    b'{"submitted": true}',
    b'{"submitted": 9223372036854775808}',
    b'{"name": 5}',
    b'{"changelist_path": ["x"]}',
    b'{"name": "a", "name": "b"}',
    b'{"x": [{"y": 1, "y"\t: 1}]}',
    b'{"x": Infinity}',
    b'{"x": "\xff"}',
    text({"x": nested(70)}),
    text({"x": "y" * (70 * 1024)}),
]

BAD_KINDS = [None, "", "job-started", "REGR-START", "regr-start ", "_livejobs.", "_livejobs.tock", "_livejobs.reroute"]
BAD_KEYS = [None, b"", b"\xff\xfe", b"run\xc3", b"k" * 1025]

# What the specification leaves open, or says only between the lines: (kind, value).
AMBIGUOUS: list[tuple[str, bytes]] = [
    ("job-live", text({**LIVE, "cycles": ""})),
    ("job-live", text({**LIVE, "fail_message": 0})),
    ("job-live", text({**LIVE, "finish_time": "", "exit_code": 0, "bucket": ""})),
    ("job-live", text({**LIVE, "exit_code": 1})),
    ("job-live", text({**LIVE, "finish_time": "2026-03-02T08:10:00Z"})),
    ("job-live", text({**LIVE, "start_time": ""})),
    ("job-finish", text({**PASS, "finish_time": ""})),
    ("job-finish", text({**PASS, "result": "fail", "bucket": ""})),
    ("job-finish", text({**PASS, "result": "pass", "bucket": "x" * 300})),
    ("job-finish", text({**FIVE, "result": "pass", "seed": raw("-5")})),
    ("job-finish", text({**FIVE, "result": "pass", "seed": raw("1.50e2")})),
    ("job-finish", text({**PASS, "start_time": "2026-03-02t08:10:00z"})),
    ("job-finish", text({**PASS, "start_time": "2026-12-31T23:59:60Z"})),
    ("job-finish", text({**PASS, "start_time": "0001-01-01T00:00:00+01:00"})),
    ("job-finish", text({**FIVE, "result": "pass", "runtime_ms": 2**63 - 1})),
    ("job-finish", b'{"uniqueid": "u", "result": "pass", "x": 1e999}'),
    ("job-finish", b'{"uniqueid": "u", "result": "pass", "x": "\\ud800"}'),
    ("job-finish", b'{"uniqueid": "u\\ud800", "result": "pass"}'),
    ("job-finish", b'{"uniqueid": "u", "result": "pass", "x": 123456789012345678901234567890}'),
    ("job-finish", text({**PASS, "x": nested(63)})),
    ("job-finish", text({**PASS, "x": nested(64)})),
    ("batch-job-finish", text([{**PASS, "x": nested(63)}])),
    ("batch-job-finish", b'[{"uniqueid": "u", "result": "pass"}, {"uniqueid": "v", "x": NaN}]'),
    ("batch-job-finish", b'[{"uniqueid": "u", "result": "pass"}, {"uniqueid": "v\xff", "result": "pass"}]'),
    ("batch-job-finish", b'[{"uniqueid": "u", "result": "pass", "x": "\\ud800"}]'),
    ("regr-start", b"  "),
    ("regr-start", b'{"submitted": null}'),
    ("regr-start", b'{"tag": null, "submitted": 3, "name": "a"}'),
    ("regr-tank", b'{"reason": 5}'),
    ("regr-tank", b'{"tank": true, "name": 5}'),
]


def bad_steps(regression: bytes) -> st.SearchStrategy[tuple[str | None, bytes | None, bytes | None]]:
    """(kind, key, value) of one message with one fault."""

    def of(kinds: list[str], values: list[Any]) -> st.SearchStrategy[tuple[str | None, bytes | None, bytes | None]]:
        return st.tuples(st.sampled_from(kinds), st.just(regression), st.sampled_from(values))

    good = text(PASS)
    return st.one_of(
        of(["job-finish"], BAD_JOBS),
        of(["job-finish", "job-live", "batch-job-finish"], NO_JSON),
        of(["job-live"], BAD_LIVES),
        of(["batch-job-finish"], [good, b"null", b"3", b"[", b"[1,]", b'{"jobs": []}']),
        of(["regr-start", "regr-update", "regr-finish"], BAD_REGRESSIONS),
        of(["regr-tank"], [b"[]", b'{"tank": 1}', b'{"tank": "false"}', b'{"tank": true, "tank": false}', b"}"]),
        st.tuples(st.sampled_from(BAD_KINDS), st.just(regression), st.just(good)),
        st.tuples(st.sampled_from(["job-finish", "regr-start"]), st.sampled_from(BAD_KEYS), st.just(good)),
        st.just(("job-finish", regression, b" " * (1024 * 1024) + good)),
    )


# --- histories --------------------------------------------------------------------------------------------------------

JUMPS = [SECOND, SECOND, SECOND, HOUR, HOUR, 4 * HOUR, DAY, 25 * HOUR, 3 * DAY, 7 * DAY, 8 * DAY, 11 * DAY, 373 * DAY]
WAITS = [0, 0, 1, SECOND, 90 * SECOND, HOUR, 2 * DAY, -5 * SECOND, -2 * HOUR]


def batches() -> st.SearchStrategy[bytes]:
    """Bodies of `batch-job-finish`: good jobs, bad ones among them, none at all, or a flood of signatures."""
    good = finishes().map(text)
    some = st.lists(st.one_of(good, good, good, st.sampled_from(BAD_JOBS[:-1])), max_size=5)
    many = st.just([text(flood(index)) for index in range(FLOOD)])
    space = st.sampled_from([b",", b" ,\n "])
    return st.tuples(st.one_of(some, some, some, many), space).map(lambda pair: b"[" + pair[1].join(pair[0]) + b"]")


def corrections_of_floods() -> st.SearchStrategy[bytes]:
    """One of a flood's jobs again: passed, or failed with a name of its own."""
    return st.tuples(st.integers(0, FLOOD - 1), st.booleans()).map(
        lambda pair: text({**flood(pair[0]), **({"result": "pass"} if pair[1] else {"bucket": "new"})})
    )


# What a step may be: a message type and its bodies, by how often.
PLAIN: list[tuple[int, str, st.SearchStrategy[Any]]] = [
    (3, "job-live", lives().map(text)),
    (3, "job-finish", finishes().map(text)),
    (1, "job-finish", corrections_of_floods()),
    (1, "batch-job-finish", batches()),
    (1, "regr-start", st.sampled_from(STARTS)),
    (1, "regr-update", st.sampled_from(UPDATES)),
    (2, "regr-finish", st.sampled_from([None, b"null", *UPDATES])),
    (1, "regr-tank", st.sampled_from(TANKS)),
    (1, "regr-tank", st.just(UNTANK)),
]
PLAIN_STEPS = [(kind, bodies) for weight, kind, bodies in PLAIN for _ in range(weight)]


@st.composite
def steps(draw: st.DrawFn, regressions: list[str], *, ambiguous: bool) -> list[Step]:
    """One or a few messages that belong together."""
    key = draw(st.sampled_from(regressions)).encode()
    wait = draw(st.sampled_from(WAITS))
    others = [*["tick"] * 3, "bad", "bad", "life", *["open"] * ambiguous]
    what: Any = draw(st.sampled_from([*PLAIN_STEPS, *others]))
    if what == "tick":
        return [Step("_livejobs.tick", None, None, draw(st.sampled_from(JUMPS)))]
    if what == "bad":
        return [Step(*draw(bad_steps(key)), wait)]
    if what == "life":
        return _life(draw, key)
    if what == "open":
        kind, value = draw(st.sampled_from(AMBIGUOUS))
        return [Step(kind, key, value, wait)]
    kind, bodies = what
    return [Step(kind, key, draw(bodies), wait)]


def _life(draw: st.DrawFn, key: bytes) -> list[Step]:
    """A regression from its start to its end, as one would wish it: most of what is rare needs one to begin with."""
    body = draw(st.sampled_from(STARTS))
    bodies = draw(st.lists(lives(), min_size=1, max_size=3))
    life = [Step("regr-start", key, body)] + [Step("job-live", key, text(live), SECOND) for live in bodies]
    for live in bodies[: draw(st.integers(0, 3))]:
        finish = {name: value for name, value in live.items() if name != "fail_message"}
        life.append(Step("job-finish", key, text({**finish, "result": "pass"}), HOUR))
    if draw(st.booleans()):
        life.append(Step("regr-finish", key, b""))
    if draw(st.booleans()):
        life.append(Step("_livejobs.tick", None, None, draw(st.sampled_from(JUMPS))))
    return life


@st.composite
def histories(draw: st.DrawFn, max_messages: int = 60, *, ambiguous: bool = False) -> list[Message]:
    """Messages of one partition: growing offsets with gaps, times that mostly grow, some messages sent again."""
    regressions = REGRESSIONS[: draw(st.sampled_from([1, 2, 3]))]
    least = min(max_messages, draw(st.sampled_from([1, 8, 20, 35])))  # long ones too; left alone, most are short
    groups = draw(st.lists(steps(regressions, ambiguous=ambiguous), min_size=least, max_size=max_messages))
    queue = [step for group in groups for step in group]
    for _ in range(draw(st.integers(0, 4))):  # send something again, now or much later
        again = queue[draw(st.integers(0, len(queue) - 1))]
        queue.insert(draw(st.integers(0, len(queue))), again)
    gaps = draw(st.lists(st.integers(0, len(queue) - 1), max_size=3))

    messages = []
    offset, now = draw(st.sampled_from([0, 1000])), BEGIN_MS
    for place, step in enumerate(queue[:max_messages]):
        offset += 1 + 3 * gaps.count(place)
        now = max(now + step.wait, BEGIN_MS)
        messages.append(Message(offset, now, step.key, step.kind, step.value))
    return messages
