"""The long-lived publisher: real processes, a real broker, kill -9, outages, a full spool. What it answers is safe."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reading import events

from livejobs.streams import config as configuration
from livejobs.streams import framing, spool, topics, tunnel_client, tunnel_socket
from livejobs.streams.broker import Broker, free_port
from livejobs.streams.config import Config
from livejobs.streams.framing import Answer
from livejobs.streams.tunnel_client import TunnelClient, TunnelGoneError

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
        self.log.unlink(missing_ok=True)
        process = self._popen(["tunnel"], stderr=self.log.open("wb"))
        until(lambda: self.said("listening on") or process.poll() is not None)
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

    def begin(self, regression: str, text: bytes) -> subprocess.Popen[bytes]:
        """As `publish`, beside the test."""
        path = self.folder / f"{regression.replace('/', '_')}.ndjson"
        path.write_bytes(text)
        arguments = ["publish", "job-finish", "--regression", regression, "--ndjson", "--json", str(path)]
        return self._popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

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
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may end."""
    with Broker(free_port(), tmp_path / "own-broker") as running:
        yield running


@pytest.fixture
def own_place(own_broker: Broker, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "place", own_broker.bootstrap)
    yield made
    made.close()


def ask(place: Place, *requests: tuple[str, str, bytes, bool]) -> list[Answer]:
    """Send requests over one connection, all before the first answer."""

    async def send() -> list[Answer]:
        async with await tunnel_client.connect(place.socket) as client:
            waiting = [await client.send(kind, name, body, lines=lines) for kind, name, body, lines in requests]
            return [await future for future in waiting]

    return asyncio.run(send())


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


# What it takes


def test_messages_arrive_in_order_and_bad_ones_are_answered(place: Place) -> None:
    tunnel = place.start()
    answers = ask(
        place,
        ("regr-start", "r/1", b"", False),
        ("job-finish", "r/1", ndjson(0, 3) + b"\n{\n" + finish(3), True),
        ("job-finish", "r/1", b'{"uniqueid": "4"}', False),
        ("batch-job-finish", "r/1", b"[\n" + finish(5) + b"]\n", False),
        ("job-dead", "r/1", finish(6), True),
        ("job-finish", "", finish(6), False),
        ("job-finish", "r/1", b"", True),
        ("regr-finish", "r/1", b"", False),
    )
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


def test_headers_pass_through(place: Place) -> None:
    place.start()

    async def send() -> None:
        async with await tunnel_client.connect(place.socket) as client:
            for lines in (False, True):
                answer = await client.publish("job-finish", "r/1", finish(1), lines=lines, headers={"traceparent": "00-a"})
                assert answer.sent == 1
            refused = await client.publish("job-finish", "r/1", finish(1), headers={"type": "job-live"})
            assert (refused.bad, refused.errors[0].code) == (1, "bad-type")

    asyncio.run(send())
    assert [r.headers for r in events(place.config)] == [(("type", b"job-finish"), ("traceparent", b"00-a"))] * 2


def test_calls_go_through_it_and_say_the_same(place: Place) -> None:
    """The calls could not reach a broker themselves."""
    place.start()
    (place.folder / "one.json").write_bytes(b'{"uniqueid": "1",\n "result": "live"}\n')
    gone = ("--set", f"kafka.brokers={NOWHERE}")
    lines = ndjson(0, 3000, 300).replace(b'"2000"', b'"2000') + b"\n" + finish(9000).replace(b"pass", b"p\\u0061ss")
    done = place.publish("r/1", lines, *gone, "--json")
    assert done.returncode == 65
    assert done.stderr.decode().splitlines()[1:] == ["livejobs: sent 3,000 messages"]
    assert done.stderr.startswith(b"livejobs: standard input:2001: body: ")
    report = json.loads(done.stdout)
    assert (report["sent"], report["bad"], report["kept"], report["undelivered"], report["exit"]) == (3000, 1, 0, 0, 65)
    done = place.call("publish", "job-live", "--regression", "r/2", "one.json", "one.json", *gone)
    assert (done.returncode, done.stderr) == (0, b"livejobs: sent 2 messages\n")
    assert place.call("tank", "r/2", *gone).returncode == 0
    assert place.numbers("r/1") == [number for number in range(3000) if number != 2000] + [9000]
    values = [record.value for record in events(place.config) if record.key == b"r/2"]
    assert values[:2] == [b'{"uniqueid": "1",\n "result": "live"}'] * 2


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

    def post(path: str, body: bytes, kind: str = "application/json", **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(address + path, body, {"Content-Type": kind, **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    assert post("/publish/job-finish?regression=r%2F1", finish(0), traceparent="00-a") == (200, {"sent": 1})
    status, answer = post("/publish/job-finish?regression=r%2F1", ndjson(1, 3) + b"{", "application/x-ndjson")
    assert (status, answer["sent"], answer["bad"], answer["errors"][0]["line"]) == (400, 2, 1, 3)
    assert post("/publish/regr-finish?regression=r%2F1", b"")[0] == 200
    assert post("/publish/job-finish", finish(0))[1]["errors"][0]["code"] == "bad-key"
    assert post("/publish/job-finish?regression=r%2F1", finish(0), "text/plain")[0] == 415
    assert post("/publish/job-finish?regression=r%2F1", finish(0), Origin="http://elsewhere")[0] == 403
    assert post("/publish/job-finish?regression=r%2F1", finish(0), Host="elsewhere:80")[0] == 403
    assert post("/publish/job-finish?regression=r%2F1", b"x" * (framing.BODY_BYTES_MAX + 1))[0] == 413
    records = events(place.config)
    assert [record.value for record in records] == [finish(0), finish(1), finish(2), b""]
    assert records[0].headers == (("type", b"job-finish"), ("traceparent", b"00-a"))
    assert stop(tunnel) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"hello\n", "malformed"),
        (b'{"type": "job-live", "regression": "r/1"}\n', "bytes"),
        (b'{"type": "job-live", "regression": "r/1", "bytes": -1}\n', "bytes: -1"),
        (b'{"type": "job-live", "regression": "r/1", "bytes": 99999999999}\n', "bytes: 99999999999"),
        (b'{"type": "job-live", "regression": "r/1", "bytes": 2, "line": true}\n{}', "line"),
        (b"x" * (3 * framing.LINE_BYTES_MAX), "a line of more than"),
    ],
)
def test_what_is_no_request_ends_only_its_connection(place: Place, text: bytes, reason: str) -> None:
    place.start()
    good = b'{"type": "job-finish", "regression": "r/1", "bytes": %d}\n%s' % (len(finish(1)), finish(1))
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        for one in (other, client):
            one.settimeout(30)
            one.connect(str(place.socket))
        with client.makefile("rb") as answers:
            assert json.loads(answers.readline()) == {"tunnel": 1}
            with contextlib.suppress(BrokenPipeError):
                client.sendall(good + text)
            assert json.loads(answers.readline()) == {"sent": 1}
            refused = json.loads(answers.readline())
            assert refused["error"] == "bad-request"
            assert reason in refused["reason"]
            with contextlib.suppress(ConnectionResetError):
                assert answers.readline() == b""
        with other.makefile("rb") as answers:
            other.sendall(good)
            assert [json.loads(answers.readline()) for _ in range(2)] == [{"tunnel": 1}, {"sent": 1}]


def test_a_client_that_ends_in_the_middle_of_a_request_has_sent_nothing(place: Place) -> None:
    place.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place.socket))
        client.sendall(b'{"type": "job-finish", "regression": "r/1", "bytes": 100}\n' + finish(1))
    assert ask(place, ("job-finish", "r/2", finish(2), False))[0].sent == 1
    assert place.arrived() == 1


def test_connections_are_bounded_and_calls_go_on_without(place: Place) -> None:
    place.start()
    with contextlib.ExitStack() as stack:
        for _ in range(tunnel_socket.CONNECTIONS_MAX):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(30)
            one.connect(str(place.socket))
            assert one.recv(100) == b'{"tunnel":1}\n'

        async def connect() -> TunnelClient:
            return await tunnel_client.connect(place.socket)

        with pytest.raises(TunnelGoneError, match="busy"):
            asyncio.run(connect())
        assert place.publish("r/1", ndjson(0, 10)).returncode == 0
    until(lambda: _answers(place))
    assert place.numbers("r/1") == list(range(10))


def _answers(place: Place) -> bool:
    try:
        return ask(place, ("job-finish", "r/2", finish(1), False))[0].sent == 1
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
    assert ask(place, ("job-finish", "r/1", finish(1), False))[0].sent == 1


def test_what_another_process_has_kept_is_sent(place: Place) -> None:
    place.start()
    until(lambda: place.said("sending to"))
    away = ("--set", f"kafka.brokers={NOWHERE}", "--set", "tunnel.socket=elsewhere")
    assert place.publish("r/1", ndjson(0, 10), *away).returncode == 75
    until(lambda: place.arrived() == 10)
    assert ask(place, ("job-finish", "r/1", finish(10), False))[0].sent == 1
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


def test_killed_under_load_nothing_is_lost_and_order_is_kept(place: Place) -> None:
    """Three calls, the tunnel is killed twice and started again; each regression arrives whole, at least once, in order."""
    count = 60_000
    tunnel = place.start()
    calls = [place.begin(f"r/{number}", ndjson(0, count, 300)) for number in range(3)]
    until(lambda: place.arrived() > 0)
    tunnel.kill()
    tunnel.wait()
    tunnel = place.start()
    more = place.begin("r/3", ndjson(0, count, 300))
    until(lambda: any(record.key == b"r/3" for record in events(place.config)))
    tunnel.kill()
    tunnel.wait()
    for call in (*calls, more):
        assert call.wait(90) == 0, call.communicate()
    for number in range(4):
        assert place.numbers(f"r/{number}") == list(range(count))


def test_an_outage_is_bridged_by_the_spool(own_broker: Broker, own_place: Place) -> None:
    """While the broker is away messages are kept, and answered so; when it is back they come first, then what is new."""
    place = own_place
    tunnel = place.start()
    assert ask(place, ("job-finish", "r/1", ndjson(0, 100), True))[0] == Answer(sent=100)
    own_broker.kill()
    answer, second = ask(place, ("job-finish", "r/1", ndjson(100, 200), True), ("job-finish", "r/2", finish(0), False))
    assert (answer.sent, answer.kept, answer.refused) == (0, 100, 0)
    assert answer.reason is not None
    assert (second.sent, second.kept) == (0, 1)
    done = place.publish("r/1", ndjson(200, 5000))
    assert done.returncode == 75
    assert b"kept 4,800 messages in the tunnel's spool; it sends them\n" in done.stderr
    tunnel.kill()  # what was answered is safe
    tunnel.wait()
    place.start()
    assert ask(place, ("job-finish", "r/1", ndjson(5000, 5100), True))[0].kept == 100
    own_broker.start()
    until(lambda: ask(place, ("job-finish", "r/2", finish(1), False))[0].sent == 1)
    assert place.said("sending to")
    assert place.publish("r/1", ndjson(5100, 5200)).returncode == 0
    assert place.numbers("r/1") == list(range(5200))
    assert place.numbers("r/2") == [0, 1]


def test_messages_that_keep_coming_do_not_keep_it_from_sending_directly(own_broker: Broker, own_place: Place) -> None:
    place = own_place
    own_broker.kill()
    place.start()
    assert place.publish("r/1", ndjson(0, 40_000, 400)).returncode == 75  # more than a chunk of the spool
    calls = [place.begin(f"r/{number}", ndjson(0, 150_000, 100)) for number in (2, 3)]
    own_broker.start()
    until(lambda: place.said("sending to"))
    for call in calls:
        call.communicate(timeout=90)
        assert call.returncode in (0, 75)
    assert ask(place, ("job-finish", "r/1", finish(40_000), False))[0].sent == 1
    assert place.numbers("r/1") == list(range(40_001))
    for number in (2, 3):
        assert place.numbers(f"r/{number}") == list(range(150_000))


def test_a_full_spool_refuses_and_says_so(own_broker: Broker, own_place: Place) -> None:
    place = own_place
    place.write(spoolbytes=20_000)
    own_broker.kill()
    place.start()
    first, second, third = ask(
        place, ("job-finish", "r/1", ndjson(0, 300), True), ("job-finish", "r/1", finish(300), False), ("job-finish", "r/2", b"{", False)
    )  # fmt: skip
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
    assert ask(place, ("job-finish", "r/1", finish(1000), False))[0].sent == 1
    assert place.numbers("r/1") == [*range(kept), 1000]


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
    place = own_place
    tunnel = place.start()
    until(lambda: place.said("sending to"))
    assert own_broker.pid is not None
    os.kill(own_broker.pid, signal.SIGSTOP)
    try:

        async def send() -> Answer:
            async with await tunnel_client.connect(place.socket) as client:
                future = await client.send("job-finish", "r/1", ndjson(0, 100), lines=True)
                await client.publish_started()
                tunnel.send_signal(signal.SIGTERM)
                return await future

        answer = asyncio.run(send())
        assert tunnel.wait(30) == 0
    finally:
        os.kill(own_broker.pid, signal.SIGCONT)
    assert (answer.sent, answer.kept) == (0, 100)
    assert place.publish("r/1", ndjson(100, 101)).returncode == 0
    assert place.numbers("r/1") == list(range(101))
