"""One test a rule: each sends messages to a real worker and reads what consumers read.

All tests share five workers, one a set of rules, with a regression of their own each. The last test folds all that was sent with the naive model and compares
every record.
"""

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from harness import DAY, HOUR, SIGNATURE, Site

from livejobs.streams.kafka.broker import Broker

PRUNE_SECONDS = 3.0
SILENCE_SECONDS = 1.5
RETENTION_SECONDS = 1.5
STATS_SECONDS = 3.0
LIVE_ON = {"enablelivejobs": True}


class Sites(NamedTuple):
    """A worker a set of rules."""

    plain: Site
    """With a timeout signature; nothing happens by itself within a test."""
    off: Site
    """Everything at its default: no live tracking."""
    quick: Site
    """With a timeout signature, and a timeout after a short silence."""
    unsigned: Site
    """The same without a timeout signature, and live jobs are pruned soon."""
    brief: Site
    """No timeout; what is idle is closed soon, what is closed is soon sealed, and then soon forgotten."""


@pytest.fixture(scope="module")
def sites(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    signed = {**LIVE_ON, "livetimeoutsignature": SIGNATURE}
    silence = {"autotimeouthours": SILENCE_SECONDS / HOUR}
    rules: list[dict[str, Any]] = [
        {**signed, "autotimeouthours": 24},
        {},
        {**signed, **silence},
        {**LIVE_ON, **silence, "liveprunedays": PRUNE_SECONDS / DAY},
        {**LIVE_ON, "retentiondays": RETENTION_SECONDS / DAY, "statsdays": STATS_SECONDS / DAY},
    ]
    made: list[Site] = []
    try:
        for name, sigs in zip(Sites._fields, rules, strict=True):
            made.append(Site(broker.bootstrap, tmp_path_factory.mktemp(name), sigs))
            made[-1].start()
        yield Sites(*made)
    finally:
        for site in made:
            site.__exit__()


@pytest.fixture
def name() -> str:
    """A regression that nobody else knows."""
    return f"run/{uuid.uuid4().hex[:12]}"


def live(job: str, **more: Any) -> dict[str, Any]:
    return {"uniqueid": job, "start_time": "2026-03-02T08:00:00.5+01:00", **more, "result": "live"}


def done(job: str, result: str = "pass", **more: Any) -> dict[str, Any]:
    body = {
        "uniqueid": job,
        "start_time": "2026-03-02T08:00:00.5+01:00",
        "cycles": 1000,
        "runtime_ms": 500,
        "compute_ms": 400,
        **more,
    }
    return {**body, "result": result}


def counts(record: dict[str, Any]) -> tuple[int, int, int, int]:
    """Jobs live, passed, failed, skipped."""
    return record["live"], record["pass"], record["fail"], record["skip"]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_live_tracking_off_ignores_live_jobs_and_nothing_else(sites: Sites, name: str) -> None:
    site = sites.off
    site.send("job-live", name, live("a"))
    site.send("job-live", name, b"not even JSON")
    site.settle(site.partition_of(name))
    assert site.reader.stats[name] is None
    record = site.stats(name, site.send("job-finish", name, done("a")))
    assert (record["status"], counts(record)) == ("LIVE", (0, 1, 0, 0))
    site.unchanged(name, lambda: site.send("job-live", name, live("b")))
    assert site.stats(name, site.send("regr-finish", name))["status"] == "COMPLETE"
    assert site.workers[0].metric("livejobs_messages_total", outcome="live_off") == 3
    assert site.reader.rejects.records == []


def test_a_heartbeat_replaces_the_record_and_keeps_first_seen(sites: Sites, name: str) -> None:
    site = sites.plain
    first = site.stats(name, site.send("job-live", name, live("a", host="h1")))
    before = site.jobs(name)["a"]
    record = site.stats(name, site.send("job-live", name, live("a", host="h2")))
    after = site.jobs(name)["a"]
    assert counts(first) == counts(record) == (1, 0, 0, 0)
    assert (after["job"]["host"], after["first_seen"]) == ("h2", before["first_seen"])
    assert before["first_seen"] == before["updated"] < after["updated"] == record["heard"]
    again = site.stats(name, site.send("job-live", name, live("a", host="h2")))  # identical, and written all the same
    assert site.jobs(name)["a"]["updated"] == again["heard"] > after["updated"]


def test_a_finish_replaces_the_live_job(sites: Sites, name: str) -> None:
    site = sites.plain
    site.stats(name, site.send("job-live", name, live("a")))
    first_seen = site.jobs(name)["a"]["first_seen"]
    record = site.stats(name, site.send("job-finish", name, done("a", finish_time="2026-03-02T07:00:02Z")))
    assert counts(record) == (0, 1, 0, 0)
    assert site.jobs(name) == {
        "a": {
            "regression": name,
            "result": "pass",
            "job": done("a", finish_time="2026-03-02T07:00:02Z"),
            "first_seen": first_seen,
            "updated": record["updated"],
        }
    }
    assert (record["first_start"], record["last_finish"], record["duration_ms"]) == (
        "2026-03-02T07:00:00.500Z",
        "2026-03-02T07:00:02.000Z",
        1500,
    )


def test_a_finish_without_a_live_message_is_normal(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-live", name, live("a"))
    record = site.stats(name, site.send("job-finish", name, done("b", "skip")))
    assert (counts(record), record["cycles"]) == ((1, 0, 0, 1), 1000)


def test_a_finish_whose_key_fields_differ_does_not_find_the_live_job(sites: Sites, name: str) -> None:
    site = sites.plain
    five = {"start_time": "2026-03-02T08:00:00Z", "category": "sim", "jobdir": "/r/1", "seed": 7, "config": ""}
    site.send("job-live", name, {**five, "result": "live"})
    record = site.stats(
        name, site.send("job-finish", name, {**five, "start_time": "2026-03-02T08:00:00.0Z", "result": "pass"})
    )
    assert counts(record) == (1, 1, 0, 0)
    record = site.stats(name, site.send("job-finish", name, {**five, "seed": "7", "result": "pass"}))
    assert counts(record) == (0, 2, 0, 0)
    assert set(site.jobs(name)) == {
        ("2026-03-02T08:00:00Z", "sim", "/r/1", "7", ""),
        ("2026-03-02T08:00:00.0Z", "sim", "/r/1", "7", ""),
    }


def test_a_late_live_changes_nothing(sites: Sites, name: str) -> None:
    site = sites.plain
    site.stats(name, site.send("job-finish", name, done("a")))
    site.unchanged(name, lambda: site.send("job-live", name, live("a")))


def test_a_repeated_finish_changes_nothing(sites: Sites, name: str) -> None:
    site = sites.plain
    site.stats(name, site.send("job-finish", name, done("a")))
    site.unchanged(name, lambda: site.send("job-finish", name, done("a")))
    turned = dict(reversed(done("a", cycles=1000.0).items()))  # equal as JSON: the order and 1000.0
    site.unchanged(name, lambda: site.send("job-finish", name, turned))
    site.unchanged(name, lambda: site.send("batch-job-finish", name, [done("a"), done("a")]))


def test_another_outcome_is_a_correction(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-finish", name, done("a", "fail", bucket="wrong", cycles=7, finish_time="2030-01-01T00:00:00Z"))
    site.send("job-finish", name, done("b", "fail", bucket="right"))
    record = site.stats(name, site.send("job-finish", name, done("a", "pass", cycles=8)))
    assert (counts(record), record["cycles"], record["signatures"]) == ((0, 1, 1, 0), 1008, {"right": 1})
    assert (record["last_finish"], record["pass_rate"], record["cycles_per_second"]) == (
        "2026-03-02T07:00:01.000Z",
        0.5,
        1008.0,
    )


def test_a_live_job_adds_nothing_to_statistics(sites: Sites, name: str) -> None:
    site = sites.plain
    record = site.stats(name, site.send("job-live", name, live("a", cycles=0, fail_message="", runtime_ms=None)))
    assert counts(record) == (1, 0, 0, 0)
    nothing = {
        "finished": 0,
        "cycles": 0,
        "compute_ms": 0,
        "runtime_ms": 0,
        "signatures": {},
        "remaining": None,
        "submitted": None,
    }
    unknown = dict.fromkeys(("pass_rate", "cycles_per_second", "first_start", "last_finish", "duration_ms"))
    assert {**record, **nothing, **unknown} == record


@pytest.mark.parametrize(
    ("kind", "body"),
    [("job-live", live("a")), ("job-finish", done("a")), ("batch-job-finish", [done("a")]), ("batch-job-finish", [])],
)
def test_a_job_message_opens_an_unknown_regression(kind: str, body: Any, sites: Sites, name: str) -> None:
    record = sites.plain.stats(name, sites.plain.send(kind, name, body))
    assert (record["status"], record["submitted"], record["fields"]) == ("LIVE", None, {})


@pytest.mark.parametrize(
    ("kind", "status"), [("regr-update", "LIVE"), ("regr-finish", "COMPLETE"), ("regr-tank", "TANKED")]
)
def test_every_regression_message_opens_an_unknown_regression(kind: str, status: str, sites: Sites, name: str) -> None:
    assert sites.plain.stats(name, sites.plain.send(kind, name))["status"] == status


def test_a_batch_is_its_jobs(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-live", name, live("a"))
    record = site.stats(
        name,
        site.send(
            "batch-job-finish", name, [done("a"), done("b", "fail", fail_message="assert 12 failed"), done("c", "skip")]
        ),
    )
    assert (counts(record), record["cycles"], record["signatures"]) == ((0, 1, 1, 1), 3000, {"assert <n> failed": 1})
    assert {job: value["result"] for job, value in site.jobs(name).items()} == {"a": "pass", "b": "fail", "c": "skip"}


def test_twenty_five_signatures_and_the_overflow(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("batch-job-finish", name, [done(f"j{number}", "fail", bucket=f"bucket {number}") for number in range(27)])
    record = site.stats(name, site.send("job-finish", name, done("own", "fail", bucket=SIGNATURE)))
    assert record["signatures"] == {
        **{f"bucket {number}": 1 for number in range(25)},
        "Regression Bucket Overflow": 2,
        SIGNATURE: 1,
    }
    site.send("job-finish", name, done("j3"))  # a correction that empties a signature frees its place
    record = site.stats(name, site.send("job-finish", name, done("late", "fail", bucket="new")))
    assert (
        record["signatures"]["new"],
        record["signatures"]["Regression Bucket Overflow"],
        "bucket 3" in record["signatures"],
    ) == (1, 2, False)


# --- regressions ------------------------------------------------------------------------------------------------------


def test_fields_merge_by_top_level_key(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("regr-start", name, {"submitted": 3, "tag": "a", "owner": {"x": 1}})
    record = site.stats(name, site.send("regr-update", name, {"submitted": 2.0, "tag": None, "owner": {"y": 2}}))
    assert (record["submitted"], record["remaining"], record["fields"]) == (
        2,
        2,
        {"submitted": 2.0, "tag": "a", "owner": {"y": 2}},
    )


def test_regr_finish_turns_live_jobs_into_fails(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("regr-start", name, {"submitted": 2})
    site.send("job-finish", name, done("a"))
    site.send("job-live", name, live("b"))
    record = site.stats(name, site.send("regr-finish", name))
    assert (record["status"], counts(record), record["signatures"]) == ("COMPLETE", (0, 1, 1, 0), {SIGNATURE: 1})
    job = site.jobs(name)["b"]
    assert (job["result"], job["signature"], job["verdict"], job["job"]) == ("fail", SIGNATURE, "finish", live("b"))
    assert (record["finished"], record["cycles"], record["last_finish"]) == (
        2,
        1000,
        "2026-03-02T07:00:01.000Z",
    )  # a verdict has no numbers


def test_regr_finish_without_a_signature_leaves_live_jobs(sites: Sites, name: str) -> None:
    site = sites.unsigned
    site.send("job-live", name, live("a"))
    record = site.stats(name, site.send("regr-finish", name))
    assert (record["status"], counts(record)) == ("COMPLETE", (1, 0, 0, 0))
    assert site.jobs(name)["a"]["result"] == "live"
    record = site.status(name, "COMPLETE", live=0)  # until pruned
    assert (counts(record), record["signatures"], site.jobs(name)) == ((0, 0, 0, 0), {}, {})


def test_fewer_finished_than_submitted_is_aborted(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-finish", name, done("a"))
    record = site.stats(name, site.send("regr-finish", name, {"submitted": 2}))
    assert (record["status"], record["remaining"]) == ("ABORTED", 1)
    record = site.stats(name, site.send("job-finish", name, done("b")))  # late truth still counts
    assert (record["status"], record["remaining"], counts(record)) == ("COMPLETE", 0, (0, 2, 0, 0))


def test_a_live_job_after_regr_finish_stays_live_until_a_second_one(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("regr-finish", name)
    record = site.stats(name, site.send("job-live", name, live("a")))
    assert (record["status"], counts(record)) == ("COMPLETE", (1, 0, 0, 0))
    record = site.stats(name, site.send("regr-finish", name))
    assert (record["status"], counts(record)) == ("COMPLETE", (0, 0, 1, 0))


def test_a_verdict_is_replaced_by_the_real_finish(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-live", name, live("a"))
    record = site.stats(name, site.send("regr-finish", name))
    first_seen = site.jobs(name)["a"]["first_seen"]
    assert (record["signatures"], record["cycles"]) == ({SIGNATURE: 1}, 0)
    record = site.stats(name, site.send("job-finish", name, done("a")))
    assert (record["status"], counts(record), record["signatures"], record["cycles"]) == (
        "COMPLETE",
        (0, 1, 0, 0),
        {},
        1000,
    )
    assert (site.jobs(name)["a"]["first_seen"], "verdict" in site.jobs(name)["a"]) == (first_seen, False)


def test_a_job_live_withdraws_a_verdict(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-live", name, live("a"))
    site.send("regr-finish", name)
    record = site.stats(name, site.send("job-live", name, live("a")))
    assert (record["status"], counts(record), record["signatures"]) == ("COMPLETE", (1, 0, 0, 0), {})


def test_regr_start_reopens_and_a_duplicate_does_not(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("regr-start", name, {"tag": "one", "submitted": 1})
    site.send("job-finish", name, done("a"))
    site.stats(name, site.send("regr-finish", name))
    site.unchanged(name, lambda: site.send("regr-start", name, b'{"submitted": 1.0, "tag": "one"}'))
    site.unchanged(name, lambda: site.send("regr-start", name))
    record = site.stats(name, site.send("regr-start", name, {"tag": "two"}))
    assert (record["status"], counts(record), record["fields"]) == (
        "LIVE",
        (0, 1, 0, 0),
        {"tag": "two", "submitted": 1},
    )


def test_the_first_regr_start_reopens_even_if_it_is_empty(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("regr-finish", name)
    assert site.stats(name, site.send("regr-start", name))["status"] == "LIVE"


def test_tank_hides_ends_live_jobs_and_untank_shows_what_would_be(sites: Sites, name: str) -> None:
    site = sites.plain
    site.send("job-live", name, live("a"))
    record = site.stats(name, site.send("regr-tank", name, {"reason": "wrong branch"}))
    assert (record["status"], counts(record), site.jobs(name)["a"]["verdict"], record["fields"]) == (
        "TANKED",
        (0, 0, 1, 0),
        "tank",
        {},
    )
    record = site.stats(name, site.send("job-finish", name, done("b")))  # folded as always
    assert (record["status"], counts(record)) == ("TANKED", (0, 1, 1, 0))
    assert site.stats(name, site.send("regr-tank", name, {"tank": False}))["status"] == "LIVE"
    site.send("regr-tank", name)
    site.send("regr-finish", name, {"submitted": 3})
    assert site.stats(name, site.send("regr-tank", name, {"tank": False}))["status"] == "ABORTED"


# --- what time does ---------------------------------------------------------------------------------------------------


def test_silence_aborts_and_turns_live_jobs_into_fails(sites: Sites, name: str) -> None:
    site = sites.quick
    heard = site.stats(name, site.send("job-live", name, live("a")))["heard"]
    record = site.status(name, "ABORTED", live=0, fail=1)
    assert (record["signatures"], record["heard"]) == ({SIGNATURE: 1}, heard)
    assert (site.jobs(name)["a"]["verdict"], site.jobs(name)["a"]["updated"]) == ("timeout", record["updated"])


def test_silence_without_a_signature_aborts_and_leaves_live_jobs(sites: Sites, name: str) -> None:
    record = sites.unsigned.stats(name, sites.unsigned.send("job-live", name, live("a")))
    record = sites.unsigned.status(name, "ABORTED", live=1)
    assert (counts(record), record["signatures"]) == ((1, 0, 0, 0), {})


def test_one_that_timed_out_and_is_heard_of_is_live_again(sites: Sites, name: str) -> None:
    site = sites.quick
    site.send("job-live", name, live("a"))
    site.send("job-live", name, live("b"))
    site.status(name, "ABORTED", fail=2)
    record = site.stats(name, site.send("job-live", name, live("a")))  # the verdict is withdrawn
    assert (record["status"], counts(record)) == ("LIVE", (1, 0, 1, 0))
    site.send("job-finish", name, done("a"))
    site.send("job-finish", name, done("b"))
    record = site.stats(
        name, site.send("regr-finish", name, {"submitted": 2})
    )  # decides by the counts, the timeout is forgotten
    assert (record["status"], counts(record), record["signatures"]) == ("COMPLETE", (0, 2, 0, 0), {})


def test_what_changes_nothing_is_not_heard(sites: Sites, name: str) -> None:
    site = sites.quick
    site.send("job-finish", name, done("a"))
    site.status(name, "ABORTED")
    site.unchanged(name, lambda: site.send("job-finish", name, done("a")))
    site.unchanged(name, lambda: site.send("job-live", name, live("a")))
    site.unchanged(name, lambda: site.send("job-finish", name, b"{"))
    assert site.reader.stats[name]["status"] == "ABORTED"


def test_a_finished_or_tanked_regression_has_no_silence_timeout(sites: Sites, name: str) -> None:
    site = sites.quick
    site.send("regr-finish", f"{name}/finished")
    site.send("job-live", f"{name}/finished", live("a"))
    site.send("regr-tank", f"{name}/tanked")
    site.send("job-live", f"{name}/tanked", live("a"))
    site.send("job-live", name, live("a"))
    site.status(name, "ABORTED")  # last sent, and out of time
    site.settle(0)
    site.settle(1)
    assert counts(site.status(f"{name}/finished", "COMPLETE")) == (1, 0, 0, 0)
    assert counts(site.status(f"{name}/tanked", "TANKED")) == (1, 0, 0, 0)
    site.send("regr-tank", f"{name}/tanked", {"tank": False})
    site.status(f"{name}/tanked", "ABORTED", live=0, fail=1)


def test_a_live_job_not_heard_of_is_pruned_in_any_state(sites: Sites, name: str) -> None:
    site = sites.unsigned
    closings = {
        f"{name}/open": (None, "ABORTED"),
        f"{name}/closed": ("regr-finish", "COMPLETE"),
        f"{name}/tanked": ("regr-tank", "TANKED"),
    }
    before = {}
    for regression, (kind, _) in closings.items():
        site.send("job-finish", regression, done("b"))
        sent = site.send("job-live", regression, live("a"))
        before[regression] = site.stats(regression, site.send(kind, regression) if kind else sent)
    for regression, (_, status) in closings.items():
        record = site.status(regression, status, live=0)
        assert counts(record) == (0, 1, 0, 0)
        assert (record["heard"], record["cycles"], set(site.jobs(regression))) == (
            before[regression]["heard"],
            1000,
            {"b"},
        )


def test_a_heartbeat_defers_the_prune(sites: Sites, name: str) -> None:
    site = sites.unsigned
    site.send("job-live", name, live("old"))
    site.status(name, "ABORTED", live=1)
    site.send("job-live", name, live("old"))
    site.send("job-live", name, live("older"))
    site.status(name, "ABORTED", live=2)
    site.stats(name, site.send("job-live", name, live("old")))
    site.status(name, "ABORTED", live=1)
    assert set(site.jobs(name)) == {"old"}
    site.status(name, "ABORTED", live=0)


def test_an_idle_regression_without_live_jobs_is_closed_as_aborted(sites: Sites, name: str) -> None:
    site = sites.brief
    site.send("job-live", f"{name}/busy", live("a"))
    site.send("job-finish", name, done("a"))
    assert counts(site.status(name, "ABORTED")) == (0, 1, 0, 0)
    site.settle(site.partition_of(f"{name}/busy"))
    assert site.reader.stats[f"{name}/busy"]["status"] == "LIVE"


def test_rows_are_dropped_the_regression_is_sealed_and_then_forgotten(sites: Sites, name: str) -> None:
    site = sites.brief
    site.send("job-live", name, live("a"))
    site.send("job-finish", name, done("b"))
    before = site.stats(name, site.send("regr-finish", name))
    assert set(site.jobs(name)) == {"a", "b"}
    after = site.status(name, "COMPLETE", live=0)
    assert {**after, **{field: before[field] for field in ("live", "version", "updated")}} == before
    site.wait_for(lambda: not site.jobs_seen(name))
    reject = site.reject_of(site.send("job-finish", name, done("c")))
    assert dict(reject.headers)["__streams.errors.exception"] == b"sealed"
    assert site.reader.stats[name] == after
    site.wait_for(lambda: site.reader.stats[name] is None)


def test_a_regr_start_on_a_sealed_regression_begins_a_new_run(sites: Sites, name: str) -> None:
    site = sites.brief
    site.send("job-finish", name, done("a"))
    site.send("regr-tank", name)
    site.stats(name, site.send("regr-finish", name, {"tag": "one"}))
    site.wait_for(lambda: not site.jobs_seen(name))
    record = site.stats(name, site.send("regr-start", name, {"submitted": 1}))
    assert (record["status"], counts(record), record["fields"], record["cycles"]) == (
        "LIVE",
        (0, 0, 0, 0),
        {"submitted": 1},
        0,
    )
    record = site.stats(name, site.send("job-finish", name, done("a")))
    assert (counts(record), set(site.jobs(name))) == ((0, 1, 0, 0), {"a"})


# --- and all of it together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", Sites._fields)
def test_all_that_was_sent_came_to_what_the_model_says(which: str, sites: Sites) -> None:
    site: Site = getattr(sites, which)
    site.wait_for_no_lag()
    assert len(site.workers) == 1  # never restarted
    assert site.workers[0].stop()[0] == 0
    site.assert_as_the_model()
