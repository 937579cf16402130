"""Messages of one call: through the tunnel where one answers, and directly where none does."""

from collections.abc import AsyncIterator, Iterable

from livejobs.streams.config import Config
from livejobs.streams.publisher.outcome import Outcome
from livejobs.streams.publisher.outgoing import Lines, Message
from livejobs.streams.terminal.talk import say
from livejobs.streams.tunnel import client as tunnel_client
from livejobs.streams.tunnel.answer import BODY_BYTES_MAX, Answer
from livejobs.streams.tunnel.client import NoTunnelError, TunnelGoneError

BLOCK_BYTES = 896 * 1024
"""Of a request with many messages, about: so they go to Kafka as one batch, with what it adds to each of them."""
KEEPER = "the tunnel's spool; it sends them"


async def deliver(config: Config, chunks: AsyncIterator[Iterable[Message]], outcome: Outcome) -> None:
    """As `delivery.deliver`. Raises ConfigError."""
    if config.tunnel.socket:
        call = _Call(config.tunnel.socket, outcome)
        try:
            await call.send_all(chunks)
        except TunnelGoneError as error:
            if not isinstance(error, NoTunnelError) or call.answered:
                say(f"{error}; going on without it")
            chunks = call.left(chunks)
        else:
            return
        overtaken = outcome.kept.count and not config.tunnel.spool
        if overtaken:
            outcome.reason = "what the tunnel has kept must not be overtaken, and there is no [tunnel] spool of ours"
        if overtaken or outcome.full is not None:
            async for chunk in chunks:
                outcome.undelivered.add(list(chunk))
            return
    # It loads the Kafka client, which takes longer than all that the tunnel needs of us.
    from livejobs.streams.publisher import delivery  # noqa: PLC0415

    await delivery.deliver(config, chunks, outcome, say)


class _Call:
    """Sends chunks, one request after the other; `left` is what has no answer."""

    def __init__(self, path: str, outcome: Outcome) -> None:
        self._path, self._outcome = path, outcome
        self._rest: Iterable[Message] = ()
        self.answered = False

    async def send_all(self, chunks: AsyncIterator[Iterable[Message]]) -> None:
        """Return when all is answered. Raises TunnelGoneError."""
        async for chunk in chunks:
            if isinstance(chunk, Lines):
                self._rest = chunk
                await self._send_lines(chunk)
            else:
                self._rest = messages = list(chunk)
                await self._send_messages(messages)

    async def left(self, chunks: AsyncIterator[Iterable[Message]]) -> AsyncIterator[Iterable[Message]]:
        """What the tunnel has not answered, and all that comes behind it."""
        yield self._rest
        async for chunk in chunks:
            yield chunk

    async def _send_lines(self, lines: Lines) -> None:
        """As they are: the tunnel checks them, and we do only where it finds one bad, or does not send all."""
        while not lines.is_over() and self._outcome.full is None:
            end = lines.end_of(BLOCK_BYTES)
            block = lines.data[lines.at : end]
            if len(block) > BODY_BYTES_MAX:
                lines.take()  # a line, and too long for a message
                continue
            answer = await self._ask(lines.kind, lines.regression, block, lines=True)
            if answer.bad or answer.kept or answer.refused:
                messages = []
                while lines.at < end:
                    message = lines.take()
                    if message is not None:
                        messages.append(message)
                self._note(messages, answer)
            else:
                self._outcome.sent += answer.sent
                lines.skip(end, block.count(b"\n"))
        self._refuse(list(lines))

    async def _send_messages(self, messages: list[Message]) -> None:
        """Of one type and regression; several in a request where that can be."""
        while messages and self._outcome.full is None:
            count, body = _packed(messages)
            kind, regression, *_ = messages[0]
            answer = await self._ask(kind, regression, body, lines=count > 1)
            self._note(messages[:count], answer)
            del messages[:count]
        self._refuse(messages)

    async def _ask(self, kind: str, regression: str, body: bytes, *, lines: bool) -> Answer:
        answer = await tunnel_client.publish(self._path, kind, regression, body, lines=lines)
        self.answered = True
        return answer

    def _note(self, messages: list[Message], answer: Answer) -> None:
        """What became of good messages."""
        outcome = self._outcome
        kept = answer.sent + answer.kept
        if kept + answer.refused != len(messages):  # a tunnel of another version has other rules
            first = f": {answer.errors[0].message}" if answer.errors else ""
            outcome.reason = f"the tunnel finds bad what we find good{first}"
            outcome.undelivered.add(messages)
            return
        outcome.sent += answer.sent
        if answer.kept:
            outcome.kept.add(messages[answer.sent : kept])
            outcome.keeper = KEEPER
        if answer.reason is not None:
            outcome.reason = answer.reason
        if answer.refused:
            outcome.full, outcome.lost = answer.reason or "the tunnel refuses", True
            self._refuse(messages[kept:])

    def _refuse(self, messages: list[Message]) -> None:
        """Not delivered; nothing behind them is either, or it would overtake them."""
        self._outcome.undelivered.add(messages)


def _packed(messages: list[Message]) -> tuple[int, bytes]:
    """The first ones of them in a request: how many, and its body."""
    parts: list[bytes] = []
    size = 0
    for message in messages:
        # A blank line is no message, and a line has one end: good JSON has line breaks only where spaces may be, too.
        if not message.body or size + len(message.body) > BLOCK_BYTES:
            break
        parts.append(message.body.replace(b"\n", b" "))
        size += len(message.body)
    if len(parts) > 1:
        return len(parts), b"\n".join(parts)
    return 1, messages[0].body
