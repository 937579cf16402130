"""One publish call: files in, messages out, an exit code. `livejobs publish`, `tank` and `livejobs-tunnel` share it."""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from livejobs.streams.config import Config
from livejobs.streams.core import messages
from livejobs.streams.publisher import inputs, through
from livejobs.streams.publisher.outcome import Outcome, Tally
from livejobs.streams.publisher.outgoing import Lines, Message, Source, check_target, checked
from livejobs.streams.terminal.talk import say

DONE, BAD_DATA, AWAY, KEPT = 0, 65, 69, 75
SEVERITY = (DONE, KEPT, BAD_DATA, AWAY)
"""From nothing to do, over "fix the data", to "call again": the exit code is the last that applies."""
CHUNK_BYTES = 1024 * 1024
CHUNK_MESSAGES = 1000
PROGRESS_SECONDS = 0.5
ERRORS_LISTED_MAX = 1000
SOURCES_SHOWN_MAX = 20
STANDARD_INPUT = "standard input"


def run(  # noqa: PLR0913  what a command line has
    config: Config, kind: str, regression: str, files: Sequence[str], *, ndjson: bool = False, as_json: bool = False
) -> int:
    """Publish the files (`-` or none: standard input) and return the exit code; says on standard error what happened.

    With `as_json`, one JSON object on standard output says it too. Raises ConfigError.
    """
    call = _Call(config, kind, regression, ndjson=ndjson)
    return call.finish(call.read(files or ["-"]), as_json=as_json)


def run_body(config: Config, kind: str, regression: str, body: bytes, *, as_json: bool = False) -> int:
    """As `run`, for one body that is here already."""
    call = _Call(config, kind, regression, ndjson=False)

    async def chunks() -> AsyncIterator[list[Message]]:
        yield call.checked(body, Source(kind))

    return call.finish(chunks(), as_json=as_json)


class _Call:
    """Reads and checks the input of one call, and keeps account of it."""

    def __init__(self, config: Config, kind: str, regression: str, *, ndjson: bool) -> None:
        self._config, self._kind, self._regression, self._ndjson = config, kind, regression, ndjson
        self._outcome = Outcome()
        self._bad = 0
        self._errors: list[dict[str, str]] = []
        self._cut: str | None = None
        # aiokafka tells of each failed attempt; we tell how it ends.
        logging.getLogger("aiokafka").addHandler(logging.NullHandler())

    def finish(self, chunks: AsyncIterator[Iterable[Message]], *, as_json: bool) -> int:
        """Deliver all of it and report."""
        try:
            check_target(self._kind, self._regression)
        except messages.Reject as reject:
            self._refuse(Source(), reject)
        else:
            asyncio.run(self._deliver(chunks))
        code = self._exit_code()
        self._tell()
        if as_json:
            sys.stdout.write(json.dumps(self._report(code)) + "\n")
        return code

    async def _deliver(self, chunks: AsyncIterator[Iterable[Message]]) -> None:
        progress = asyncio.create_task(self._show_progress()) if sys.stderr.isatty() else None
        try:
            await through.deliver(self._config, chunks, self._outcome)
        finally:
            if progress is not None:
                progress.cancel()

    async def _show_progress(self) -> None:
        begin = time.monotonic()
        shown = False
        try:
            while True:
                await asyncio.sleep(PROGRESS_SECONDS)
                done = self._outcome.resent + self._outcome.sent
                rate = done / (time.monotonic() - begin)
                sys.stderr.write(f"\r{done:,} sent, {rate:,.0f}/s, {self._outcome.kept.count:,} kept ")
                sys.stderr.flush()
                shown = True
        finally:
            if shown:
                sys.stderr.write("\n")

    def checked(self, body: bytes, source: Source) -> list[Message]:
        """The message, or nothing when it is bad (then that is told)."""
        try:
            return [checked(self._kind, self._regression, body, source=source)]
        except messages.Reject as reject:
            self._refuse(source, reject)
            return []

    async def read(self, files: Sequence[str]) -> AsyncIterator[Iterable[Message]]:
        """The good messages of the files, in order, in chunks; empty ones while an input is silent."""
        held: list[Message] = []  # of whole files
        size = 0
        for name in files:
            try:
                async for part in self._read_file(name):
                    if isinstance(part, Lines):  # not held back: who writes to a pipe may be slow
                        yield part
                        continue
                    held += part
                    size += sum(len(message.body) for message in part)
                    if not part or len(held) >= CHUNK_MESSAGES or size >= CHUNK_BYTES:
                        yield held
                        held, size = [], 0
            except OSError as error:
                what = f"can't be read: {error.strerror or error}"
                self._refuse(Source(_shown(name)), messages.Reject("bad-file", what))
        yield held

    async def _read_file(self, name: str) -> AsyncIterator[Lines | list[Message]]:
        descriptor = 0 if name == "-" else os.open(name, os.O_RDONLY)
        try:
            if name == "-" and os.isatty(descriptor):
                say("reading standard input; Ctrl-D ends it")
            blocks = self._until_lost(name, descriptor)
            async for part in self._lines(name, blocks) if self._ndjson else self._whole(name, blocks):
                yield part
                if self._cut is not None:
                    return
        finally:
            if name != "-":
                os.close(descriptor)

    async def _until_lost(self, name: str, descriptor: int) -> AsyncIterator[bytes]:
        """The input's blocks; a pipe, which may have no end, only while what it says is delivered or kept."""
        endless = inputs.is_endless(descriptor)
        async for block in inputs.blocks(descriptor):
            if endless and self._ndjson and self._outcome.lost:
                self._cut = _shown(name)
                return
            yield block

    async def _whole(self, name: str, blocks: AsyncIterator[bytes]) -> AsyncIterator[list[Message]]:
        data = b""
        async for block in blocks:
            data = (data + block).lstrip()
            if len(data) > messages.MESSAGE_BYTES_MAX + inputs.BLOCK_BYTES:
                break  # too large, even if the last block is white space
            if not block:
                yield []
        yield self.checked(data, Source(_shown(name)))

    async def _lines(self, name: str, blocks: AsyncIterator[bytes]) -> AsyncIterator[Lines]:
        number = 1
        async for text in inputs.lines(blocks):
            lines = Lines(self._kind, self._regression, text, Source(_shown(name), number), self._refuse)
            yield lines
            number = lines.line  # all of them have been taken

    def _refuse(self, source: Source, reject: messages.Reject) -> None:
        self._bad += 1
        say(f"{source}: {reject}" if source.name else str(reject))
        if len(self._errors) < ERRORS_LISTED_MAX:
            self._errors.append({"source": str(source), "code": reject.code, "message": reject.message})

    def _exit_code(self) -> int:
        outcome = self._outcome
        codes = {DONE}
        if outcome.kept.count:
            codes.add(KEPT)
        if self._bad:
            codes.add(BAD_DATA)
        elsewhere = outcome.kept.count or self._bad
        if outcome.undelivered.count or self._cut or (outcome.reason and not elsewhere):
            codes.add(AWAY)
        return max(codes, key=SEVERITY.index)

    def _tell(self) -> None:
        outcome = self._outcome
        if outcome.reason is not None:
            say(outcome.reason)
        if outcome.full not in (None, outcome.reason):
            say(outcome.full)
        if outcome.resent:
            say(f"sent {_messages(outcome.resent)} from the spool")
        if outcome.sent:
            say(f"sent {_messages(outcome.sent)}")
        if outcome.kept.count:
            say(f"kept {_messages(outcome.kept.count)} in {outcome.keeper}")
        for line in _listed(outcome.undelivered):
            say(f"not delivered: {line}")
        if self._cut is not None:
            say(f"not delivered: the rest of {self._cut}, which was not read")

    def _report(self, code: int) -> dict[str, object]:
        outcome = self._outcome
        return {
            "sent": outcome.sent,
            "resent": outcome.resent,
            "kept": outcome.kept.count,
            "undelivered": outcome.undelivered.count,
            "bad": self._bad,
            "errors": self._errors,
            "reason": outcome.full or outcome.reason,
            "exit": code,
        }


def _listed(tally: Tally) -> Iterator[str]:
    for number, (name, (count, first, last)) in enumerate(tally.sources.items()):
        if number == SOURCES_SHOWN_MAX:
            yield f"and {len(tally.sources) - number} more, {_messages(tally.count)} in all"
            return
        yield f"{name}: {_messages(count)}, lines {first} to {last}" if first else name


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _shown(name: str) -> str:
    return STANDARD_INPUT if name == "-" else name
