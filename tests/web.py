"""A real `livejobs web` in a process of its own, and what asks it."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from harness import LOG_LINES_SHOWN, READY_SECONDS_MAX, SECONDS, Site, toml

from livejobs.streams.kafka.broker import free_port

TOKEN = "a-token-for-tests-0123456789"  # noqa: S105
CHANGE = {"X-Livejobs": "1", "Content-Type": "application/json"}


class Answer(NamedTuple):
    """What the service answered; headers by their names in lower case."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.data)


class Stream:
    """A stream of events that is read in a thread, and put together as a page does it."""

    def __init__(self, port: int, watches: tuple[str, ...], headers: Mapping[str, str], last: str | None) -> None:
        query = urllib.parse.urlencode([("watch", watch) for watch in watches])
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        more = {} if last is None else {"Last-Event-ID": last}
        self._connection.request("GET", f"/api/v1/events?{query}", headers={**headers, **more})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.events: list[tuple[str, Any]] = []
        self.bodies: dict[int, Any] = {}
        """Place of a watch -> its answer, as a page that has seen all events has it."""
        self.state: Any = None
        self.last: str | None = last
        self.ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        event: dict[str, str] = {}
        try:
            while line := self._answer.readline():
                text = line.decode().rstrip("\n")
                if text:
                    name, _, value = text.partition(": ")
                    event[name] = value
                elif event:
                    self._take(event)
                    event = {}
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # it is closed
        with self._news:
            self.ended = True
            self._news.notify_all()

    def _take(self, event: dict[str, str]) -> None:
        with self._news:
            if "id" in event:
                self.last = event["id"]
            if "event" in event:
                data = json.loads(event["data"])
                self.events.append((event["event"], data))
                self._note(event["event"], data)
            self._news.notify_all()

    def _note(self, name: str, data: Any) -> None:
        if name == "state":
            self.state = data
        elif name == "snapshot" or "body" in data:
            self.bodies[data["watch"]] = data["body"]
        else:
            body = self.bodies[data["watch"]]
            rows = {row["id"]: row for row in [*body["rows"], *data["rows"]]}
            order = data["order"] if data["order"] is not None else [row["id"] for row in body["rows"]]
            rest = {key: data[key] for key in ("next", "total", "exact", "partial")}
            self.bodies[data["watch"]] = {"rows": [rows[name] for name in order], **rest}

    def wait_for(self, predicate: Callable[["Stream"], Any], seconds: float = SECONDS) -> Any:
        """The predicate's first true answer, asked at each event."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (answer := predicate(self)):
                assert time.monotonic() < deadline, f"not within {seconds} s: {self.events[-3:]}"
                assert not self.ended, f"the stream has ended: {self.events[-3:]}"
                self._news.wait(0.25)
            return answer

    def wait_for_end(self, seconds: float = SECONDS) -> None:
        """Return when the service has ended the stream."""
        self._thread.join(seconds)
        assert self.ended

    def close(self) -> None:
        """Go away, as a closed tab does."""
        sock = self._connection.sock
        if sock is not None:
            sock.shutdown(2)
        self._thread.join(SECONDS)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tokenfile(site: Site) -> str:
    """A file with TOKEN in it."""
    path = site.folder / "tokens"
    path.write_text(f"# for tests\n{TOKEN}\n", encoding="ascii")
    return str(path)


class Web:
    """One service over a site's topics; keywords go to its section [web]."""

    def __init__(self, site: Site, name: str = "web", **web: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = site.folder / name
        self.folder.mkdir(exist_ok=True)
        values = {"bind": f"127.0.0.1:{self.port}", "datadir": str(self.folder / "view"), **web}
        self.config = site.folder / f"{name}.toml"
        self.config.write_text(toml({**site._sections, "web": values}))
        self.log = self.folder / "log"
        self._headers: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it (again)."""
        command = [sys.executable, "-c", "from livejobs.streams.cli import main; main()", "web", "--config", str(self.config)]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running one."""
        assert self._process is not None
        return self._process

    def with_token(self, token: str = TOKEN) -> "Web":
        """Ask with a token from now on."""
        self._headers = {"Authorization": f"Bearer {token}"}
        return self

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def ask(self, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """What it answers; raises OSError when nobody does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON of a good answer under /api/v1."""
        query = urllib.parse.urlencode(parameters)
        answer = self.ask(f"/api/v1{path}?{query}" if query else f"/api/v1{path}")
        assert answer.status == 200, answer
        return answer.json

    def problem(self, path: str, **parameters: object) -> Any:
        """The problem that a request under /api/v1 gets."""
        answer = self.ask(f"/api/v1{path}?{urllib.parse.urlencode(parameters)}")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == answer.status
        return answer.json

    def change(self, path: str, body: Any, **headers: str) -> Answer:
        """The answer to a change."""
        return self.ask(f"/api/v1{path}", "POST", body, {**CHANGE, **headers})

    def stream(self, *watches: str, last: str | None = None) -> Stream:
        """A stream of events."""
        return Stream(self.port, watches, self._headers, last)

    def wait_for(self, predicate: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """The predicate's first true answer; what it asks may fail until then."""
        deadline = time.monotonic() + seconds
        while True:
            error: Exception | None = None
            try:
                if answer := predicate():
                    return answer
            except (OSError, AssertionError, http.client.HTTPException) as failed:
                error = failed
            assert self.process.poll() is None, f"the service ended by itself:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {error}\n{self.tail()}"
            time.sleep(0.02)

    def ready(self) -> "Web":
        """Return when it answers from a whole view."""
        self.wait_for(lambda: self.ask("/api/v1/health").status == 200, READY_SECONDS_MAX)
        return self

    def stop(self, seconds: float = SECONDS) -> tuple[int, float]:
        """SIGTERM; the exit code, and how many seconds it took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds), time.monotonic() - begin

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(SECONDS)

    def view_file(self) -> Path:
        """The view."""
        return self.folder / "view" / "view.db"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
