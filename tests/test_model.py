"""The naive model says what the specification says: each test is one of its sentences."""

import json
from dataclasses import replace
from typing import Any

import model
import pytest
from histories import BEGIN_MS, DAY, HOUR, SECOND, TIMEOUT_SIGNATURE, Message, Rules, histories, rules
from hypothesis import HealthCheck, given, settings
from model import Model


@pytest.fixture(autouse=True)
def plain_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "reduce_message", lambda message: message.split("\n")[0])


class Log:
    """Sends messages to a model, one second after another."""

    def __init__(self, **changes: Any) -> None:
        self.model = Model(replace(Rules(), **changes))
        self.offset = -1
        self.now = BEGIN_MS

    def send(self, kind: str | None, body: Any = b"", wait: int = SECOND, key: bytes | None = b"run") -> None:
        """Send a message about the regression."""
        self.offset += 1
        self.now += wait
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.model.apply(self.offset, self.now, key, kind, value)

    def live(self, name: str, **more: Any) -> None:
        """Send a live job."""
        self.send("job-live", {"uniqueid": name, "result": "live", **more})

    def finish(self, name: str, result: str = "pass", **more: Any) -> None:
        """Send a finished job."""
        self.send("job-finish", {"uniqueid": name, "result": result, **more})

    def tick(self, wait: int = SECOND) -> None:
        """Let `wait` ms pass."""
        self.offset += 1
        self.now += wait
        self.model.apply(self.offset, self.now, None, model.TICK, None)

    @property
    def stats(self) -> dict[str, Any]:
        """The regression's record."""
        return self.model.stats()["run"]

    def job(self, name: str) -> dict[str, Any]:
        """A job's record."""
        return self.model.jobs()["run", name]

    def counts(self) -> tuple[int, int, int, int]:
        """Jobs live, passed, failed, skipped."""
        return (self.stats["live"], self.stats["pass"], self.stats["fail"], self.stats["skip"])

    @property
    def codes(self) -> list[str]:
        """Reject codes so far."""
        return [code for code, _, _ in self.model.rejects]


def test_the_smallest_full_flow_is_twelve_messages() -> None:
    log = Log()
    log.send("regr-start", {"name": "run", "submitted": 5})
    for index in range(5):
        log.live(f"j{index}", start_time=f"2026-03-02T09:0{index}:00.5+01:00")
    assert (log.stats["status"], log.counts(), log.stats["remaining"]) == ("LIVE", (5, 0, 0, 0), 5)
    for index in range(5):
        start = f"2026-03-02T09:0{index}:00.5+01:00"
        log.finish(f"j{index}", start_time=start, cycles=2000, runtime_ms=500, compute_ms=400)
    log.send("regr-finish")
    assert log.stats == {
        "regression": "run",
        "status": "COMPLETE",
        "version": 11,
        "updated": "2026-03-02T08:00:12.000Z",
        "heard": "2026-03-02T08:00:12.000Z",
        "live": 0,
        "pass": 5,
        "fail": 0,
        "skip": 0,
        "finished": 5,
        "submitted": 5,
        "remaining": 0,
        "pass_rate": 1.0,
        "cycles": 10_000,
        "compute_ms": 2000,
        "runtime_ms": 2500,
        "cycles_per_second": 4000.0,
        "first_start": "2026-03-02T08:00:00.500Z",
        "last_finish": "2026-03-02T08:04:01.000Z",
        "duration_ms": 240_500,
        "signatures": {},
        "fields": {"name": "run", "submitted": 5},
    }


def test_a_regression_that_knows_nothing_is_null_not_zero() -> None:
    log = Log()
    log.send("regr-start")
    null = ("submitted", "remaining", "pass_rate", "cycles_per_second", "first_start", "last_finish", "duration_ms")
    assert {log.stats[name] for name in null} == {None}
    assert (log.stats["cycles"], log.stats["fields"]) == (0, {})


def test_with_tracking_off_a_job_live_opens_nothing() -> None:
    log = Log(enable_live=False, timeout_signature=None)
    log.live("a")
    assert log.model.stats() == {}
    log.finish("a")
    assert log.counts() == (0, 1, 0, 0)


def test_each_job_live_replaces_the_record_and_first_seen_stays() -> None:
    log = Log()
    log.live("a", host="h1")
    log.live("a", host="h2")
    log.finish("a", "fail", bucket="b")
    assert log.job("a") == {
        "regression": "run",
        "result": "fail",
        "job": {"uniqueid": "a", "result": "fail", "bucket": "b"},
        "first_seen": "2026-03-02T08:00:01.000Z",
        "updated": "2026-03-02T08:00:03.000Z",
        "signature": "b",
    }


def test_late_lives_and_repeated_finishes_change_nothing() -> None:
    log = Log()
    log.finish("a", cycles=1, x=[1, {"y": 2}])
    before = log.stats, log.model.jobs()
    log.live("a")
    log.send("job-finish", b'{"x": [1.0, {"y": 2}], "cycles": 1.0, "result": "pass", "uniqueid": "a"}')
    assert (log.stats, log.model.jobs()) == before
    log.finish("a", cycles=1, x=[True, {"y": 2}])  # true is not 1
    assert log.stats["version"] == log.offset


def test_a_correction_takes_the_old_finish_out_and_last_finish_goes_back() -> None:
    log = Log()
    log.finish("a", "fail", bucket="b", finish_time="2026-03-02T09:00:00Z", cycles=5)
    log.finish("b", finish_time="2026-03-02T08:30:00Z", cycles=3)
    log.finish("a", finish_time="2026-03-02T08:00:00Z")
    assert (log.counts(), log.stats["cycles"], log.stats["signatures"]) == ((0, 2, 0, 0), 3, {})
    assert log.stats["last_finish"] == "2026-03-02T08:30:00.000Z"


def test_the_five_key_fields_name_a_job_and_a_bare_seed_keeps_its_text() -> None:
    log = Log()
    five = b'"start_time":"2026-03-02T08:00:00Z","category":"c","jobdir":"d","config":"","result":"pass","seed":'
    for seed in (b'"7"', b"7", b"7.0", b'""'):
        log.send("job-finish", b"{" + five + seed + b"}")
    seeds = [key[4] for key in log.model.jobs()]
    assert sorted(seeds) == ["", "7", "7.0"]
    assert all(key == ("run", "2026-03-02T08:00:00Z", "c", "d", key[4], "") for key in log.model.jobs())


def test_a_regr_finish_gives_live_jobs_a_provisional_verdict() -> None:
    log = Log()
    log.send("regr-start", {"submitted": 1})
    log.live("a", start_time="2026-03-02T08:00:00Z")
    log.send("regr-finish")
    assert (log.job("a")["verdict"], log.job("a")["job"]["result"]) == ("finish", "live")
    assert (log.stats["status"], log.stats["signatures"]) == ("COMPLETE", {TIMEOUT_SIGNATURE: 1})
    assert log.stats["first_start"] is None
    log.live("a")  # withdraws it
    assert (log.counts(), log.stats["status"]) == ((1, 0, 0, 0), "ABORTED")
    log.finish("a")
    assert (log.counts(), log.stats["status"], "verdict" in log.job("a")) == ((0, 1, 0, 0), "COMPLETE", False)


def test_without_a_signature_live_jobs_stay_until_pruned() -> None:
    log = Log(timeout_signature=None)
    log.live("a")
    log.send("regr-finish")
    heard = log.stats["heard"]
    assert log.counts() == (1, 0, 0, 0)
    log.tick(7 * DAY - 2 * SECOND)
    assert log.counts() == (1, 0, 0, 0)
    log.tick()
    assert (log.counts(), log.model.jobs(), log.stats["heard"]) == ((0, 0, 0, 0), {}, heard)
    assert log.stats["version"] == log.offset


def test_silence_times_out_and_a_message_makes_it_live_again() -> None:
    log = Log()
    log.live("a")
    log.live("b")
    log.finish("c")
    log.tick(DAY - SECOND)
    assert log.stats["status"] == "LIVE"
    log.tick()
    assert (log.stats["status"], log.counts(), log.job("b")["verdict"]) == ("ABORTED", (0, 1, 2, 0), "timeout")
    log.finish("c")  # a repeated finish is not heard
    assert log.stats["status"] == "ABORTED"
    log.finish("a")
    assert (log.stats["status"], log.counts()) == ("LIVE", (0, 2, 1, 0))
    log.send("regr-finish")
    assert log.stats["status"] == "COMPLETE"


def test_of_a_late_tick_the_earlier_deadline_comes_first() -> None:
    log = Log()
    log.live("a")
    log.tick(30 * DAY)
    assert (log.job("a")["verdict"], log.stats["status"]) == ("timeout", "ABORTED")


def test_tank_hides_and_untank_shows_what_it_would_be() -> None:
    log = Log()
    log.live("a")
    log.send("regr-tank", {"reason": "why"})
    assert (log.stats["status"], log.job("a")["verdict"], log.stats["fields"]) == ("TANKED", "tank", {})
    log.live("a")
    log.tick(2 * DAY)  # no silence timeout
    log.send("regr-tank", {"tank": False})
    assert (log.stats["status"], log.counts()) == ("LIVE", (1, 0, 0, 0))


def test_a_closed_regression_reopens_by_a_new_start_only() -> None:
    log = Log()
    log.send("regr-start", {"submitted": 0, "tag": "t"})
    log.send("regr-finish")
    version = log.stats["version"]
    for duplicate in (b'{"tag": "t", "submitted": 0.0}', b"", b"null", b"{}"):
        log.send("regr-start", duplicate)
    log.live("a")
    assert (log.stats["status"], log.stats["version"]) == ("COMPLETE", version + 5)
    log.send("regr-start", {"tag": "u"})
    assert (log.stats["status"], log.stats["fields"], log.counts()) == (
        "LIVE",
        {"submitted": 0, "tag": "u"},
        (1, 0, 0, 0),
    )


def test_an_empty_start_reopens_if_it_is_the_first() -> None:
    log = Log()
    log.send("regr-finish")
    log.send("regr-start")
    assert log.stats["status"] == "LIVE"
    log.send("regr-finish")
    log.send("regr-start")
    assert log.stats["status"] == "COMPLETE"


def test_a_regression_without_live_jobs_closes_after_retention() -> None:
    log = Log(silence_ms=None)
    log.send("regr-tank")
    log.tick(7 * DAY)
    log.send("regr-tank", {"tank": False}, key=b"other")
    assert log.model._regressions["run"].closed_by == "timeout"


def test_sealed_statistics_are_final_and_a_start_begins_a_new_run() -> None:
    log = Log()
    log.send("regr-start", {"submitted": 1})
    log.finish("a", cycles=3)
    log.send("regr-finish")
    log.tick(7 * DAY)
    assert (log.model.jobs(), log.counts(), log.stats["cycles"]) == ({}, (0, 1, 0, 0), 3)
    log.finish("b")
    log.send("regr-update", {"submitted": 9})
    assert log.codes == ["sealed", "sealed"]
    log.send("regr-tank")
    assert (log.stats["status"], log.counts()) == ("TANKED", (0, 1, 0, 0))
    log.send("regr-start", {"submitted": 1})
    assert (log.stats["status"], log.counts()) == ("LIVE", (0, 0, 0, 0))


def test_statsdays_after_sealing_the_record_goes() -> None:
    log = Log()
    log.send("regr-finish")
    log.tick(9 * DAY)
    log.tick(365 * DAY - SECOND)
    assert "run" in log.model.stats()
    log.tick()
    assert log.model.stats() == {}


def test_twenty_five_signatures_then_the_overflow_and_a_correction_frees_a_place() -> None:
    log = Log()
    for index in range(25):
        log.finish(f"j{index}", "fail", bucket=f"b{index}")
    log.finish("more", "fail", fail_message="new")
    log.finish("free", "fail", bucket=TIMEOUT_SIGNATURE)
    assert (log.job("more")["signature"], log.job("free")["signature"]) == (model.OVERFLOW, TIMEOUT_SIGNATURE)
    log.finish("j3", "fail", fail_message="")
    assert (log.job("j3")["signature"], log.job("more")["signature"]) == ("(no message)", model.OVERFLOW)
    assert len(log.stats["signatures"]) == 27


def test_one_bad_job_of_a_batch_is_rejected_and_not_its_neighbours() -> None:
    log = Log()
    good = b'{"uniqueid": "a", "result": "pass"}'
    batch = [good, b'{"uniqueid": "b", "result": "live"}', b'{"uniqueid": "c", "a": 1, "a" :2}', b"3"]
    log.send("batch-job-finish", b"[" + b" ,".join(batch) + b"]")
    assert log.model.rejects == [("bad-field", 0, 1), ("bad-json", 0, 2), ("bad-field", 0, 3)]
    assert log.counts() == (0, 1, 0, 0)


def test_an_empty_batch_is_fine_and_one_of_bad_jobs_opens_nothing() -> None:
    log = Log()
    log.send("batch-job-finish", b"[3]")
    assert log.model.stats() == {}
    log.send("batch-job-finish", b" [ ] ")
    assert log.stats["status"] == "LIVE"


GOOD = b'{"uniqueid": "a", "result": "pass"}'


@pytest.mark.parametrize(
    ("code", "kind", "key", "value"),
    [
        ("bad-type", None, b"run", GOOD),
        ("bad-type", "job-done", b"run", GOOD),
        ("bad-type", "_livejobs.other", b"run", GOOD),
        ("bad-key", "job-finish", None, GOOD),
        ("bad-key", "job-finish", b"", GOOD),
        ("bad-key", "job-finish", b"\xff", GOOD),
        ("too-large", "job-finish", b"k" * 1025, GOOD),
        ("too-large", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "x": "%s"}' % (b"x" * 2**19)),
        ("too-large", "regr-start", b"run", b'{"x": "%s"}' % (b"x" * 2**16)),
        ("bad-json", "job-finish", b"run", None),
        ("bad-json", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "x": NaN}'),
        ("bad-json", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "x": [{"y":1,"y" :1}]}'),
        ("bad-json", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "x": %s}' % (b"[" * 64 + b"]" * 64)),
        ("bad-json", "job-finish", b"run", b'{"uniqueid": "\xff", "result": "pass"}'),
        ("bad-field", "job-finish", b"run", b'{"uniqueid": "a", "result": "live"}'),
        ("bad-field", "job-finish", b"run", b'{"uniqueid": "", "result": "pass"}'),
        ("bad-field", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "cycles": true}'),
        ("bad-field", "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "cycles": 9223372036854775808}'),
        ("bad-field", "job-live", b"run", b'{"uniqueid": "a", "result": "live", "cycles": 1}'),
        ("bad-field", "regr-update", b"run", b'{"submitted": 1.5}'),
        ("bad-field", "regr-tank", b"run", b'{"tank": 1}'),
        (None, "regr-tank", b"run", None),
        (None, "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "x": %s}' % (b"[" * 63 + b"]" * 63)),
        (None, "job-finish", b"run", b'{"uniqueid": "a", "result": "pass", "cycles": 3.0, "host": null}'),
        (None, "job-live", b"run", b'{"uniqueid": "a", "result": "live", "cycles": 0, "fail_message": ""}'),
        (None, model.TICK, None, None),
    ],
)
def test_bad_input_is_rejected_with_a_code_and_changes_nothing(
    code: str | None, kind: str | None, key: bytes | None, value: bytes | None
) -> None:
    one = Model(Rules())
    one.apply(4, BEGIN_MS, key, kind, value)
    assert one.rejects == ([] if code is None else [(code, 4, None)])
    assert code is None or one.stats() == {}


def test_a_large_ending_goes_in_steps_and_spares_what_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "ENDING_STEP", 2)
    log = Log()
    for name in "fedcba":
        log.live(name)
    log.send("regr-finish")
    assert (log.counts(), log.job("a")["verdict"], log.job("b")["verdict"]) == ((4, 0, 2, 0), "finish", "finish")
    log.live("d")
    log.live("a")
    log.tick()
    assert {key[1] for key, job in log.model.jobs().items() if job["result"] == "live"} == {"a", "d", "e", "f"}
    log.tick()
    assert log.counts() == (2, 0, 4, 0)
    version = log.stats["version"]
    log.tick()
    assert (log.counts(), log.stats["version"]) == ((2, 0, 4, 0), version)


@pytest.mark.parametrize(
    ("begin", "cancel", "cancels"),
    [
        ("finish", ("regr-start", {"tag": "new"}), True),
        ("finish", ("regr-update", {"tag": "new"}), False),
        ("finish", ("regr-tank", {"tank": False}), False),
        ("timeout", ("regr-update", {"tag": "new"}), True),
        ("tank", ("regr-tank", {"tank": False}), True),
        ("tank", ("regr-update", {"tag": "new"}), False),
    ],
)
def test_what_cancels_the_rest_of_a_large_ending(
    monkeypatch: pytest.MonkeyPatch, begin: str, cancel: tuple[str, Any], cancels: bool
) -> None:
    monkeypatch.setattr(model, "ENDING_STEP", 1)
    log = Log()
    for name in "abc":
        log.live(name)
    if begin == "timeout":
        log.tick(DAY)
    else:
        log.send(f"regr-{begin}")
    log.send(*cancel)
    log.tick()
    assert log.counts() == ((2, 0, 1, 0) if cancels else (1, 0, 2, 0))


def test_a_clock_that_steps_back_does_not_take_a_regression_back() -> None:
    log = Log()
    log.live("a")
    log.send("regr-update", b"{}", wait=-HOUR)
    assert (log.stats["updated"], log.stats["version"]) == ("2026-03-02T08:00:01.000Z", 1)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(rules(), histories(ambiguous=True))
def test_any_history_leaves_records_that_agree_with_each_other(rules: Rules, history: list[Message]) -> None:
    one = Model(rules)
    versions: dict[str, int] = {}
    for message in history:
        before = one.stats()
        one.apply(message.offset, message.timestamp, message.key, message.kind, message.value)
        for name, stats in one.stats().items():
            assert (stats != before.get(name)) == (stats["version"] != versions.get(name))
            assert stats["version"] in (versions.get(name), message.offset)
            versions[name] = stats["version"]
            assert stats["finished"] == stats["pass"] + stats["fail"] + stats["skip"]
            assert stats["fail"] == sum(stats["signatures"].values())
            assert len(stats["signatures"]) <= model.LIMIT_SIGNATURES + 2
            assert rules.enable_live or stats["live"] == 0
    for key, job in one.jobs().items():
        assert key[0] in one.stats()
        assert ("signature" in job) == (job["result"] == "fail")
