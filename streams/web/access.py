"""Who may read, who may change, and which requests are a trap.

Without `tokenfile` and `trustedheader` everyone who reaches the service may read, and nobody may change anything. A
browser can be made to send requests that its user did not want: so a change needs a header that only our own page can
set, a page of another origin is refused, and so is a name for this machine that a stranger's DNS has made up.
"""

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from livejobs.streams.config import ConfigError, Web
from livejobs.streams.web.problems import Problem

COOKIE = "livejobs"
SESSION_SECONDS = 12 * 3600
CHANGE_HEADER = "x-livejobs"
TOKEN_CHARACTERS_MIN = 16
TOKENS_MAX = 100
TOKEN_FILE_BYTES_MAX = 64 * 1024


class Person(NamedTuple):
    """Whoever asks."""

    user: str | None
    may_read: bool
    may_tank: bool


class Access:
    """The rules, from the configuration. Raises ConfigError."""

    def __init__(self, web: Web) -> None:
        if web.adminrole is not None and web.trustedheader is None:
            raise ConfigError("[web] adminrole needs [web] trustedheader")
        self._header, self._role = web.trustedheader, web.adminrole
        self._tokens = _tokens(web.tokenfile) if web.tokenfile is not None else []
        self.login = bool(self._tokens)
        self.open = not self._tokens and self._header is None
        self._names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}

    def person(self, headers: Headers) -> Person:
        """Who a request comes from."""
        if self.open:
            return Person(None, may_read=True, may_tank=False)
        if self._has_token(headers):
            return Person(None, may_read=True, may_tank=True)
        given = headers.getlist(self._header) if self._header is not None else []
        # Two of them: the proxy does not remove what the asker has sent.
        if len(given) == 1 and given[0].strip():
            names = [name.strip() for name in given[0].split(",")]
            return Person(names[0], may_read=True, may_tank=self._role is not None and self._role in names)
        return Person(None, may_read=False, may_tank=False)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(token.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_session(cookie.value)

    def is_token(self, token: str) -> bool:
        """Whether a token is one of the file's."""
        return sum(_same(token, one) for one in self._tokens) > 0

    def session(self, token: str) -> str:
        """The cookie of whoever has shown the token; every instance with the same file takes it."""
        until = str(int(time.time()) + SESSION_SECONDS)
        salt = secrets.token_hex(8)
        return f"{until}.{salt}.{_signature(token, until, salt)}"

    def _is_session(self, value: str) -> bool:
        until, _, rest = value.partition(".")
        salt, _, signature = rest.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or int(until) < time.time():  # noqa: PLR2004
            return False
        return sum(_same(signature, _signature(one, until, salt)) for one in self._tokens) > 0

    def check(self, method: str, headers: Headers) -> None:
        """Refuse traps. Raises Problem."""
        host = headers.get("host", "")
        if self.open and not self._is_own(_name_of(host)):
            raise Problem(421, f"Host {host[:100]!r}: ask by an address or this machine's own name")
        if method in {"GET", "HEAD", "OPTIONS"}:
            return
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Problem(403, "the request comes from a page of another origin")
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise Problem(403, "the request comes from a page of another site")
        if headers.get(CHANGE_HEADER) != "1":
            raise Problem(403, "a change needs the header X-Livejobs: 1")

    def _is_own(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True


def _name_of(host: str) -> str:
    """A Host header's name without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _same(one: str, other: str) -> bool:
    """Equal, found in a time that does not tell how far they are."""
    return hmac.compare_digest(one.encode(), other.encode())


def _signature(token: str, until: str, salt: str) -> str:
    return hmac.new(token.encode(), f"livejobs {until} {salt}".encode(), hashlib.sha256).hexdigest()


def _tokens(path: str) -> list[str]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(TOKEN_FILE_BYTES_MAX).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[web] tokenfile {path} can't be read: {error}") from error
    tokens = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not 1 <= len(tokens) <= TOKENS_MAX or any(len(token) < TOKEN_CHARACTERS_MIN for token in tokens):
        allowed = f"1 to {TOKENS_MAX} lines, each a token of at least {TOKEN_CHARACTERS_MIN} characters"
        raise ConfigError(f"[web] tokenfile {path} must have {allowed}")
    return tokens
