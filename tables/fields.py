"""What rows hold in memory; the compiled part has these two classes as well, and then those are used (pure)."""

from typing import TYPE_CHECKING, Any

import msgspec

from livejobs.tables.compiled import native
from livejobs.tables.states import JobState
from livejobs.tables.times import to_text

_encode = msgspec.json.encode


class Row:
    """One job in memory. `body` is None where only the store has it."""

    __slots__ = (
        "body", "dirty", "first_seen", "result", "seen_ms", "signature", "spared", "state", "stored", "updated_ms",
        "verdict",
    )  # fmt: skip

    def __init__(self) -> None:
        self.state = JobState.ABSENT
        self.stored = JobState.ABSENT  # what the store holds: ABSENT, LIVE or FINISHED (for JUDGED as well)
        self.dirty = False
        self.result = ""
        self.first_seen = ""
        self.updated_ms = 0
        self.seen_ms = 0  # time of the P entry, if the store has a live row
        self.spared = 0
        self.signature: str | None = None
        self.verdict: Any = None
        self.body: bytes | None = None

    def value(self, name_json: bytes) -> bytes:
        """The value of the record in the topic `jobs`; the regression's name comes as JSON."""
        tail = b'"}'
        if self.signature is not None:
            tail = b'","signature":' + _encode(self.signature)
            tail += b"}" if self.verdict is None else b',"verdict":"' + self.verdict.encode() + b'"}'
        return b"".join(
            (
                b'{"regression":',
                name_json,
                b',"result":"',
                self.result.encode(),
                b'","job":',
                self.body or b"null",
                b',"first_seen":"',
                self.first_seen.encode(),
                b'","updated":"',
                to_text(self.updated_ms).encode(),
                tail,
            )
        )


class RegressionFields:
    """One regression in memory: all but what it does (`tables.regressions`)."""

    __slots__ = (
        "closed_ms", "complete", "compute_ms", "cycles", "deadline_ms", "dirty", "dropping", "ending", "exists", "fail",
        "fields", "first_start_ms", "heard_ms", "held_bytes", "key", "last_finish_ms", "live", "name", "name_json",
        "passed", "phase", "prefix", "rate_cycles", "rate_runtime_ms", "rows", "runtime_ms", "sealed_ms", "seen",
        "signatures", "size", "skip", "span", "start", "stored", "submitted", "tanked", "touched", "updated_ms",
        "version",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = name.encode()
        self.name_json = _encode(name)
        self.prefix = b"[" + self.name_json + b","  # of its job keys
        self.version = -1
        self.updated_ms = 0
        self.heard_ms = 0
        self.exists = False  # heard of, and not yet forgotten
        self.stored = False
        self.deadline_ms = 1 << 62  # time of the D entry in the store; NEVER_MS: there is none
        self.dirty = False
        self.complete = True  # `rows` holds every row the store has
        self.seen: bytearray | None = None  # bits for the keys of all rows that the store has
        self.size = 400  # of its record, in bytes; about, while there is none
        self.held_bytes = 0  # what it takes in memory, about, with its rows
        self.touched = 0  # number of the batch that last changed it
        self.rows: dict[bytes, Any] = {}
        self.phase: Any = "open"
        self.tanked = False
        self.closed_ms: int | None = None
        self.sealed_ms: int | None = None
        self.dropping = False
        self.start: str | None = None
        self.ending: Any = None
        self.live = self.passed = self.fail = self.skip = 0
        self.cycles = self.compute_ms = self.runtime_ms = self.rate_cycles = self.rate_runtime_ms = 0
        self.first_start_ms: int | None = None
        self.last_finish_ms: int | None = None
        self.span: Any = None  # made when it is first needed
        self.signatures: dict[str, int] = {}  # fails by signature
        self.fields = b"{}"  # JSON of what regr-start, regr-update and regr-finish gave
        self.submitted: int | None = None


if native is not None and not TYPE_CHECKING:
    Row, RegressionFields = native.Row, native.RegressionFields
