"""`livejobs ls`, `show` and `top` against a real service."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SECONDS, Site
from web import Web, tokenfile

from livejobs.streams.kafka.broker import Broker, free_port

CODE = "from livejobs.streams.cli import main; main()"


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("cli")) as running:
        running.start().ready()
        running.send("regr-start", "s/1", {"submitted": 300, "username": "ada"})
        for number in range(250):
            running.send("job-live", "s/1", {"uniqueid": str(number), "result": "live", "host": f"farm{number}", "testgroup": "\x1b[31muart"})
        running.stats("s/1", running.send("job-finish", "s/1", {"uniqueid": "0", "result": "fail", "bucket": "bad thing"}))
        yield running


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[Web]:
    with Web(site, tokenfile=tokenfile(site)) as running:
        yield running.with_token().ready()


def run(*arguments: str, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a command said; its exit code must be `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIVEJOBS_")}
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=cwd, env=environment)
    assert done.returncode == code, done.stderr
    return done


def test_ls_lists_regressions(web: Web) -> None:
    config = f"--config={web.config}"
    assert json.loads(run("ls", config, "--json").stdout) == {key: value for key, value in web.get("/regressions").items() if key != "next"}
    head, row = run("ls", config).stdout.splitlines()
    assert head.split()[:3] == ["regression", "status", "live"]
    assert row.split()[:5] == ["s/1", "LIVE", "249", "0", "1"]
    assert json.loads(run("ls", config, "--json", "--status", "ABORTED").stdout)["rows"] == []


def test_ls_lists_the_jobs_of_one_over_many_pages(web: Web) -> None:
    config = f"--config={web.config}"
    found = json.loads(run("ls", "s/$", config, "--json", "--limit", "1000").stdout)
    assert sorted(int(row["job"]["host"][4:]) for row in found["rows"]) == list(range(1, 250))
    text = run("ls", "s/1", config, "--limit", "3")
    assert len(text.stdout.splitlines()) == 4
    assert "3 of 249 shown" in text.stderr
    assert "\x1b[31m" not in text.stdout
    assert "\\x1b[31muart" in text.stdout
    assert [row["job"]["host"] for row in json.loads(run("ls", config, "--json", "--host", "farm77").stdout)["rows"]] == ["farm77"]


def test_show_tells_of_a_regression_and_of_a_job(web: Web) -> None:
    config = f"--config={web.config}"
    assert json.loads(run("show", config, "s/$", "--json").stdout) == web.get("/regression", name="s/1")
    text = run("show", config, "s/1").stdout
    assert "bad thing" in text
    assert "fields.username" in text
    key = '["s/1","7"]'
    assert json.loads(run("show", config, "--job", key, "--json").stdout)["record"] == web.get("/job", key=key)["record"]
    assert "farm7" in run("show", config, "--job", key).stdout


def test_top_follows(site: Site, web: Web) -> None:
    command = [sys.executable, "-c", CODE, "top", "s/1", f"--config={web.config}", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = next(found for line in process.stdout if (found := json.loads(line))["rows"])
        assert len(first["rows"]) == 200
        site.send("job-live", "s/1", {"uniqueid": "new", "start_time": "2000-01-01T00:00:00Z", "result": "live", "host": "the-first"})
        assert any(json.loads(line)["rows"][0]["job"]["host"] == "the-first" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)  # what it has begun to write it writes to its end
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["show", "none"], 65, "no such regression"),
        (["ls", "s/1", "--sort", "colour"], 65, "sort: "),
        (["ls", "--jobs", "--status", "LIVE"], 2, "--status is for regressions"),
        (["ls", "--limit", "0"], 2, "--limit"),
        (["ls", "--tokenfile", "/nowhere"], 78, "/nowhere"),
        (["ls", "--url", "ftp://x"], 78, "--url must begin with"),
    ],
)
def test_mistakes(web: Web, arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments, f"--config={web.config}", code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_no_service_and_no_token(web: Web, tmp_path: Path) -> None:
    port = free_port()
    for command in (["ls"], ["show", "x"], ["top"]):
        assert f"no web service answers at http://127.0.0.1:{port}" in run(*command, f"--set=web.bind=127.0.0.1:{port}", code=69, cwd=tmp_path).stderr
        assert "wants a token" in run(*command, f"--url=http://127.0.0.1:{web.port}", code=78, cwd=tmp_path).stderr
