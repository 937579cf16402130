"""What became of the messages of one call, for a person and for a program."""

from collections.abc import Sequence

import msgspec

from livejobs.streams.publisher.outgoing import Message


class Tally(msgspec.Struct):
    """How many messages, and which: source -> (how many of it, first line, last line)."""

    count: int = 0
    sources: dict[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)

    def add(self, messages: Sequence[Message]) -> None:
        """Count them in."""
        self.count += len(messages)
        for message in messages:
            name, line = message.source
            count, first, _ = self.sources.get(name, (0, line, line))
            self.sources[name] = (count + 1, first, line)


class Outcome(msgspec.Struct):
    """What became of the messages of one call; it grows while the call runs."""

    sent: int = 0
    resent: int = 0
    """Of earlier calls, from the spool."""
    kept: Tally = msgspec.field(default_factory=Tally)
    undelivered: Tally = msgspec.field(default_factory=Tally)
    reason: str | None = None
    """Why some are kept or undelivered."""
    full: str | None = None
    """Why some could not be kept."""
    lost: bool = False
    """What comes now is neither sent nor kept."""
    keeper: str = ""
    """Where they are kept, and who sends them."""
