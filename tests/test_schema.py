"""The schemas say what the code does: its real outputs fit, what it rejects does not, and the files are up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from memory import MemoryMap, Record

from livejobs.streams import schema
from livejobs.streams.core import messages
from livejobs.streams.core.fold import Fold
from livejobs.streams.core.messages import Reject
from livejobs.streams.core.rules import Rules
from livejobs.tables.jobs import STATE_HEADER

BEGIN_MS = 1_772_438_400_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
RULES = Rules(True, "LIVE Job Timeout or Missing", DAY_MS, 7 * DAY_MS, 7 * DAY_MS, 365 * DAY_MS)
START = "2026-03-02T07:00:00-05:00"
FIVE = {"start_time": START, "category": "sim", "jobdir": "/d", "seed": "", "config": ""}
VALIDATORS = {name: Draft7Validator(found) for name, found in schema.schemas().items()}

Step = tuple[str, Any, int]


def fits(name: str, text: bytes) -> None:
    VALIDATORS[name].validate(json.loads(text))


def job(uniqueid: str, result: str = "live", **more: Any) -> dict[str, Any]:
    return {"uniqueid": uniqueid, "result": result, **more}


HISTORY: list[Step] = [
    ("regr-start", {"name": "r", "submitted": 9, "queue": "q", "own": [1]}, 0),
    ("job-live", job("a", host="h", own={"x": None}), 10),
    ("job-live", {**FIVE, "result": "live", "seed": 12}, 10),
    ("job-finish", {**FIVE, "result": "pass", "seed": 12, "cycles": 10, "runtime_ms": 3.0, "metadata": [["a", ""]]}, 9),
    ("job-finish", job("b", "fail", fail_message="at 12", finish_time="2020-01-01T00:00:00Z", start_time=START), 9),
    ("job-finish", job("b", "pass"), 10),
    ("batch-job-finish", [job("c", "skip"), job("d", "fail", bucket="mine"), job("e", "nonsense")], 10),
    ("job-finish", job("f", "fail"), 10),
    ("regr-tank", {"reason": "no"}, 10),
    ("regr-tank", {"tank": False}, 10),
    ("job-live", job("a"), 10),
    ("regr-finish", None, 10),
    ("no-type", {}, 10),
    ("job-live", job("a", cycles=3), 10),
    ("_livejobs.tick", None, 8 * DAY_MS),
    ("_livejobs.tick", None, 1000),
    ("job-finish", job("z", "pass"), 10),
]  # fmt: skip


def many() -> list[Step]:
    """More live jobs than are ended at once, and one that is heard of in between: the private states of an ending."""
    jobs = [("job-live", job(f"{number:05}"), 0) for number in range(10_010)]
    return [*jobs, ("regr-finish", {"submitted": 3}, 10), ("job-live", job("10009"), 10)]


def outputs(history: list[Step]) -> list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]]:
    """Topic, key, value and headers of all that the fold sends when each message is a batch of its own."""
    store = MemoryMap()
    fold = Fold(RULES, store, partition=0, partitions=1)
    sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []
    now = BEGIN_MS

    def commit() -> None:
        changes = fold.take()
        store.write(changes.ops)
        for topic, records in (
            ("jobs", changes.jobs),
            ("regression-stats", changes.stats),
            ("job-rejects", changes.rejects),
        ):
            sent.extend((topic, key, value, dict(headers)) for key, value, headers in records)

    for offset, (kind, body, wait) in enumerate(history):
        now += wait
        tick = kind == messages.TICK
        value = None if body is None else json.dumps(body).encode()
        record = Record(offset, now, None if tick else b"r", value, (("type", kind.encode()),))
        while not fold.apply(record):
            commit()
        if wait:
            commit()
    commit()
    return sent


@pytest.mark.parametrize("history", [HISTORY, many()], ids=["all", "ending"])
def test_real_outputs_fit(history: list[Step]) -> None:
    seen: set[str] = set()
    for topic, key, value, headers in outputs(history):
        if topic == "job-rejects":
            texts = {name: data.decode() for name, data in headers.items()}
            VALIDATORS["job-rejects-headers"].validate(texts)
            seen |= {topic, texts["__streams.errors.exception"]}
            continue
        assert key is not None
        fits("jobs-key", key) if topic == "jobs" else VALIDATORS["regression-stats-key"].validate(key.decode())
        if value is None:
            seen.add(f"{topic} deleted")
            continue
        fits(topic, value)
        record = json.loads(value)
        seen.add(record.get("status") or record.get("verdict") or record["result"])
        if STATE_HEADER in headers:
            fits(f"{topic}-state", headers[STATE_HEADER])
            seen |= {f"{topic} {name}" for name in json.loads(headers[STATE_HEADER])}
    if history is HISTORY:
        rejects = {"job-rejects", "bad-type", "bad-field", "sealed"}
        assert seen >= {
            "live",
            "pass",
            "fail",
            "skip",
            "tank",
            "finish",
            "LIVE",
            "TANKED",
            "ABORTED",
            "jobs deleted",
            *rejects,
        }
    else:
        assert {"jobs spared", "regression-stats ending", "regression-stats closed_ms"} <= seen


GOOD: list[tuple[str, Any]] = [
    *((kind, body) for kind, body, _ in HISTORY[:8] if kind in messages.TYPES and kind != "batch-job-finish"),
    ("job-live", job("a", cycles=0, fail_message="", runtime_ms=None)),
    ("job-finish", job("", "pass") | FIVE),
    ("batch-job-finish", []),
    ("regr-start", None),
    ("regr-start", {"submitted": None, "own": {"deep": []}}),
    ("regr-tank", {}),
    ("regr-tank", {"tank": False, "reason": None}),
]
BAD: list[tuple[str, Any]] = [
    ("job-live", []),
    ("job-live", {}),
    ("job-live", {"uniqueid": "a"}),
    ("job-live", {"uniqueid": "", "result": "live"}),
    ("job-live", job("a", "pass")),
    ("job-live", job("a", cycles=1)),
    ("job-live", job("a", fail_message="x")),
    ("job-live", job("a", host=3)),
    ("job-live", {**FIVE, "result": "live", "category": ""}),
    ("job-live", {**FIVE, "result": "live", "config": None}),
    ("job-finish", job("a")),
    ("job-finish", job("a", "pass", cycles=-1)),
    ("job-finish", job("a", "pass", cycles=1.5)),
    ("job-finish", job("a", "pass", cycles=2**63)),
    ("job-finish", job("a", "pass", metadata=[["a"]])),
    ("job-finish", job("a", "pass", metadata=[["a", "b", "c"]])),
    ("job-finish", job("a", "fail", bucket="x" * 257)),
    ("batch-job-finish", {}),
    ("batch-job-finish", [job("a")]),
    ("regr-start", []),
    ("regr-start", {"submitted": -1}),
    ("regr-start", {"submitted": "9"}),
    ("regr-update", {"name": 3}),
    ("regr-tank", {"tank": "no"}),
]


@pytest.mark.parametrize(("kind", "body"), GOOD)
def test_what_the_worker_takes_fits(kind: str, body: Any) -> None:
    messages.check(kind, json.dumps(body).encode())
    VALIDATORS[kind].validate(body)


@pytest.mark.parametrize(("kind", "body"), BAD)
def test_what_the_worker_rejects_does_not_fit(kind: str, body: Any) -> None:
    with pytest.raises(Reject):
        messages.check(kind, json.dumps(body).encode())
    assert not VALIDATORS[kind].is_valid(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jobs", {"verdict": "tank", "result": "pass"}),
        ("jobs", {"signature": "s"}),
        ("jobs", {"result": "fail"}),
        ("jobs", {"updated": "2026-03-02T08:00:00Z"}),
        ("jobs", {"own": 1}),
        ("jobs", {"signature": None}),
        ("regression-stats", {"own": 1}),
        ("regression-stats", {"live": -1}),
        ("regression-stats", {"signatures": {"s": 0}}),
        ("regression-stats", {"status": "DONE"}),
        ("regression-stats", {"heard": None}),
        ("regression-stats-state", {"own": 1}),
        ("jobs-state", {"own": 1}),
    ],
)
def test_outputs_are_closed(name: str, value: dict[str, Any]) -> None:
    topic = name.removesuffix("-state")
    records = [(sent, headers) for at, _, sent, headers in outputs(HISTORY[:4]) if at == topic and sent is not None]
    good = json.loads(records[-1][0]) if topic == name else {}
    VALIDATORS[name].validate(good)
    assert not VALIDATORS[name].is_valid(good | value)


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_each_is_a_schema(name: str) -> None:
    Draft7Validator.check_schema(VALIDATORS[name].schema)


def test_every_field_of_the_outputs_is_there() -> None:
    found = schema.schemas()
    record = json.loads(
        next(sent for topic, _, sent, _ in outputs(HISTORY[:1]) if topic == "regression-stats" and sent)
    )
    assert set(found["regression-stats"]["properties"]) == set(found["regression-stats"]["required"]) == set(record)
    codes = found["job-rejects-headers"]["properties"]["__streams.errors.exception"]["oneOf"]
    assert [code["const"] for code in codes] == sorted(messages.REJECT_CODES)


def test_the_asyncapi_document_holds_together() -> None:
    document = json.loads(schema.files()["asyncapi.json"])
    assert document["asyncapi"] == "3.0.0"
    assert set(document["channels"]) == {"job-events", "jobs", "regression-stats", "job-rejects"}
    assert set(document["channels"]["job-events"]["messages"]) == messages.TYPES

    def check(node: Any) -> int:
        count = 0
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                target = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                count += 1
            count += sum(check(inner) for inner in node.values())
        elif isinstance(node, list):
            count += sum(check(inner) for inner in node)
        return count

    assert check(document) > 30
    for name, kind in document["components"]["schemas"].items():
        assert kind == schema.schemas()[name]


def test_the_files_in_the_repository_are_up_to_date() -> None:
    assert schema.differences(schema.FOLDER) == []
    assert schema.main(["--check"]) == 0


def test_check_names_each_file_that_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "schema"
    assert schema.main(["--check", str(folder)]) == 1
    assert schema.main([str(folder)]) == 0
    assert schema.main(["--check", str(folder)]) == 0
    capsys.readouterr()
    (folder / "jobs.json").write_text("{}")
    (folder / "job-live.json").unlink()
    (folder / "old.json").write_text("{}")
    assert schema.main(["--check", str(folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit("/", 1)[1] for line in lines] == [
        "job-live.json: missing",
        "jobs.json: out of date",
        "old.json: not known",
    ]
