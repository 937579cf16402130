"""The view itself: made, kept, thrown away and made again; outages; what strangers write; several side by side."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import SECONDS, Site
from web import Web

from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker, free_port


def job(number: int, result: str = "live", **more: Any) -> dict[str, Any]:
    return {"uniqueid": f"#{number}", "start_time": "2026-03-02T08:00:00Z", "host": f"farm{number}", "result": result, **more}


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    """Two regressions with some history: jobs that beat, finished, were corrected, and went."""
    with Site(broker.bootstrap, tmp_path) as running:
        running.start().ready()
        fill(running)
        yield running


def fill(site: Site) -> None:
    for name in ("a/1", "b/1"):
        for number in range(6):
            site.send("job-live", name, job(number))
        site.send("job-finish", name, job(0, "pass", runtime_ms=10))
        site.send("job-finish", name, job(1, "fail", fail_message="first"))
        site.stats(name, site.send("job-finish", name, job(1, "fail", fail_message="second")))


def shown(web: Web) -> dict[str, Any]:
    """All that a service shows."""
    found: dict[str, Any] = {row["id"]: web.get("/regression", name=row["id"]) for row in web.get("/regressions", hidden="true", limit=200)["rows"]}
    for name in list(found):
        for row in web.get("/jobs", regression=name, result="live,pass,fail,skip", limit=200)["rows"]:
            found[row["id"]] = web.get("/job", key=row["id"])["record"]
    return found


def assert_as_the_topics(site: Site, web: Web) -> None:
    """What a service shows is what a reader of the topics has."""
    site.reader.read_to_the_end(site.reader.jobs, site.reader.stats)
    web.wait_for(lambda: web.get("/health")["behind"] == 0)

    def same() -> bool:
        found = shown(web)
        jobs = {key.decode(): value for key, value in site.reader.jobs.last.items()}
        stats = {key.decode(): value for key, value in site.reader.stats.last.items()}
        return found.keys() == jobs.keys() | stats.keys() and all(found[key] == jobs[key] for key in jobs) and all(stats[key].items() <= found[key].items() for key in stats)

    web.wait_for(same)


def built(web: Web) -> str:
    return str(web.get("/job", key='["a/1","#0"]')["earlier_since"])


def test_it_shows_what_the_topics_hold_and_goes_on_with_them(site: Site) -> None:
    with Web(site) as web:
        assert_as_the_topics(site, web.ready())
        site.send("job-finish", "a/1", job(5, "pass"))
        site.stats("c/1", site.send("regr-start", "c/1"))
        site.stats("a/1", site.send("regr-finish", "a/1"))
        site.status("a/1", "COMPLETE", live=0)
        assert_as_the_topics(site, web)


def test_a_restart_goes_on_where_it_was(site: Site) -> None:
    with Web(site) as web:
        since = built(web.ready())
        assert web.stop()[0] == 0
        site.stats("a/1", site.send("job-live", "a/1", job(9)))
        web.start()
        assert_as_the_topics(site, web.ready())
        assert built(web) == since
        web.kill()
        site.stats("b/1", site.send("job-live", "b/1", job(9)))
        web.start()
        assert_as_the_topics(site, web.ready())
        assert built(web) == since


def _delete(path: Path) -> None:
    path.unlink()


def _spoil(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _change(sql: str) -> Any:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as db:
            db.execute(sql)
        db.close()

    return change


def _rename_topics(path: Path) -> None:
    with sqlite3.connect(path) as db:
        (made,) = db.execute("SELECT value FROM meta WHERE name = 'made'").fetchone()
        db.execute("UPDATE meta SET value = ? WHERE name = 'made'", (json.dumps({**json.loads(made), "partitions": 7}),))
    db.close()


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_delete, id="deleted"),
        pytest.param(_spoil, id="no database"),
        pytest.param(_change("UPDATE meta SET value = '' WHERE name = 'complete'"), id="half made"),
        pytest.param(_change("UPDATE meta SET value = replace(value, '\"format\":', '\"format\":9') WHERE name = 'made'"), id="another format"),
        pytest.param(_change("UPDATE meta SET value = '1000' WHERE name = 'updated_ms'"), id="too old"),
        pytest.param(_change("UPDATE positions SET next = 1000000"), id="beyond the ends"),
        pytest.param(_change("DROP TABLE jobs"), id="a table lost"),
        pytest.param(_rename_topics, id="other partitions"),
    ],
)
def test_a_view_that_does_not_fit_is_made_anew(site: Site, harm: Any) -> None:
    with Web(site) as web:
        since = built(web.ready())
        web.stop()
        for ending in ("-wal", "-shm"):
            web.view_file().with_name(web.view_file().name + ending).unlink(missing_ok=True)
        harm(web.view_file())
        web.start()
        assert_as_the_topics(site, web.ready())
        assert built(web) > since


def test_a_view_that_is_damaged_while_it_runs_is_made_anew(site: Site) -> None:
    with Web(site) as web:
        since = built(web.ready())
        with web.view_file().open("r+b") as file:
            size = file.seek(0, 2)
            for page in range(1, size // 4096):
                file.seek(4096 * page)
                file.write(b"\xff" * 4096)
        for number in range(60, 70):
            site.send("job-live", "a/1", job(number))
        web.wait_for(lambda: built(web) > since, 2 * SECONDS)
        assert_as_the_topics(site, web)


def test_two_side_by_side_show_the_same(site: Site) -> None:
    with Web(site, "one") as one, Web(site, "two") as two:
        one.ready()
        two.ready()
        site.stats("a/1", site.send("job-live", "a/1", job(77)))
        assert_as_the_topics(site, one)
        assert_as_the_topics(site, two)
        assert shown(one) == shown(two)


def test_it_needs_no_worker_and_no_group(site: Site) -> None:
    for worker in site.workers:
        worker.stop()
    groups = {name for name, *_ in site.admin("list_consumer_groups")}
    with Web(site) as web:
        assert_as_the_topics(site, web.ready())
        assert {name for name, *_ in site.admin("list_consumer_groups")} == groups


def test_records_that_no_worker_wrote_are_left_out_and_counted(site: Site) -> None:
    kafka = site.config.kafka

    async def forge() -> None:
        for value in (b"no json", b"{}", b'{"regression": "a/1", "result": "live", "job": 3, "first_seen": "x", "updated": "y"}', b"\xff"):
            await site.producer.send_and_wait(kafka.jobs_topic, value, key=b'["a/1","forged"]', partition=0)
            await site.producer.send_and_wait(kafka.stats_topic, value, key=b"forged", partition=0)
        good = json.dumps(site.reader.jobs.last[b'["a/1","#2"]']).encode()
        for key, value in ((b'["a/1","\xff"]', good), (b'["a/1","\0"]', good), (b'["a/1","x"]', good.replace(b'"farm2"', b'"farm2", "x": "\xff"'))):
            await site.producer.send_and_wait(kafka.jobs_topic, value, key=key, partition=0)
        await site.producer.send_and_wait(kafka.stats_topic, b"{}", key=b"\xff\xfe", partition=0)

    with Web(site) as web:
        web.ready()
        site.reader.read_to_the_end(site.reader.jobs)
        site.background.run(forge())
        site.send("job-live", "a/1", job(50))
        web.wait_for(lambda: web.get("/health")["unreadable"] >= 6)
        web.wait_for(lambda: web.get("/jobs", regression="a/1", host="farm50")["rows"])
        shown_ids = {row["id"] for row in web.get("/jobs", regression="a/1", result="live,pass,fail")["rows"]}
        assert shown_ids == {f'["a/1","#{number}"]' for number in (*range(6), 50)}
        assert web.problem("/regression", name="forged")["status"] == 404


def test_an_outage_is_told_and_waited_out(tmp_path: Path) -> None:
    """The broker goes and comes again; meanwhile what is known is shown, and since when."""
    with Broker(free_port(), tmp_path / "kafka") as broker, Site(broker.bootstrap, tmp_path / "site") as site:
        worker = site.start().ready()
        fill(site)
        with Web(site) as web:
            web.ready()
            with web.stream("/jobs?regression=a/1") as stream:
                stream.wait_for(lambda seen: 0 in seen.bodies and seen.state["connected"])
                worker.stop()
                broker.kill()
                stream.wait_for(lambda seen: not seen.state["connected"], 2 * SECONDS)
                as_of = stream.state["as_of"]
                assert web.get("/regression", name="a/1")["live"] == 4
                assert web.get("/health")["connected"] is False
                web.stop()
            web.start()  # with no broker: it shows what it has
            web.wait_for(lambda: web.get("/regression", name="a/1")["live"] == 4)
            assert web.get("/health")["as_of"] is None
            with web.stream("/jobs?regression=a/1") as stream:
                stream.wait_for(lambda seen: 0 in seen.bodies)
                broker.start()
                site.start().ready()
                site.send("job-live", "a/1", job(20))
                stream.wait_for(lambda seen: any(row["job"]["host"] == "farm20" for row in seen.bodies[0]["rows"]), 2 * SECONDS)
                stream.wait_for(lambda seen: seen.state["connected"] and seen.state["as_of"] > as_of)


def test_topics_that_were_made_anew_are_read_anew(site: Site) -> None:
    """Also when they hold more than before, so that offsets tell nothing."""
    site.reader.read_to_the_end(site.reader.stats)
    names = [site.config.kafka.jobs_topic, site.config.kafka.stats_topic]
    record = json.dumps({**site.reader.stats["a/1"], "regression": "new/1"}).encode()

    async def refill() -> None:
        for name, key, value in ((names[0], b'["a/1","none"]', None), (names[1], b"new/1", record)):
            for partition in range(site.partitions):
                for _ in range(100):
                    await site.producer.send(name, value, key=key, partition=partition)
        await site.producer.flush()

    with Web(site) as web:
        web.ready()
        web.stop()
        for worker in site.workers:
            worker.stop()
        site.admin("delete_topics", names)
        deadline = time.monotonic() + SECONDS
        while set(names) & set(site.admin("list_topics")):
            assert time.monotonic() < deadline
        site.background.run(topics.create(site.config))
        site.background.run(refill())
        web.start()
        web.wait_for(lambda: [row["id"] for row in web.get("/regressions")["rows"]] == ["new/1"])
        assert web.get("/jobs")["rows"] == []
