"""Messages on their way out: checked by the worker's own rules before anything is sent (pure)."""

from collections.abc import Callable
from typing import NamedTuple, Self, TypeAlias

from livejobs.streams.core import messages

HEADERS_BYTES_MAX = 8 * 1024
"""Names and values of extra headers: `job-events` has 16 KiB above a body's 1 MiB for them, the key and the framing."""

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class Source(NamedTuple):
    """Where a message came from, to tell a person: a file's name, and its line in NDJSON (0: the whole file)."""

    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


NOWHERE = Source()


class Message(NamedTuple):
    """A checked message; make it with `checked`."""

    kind: str
    regression: str
    body: bytes
    headers: Headers = ()
    source: Source = NOWHERE


def checked(kind: str, regression: str, body: bytes, headers: Headers = (), source: Source = NOWHERE) -> Message:
    """The message to send, its body as given but for white space around it. Raises messages.Reject."""
    check_target(kind, regression)
    body = checked_body(kind, body)
    if headers:
        check_headers(headers)
    return Message(kind, regression, body, headers, source)


def check_target(kind: str, regression: str) -> None:
    """Raises messages.Reject."""
    if kind.startswith(messages.RESERVED_PREFIX):
        raise messages.Reject("bad-type", f"type {kind[:64]!r}: reserved for internal messages")
    if kind not in messages.TYPES:
        allowed = ", ".join(sorted(messages.TYPES))
        raise messages.Reject("bad-type", f"type {kind[:64]!r}: allowed are {allowed}")
    # The shell's arguments carry bytes that are no UTF-8 as lone surrogates: back to bytes, for the check to refuse.
    messages.check_key(regression.encode("utf-8", "surrogatepass"))


def checked_body(kind: str, body: bytes) -> bytes:
    """The body without white space around it. Raises messages.Reject."""
    body = body.strip()
    if len(body) > messages.MESSAGE_BYTES_MAX:
        allowed = messages.MESSAGE_BYTES_MAX
        raise messages.Reject("too-large", f"body: {len(body)} bytes, allowed are {allowed}")
    messages.check(kind, body)
    return body


def check_headers(headers: Headers) -> None:
    """Raises messages.Reject."""
    if any(name == "type" for name, _ in headers):
        raise messages.Reject("bad-type", "header type: given twice")
    size = sum(len(name.encode()) + len(value) for name, value in headers)
    if size > HEADERS_BYTES_MAX:
        raise messages.Reject("too-large", f"headers: {size} bytes, allowed are {HEADERS_BYTES_MAX}")


class Lines:
    """The messages that NDJSON text holds, a body a line: an iterator that checks each line when it comes to it.

    `first` is the source of the first line. `refuse` is told of each bad one, which is left out, as blank lines are.
    Making one raises messages.Reject where no line could be good: of the type, the regression's name, the headers.
    """

    def __init__(  # noqa: PLR0913  where to, what, where from
        self,
        kind: str,
        regression: str,
        data: bytes,
        first: Source,
        refuse: Callable[[Source, messages.Reject], None],
        *,
        headers: Headers = (),
    ) -> None:
        check_target(kind, regression)
        check_headers(headers)
        self.kind, self.regression, self.data, self.headers = kind, regression, data, headers
        self.name, self.line = first
        self.at = 0
        """Where the next line begins; `line` is its number."""
        self._refuse = refuse

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        while not self.is_over():
            message = self.take()
            if message is not None:
                return message
        raise StopIteration

    def is_over(self) -> bool:
        """Whether there is no further line."""
        return self.at >= len(self.data)

    def take(self) -> Message | None:
        """The message of the next line; None if that is blank or bad."""
        end = self.data.find(b"\n", self.at)
        end = len(self.data) if end < 0 else end
        body, source = self.data[self.at : end], Source(self.name, self.line)
        self.skip(end + 1, 1)
        if not body or body.isspace():
            return None
        try:
            return checked(self.kind, self.regression, body, self.headers, source)
        except messages.Reject as reject:
            self._refuse(source, reject)
            return None

    def end_of(self, size: int) -> int:
        """Where the next lines end that have together at most `size` bytes; at least one line."""
        if len(self.data) - self.at <= size:
            return len(self.data)
        end = self.data.rfind(b"\n", self.at, self.at + size) + 1 or self.data.find(b"\n", self.at) + 1
        return end or len(self.data)

    def skip(self, at: int, lines: int) -> None:
        """Go on at a later place; so many lines have been taken in another way."""
        self.at = at
        self.line += lines
