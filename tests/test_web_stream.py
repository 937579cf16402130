"""Streams of events: a snapshot, then what changes; resumed, shared, slow, and ended."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import SECONDS, Site
from web import Web

from livejobs.streams.kafka.broker import Broker


def job(number: int, result: str = "live", **more: Any) -> dict[str, Any]:
    return {"uniqueid": f"#{number}", "start_time": "2026-03-02T08:00:00Z", "host": "farm1", "result": result, **more}


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("stream")) as running:
        running.start().ready()
        yield running


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[Web]:
    with Web(site) as running:
        yield running.ready()


def names(body: Any) -> list[str]:
    return [json.loads(row["id"])[-1] for row in body["rows"]]


def test_a_job_appears_beats_and_finishes(site: Site, web: Web) -> None:
    site.send("regr-start", "a/1", {"submitted": 2})
    with web.stream("/regression?name=a/1", "/jobs?regression=a/1") as stream:
        stream.wait_for(lambda seen: seen.bodies.get(0, {}).get("status") == "LIVE" and 1 in seen.bodies)
        assert stream.events[0][0] == "state"
        assert stream.state["connected"] is True
        assert stream.state["rebuilding"] is None
        site.send("job-live", "a/1", job(1))
        stream.wait_for(lambda seen: names(seen.bodies[1]) == ["#1"] and seen.bodies[0]["live"] == 1)
        site.send("job-live", "a/1", job(1, host="farm2"))
        stream.wait_for(lambda seen: seen.bodies[1]["rows"][0]["job"]["host"] == "farm2")
        site.send("job-finish", "a/1", job(1, "pass", runtime_ms=5))
        stream.wait_for(lambda seen: seen.bodies[1]["rows"] == [] and seen.bodies[0]["pass"] == 1)
        assert stream.bodies[0] == web.get("/regression", name="a/1")
        kinds = [(name, data.get("watch")) for name, data in stream.events if name == "snapshot"]
        assert sorted(kinds) in ([("snapshot", 0), ("snapshot", 1)], [("snapshot", 0), ("snapshot", 0), ("snapshot", 1)])  # the first may be a 404


def test_one_job_keeps_what_it_was(site: Site, web: Web) -> None:
    site.send("job-live", "b/1", job(1, step=1))
    with web.stream("/job?key=" + '["b/1","%231"]') as stream:
        stream.wait_for(lambda seen: "record" in seen.bodies.get(0, {}))
        for step in (2, 3):
            site.send("job-live", "b/1", job(1, step=step))
            stream.wait_for(lambda seen, step=step: seen.bodies[0]["record"]["job"]["step"] == step)
        assert [record["job"]["step"] for record in stream.bodies[0]["earlier"]] == [2, 1]


def test_only_what_changed_is_sent(site: Site, web: Web) -> None:
    for number in range(5):
        site.send("job-live", "c/1", job(number))
    with web.stream("/jobs?regression=c/1&sort=host") as stream:
        stream.wait_for(lambda seen: len(seen.bodies.get(0, {"rows": []})["rows"]) == 5)
        stream.events.clear()
        site.send("job-live", "c/1", job(3, username="ada"))
        stream.wait_for(lambda seen: any(row["job"].get("username") == "ada" for row in seen.bodies[0]["rows"]))
        changes = [data for name, data in stream.events if name == "change"]
        assert [names(data) for data in changes] == [["#3"]]
        assert changes[0]["order"] is None


def test_a_stream_goes_on_where_it_broke(site: Site, web: Web) -> None:
    for number in range(3):
        site.send("job-live", "d/1", job(number))
    watches = ("/jobs?regression=d/1", "/regression?name=d/1")
    with web.stream(*watches) as first:
        first.wait_for(lambda seen: len(seen.bodies) == 2 and len(seen.bodies[0].get("rows", ())) == 3 and seen.bodies[1].get("live") == 3)
    site.send("job-finish", "d/1", job(0, "pass"))
    site.send("job-live", "d/1", job(7))
    web.wait_for(lambda: web.get("/regression", name="d/1")["live"] == 3 and web.get("/regression", name="d/1")["pass"] == 1)
    with web.stream(*watches, last=first.last) as second:
        second.bodies = dict(first.bodies)
        second.wait_for(lambda seen: sorted(names(seen.bodies[0])) == ["#1", "#2", "#7"] and seen.bodies[1]["pass"] == 1)
        assert "snapshot" not in [name for name, _ in second.events]
        sent = [name for kind, data in second.events if kind == "change" and data["watch"] == 0 for name in names(data)]
        assert sent == ["#7"]


@pytest.mark.parametrize("last", ["nonsense", "0123456789ab.3.AAAA", "", "9" * 500])
def test_an_id_that_nobody_knows_gets_a_snapshot(site: Site, web: Web, last: str) -> None:
    with web.stream("/regressions", last=last) as stream:
        stream.wait_for(lambda seen: "snapshot" in [name for name, _ in seen.events])


def test_what_is_not_there_comes_when_it_is_there(site: Site, web: Web) -> None:
    with web.stream("/regression?name=late/1") as stream:
        stream.wait_for(lambda seen: seen.bodies.get(0, {}).get("status") == 404)
        site.send("regr-start", "late/1")
        stream.wait_for(lambda seen: seen.bodies[0].get("status") == "LIVE")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "watch"),
        ("watch=/jobs&" * 5, "watch"),
        ("watch=/events", "watch"),
        ("watch=//evil.example/jobs", "watch"),
        ("watch=jobs", "watch"),
        ("watch=/jobs%3Flimit%3D0", "limit"),
        ("watch=/jobs&other=1", "other"),
        ("watch=/jobs&last=a&last=b", "last"),
    ],
)
def test_what_can_not_be_watched(web: Web, query: str, field: str) -> None:
    answer = web.ask("/api/v1/events?" + query.rstrip("&"))
    assert (answer.status, answer.json["field"]) == (400, field)


def test_a_slow_reader_gets_the_newest_state_and_no_queue(site: Site, web: Web) -> None:
    """The reader takes nothing while a job beats hundreds of times with a body that no buffer holds so often."""
    filler = "x" * 400_000
    beats = 60
    site.send("job-live", "slow/1", job(1, step=0, note=filler))
    web.wait_for(lambda: web.get("/jobs", regression="slow/1")["rows"])
    with socket.create_connection(("127.0.0.1", web.port), timeout=SECONDS) as reader:
        reader.sendall(b"GET /api/v1/events?watch=/job%3Fkey%3D%5B%22slow/1%22,%22%25231%22%5D HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for step in range(1, beats + 1):
            site.send("job-live", "slow/1", job(1, step=step, note=filler))
        key = '["slow/1","#1"]'
        web.wait_for(lambda: web.get("/job", key=key)["record"]["job"]["step"] == beats)
        received, newest = bytearray(), re.compile(rb'"step": ?%d\b' % beats)
        while not newest.search(received, max(0, len(received) - (1 << 17))):
            chunk = reader.recv(1 << 16)
            assert chunk, received[-500:]
            received += chunk
        assert received.count(b"event: ") < beats / 2


def test_it_ends_at_once_with_streams_open(site: Site) -> None:
    with Web(site, "ending") as service:
        service.ready()
        streams = [service.stream("/regressions", "/hosts") for _ in range(20)]
        for stream in streams:
            stream.wait_for(lambda seen: len(seen.bodies) == 2)
        code, seconds = service.stop()
        assert code == 0
        assert seconds < 5
        for stream in streams:
            stream.wait_for_end()
            stream.close()


def test_changes_come_at_most_four_times_a_second(site: Site, web: Web) -> None:
    site.send("job-live", "often/1", job(1, step=0))
    with web.stream("/jobs?regression=often/1", "/regression?name=often/1") as stream:
        stream.wait_for(lambda seen: len(seen.bodies) == 2 and bool(seen.bodies[0]["rows"]))
        stream.events.clear()
        begin = time.monotonic()
        for step in range(150):
            site.send("job-live", "often/1", job(1, host=f"farm{step}"))
        stream.wait_for(lambda seen: seen.bodies[0]["rows"][0]["job"]["host"] == "farm149")
        seconds = time.monotonic() - begin
        changes = [data for name, data in stream.events if name == "change" and data["watch"] == 0]
        assert len(changes) <= 4 * seconds + 2
