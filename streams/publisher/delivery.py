"""What becomes of the messages of one call: sent, or kept in the spool, or told as not delivered."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from livejobs.streams.config import Config
from livejobs.streams.publisher import spool as spooling
from livejobs.streams.publisher.outcome import Outcome
from livejobs.streams.publisher.outgoing import Message
from livejobs.streams.publisher.producer import BrokerAwayError
from livejobs.streams.publisher.publish import Publisher, Undelivered
from livejobs.streams.publisher.spool import Say, Spool, SpoolError, SpoolFullError

WAIT_SECONDS = 10.0
WAIT_PAUSE_SECONDS = 0.1
CONNECT_SECONDS = 2.0
"""With a spool nothing is lost by giving up soon, and a job that waits for a dead broker holds a slot of the farm."""


async def deliver(
    config: Config, chunks: AsyncIterator[Iterable[Message]], outcome: Outcome, say: Say = lambda _line: None
) -> None:
    """Send what the spool holds, then `chunks`, and fill in `outcome`; a spool keeps what can't be sent.

    A chunk may be empty: it only gives a chance to notice that the broker is gone. Raises ConfigError; what else goes
    wrong is in the outcome.
    """
    spool = spooling.of(config, say)
    if spool is not None:
        outcome.keeper = f"{config.tunnel.spool}; the next call sends them"
    publisher = Publisher(config.kafka) if spool is None else Publisher(config.kafka, connect_seconds=CONNECT_SECONDS)
    try:
        if spool is None:
            await _send(publisher, chunks, outcome)
        elif await _claim(spool):
            await _send(publisher, chunks, outcome, spool)
        else:
            outcome.reason = "another process is sending the spool"
    except BrokerAwayError as error:
        outcome.reason = str(error)
        if isinstance(error, Undelivered):
            _keep(spool, error.messages, outcome)
    except SpoolError as error:
        outcome.reason = str(error)
    outcome.lost = outcome.lost or (spool is None and outcome.reason is not None)
    async for chunk in chunks:
        if outcome.reason is not None:
            _keep(spool, list(chunk), outcome)


async def _claim(spool: Spool) -> bool:
    """Whether we may go on: the log is empty, or we are the process that sends it. Waits for one that does."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_SECONDS
    while not spool.is_empty():
        if spool.try_to_send():
            return True
        if loop.time() > deadline:
            return False
        await asyncio.sleep(WAIT_PAUSE_SECONDS)
    return True


async def _send(
    publisher: Publisher, chunks: AsyncIterator[Iterable[Message]], outcome: Outcome, spool: Spool | None = None
) -> None:
    """Raises BrokerAwayError, and Undelivered only with messages out of `chunks`; SpoolError before any of them."""
    try:
        async with publisher:
            if spool is not None and spool.sender is not None:
                await _drain(publisher, outcome, spool)
            before = publisher.acknowledged - outcome.sent
            try:
                async for _ in _posted(publisher, chunks):
                    outcome.sent = publisher.acknowledged - before
            finally:
                outcome.sent = publisher.acknowledged - before
    finally:
        if spool is not None:
            spool.sending_ends()


async def _posted(publisher: Publisher, chunks: AsyncIterator[Iterable[Message]]) -> AsyncIterator[None]:
    async for chunk in chunks:
        rest = iter(chunk)
        try:
            await publisher.post_all(rest)
        except Undelivered as error:
            error.messages += rest
            raise
        yield
    await publisher.flush()


async def _drain(publisher: Publisher, outcome: Outcome, spool: Spool) -> None:
    """Send the log; it may grow meanwhile. Raises BrokerAwayError, SpoolError."""
    try:
        while True:
            messages, offset = spool.first()
            if not messages:
                break
            await publisher.post_all(iter(messages))
            await publisher.flush()
            spool.sent_up_to(offset)
            outcome.resent += len(messages)
    except Undelivered as error:
        # They are in the log: not for our caller to keep again.
        raise BrokerAwayError(str(error)) from error
    spool.sending_ends()


def _keep(spool: Spool | None, messages: Sequence[Message], outcome: Outcome) -> None:
    """Into the spool; once one does not fit in, none after it does, or they would overtake it."""
    if not messages:
        return
    kept = 0
    if spool is not None and outcome.full is None:
        try:
            spool.append(messages)
            kept = len(messages)
        except SpoolFullError as error:
            outcome.full, outcome.lost, kept = str(error), True, error.kept
        except SpoolError as error:
            outcome.full, outcome.lost = str(error), True
    outcome.kept.add(messages[:kept])
    outcome.undelivered.add(messages[kept:])
