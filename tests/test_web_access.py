"""Who may read and who may change; and what a browser can be made to do without its user's will."""

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SECONDS, Site
from web import CHANGE, TOKEN, Web

from livejobs.streams.kafka.broker import Broker

READS = ("/regressions", "/facets", "/regression?name=r/1", "/jobs", "/job?key=x", "/charts?regression=r/1", "/hosts", "/events?watch=/jobs")


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("access")) as running:
        running.start().ready()
        running.stats("r/1", running.send("regr-start", "r/1"))
        yield running


@pytest.fixture(scope="module")
def unguarded(site: Site) -> Iterator[Web]:
    with Web(site, "unguarded") as running:
        yield running.ready()


@pytest.fixture(scope="module")
def guarded(site: Site) -> Iterator[Web]:
    tokens = site.folder / "tokens"
    tokens.write_text(f"{TOKEN}\nanother-token-9876543210\n")
    with Web(site, "guarded", tokenfile=str(tokens), trustedheader="X-Forwarded-Groups", adminrole="admins") as running:
        yield running.ready()


def test_without_rules_everyone_reads_and_nobody_changes(unguarded: Web) -> None:
    assert unguarded.get("/whoami") == {"user": None, "may_read": True, "may_tank": False, "login": False}
    assert [row["id"] for row in unguarded.get("/regressions")["rows"]] == ["r/1"]
    for path in ("/tank", "/untank"):
        assert unguarded.change(path, {"regression": "r/1"}).status == 403
    assert unguarded.change("/session", {"token": TOKEN}).status == 403


@pytest.mark.parametrize("path", READS)
def test_reading_needs_a_token(guarded: Web, path: str) -> None:
    answer = guarded.ask(f"/api/v1{path}")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    wrong = guarded.ask(f"/api/v1{path}", headers={"Authorization": f"Bearer {TOKEN}x"})
    assert wrong.status == 401
    if not path.startswith("/events"):
        assert guarded.ask(f"/api/v1{path}", headers={"Authorization": f"bearer {TOKEN}"}).status in {200, 404}


def test_what_everyone_may_ask_for(guarded: Web) -> None:
    assert guarded.get("/whoami") == {"user": None, "may_read": False, "may_tank": False, "login": True}
    assert guarded.get("/health")["ready"] is True
    assert guarded.get("/openapi.json")["openapi"].startswith("3.1")


def test_a_page_logs_in_with_a_cookie_that_scripts_can_not_read(guarded: Web) -> None:
    assert guarded.change("/session", {"token": "wrong-token-0123456789"}).status == 403
    answer = guarded.change("/session", {"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status == 204
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie  # noqa: PT018
    pair = {"Cookie": cookie.partition(";")[0]}
    assert guarded.ask("/api/v1/jobs", headers=pair).status == 200
    assert guarded.ask("/api/v1/whoami", headers=pair).json["may_tank"] is True
    until, salt, signature = pair["Cookie"].partition("=")[2].split(".")
    for forged in (f"{int(until) + 1}.{salt}.{signature}", f"1.{salt}.{signature}", f"{until}.{salt}.", "x", "\u00e9..", ""):
        assert guarded.ask("/api/v1/jobs", headers={"Cookie": f"livejobs={forged}"}).status == 401, forged
    gone = guarded.ask("/api/v1/session", "DELETE", headers={**pair, **CHANGE})
    assert gone.status == 204
    assert re.search(r"Max-Age=0|1970", gone.headers["set-cookie"])


def test_a_proxys_header_lets_read_and_its_role_change(guarded: Web) -> None:
    reader, admin = {"X-Forwarded-Groups": "ada, users"}, {"X-Forwarded-Groups": "ada, users, admins"}
    assert guarded.ask("/api/v1/whoami", headers=reader).json == {"user": "ada", "may_read": True, "may_tank": False, "login": True}
    assert guarded.ask("/api/v1/jobs", headers=reader).status == 200
    assert guarded.change("/tank", {"regression": "none"}, **reader).status == 403
    assert guarded.change("/tank", {"regression": "none"}, **admin).status == 404
    assert guarded.ask("/api/v1/jobs", headers={"X-Forwarded-Groups": " "}).status == 401
    assert guarded.ask("/api/v1/whoami", headers={"X-Forwarded-Groups": "adminsx"}).json["may_tank"] is False


def test_a_header_that_comes_twice_is_not_the_proxys(guarded: Web) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=SECONDS)
    connection.putrequest("GET", "/api/v1/jobs")
    for value in ("mallory, admins", "ada"):
        connection.putheader("X-Forwarded-Groups", value)
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_tank_and_untank_are_published(site: Site, guarded: Web) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    answer = guarded.change("/tank", {"regression": "r/1", "reason": "wrong build"}, **token)
    assert (answer.status, answer.json) == (202, {"regression": "r/1", "tank": True})
    site.status("r/1", "TANKED")
    assert guarded.change("/untank", {"regression": "r/1"}, **token).json == {"regression": "r/1", "tank": False}
    site.status("r/1", "LIVE")
    wanted = [b'{"tank":true,"reason":"wrong build"}', b'{"tank":false}']
    site.wait_for(lambda: [record.value for record in site.reader.events.records if record.kind == "regr-tank"] == wanted)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Livejobs": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_change_that_another_page_could_cause_is_refused(site: Site, guarded: Web, headers: dict[str, str], status: int) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.change("/tank", {"regression": "r/1"}, **token, **headers).status == status
    own = {"Origin": f"http://127.0.0.1:{guarded.port}", "Sec-Fetch-Site": "same-origin"}
    assert guarded.change("/tank", {"regression": "none"}, **token, **own).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"regression": 3}', 400),
        (b'{"reason": "x"}', 400),
        (b'{"regression": "r/1", "colour": "red"}', 400),
        (b'{"regression": ""}', 400),
        (b'{"regression": "\xff"}', 400),
        (b'{"regression": "' + b"x" * 2000 + b'"}', 400),
        (b" " * 9000, 413),
        (b'{"regression": "none"}', 404),
    ],
)
def test_bad_bodies(guarded: Web, body: bytes, status: int) -> None:
    answer = guarded.ask("/api/v1/tank", "POST", body, {**CHANGE, "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("evil.example:80", 421), ("", 421), ("localhost", 200), ("127.0.0.1:9", 200), ("[::1]:80", 200)])
def test_a_strangers_name_for_this_machine_is_refused(unguarded: Web, host: str, status: int) -> None:
    assert unguarded.ask("/api/v1/whoami", headers={"Host": host}).status == status


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ({"adminrole": "admins"}, "[web] adminrole needs [web] trustedheader"),
        ({"tokenfile": "/nowhere/tokens"}, "[web] tokenfile /nowhere/tokens can't be read"),
        ({"tokenfile": "short"}, "must have 1 to 100 lines, each a token of at least 16 characters"),
        ({"tokenfile": "empty"}, "must have 1 to 100 lines"),
        ({"bind": "192.0.2.1:8080"}, "[web] bind 192.0.2.1:8080 can't be listened on"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path, web: dict[str, str], says: str) -> None:
    (tmp_path / "short").write_text("short\n")
    (tmp_path / "empty").write_text("# nothing\n")
    flags = [f"--set=web.{key}={value if value not in {'short', 'empty'} else tmp_path / value}" for key, value in web.items()]
    command = [sys.executable, "-c", "from livejobs.streams.cli import main; main()", "web", f"--set=web.datadir={tmp_path}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=tmp_path)
    assert done.returncode == 78, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_pages_run_only_our_scripts_and_stay_in_no_frame(guarded: Web) -> None:
    for path in ("/", "/regression?name=%3Cscript%3E", "/job", "/hosts", "/search", "/static/app.js"):
        answer = guarded.ask(path)
        assert answer.status == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = guarded.ask(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status == 304
