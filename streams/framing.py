"""The tunnel's protocol: what goes over its socket.

The tunnel greets with a line, `{"tunnel": 1}`; 1 is the version of the protocol. A request is a line of JSON and behind
it as many bytes as it says: a body, or with `lines` NDJSON, a body a line.

    {"type": "job-live", "regression": "r/1", "bytes": 35}
    {"uniqueid": "1", "result": "live"}

Each request is answered by a line, in the order of the requests; a client may send the next one before. What an answer
counts as sent or kept is safe. An answer with `error` (in place of the greeting, too) is the last one: the connection
ends, and nothing of that request or of those behind it is taken.
"""

import asyncio
from typing import Literal

import msgspec

from livejobs.streams.messages import MESSAGE_BYTES_MAX

VERSION = 1
LINE_BYTES_MAX = 64 * 1024
"""Of a request's line: a name of 1 KiB and headers of 8 KiB, even if JSON escapes each byte of them."""
BODY_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
"""Behind a request's line; a single message must be smaller."""
LEAVE_SECONDS_MAX = 2.0
"""For a client to take its answers when the tunnel ends."""
ERRORS_MAX = 100
"""Bad lines that an answer names; it counts all of them."""


class Greeting(msgspec.Struct, omit_defaults=True):
    """The tunnel's first line."""

    tunnel: int = 0
    error: str | None = None
    """As in an answer."""


class Request(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A message, or many of one type and regression."""

    kind: str = msgspec.field(name="type")
    regression: str
    size: int = msgspec.field(name="bytes")
    lines: bool = False
    headers: dict[str, str] = {}
    """Further headers of each of the messages, as `traceparent`."""


class Error(msgspec.Struct):
    """Why a message is bad: as in `job-rejects`. `line` counts from 1; 0 is all of the request."""

    line: int
    code: str
    message: str


class Answer(msgspec.Struct, omit_defaults=True):
    """What became of a request's messages: first those that were sent, then those that were kept, the rest refused."""

    sent: int = 0
    """Acknowledged by the broker."""
    kept: int = 0
    """On disk, in the spool; the tunnel sends them."""
    refused: int = 0
    """Neither: `reason` says why."""
    bad: int = 0
    """Against the rules, and left out; `errors` says why, of the first ones."""
    errors: list[Error] = []
    reason: str | None = None
    """Why not all are sent."""
    error: Literal["busy", "ending", "bad-request"] | None = None
    """Too many connections; it is being stopped; the request can't be read."""


_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(Request).decode
_answer = msgspec.json.Decoder(Answer).decode
_greeting = msgspec.json.Decoder(Greeting).decode


def line(what: msgspec.Struct) -> bytes:
    """A line of the protocol."""
    return _encode(what) + b"\n"


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end of the connection. Raises ValueError for one too long or cut off."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ValueError("the connection ended within a line") from None
        return b""
    except asyncio.LimitOverrunError:
        raise ValueError(f"a line of more than {LINE_BYTES_MAX} bytes") from None


def request(text: bytes) -> Request:
    """A request's line. Raises ValueError."""
    try:
        found = _request(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if not 0 <= found.size <= BODY_BYTES_MAX:
        raise ValueError(f"bytes: {found.size}, allowed are 0 to {BODY_BYTES_MAX}")
    return found


def answer(text: bytes) -> Answer:
    """An answer's line. Raises ValueError."""
    try:
        return _answer(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


def greeting(text: bytes) -> Greeting:
    """The greeting's line. Raises ValueError."""
    try:
        return _greeting(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
