"""What the tunnel answers: what became of the messages of a request. What it counts as sent or kept is safe."""

from typing import Literal

import msgspec

from livejobs.streams.core.messages import MESSAGE_BYTES_MAX

BODY_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
"""Of a request with many messages; each of them must be smaller."""
ERRORS_MAX = 100
"""Bad lines that an answer names; it counts all of them."""


class Error(msgspec.Struct):
    """Why a message is bad: as in `job-rejects`. `line` counts from 1; 0 is all of the request."""

    line: int
    code: str
    message: str


class Answer(msgspec.Struct, omit_defaults=True):
    """Of the good messages the first ones are sent, the next ones kept, the last ones refused."""

    sent: int = 0
    """Acknowledged by the broker."""
    kept: int = 0
    """On disk, in the spool; the tunnel sends them."""
    refused: int = 0
    """Neither."""
    bad: int = 0
    """Against the rules, and left out; `errors` says why, of the first ones."""
    errors: list[Error] = []
    reason: str | None = None
    """Why not all are sent."""
    error: Literal["bad-request", "busy", "ending"] | None = None
    """Nothing was taken: it is no request that can be read, there are too many connections, the tunnel ends."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Answer).decode
"""Raises msgspec.MsgspecError."""
