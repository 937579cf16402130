"""SCRAM over TLS with a certificate of each client, and TLS alone: all of livejobs works over them, what does not fit gives one clear line, and no password is told.

A real broker with both on. Every command runs as a process of its own, with its password in a file or in the environment, and with aiokafka's log at the level of
debugging where a test looks for secrets.
"""

import asyncio
import gc
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1
from harness import toml
from secure import ADMIN, SCRAM, SecureBroker, SecureSite

from livejobs.streams import config as configuration
from livejobs.streams.kafka.client import Heard, client_options, why

COMMANDS = {
    "check": ["topics", "check"],
    "worker": ["worker"],
    "verify": ["verify", "--json"],
    "publish": ["publish", "regr-start", "--regression", "r/1", "--json"],
}
DEBUG = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
for name in ("aiokafka", "aiokafka.conn", "aiokafka.client", "faust", "mode"):  # a worker makes some of them quiet, not their children
    logging.getLogger(name).setLevel(logging.DEBUG)
from livejobs.streams.cli import main
main()
"""


def command(arguments: list[str], file: Path, *, debug: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `livejobs ARGUMENTS` to its end with an empty standard input."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("LIVEJOBS_")} | more
    start = ["-c", DEBUG] if debug else ["-m", "livejobs.streams.cli"]
    return subprocess.run(
        [sys.executable, *start, *arguments, "--config", str(file)],
        input="",
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
        check=False,
    )


@pytest.fixture
def site(secure_broker: SecureBroker, tmp_path: Path) -> Iterator[SecureSite]:
    with SecureSite(secure_broker, tmp_path) as site:
        yield site


@pytest.mark.parametrize("mechanism", [*SCRAM, "PLAIN", None])
def test_all_of_it_works_and_no_password_is_told(mechanism: str | None, secure_broker: SecureBroker, site: SecureSite) -> None:
    password = secure_broker.passwords[ADMIN]
    login = secure_broker.login(ADMIN, mechanism)
    file = site.file("file", login)
    said = []
    for arguments in (["topics", "create"], ["topics", "check"]):
        done = command(arguments, file, debug=True)
        assert done.returncode == 0, done.stderr
        said += [done.stdout, done.stderr]
    worker = site.start_as(login).ready()
    # The password in the environment, too.
    login.pop("passwordfile", None)
    variables = {} if mechanism is None else {"LIVEJOBS_KAFKA_PASSWORD": password}
    done = command(COMMANDS["publish"], site.file("environment", login), debug=True, **variables)
    assert json.loads(done.stdout)["sent"] == 1
    said += [done.stdout, done.stderr]
    assert site.status("r/1", "LIVE")
    done = command(COMMANDS["verify"], file, debug=True)
    assert json.loads(done.stdout)["checked"] == 1, done.stderr
    said += [done.stdout, done.stderr, repr(site.config_of({**login, "password": password} if mechanism else login))]
    assert any("aiokafka" in text for text in said)  # it did debug
    assert "a login" in said[1] or mechanism is None
    said += [Path(f"/proc/{worker.pid}/cmdline").read_text(), worker.output()]
    assert worker.stop()[0] == 0
    assert not [text for text in [*said, worker.output()] if password in text or password.encode().hex() in text]


# What does not fit. The broker's certificate is for 127.0.0.1 alone.
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({"password": "a wrong one"}, "invalid credentials with SASL mechanism SCRAM-SHA-512; see [kafka] username, password"),
    "no such user": ({"username": "nobody"}, "invalid credentials with SASL mechanism SCRAM-SHA-512; see [kafka] username, password"),
    "untrusted broker": ({"cafile": "{foreign}/ca.pem"}, "its certificate is not trusted: unable to get local issuer certificate; see [kafka] cafile"),
    "wrong host name": ({"brokers": "localhost:{port}"}, "its certificate is not trusted: Hostname mismatch, certificate is not valid for 'localhost'; see [kafka] brokers"),
    "no certificate": ({"certfile": None, "keyfile": None}, "it refuses our TLS: bad certificate; see [kafka] certfile"),
    "foreign certificate": ({"certfile": "{foreign}/admin.pem", "keyfile": "{foreign}/admin.key"}, "it refuses our TLS: certificate unknown; see [kafka] certfile"),
    "no TLS": ({"protocol": "SASL_PLAINTEXT", "cafile": None, "certfile": None, "keyfile": None}, "its answer is not Kafka's, or longer than 134217728 bytes; see [kafka] protocol"),
    "TLS where there is none": ({"brokers": "127.0.0.1:{plain}"}, "it closed the connection; see [kafka] protocol"),
}  # fmt: skip


@pytest.fixture
def misfit(request: pytest.FixtureRequest, secure_broker: SecureBroker, site: SecureSite) -> tuple[Path, str, str]:
    """A configuration file in which one thing is wrong, its brokers, and what is said of it."""
    changes, text = MISFITS[request.param]
    places = {"foreign": secure_broker.foreign.folder, "port": secure_broker.sasl_port, "plain": secure_broker.port}
    login = secure_broker.login(ADMIN)
    if "password" in changes:
        del login["passwordfile"]
    login |= {key: value and value.format(**places) for key, value in changes.items()}
    login = {key: value for key, value in login.items() if value is not None}
    return site.file("misfit", login), login["brokers"], text


@pytest.mark.parametrize("misfit", MISFITS, indirect=True)
def test_what_does_not_fit_is_one_clear_line(misfit: tuple[Path, str, str]) -> None:
    file, brokers, text = misfit
    with ThreadPoolExecutor() as pool:
        runs = {name: pool.submit(command, arguments, file) for name, arguments in COMMANDS.items()}
    for name, run in runs.items():
        done = run.result()
        said, *kept = done.stderr.splitlines()
        assert said.startswith(f"livejobs: no Kafka broker answers at {brokers}"), (name, done.stderr)
        assert text in said, (name, done.stderr)
        assert "a wrong one" not in done.stderr + done.stdout
        if name != "publish":
            assert (done.returncode, done.stdout, kept) == (69, "", []), (name, done.stderr)
        else:  # with a spool it has lost nothing
            assert (done.returncode, len(kept)) == (75, 1), done.stderr
            assert kept[0].startswith("livejobs: kept 1 message in ")


@pytest.mark.parametrize(("key", "value"), [("certfile", "nowhere.pem"), ("keyfile", "{folder}/viewer.key"), ("cafile", "{folder}/admin.key")])
def test_a_file_that_can_not_be_used_is_bad_configuration(key: str, value: str, secure_broker: SecureBroker, site: SecureSite) -> None:
    login = secure_broker.login(ADMIN) | {key: value.format(folder=secure_broker.authority.folder)}
    file = site.file("misfit", login)
    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        runs = [pool.submit(command, arguments, file) for arguments in COMMANDS.values()]
    for run in runs:
        done = run.result()
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1), done.stderr
        assert "[kafka] " + ("cafile" if key == "cafile" else "certfile and keyfile") in done.stderr


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    for name, arguments in COMMANDS.items():
        done = command([*arguments, "--set", "kafka.password=hunter2"], tmp_path / "empty.toml")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1), (name, done.stderr)
        assert "[kafka] password" in done.stderr
        assert "hunter2" not in done.stderr
    done = command(["verify", "--set", "password=hunter2"], tmp_path / "empty.toml")
    assert (done.returncode, "hunter2" in done.stderr) == (2, False)


def test_a_login_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client_options(configuration.load(environ={}).kafka)
    request = SaslAuthenticateRequest_v1(b"\0user\0hunter2")
    logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "host", 9092, 7, request)
    assert caplog.messages == ["Request to host:9092 7: (a login)"]


def test_what_is_left_of_a_connection_given_up_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    client_options(configuration.load(environ={}).kafka)

    async def leave_behind(error: Exception) -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        del future
        gc.collect()

    for error in (ssl.SSLError("alert"), KafkaConnectionError("closed"), ValueError("another")):
        asyncio.run(leave_behind(error))
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [("another",)]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_ends_though_the_broker_does_not_answer_the_end(new_loop: Any, secure_broker: SecureBroker, site: SecureSite) -> None:
    """As a broker that has read the end together with the last request; an event loop waits 30 s for it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = secure_broker.authority.folder
    server.load_cert_chain(folder / "broker.pem", folder / "broker.key")
    over = threading.Event()

    def silent(listener: socket.socket) -> None:
        with server.wrap_socket(listener.accept()[0], server_side=True):
            over.wait()

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def connect_and_close(port: int) -> None:
        context = client_options(site.config_of(secure_broker.login(ADMIN)).kafka)["ssl_context"]
        transport, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port, ssl=context)
        transport.close()
        assert await asyncio.wait_for(client.lost, 15) is None

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=silent, args=[listener])
        thread.start()
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(connect_and_close(listener.getsockname()[1]))
        finally:
            over.set()
            thread.join()


def test_only_what_is_heard_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("aiokafka")
    with Heard() as heard:
        assert str(heard) == ""
        log.error('Unable connect to "%s:%s": %s', "host", 9092, "gone")
        log.info("a detail")
    log.error("behind it")
    assert str(heard) == ' (Unable connect to "host:9092": gone)'
    assert caplog.messages == ["behind it"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(111, "Connect call failed"), "[Errno 111] Connect call failed"),
        (TimeoutError(), "no answer in time"),
        (EOFError(), "it closed the connection; see [kafka] protocol"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_reason_is_never_empty(error: Exception, text: str) -> None:
    outer = RuntimeError("closed")
    outer.__cause__ = error
    assert why(outer) == why(error) == text


def test_no_configuration_shows_its_password() -> None:
    kafka = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u", "password": "hunter2"}
    config = configuration.load(flags={f"kafka.{key}": value for key, value in kafka.items()}, environ={})
    for shown in (repr(config), str(config), f"{config.kafka}", toml({"x": {"y": repr([config])}})):
        assert "hunter2" not in shown
        assert "***" in shown
