"""The API over a real view: what a worker has made of messages is listed, found, counted and paged."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Site
from web import Web, tokenfile

from livejobs.streams.kafka.broker import Broker

JOBS = 57
"""Of the large regression; a page of ten is not the last one."""


def job(regression: str, number: int, result: str = "live", **more: Any) -> dict[str, Any]:
    body = {
        "uniqueid": f"{regression}#{number}",
        "start_time": f"2026-03-02T08:{number % 60:02d}:00-05:00",
        "host": f"farm{number % 7:02d}",
        "username": ("ada", "bob")[number % 2],
        "testgroup": f"uart_test_{number % 5}",
        "build": "build_7",
        "seed": str(1000 + number),
        "config": f"rtl +seed={1000 + number}",
        "result": result,
        "note": "kept",
    }
    if result != "live":
        body |= {"runtime_ms": 1000 * (number % 10 + 1), "cycles": 50_000 * (number % 10 + 1), "compute_ms": 900}
        body["finish_time"] = f"2026-03-02T09:{number % 60:02d}:00-05:00"
    if result == "fail":
        body["fail_message"] = f"scoreboard mismatch at {number}"
    return {**body, **more}


@pytest.fixture(scope="module")
def web(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A service over four regressions: large/1 with JOBS jobs, series/1 and series/2, and a tanked one."""
    with Site(broker.bootstrap, tmp_path_factory.mktemp("web")) as site:
        site.start().ready()
        site.send("regr-start", "large/1", {"submitted": JOBS, "project": "soc", "group": "nightly", "username": "ada", "starttime": "2026-03-02T08:00:00Z"})
        for number in range(JOBS):
            site.send("job-live", "large/1", job("large/1", number))
        finished = [job("large/1", number, ("pass", "fail", "skip")[number % 3]) for number in range(30)]
        site.send("batch-job-finish", "large/1", finished)
        for number in (1, 2):
            site.send("regr-start", f"series/{number}", {"project": "soc", "username": "bob"})
            site.send("job-live", f"series/{number}", job(f"series/{number}", number))
        site.send("regr-finish", "series/1")
        site.send("regr-start", "tanked")
        site.send("regr-tank", "tanked", {"reason": "wrong build"})
        site.status("large/1", "LIVE", finished=30, live=JOBS - 30)
        site.status("series/1", "COMPLETE", live=0)
        site.status("tanked", "TANKED")
        with Web(site, tokenfile=tokenfile(site)) as running:
            yield running.with_token().ready()


def ids(page: Any) -> list[str]:
    return [row["id"] for row in page["rows"]]


def test_regressions_are_listed_and_a_tanked_one_is_hidden(web: Web) -> None:
    page = web.get("/regressions", sort="name")
    assert ids(page) == ["large/1", "series/1", "series/2"]
    assert (page["total"], page["exact"], page["partial"], page["next"]) == (3, True, False, None)
    large = page["rows"][0]
    assert large | {"regression": "large/1", "status": "LIVE", "live": 27, "finished": 30, "remaining": 27, "started": "2026-03-02T08:00:00.000Z"} == large
    assert large["fields"] == {"project": "soc", "group": "nightly", "username": "ada"}
    assert ids(web.get("/regressions", sort="name", hidden="true"))[-1] == "tanked"
    assert ids(web.get("/regressions", status="TANKED")) == ["tanked"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"user": "bob"}, ["series/1", "series/2"]),
        ({"project": "soc", "group": "nightly"}, ["large/1"]),
        ({"status": "COMPLETE,ABORTED"}, ["series/1"]),
        ({"series": "series"}, ["series/1", "series/2"]),
        ({"q": "SER bob"}, ["series/1", "series/2"]),
        ({"q": "nothing"}, []),
        ({"user": "bo"}, []),
    ],
)
def test_regressions_are_filtered(web: Web, asked: dict[str, str], found: list[str]) -> None:
    assert ids(web.get("/regressions", sort="name", **asked)) == found


def test_one_regression_is_the_whole_record(web: Web) -> None:
    found = web.get("/regression", name="large/1")
    assert found["fields"] == {"submitted": JOBS, "project": "soc", "group": "nightly", "username": "ada", "starttime": "2026-03-02T08:00:00Z"}
    assert found["signatures"] == {"scoreboard mismatch at <n>": 10}
    assert web.problem("/regression", name="large/2") | {"status": 404, "field": "name"} == web.problem("/regression", name="large/2")


def test_the_latest_of_a_series_and_its_neighbours(web: Web) -> None:
    latest = web.get("/regression", name="series/$")
    assert (latest["regression"], latest["series"], latest["number"]) == ("series/2", "series", 2)
    assert (latest["latest"], latest["previous"], latest["following"]) == ("series/2", "series/1", None)
    assert [row["regression"] for row in web.get("/jobs", regression="series/$")["rows"]] == ["series/2"]


def test_values_to_filter_by(web: Web) -> None:
    assert web.get("/facets")["user"] == [{"value": "bob", "count": 2}, {"value": "ada", "count": 1}]


@pytest.mark.parametrize("sort", ["started", "updated", "finish", "runtime_ms", "cycles", "host", "test"])
@pytest.mark.parametrize("result", ["live", "pass", "pass,fail,skip", "live,pass,fail,skip"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_hold_every_job_once_and_in_order(web: Web, sort: str, result: str, sign: str) -> None:
    rows: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = web.get("/jobs", regression="large/1", result=result, sort=sign + sort, limit=7, **cursor)
        rows += page["rows"]
        if page["next"] is None:
            break
        assert len(page["rows"]) == 7
        cursor = {"cursor": page["next"]}
    wanted = {f'["large/1","large/1#{number}"]' for number in range(JOBS) if ("live" if number >= 30 else ("pass", "fail", "skip")[number % 3]) in result.split(",")}
    assert sorted(row["id"] for row in rows) == sorted(wanted)
    by = {"started": lambda row: row["started"], "updated": lambda row: row["updated"], "host": lambda row: row["job"]["host"], "test": lambda row: row["job"]["testgroup"]}
    if sort in by:
        values = [by[sort](row) for row in rows]
        assert values == sorted(values, reverse=bool(sign))
    if sort in {"runtime_ms", "cycles"}:
        values = [row["job"].get(sort, -1) for row in rows]
        assert values == sorted(values, reverse=bool(sign))


def test_a_job_in_a_list(web: Web) -> None:
    row = web.get("/jobs", regression="large/1", limit=1)["rows"][0]
    assert row["id"] == '["large/1","large/1#30"]'
    assert row["started"] == "2026-03-02T13:30:00.000Z"
    assert "note" not in row["job"]
    assert row["job"]["host"] == "farm02"


def test_one_job_has_all_its_fields(web: Web) -> None:
    found = web.get("/job", key='["large/1","large/1#30"]')
    assert found["record"]["job"] == job("large/1", 30)
    assert found["record"]["result"] == "live"
    assert found["earlier"] == []
    assert web.problem("/job", key='["large/1","none"]')["status"] == 404


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"host": "farm03"}, 4),
        ({"user": "ada", "regression": "large/1"}, 14),
        ({"test": "uart_test_1", "build": "build_7", "regression": "large/1"}, 6),
        ({"seed": "1031"}, 1),
        ({"config": "rtl +seed=1031"}, 1),
        ({"q": "FARM03"}, 4),
        ({"q": "large 1031"}, 1),
        ({"q": "seed=1031"}, 1),
        ({"q": "uart_test_1 ada", "regression": "large/1"}, 3),
        ({"q": "arm03"}, 0),
        ({"result": "fail", "regression": "large/1", "signature": "scoreboard mismatch at <n>"}, 10),
        ({"result": "pass,fail", "regression": "large/1", "q": "ARM03"}, 3),
        ({"regression": "large/1", "verdict": "true", "result": "fail"}, 0),
        ({"regression": "series/1", "verdict": "true", "result": "fail"}, 1),
        ({"host": "farm04", "result": "fail", "sort": "-updated"}, 2),
        ({"regression": "none"}, 0),
    ],
)
def test_jobs_are_found(web: Web, asked: dict[str, str], count: int) -> None:
    page = web.get("/jobs", limit=200, **asked)
    assert (len(page["rows"]), page["total"], page["exact"], page["partial"]) == (count, count, True, False)


def test_charts_count_every_finished_job_once(web: Web) -> None:
    charts = web.get("/charts", regression="large/1")
    for chart in (charts["finishes"], charts["runtime"], charts["cycles"]):
        assert {result: sum(chart[result]) for result in ("pass", "fail", "skip")} == {"pass": 10, "fail": 10, "skip": 10}
    edges = charts["runtime"]["edges_ms"]
    assert edges == sorted(set(edges))
    assert edges[0] <= 1000
    assert edges[-1] > 10_000
    assert len(edges) <= 41
    assert charts["finishes"]["start"] == "2026-03-02T14:00:00.000Z"
    assert web.get("/charts", regression="series/2")["finishes"]["start"] is None


def test_hosts_have_their_live_jobs(web: Web) -> None:
    hosts = {row["host"]: row for row in web.get("/hosts", sort="host")["rows"]}
    assert list(hosts) == [f"farm{number:02d}" for number in range(7)]
    assert sum(row["live"] for row in hosts.values()) == 28
    assert hosts["farm02"] == {
        "id": "farm02", "host": "farm02", "live": 5, "oldest": "2026-03-02T13:02:00.000Z", "oldest_job": '["series/2","series/2#2"]', "regressions": 2, "fails": 1,
    }  # fmt: skip
    assert ids(web.get("/hosts", q="M02")) == ["farm02"]


BAD = [
    ("/regressions", {"limit": "0"}, "limit"),
    ("/regressions", {"limit": "201"}, "limit"),
    ("/regressions", {"limit": "many"}, "limit"),
    ("/regressions", {"sort": "colour"}, "sort"),
    ("/regressions", {"status": "live"}, "status"),
    ("/regressions", {"hidden": "perhaps"}, "hidden"),
    ("/regressions", {"colour": "red"}, "colour"),
    ("/regressions", {"q": ""}, "q"),
    ("/regressions", {"q": "x" * 501}, "q"),
    ("/regressions", {"cursor": "abc"}, "cursor"),
    ("/regressions", {"cursor": "00" * 20}, "cursor"),
    ("/regression", {}, "name"),
    ("/regression", {"name": ""}, "name"),
    ("/jobs", {"result": "pass"}, "result"),
    ("/jobs", {"result": "good"}, "result"),
    ("/jobs", {"sort": "host"}, "sort"),
    ("/jobs", {"signature": "x"}, "signature"),
    ("/jobs", {"q": "+++"}, "q"),
    ("/job", {"key": ""}, "key"),
    ("/charts", {}, "regression"),
    ("/hosts", {"sort": "name"}, "sort"),
    ("/facets", {"x": "1"}, "x"),
]


@pytest.mark.parametrize(("path", "asked", "field"), BAD)
def test_bad_input_is_one_line_that_names_the_parameter(web: Web, path: str, asked: dict[str, str], field: str) -> None:
    problem = web.problem(path, **asked)
    assert (problem["status"], problem["field"]) == (400, field)
    assert problem["detail"].startswith(field + ": ")
    assert "\n" not in problem["detail"]


def test_a_cursor_fits_its_own_list_only(web: Web) -> None:
    cursor = web.get("/jobs", regression="large/1", limit=5)["next"]
    assert len(web.get("/jobs", regression="large/1", limit=9, cursor=cursor)["rows"]) == 9
    assert web.problem("/jobs", regression="large/1", sort="host", cursor=cursor)["field"] == "cursor"


@pytest.mark.parametrize("query", ["name=%ff", "name=a&name=b", "x" * 9000, "&".join(f"a{number}=1" for number in range(30))])
def test_what_is_no_query_is_refused(web: Web, query: str) -> None:
    assert web.ask(f"/api/v1/regression?{query}").status == 400


def test_paths_and_methods_that_are_not_there(web: Web) -> None:
    for path in ("/api/v1/nothing", "/api/v1/jobs/", "/nothing", "/static/../app.py", "/static/%2e%2e/app.py", "/static/"):
        answer = web.ask(path)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json"), path
    assert web.change("/jobs", {}).status == 405


def test_an_answer_that_has_not_changed_is_not_sent_again(web: Web) -> None:
    path = "/api/v1/jobs?regression=series%2F2"
    first = web.ask(path)
    again = web.ask(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.data, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert web.ask(path, headers={"If-None-Match": '"other"'}).status == 200


def test_large_answers_are_compressed_for_who_takes_it(web: Web) -> None:
    path = "/api/v1/jobs?regression=large%2F1&limit=50"
    plain, packed = web.ask(path), web.ask(path, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert json.loads(gzip.decompress(packed.data)) == plain.json
    assert len(packed.data) < len(plain.data) / 3


def test_what_was_published_is_data_in_every_answer(web: Web) -> None:
    answer = web.ask("/api/v1/regressions")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
