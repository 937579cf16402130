"""Messages of one call: through the tunnel where one answers, and directly where none does, or where it stops to."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator

import msgspec

from livejobs.streams.config import Config
from livejobs.streams.framing import Answer
from livejobs.streams.outcome import Outcome
from livejobs.streams.outgoing import Headers, Lines, Message, Source
from livejobs.streams.talk import say
from livejobs.streams.tunnel_client import TunnelClient, TunnelGoneError, connect
from livejobs.tables.compiled import native

BLOCK_BYTES = 256 * 1024
"""Of a request with many lines, about."""
KEEPER = "the tunnel's spool; it sends them"


async def deliver(config: Config, chunks: AsyncIterator[Iterable[Message]], outcome: Outcome) -> None:
    """As `delivery.deliver`. Raises ConfigError."""
    if config.tunnel.socket is not None:
        try:
            client = await connect(config.tunnel.socket)
        except TunnelGoneError:
            pass  # it is an offer: without it all works as well
        else:
            call = _Call(client, outcome)
            async with client:
                await call.send_all(chunks)
            if call.gone is None:
                return
            say(f"{call.gone}; going on without it")
            chunks = call.rest(chunks)
            if outcome.full is not None:
                async for chunk in chunks:  # they must not overtake what was refused
                    outcome.undelivered.add(list(chunk))
                return
    # It loads the Kafka client, which takes longer than all that the tunnel needs of us.
    from livejobs.streams import delivery  # noqa: PLC0415

    await delivery.deliver(config, chunks, outcome, say)


class _Call:
    """Sends chunks, and keeps what the tunnel has not answered."""

    def __init__(self, client: TunnelClient, outcome: Outcome) -> None:
        self._client, self._outcome = client, outcome
        self._waiting: deque[_Block] = deque()
        self._chunk: Iterable[Message] = ()
        self.gone: str | None = None
        """Why the tunnel takes no more."""

    async def send_all(self, chunks: AsyncIterator[Iterable[Message]]) -> None:
        """Until all is answered, or the tunnel is gone."""
        async for chunk in chunks:
            self._chunk = rest = iter(chunk)
            for block in _blocks(rest):
                if self._outcome.full is not None:  # what is refused must not be overtaken
                    self._outcome.undelivered.add(block.messages())
                    continue
                await block.send(self._client)
                self._waiting.append(block)
                self._sort()
                if self.gone is not None:
                    return
            self._sort()
        while self._waiting and self.gone is None:
            await self._waiting[0].answered()
            self._sort()

    async def rest(self, chunks: AsyncIterator[Iterable[Message]]) -> AsyncIterator[Iterable[Message]]:
        """What the tunnel has not answered, and all that comes behind it."""
        for block in self._waiting:
            yield block.messages()
        yield self._chunk
        async for chunk in chunks:
            yield chunk

    def _sort(self) -> None:
        """Note what the answers that are there say."""
        while self._waiting and self.gone is None:
            try:
                answer = self._waiting[0].answer()
            except TunnelGoneError as error:
                self.gone = str(error)
                return
            if answer is None:
                return
            self._note(self._waiting.popleft(), answer)

    def _note(self, block: "_Block", answer: Answer) -> None:
        outcome = self._outcome
        outcome.sent += answer.sent
        if not (answer.kept or answer.refused or answer.bad):
            return
        messages = block.messages()
        # Ours are checked; a tunnel of another version may be stricter.
        bad = {error.line for error in answer.errors}
        outcome.undelivered.add([message for index, message in enumerate(messages, 1) if index in bad or 0 in bad])
        good = [message for index, message in enumerate(messages, 1) if index not in bad and 0 not in bad]
        end = len(good) - answer.refused
        outcome.kept.add(good[end - answer.kept : end])
        outcome.undelivered.add(good[end:])
        outcome.keeper = KEEPER
        outcome.reason = answer.reason or f"the tunnel refuses: {answer.errors[0].message}"
        if answer.refused:
            outcome.full, outcome.lost = outcome.reason, True


class _Block(msgspec.Struct):
    """A request: one message, or with `lines` one a line; `marks` are runs of places: the first, and how many."""

    kind: str
    regression: str
    headers: Headers
    body: bytes
    marks: list[tuple[Source, int]]
    lines: bool = False
    future: asyncio.Future[Answer] | None = None

    async def send(self, client: TunnelClient) -> None:
        """Send it; waits while too much is not answered."""
        headers = {name: value.decode() for name, value in self.headers}
        self.future = await client.send(self.kind, self.regression, self.body, lines=self.lines, headers=headers)

    def answer(self) -> Answer | None:
        """Its answer, if it is there. Raises TunnelGoneError."""
        return self.future.result() if self.future is not None and self.future.done() else None

    async def answered(self) -> None:
        """Return when there is an answer, or will be none."""
        if self.future is not None:
            await asyncio.wait({self.future})

    def messages(self) -> list[Message]:
        """What is in it."""
        bodies = self.body.split(b"\n")[:-1] if self.lines else [self.body]
        sources = (
            Source(first.name, first.line + index if first.line else 0)
            for first, count in self.marks
            for index in range(count)
        )
        return [
            Message(self.kind, self.regression, body.strip(), self.headers, source)
            for body, source in zip(bodies, sources, strict=True)
        ]


def _blocks(chunk: Iterator[Message]) -> Iterator[_Block]:
    """All of a chunk; what is not asked for stays in it."""
    if isinstance(chunk, Lines):
        while not chunk.is_over():
            block = _lines_block(chunk)
            if block.marks:
                yield block
        return
    for message in chunk:
        kind, regression, body, headers, source = message
        yield _Block(kind, regression, headers, body, [(source, 1)])


def _lines_block(lines: Lines) -> _Block:
    """The good ones of the next lines, as many as go into a request."""
    parts: list[bytes] = []
    marks: list[tuple[Source, int]] = []
    size = 0
    while not lines.is_over() and size < BLOCK_BYTES:
        here = Source(lines.name, lines.line)
        end, count = _plain(lines)
        if count:
            part = lines.data[lines.at : end]
            lines.skip(end, count)
        else:
            message, count = lines.take(), 1
            if message is None:
                continue
            part = message.body + b"\n"
        parts.append(part)
        marks.append((here, count))
        size += len(part)
    return _Block(lines.kind, lines.regression, lines.headers, b"".join(parts), marks, lines=True)


def _plain(lines: Lines) -> tuple[int, int]:
    """Where the next lines end that are good at first sight, and how many they are."""
    if native is None or lines.kind not in ("job-live", "job-finish"):
        return lines.at, 0
    end, count, _ = native.Packer(BLOCK_BYTES).lines(b"", b"", lines.kind == "job-finish", lines.data, lines.at)
    return end, count
