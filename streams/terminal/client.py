"""The API's client for the terminal: one request, or a stream of changes. Standard library only: farms have no more."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from livejobs.streams.config import Config, ConfigError, split_address

API = "/api/v1"
ANSWER_SECONDS_MAX = 15.0
SILENCE_SECONDS_MAX = 15.0
"""A stream sends something every five seconds."""
LINE_BYTES_MAX = 64 << 20


class WebAwayError(Exception):
    """The web service can't be reached, or can't answer now: one line that says why."""


class RefusedError(Exception):
    """The service does not do what was asked: one line that says why."""


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    data: Any
    id: str | None


class Client:
    """Asks the service at `url`; without one, at `[web] bind`. Raises ConfigError when a token can't be read."""

    def __init__(self, config: Config, url: str | None = None, token_file: str | None = None) -> None:
        self.url = (url or _url_of(config.web.bind)).rstrip("/")
        if urllib.parse.urlsplit(self.url).scheme not in {"http", "https"}:
            raise ConfigError(f"--url must begin with http:// or https://, not {self.url[:100]!r}")
        self._headers = {"accept": "application/json"}
        path = token_file or config.web.tokenfile
        if path is not None:
            self._headers["authorization"] = f"Bearer {_token(path)}"

    def get(self, path: str, parameters: Mapping[str, object]) -> Any:
        """The JSON of an answer. Raises WebAwayError, RefusedError."""
        query = _query(parameters)
        with self._open(f"{path}?{query}" if query else path, ANSWER_SECONDS_MAX, {}) as answer:
            try:
                return json.load(answer)
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise WebAwayError(f"{self.url} does not answer as it should: {error}") from error

    def pages(self, path: str, parameters: Mapping[str, object], limit: int) -> dict[str, Any]:
        """The first `limit` rows of a list, however many pages that is."""
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            more: dict[str, object] = {"cursor": cursor} if cursor else {}
            page = self.get(path, {**parameters, "limit": min(limit - len(rows), 200), **more})
            rows += page["rows"]
            cursor = page["next"]
            if cursor is None or len(rows) >= limit:
                return {**page, "rows": rows}

    def events(self, path: str, parameters: Mapping[str, object], last: str | None = None) -> Iterator[Event]:
        """What happens to an answer, until the stream breaks. Raises WebAwayError, RefusedError."""
        watch = urllib.parse.urlencode({"watch": f"{path}?{_query(parameters)}"})
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        answer = self._open(f"/events?{watch}", SILENCE_SECONDS_MAX, headers)
        try:
            with answer:
                yield from _parsed(answer)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise WebAwayError(f"{self.url}: the stream broke: {error}") from error

    def _open(self, target: str, seconds: float, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(f"{self.url}{API}{target}", headers={**self._headers, **headers})  # noqa: S310
        try:
            return urllib.request.urlopen(request, timeout=seconds)  # noqa: S310  the scheme has been looked at
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(self.url, error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise WebAwayError(f"no web service answers at {self.url} ({reason}); see `livejobs web`") from error


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    try:
        detail = str(json.load(error)["detail"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        detail = f"it answers {error.code}"
    if error.code == 401:  # noqa: PLR2004
        return ConfigError(f"{url} wants a token: see --tokenfile and [web] tokenfile")
    return WebAwayError(f"{url}: {detail}") if error.code >= 500 else RefusedError(detail)  # noqa: PLR2004


def _parsed(lines: Any) -> Iterator[Event]:
    name, data, id_ = "", "", None
    while line := lines.readline(LINE_BYTES_MAX):
        text = line.decode().rstrip("\r\n")
        if not text:
            if data:
                yield Event(name, json.loads(data), id_)
            name, data = "", ""
        field, _, value = text.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = value
        elif field == "id":
            id_ = value


def _query(parameters: Mapping[str, object]) -> str:
    given = {name: value for name, value in parameters.items() if value is not None and value is not False}
    return urllib.parse.urlencode({name: "true" if value is True else value for name, value in given.items()})


def _url_of(bind: str) -> str:
    host, port = split_address(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  it is replaced
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _token(path: str) -> str:
    """The first token of a file. Raises ConfigError."""
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} can't be read: {error}") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise ConfigError(f"the token file {path} is empty")
    return tokens[0]
