"""The long-lived publisher: real processes, a real broker, kill -9, outages, a full spool. What it answers is safe."""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reading import events

from livejobs.streams import config as configuration
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker
from livejobs.streams.tunnel import client as tunnel_client
from livejobs.streams.tunnel.answer import BODY_BYTES_MAX, ERRORS_MAX, Answer
from livejobs.streams.tunnel.client import TunnelGoneError
from livejobs.streams.tunnel.http import CONNECTIONS_MAX

SECONDS = 60.0
NOWHERE = "127.0.0.1:9"  # the discard port: nobody listens
_numbers = itertools.count(1)


def finish(number: int, size: int = 0) -> bytes:
    return json.dumps({"uniqueid": str(number), "result": "pass", "sourcecode": "x" * size}).encode()


def ndjson(start: int, stop: int, size: int = 0) -> bytes:
    return b"".join(finish(number, size) + b"\n" for number in range(start, stop))


def until(what: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true answer. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
    return answer


class Place:
    """A directory with a `livejobs.toml`, topics of its own, and the tunnels and calls that a test starts there."""

    def __init__(self, folder: Path, bootstrap: str, **tunnel: object) -> None:
        self.folder, self.bootstrap = folder, bootstrap
        folder.mkdir(parents=True, exist_ok=True)
        self.socket, self.spool = folder / "s", folder / "spool"
        self.prefix = f"tunnel{next(_numbers)}-"
        self.write(**tunnel)
        self.config = configuration.load(folder / "livejobs.toml", environ={})
        assert asyncio.run(topics.create(self.config)) == []
        self.log = folder / "tunnel.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def write(self, **tunnel: object) -> None:
        """The configuration."""
        settings = {"spool": str(self.spool), "socket": str(self.socket), **tunnel}
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None]
        kafka = f'brokers = "{self.bootstrap}"\ntopicprefix = "{self.prefix}"\npartitions = 3\n'
        (self.folder / "livejobs.toml").write_text(f"[kafka]\n{kafka}[tunnel]\n" + "\n".join(lines) + "\n")

    def start(self) -> subprocess.Popen[bytes]:
        """Start a tunnel; it listens when this returns."""
        with self.log.open("wb") as log:
            process = self._popen(["tunnel"], stderr=log)
        until(lambda: self.said("listening at") or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return process

    def said(self, text: str) -> bool:
        """Whether the tunnel has said this since its last start."""
        return text in self.log.read_text()

    def call(self, *arguments: str, stdin: bytes = b"", **kinds: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run `livejobs ARGUMENTS` to its end."""
        process = self._popen([*arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kinds)
        out, err = process.communicate(stdin, timeout=90)
        assert b"Traceback" not in err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def publish(self, regression: str, stdin: bytes, *flags: str) -> "subprocess.CompletedProcess[bytes]":
        """Publish finished jobs, one a line."""
        return self.call("publish", "job-finish", "--regression", regression, "--ndjson", *flags, stdin=stdin)

    def begin(self, regression: str, text: bytes | None) -> subprocess.Popen[bytes]:
        """As `publish`, beside the test; None: what will be written to its standard input."""
        path = self.folder / f"{regression.replace('/', '_')}.ndjson"
        path.write_bytes(text or b"")
        source = "-" if text is None else str(path)
        arguments = ["publish", "job-finish", "--regression", regression, "--ndjson", "--json", source]
        return self._popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _popen(self, arguments: list[str], module: str = "cli", **more: Any) -> subprocess.Popen[bytes]:
        environment = {name: text for name, text in os.environ.items() if not name.startswith("LIVEJOBS_")}
        command = [sys.executable, "-m", f"livejobs.streams.{module}", *arguments]
        process = subprocess.Popen(command, cwd=self.folder, env=environment, **more)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def numbers(self, regression: str) -> list[int]:
        """What has arrived of a regression, in order, each once: a resend is allowed, in order."""
        found = [json.loads(r.value)["uniqueid"] for r in events(self.config) if r.key == regression.encode()]
        return [int(number) for number in dict.fromkeys(found)]

    def arrived(self) -> int:
        return len(events(self.config))


@pytest.fixture
def place(broker: Broker, tmp_path: Path) -> Iterator[Place]:
    """With the broker of all tests."""
    made = Place(tmp_path / "place", broker.bootstrap)
    yield made
    made.close()


@pytest.fixture
def own_place(own_broker: Broker, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "place", own_broker.bootstrap)
    yield made
    made.close()


def ask(place: Place, kind: str, regression: str, body: bytes, *, lines: bool = False) -> Answer:
    """Send one request."""
    return asyncio.run(tunnel_client.publish(place.socket, kind, regression, body, lines=lines))


def finish_all(place: Place, regression: str, start: int, stop: int) -> Answer:
    """Finished jobs, one a line."""
    return ask(place, "job-finish", regression, ndjson(start, stop), lines=True)


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def raw(place: Place, text: bytes) -> socket.socket:
    """A connection on which this was sent, and has been read by the tunnel."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(str(place.socket))
    client.sendall(text)
    until(lambda: struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4))) == (0,))
    turn(place)
    return client


def turn(place: Place) -> None:
    """Return when the tunnel has answered a request of no use: it has done by then what was to be done before."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(place.socket))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100)


def post(kind: str, regression: str, body: bytes, *more: str, content_type: str = "application/json") -> bytes:
    """The bytes of a request."""
    lines = [
        f"POST /publish/{kind}?regression={regression} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}", *more,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


# What it takes


def test_messages_arrive_in_order_and_bad_ones_are_answered(place: Place) -> None:
    tunnel = place.start()
    answers = [
        ask(place, "regr-start", "r/1", b""),
        ask(place, "job-finish", "r/1", ndjson(0, 3) + b"\n{\n" + finish(3), lines=True),
        ask(place, "job-finish", "r/1", b'{"uniqueid": "4"}'),
        ask(place, "batch-job-finish", "r/1", b"[\n" + finish(5) + b"]\n"),
        ask(place, "job-dead", "r/1", finish(6), lines=True),
        ask(place, "job-finish", "", finish(6)),
        ask(place, "job-finish", "r/1", b"", lines=True),
        ask(place, "regr-finish", "r/1", b""),
    ]
    assert [(answer.sent, answer.bad) for answer in answers] == [(1, 0), (4, 1), (0, 1), (1, 0), (0, 1), (0, 1), (0, 0), (1, 0)]
    assert [[(error.line, error.code) for error in answer.errors] for answer in answers if answer.bad] == [
        [(5, "bad-json")], [(0, "bad-field")], [(0, "bad-type")], [(0, "bad-key")],
    ]  # fmt: skip
    assert [(record.headers[0][1], record.value) for record in events(place.config)] == [
        (b"regr-start", b""), *((b"job-finish", finish(number)) for number in range(4)),
        (b"batch-job-finish", b"[\n" + finish(5) + b"]"), (b"regr-finish", b""),
    ]  # fmt: skip
    assert stop(tunnel) == 0
    assert place.said("livejobs: ended\n")
    assert not place.socket.exists()


def test_bad_lines_are_counted_and_the_first_ones_named(place: Place) -> None:
    place.start()
    answer = ask(place, "job-finish", "r/1", b"{\n" * (ERRORS_MAX + 50) + finish(1), lines=True)
    assert (answer.sent, answer.bad) == (1, ERRORS_MAX + 50)
    assert [error.line for error in answer.errors] == list(range(1, ERRORS_MAX + 1))


def test_calls_go_through_it_and_say_the_same(place: Place) -> None:
    """The calls could not reach a broker themselves."""
    place.start()
    gone = ("--set", f"kafka.brokers={NOWHERE}")
    bad = b"{\n" * (ERRORS_MAX + 50)
    lines = ndjson(0, 2000, 300) + b"\n" + bad + ndjson(2000, 3000, 300) + finish(9000).replace(b"pass", b"p\\u0061ss")
    done = place.publish("r/1", lines, *gone, "--json")
    assert done.returncode == 65
    said = done.stderr.decode().splitlines()
    assert [line.split(": body: ")[0] for line in said[:-1]] == [
        f"livejobs: standard input:{2002 + number}" for number in range(ERRORS_MAX + 50)
    ]
    assert said[-1] == "livejobs: sent 3,001 messages"
    report = json.loads(done.stdout)
    assert (report["sent"], report["bad"], report["kept"], report["undelivered"]) == (3001, ERRORS_MAX + 50, 0, 0)
    assert place.numbers("r/1") == [*range(3000), 9000]
    assert place.call("tank", "r/2", *gone).returncode == 0
    assert place.arrived() == 3002


def test_files_go_through_it(place: Place) -> None:
    """One as it is, many in one request: with spaces where a file has line breaks."""
    place.start()
    (place.folder / "1.json").write_bytes(b'{"uniqueid": "1",\n "result": "live"}\n')
    (place.folder / "2.json").write_bytes(b"{")
    (place.folder / "3.json").write_bytes(b'{"uniqueid": "3",\n "result": "live"}\n')
    (place.folder / "empty.json").write_bytes(b"")
    gone = ("--set", f"kafka.brokers={NOWHERE}")
    done = place.call("publish", "job-live", "--regression", "r/1", "1.json", *gone)
    assert (done.returncode, done.stderr) == (0, b"livejobs: sent 1 message\n")
    done = place.call("publish", "job-live", "--regression", "r/1", "1.json", "3.json", "2.json", *gone)
    assert done.returncode == 65
    assert b"2.json: body: " in done.stderr
    assert done.stderr.endswith(b"livejobs: sent 2 messages\n")
    done = place.call("publish", "regr-finish", "--regression", "r/1", "empty.json", "empty.json", *gone)
    assert (done.returncode, done.stderr) == (0, b"livejobs: sent 2 messages\n")
    one, *many = [record.value for record in events(place.config)]
    assert one == b'{"uniqueid": "1",\n "result": "live"}'
    assert many == [one.replace(b"\n", b" "), one.replace(b"\n", b" ").replace(b"1", b"3"), b"", b""]


def test_without_a_tunnel_all_works(place: Place) -> None:
    assert place.publish("r/1", ndjson(0, 10)).returncode == 0
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place.socket))  # as a killed tunnel leaves it
    assert place.publish("r/1", ndjson(10, 20)).returncode == 0
    assert place.numbers("r/1") == list(range(20))


def test_a_frozen_tunnel_is_passed_by(place: Place) -> None:
    tunnel = place.start()
    tunnel.send_signal(signal.SIGSTOP)
    assert place.publish("r/1", ndjson(0, 10)).returncode == 0
    assert place.numbers("r/1") == list(range(10))


def test_http(place: Place) -> None:
    place.write(bind="127.0.0.1:0")
    tunnel = place.start()
    address = until(lambda: next((line.split()[-1] for line in place.log.read_text().splitlines() if "http://" in line), None))

    def send(path: str, body: bytes, kind: str = "application/json", **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(address + path, body, {"Content-Type": kind, **headers})  # noqa: S310  http
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    finished = "/publish/job-finish?regression=r%2F1"
    assert send(finished, finish(0), traceparent="00-a") == (200, {"sent": 1})
    status, answer = send(finished, ndjson(1, 3) + b"{", "application/x-ndjson", tracestate="b")
    assert (status, answer["sent"], answer["bad"], answer["errors"][0]["line"]) == (400, 2, 1, 3)
    assert send("/publish/regr-finish?regression=r%2F1", b"")[0] == 200
    assert send("/publish/job-finish", finish(0))[1]["errors"][0]["code"] == "bad-key"
    assert send("/publish/_livejobs.tick?regression=r", b"")[1]["errors"][0]["code"] == "bad-type"
    assert send(finished, finish(0), "text/plain")[0] == 415
    assert send(finished, finish(0), Origin="http://elsewhere")[0] == 403
    assert send(finished, finish(0), Host="elsewhere:80")[0] == 403
    assert send(finished, finish(0), traceparent="x" * 5000, tracestate="x" * 5000)[1]["errors"][0]["code"] == "too-large"
    packed = zlib.compress(b" " * 10 * BODY_BYTES_MAX + finish(0))
    assert send(finished, packed, **{"Content-Encoding": "deflate"})[1]["errors"][0]["code"] == "bad-json"
    records = events(place.config)
    assert [record.value for record in records] == [finish(0), finish(1), finish(2), b""]
    assert records[0].headers == (("type", b"job-finish"), ("traceparent", b"00-a"))
    assert records[1].headers == (("type", b"job-finish"), ("tracestate", b"b"))
    assert stop(tunnel) == 0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /publish/job-live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 400),
        (post("job-live", "r", b"").replace(b"Length: 0", b"Length: -1"), 400),
        (post("job-live", "r", b"").replace(b"Length: 0", b"Length: 99999999999"), 413),
        (post("job-live", "r", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 411),
        (post("job-live", "r", b"{}", content_type="text/plain"), 415),
    ],
)
def test_what_is_no_request_ends_only_its_connection(place: Place, text: bytes, status: int) -> None:
    place.start()
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        for one in (other, client):
            one.settimeout(SECONDS)
            one.connect(str(place.socket))
        client.sendall(text)
        with client.makefile("rb") as found:
            assert int(found.readline().split()[1]) == status
        other.sendall(post("job-finish", "r/1", finish(1)))
        with other.makefile("rb") as found:
            assert found.readline() == b"HTTP/1.1 200 OK\r\n"
    assert place.log.read_text().count("\n") == 2  # it fills no log


def test_a_client_that_ends_in_the_middle_of_a_request_has_sent_nothing(place: Place) -> None:
    place.start()
    raw(place, post("job-finish", "r/1", finish(1) + b" ")[:-1]).close()
    assert ask(place, "job-finish", "r/2", finish(2)).sent == 1
    assert place.arrived() == 1


def test_connections_are_bounded_and_calls_go_on_without(place: Place) -> None:
    place.start()
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(SECONDS)
            one.connect(str(place.socket))
        until(lambda: not _answers(place))
        done = place.publish("r/1", ndjson(0, 10))
        assert done.returncode == 0
        assert b"going on without it" in done.stderr  # why is lost where the door closes while the call still writes
    until(lambda: _answers(place))
    assert place.numbers("r/1") == list(range(10))


def _answers(place: Place) -> bool:
    try:
        return ask(place, "job-finish", "r/2", finish(1)).sent == 1
    except TunnelGoneError:
        return False


# Start and end


def test_only_its_user_may_come_in_unless_configured(place: Place) -> None:
    tunnel = place.start()
    assert place.socket.stat().st_mode & 0o777 == 0o600
    assert stop(tunnel) == 0
    place.write(socketmode="0660")
    place.start()
    assert place.socket.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"spool": None}, "[tunnel] spool is missing"),
        ({"socket": None}, "[tunnel] socket is missing"),
        ({"socket": "x" * 200}, "[tunnel] socket must have at most 107 bytes"),
        ({"socket": "nowhere/s"}, "[tunnel] socket nowhere/s can't be used: No such file or directory"),
        ({"socket": "livejobs.toml"}, "[tunnel] socket livejobs.toml is there, and is no socket"),
        ({"bind": "0.0.0.0:7000"}, "[tunnel] bind must be on loopback"),
        ({"bind": "127.0.0.1:TAKEN"}, "can't be used"),
    ],
)
def test_a_bad_configuration_is_one_line(place: Place, settings: dict[str, Any], text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        place.write(**{key: value and value.replace("TAKEN", port) for key, value in settings.items()})
        done = place.call("tunnel")
    assert done.returncode == 78
    assert text in done.stderr.decode().splitlines()[-1]
    assert (place.folder / "livejobs.toml").is_file()


def test_a_second_one_does_not_start_and_harms_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.start()
    done = place.call("tunnel")
    assert done.returncode == 69
    assert "another process, maybe another tunnel, is sending" in done.stderr.decode()
    place.write(spool=str(place.folder / "another"))
    done = place.call("tunnel")
    assert done.returncode == 69
    assert "another tunnel listens at" in done.stderr.decode()
    assert ask(place, "job-finish", "r/1", finish(1)).sent == 1


def test_what_another_process_has_kept_is_sent(place: Place) -> None:
    place.start()
    until(lambda: place.said("sending to"))
    away = ("--set", f"kafka.brokers={NOWHERE}", "--set", "tunnel.socket=elsewhere")
    assert place.publish("r/1", ndjson(0, 10), *away).returncode == 75
    until(lambda: place.arrived() == 10)
    assert ask(place, "job-finish", "r/1", finish(10)).sent == 1
    assert place.numbers("r/1") == list(range(11))


def test_a_termination_under_load_loses_nothing(place: Place) -> None:
    """Calls that are cut off go on without it; all is answered by the tunnel, or sent by the calls."""
    tunnel = place.start()
    calls = [place.begin(f"r/{number}", ndjson(0, 30_000, 300)) for number in range(3)]
    until(lambda: place.arrived() > 0)
    assert stop(tunnel) == 0
    for call in calls:
        assert call.wait(90) == 0
    for number in range(3):
        assert place.numbers(f"r/{number}") == list(range(30_000))


# Failures


def corrected(count: int) -> bytes:
    """Each job fails and then, corrected, passes."""
    passed = [finish(number, 200) for number in range(count)]
    return b"".join(body.replace(b'"pass"', b'"fail"') + b"\n" + body + b"\n" for body in passed)


def assert_corrected(place: Place, regression: str, count: int) -> None:
    """All has arrived, and whatever was sent again, the last that was said of each job is what was said last."""
    found = [record.value for record in events(place.config) if record.key == regression.encode()]
    assert list(dict.fromkeys(found)) == corrected(count).splitlines()
    last = {json.loads(value)["uniqueid"]: json.loads(value)["result"] for value in found}
    assert set(last.values()) == {"pass"}


def test_killed_under_load_nothing_is_lost_and_a_resend_changes_no_result(place: Place) -> None:
    """The tunnel is killed twice and started again while calls go through it."""
    count = 20_000
    tunnel = place.start()
    calls = [place.begin(f"r/{number}", corrected(count)) for number in range(3)]
    until(lambda: place.arrived() > 0)
    tunnel.kill()
    tunnel.wait()
    tunnel = place.start()
    more = place.begin("r/3", corrected(count))
    until(lambda: any(record.key == b"r/3" for record in events(place.config)))
    tunnel.kill()
    tunnel.wait()
    for call in (*calls, more):
        assert call.wait(90) == 0, call.communicate()
    for number in range(4):
        assert_corrected(place, f"r/{number}", count)


def test_killed_while_the_broker_is_away(own_broker: Broker, own_place: Place) -> None:
    """The tunnel is killed while it keeps; the calls go on by themselves, into the same spool; the next tunnel sends it."""
    place = own_place
    count = 10_000
    own_broker.kill()
    tunnel = place.start()
    calls = [place.begin(f"r/{number}", corrected(count)) for number in range(3)]
    log = place.spool / f"{place.config.kafka.events_topic}.log"
    until(lambda: log.stat().st_size > 4_000_000)
    tunnel.kill()
    tunnel.wait()
    for call in calls:
        assert call.wait(90) == 75
    own_broker.start()
    place.start()
    until(lambda: place.said("sending to"))
    for number in range(3):
        assert_corrected(place, f"r/{number}", count)
    assert log.stat().st_size < 100


def test_what_a_dead_tunnel_has_kept_is_not_overtaken(own_broker: Broker, own_place: Place) -> None:
    """A call that knows nothing of the tunnel's spool ends with it: what follows is told as not delivered."""
    place = own_place
    own_broker.kill()
    tunnel = place.start()
    place.write(spool=None)
    call = place.begin("r/1", None)
    assert call.stdin is not None
    call.stdin.write(ndjson(0, 10))
    call.stdin.flush()
    log = place.spool / f"{place.config.kafka.events_topic}.log"
    until(lambda: log.stat().st_size > 100)
    assert ask(place, "job-finish", "r/2", finish(0)).kept == 1  # so the call has its answer, too
    tunnel.kill()
    tunnel.wait()
    own_broker.start()
    call.stdin.write(ndjson(10, 20))
    out, err = call.communicate(timeout=90)
    assert call.returncode == 69
    assert (json.loads(out)["kept"], json.loads(out)["undelivered"]) == (10, 10)
    assert b"livejobs: not delivered: standard input: 10 messages, lines 11 to 20\n" in err


def test_an_outage_is_bridged_by_the_spool(own_broker: Broker, own_place: Place) -> None:
    """While the broker is away messages are kept, and answered so; when it is back they come first, then what is new."""
    place = own_place
    tunnel = place.start()
    assert finish_all(place, "r/1", 0, 100) == Answer(sent=100)
    own_broker.kill()
    answer = finish_all(place, "r/1", 100, 200)
    assert (answer.sent, answer.kept, answer.refused) == (0, 100, 0)
    assert answer.reason is not None
    assert ask(place, "job-finish", "r/2", finish(0)).kept == 1
    done = place.publish("r/1", ndjson(200, 5000))
    assert done.returncode == 75
    assert b"kept 4,800 messages in the tunnel's spool; it sends them\n" in done.stderr
    tunnel.kill()  # what was answered is safe
    tunnel.wait()
    place.start()
    assert finish_all(place, "r/1", 5000, 5100).kept == 100
    own_broker.start()
    until(lambda: ask(place, "job-finish", "r/2", finish(1)).sent == 1)
    assert place.said("sending to")
    assert place.publish("r/1", ndjson(5100, 5200)).returncode == 0
    assert place.numbers("r/1") == list(range(5200))
    assert place.numbers("r/2") == [0, 1]


def test_messages_that_keep_coming_do_not_keep_it_from_sending_directly(own_broker: Broker, own_place: Place) -> None:
    place = own_place
    own_broker.kill()
    place.start()
    assert place.publish("r/1", ndjson(0, 40_000, 400)).returncode == 75  # more than a chunk of the spool
    calls = [place.begin(f"r/{number}", ndjson(0, 60_000, 100)) for number in (2, 3)]
    own_broker.start()
    until(lambda: place.said("sending to"))
    for call in calls:
        call.communicate(timeout=90)
        assert call.returncode in (0, 75)
    assert ask(place, "job-finish", "r/1", finish(40_000)).sent == 1
    assert place.numbers("r/1") == list(range(40_001))
    for number in (2, 3):
        assert place.numbers(f"r/{number}") == list(range(60_000))


def test_a_full_spool_refuses_and_says_so(own_broker: Broker, own_place: Place) -> None:
    place = own_place
    place.write(spoolbytes=20_000)
    own_broker.kill()
    place.start()
    first = finish_all(place, "r/1", 0, 300)
    second = ask(place, "job-finish", "r/1", finish(300))
    third = ask(place, "job-finish", "r/2", b"{")
    kept = first.kept
    assert 0 < kept < 300
    assert (first.sent, first.refused) == (0, 300 - kept)
    assert "spoolbytes is 20000" in (first.reason or "")
    assert (second.kept, second.refused) == (0, 1)  # though it would fit in
    assert (third.bad, third.refused) == (1, 0)
    assert place.spool.joinpath(f"{place.config.kafka.events_topic}.log").stat().st_size <= 20_000
    done = place.publish("r/1", ndjson(0, 10), "--json")
    assert done.returncode == 69
    assert (json.loads(done.stdout)["undelivered"], json.loads(done.stdout)["kept"]) == (10, 0)
    assert b"not delivered: standard input: 10 messages, lines 1 to 10\n" in done.stderr
    assert place.said("is full: [tunnel] spoolbytes is 20000; messages are refused")
    own_broker.start()
    until(lambda: place.said("were refused"))
    assert ask(place, "job-finish", "r/1", finish(1000)).sent == 1
    assert place.numbers("r/1") == [*range(kept), 1000]


def test_a_spool_that_cant_be_read_refuses_until_it_can(place: Place) -> None:
    """What another process may have kept there must not be overtaken."""
    place.start()
    away = place.spool.rename(place.folder / "away")
    answer = finish_all(place, "r/1", 0, 10)
    assert (answer.sent, answer.kept, answer.refused) == (0, 0, 10)
    assert "can't be written or read" in (answer.reason or "")
    away.rename(place.spool)
    until(lambda: finish_all(place, "r/1", 10, 20).sent == 10)
    assert place.numbers("r/1")[-10:] == list(range(10, 20))


def test_a_frozen_broker_costs_bounded_memory_and_time(own_broker: Broker, own_place: Place) -> None:
    """A client that never stops is slowed down to what is kept; SIGTERM ends the tunnel in time, with all of it kept."""
    place = own_place
    tunnel = place.start()
    until(lambda: place.said("sending to"))
    assert own_broker.pid is not None
    os.kill(own_broker.pid, signal.SIGSTOP)
    try:
        text = ndjson(0, 100_000, 500)
        done = place.publish("r/1", text)
        assert done.returncode == 75
        peak_kib = int(Path(f"/proc/{tunnel.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
        begin = time.monotonic()
        assert stop(tunnel) == 0
        assert time.monotonic() - begin < 20
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    assert peak_kib < 300 * 1024
    assert place.said("bytes are left in")
    assert place.publish("r/1", ndjson(100_000, 100_001)).returncode == 0  # sends what was left
    assert place.numbers("r/1") == list(range(100_001))


def test_a_termination_while_the_broker_is_frozen_keeps_what_it_took(own_broker: Broker, own_place: Place) -> None:
    """What a client still waits for is kept and answered; what none waits for any more is not sent."""
    place = own_place
    tunnel = place.start()
    assert own_broker.pid is not None
    os.kill(own_broker.pid, signal.SIGSTOP)
    try:
        with raw(place, post("job-finish", "r/1", ndjson(0, 100), content_type="application/x-ndjson")) as client:
            raw(place, post("job-finish", "r/2", finish(0))).close()
            turn(place)
            tunnel.send_signal(signal.SIGTERM)
            with client.makefile("rb") as found:
                text = found.read()
        assert tunnel.wait(30) == 0
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    answer = json.loads(text.partition(b"\r\n\r\n")[2])
    assert (text.split()[1], answer["kept"], answer["reason"]) == (b"202", 100, "the tunnel ends")
    assert place.publish("r/1", ndjson(100, 101)).returncode == 0
    assert place.numbers("r/1") == list(range(101))
    assert place.numbers("r/2") == []
