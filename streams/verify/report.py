"""What was found, and how far it is (pure)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

DIFFERENCES_MAX = 100
"""Differences that are listed; the rest is counted."""

Progress = Callable[[int, int], None]
"""Is told the messages folded and the messages to fold."""


class VerifyError(RuntimeError):
    """The topics can't be read to the end: one line that says why."""


@dataclass
class Report:
    """What was found. `differences` holds the first DIFFERENCES_MAX lines of `found`."""

    differences: list[str] = field(default_factory=list)
    found: int = 0
    events: int = 0
    jobs: int = 0
    checked: int = 0
    """Regressions of which all three are equal, or should be and are not."""
    sealed: int = 0
    cut: int = 0
    """Regressions whose first message may be gone from `job-events`, and which differ from what is left of it."""
    moved: int = 0
    """Regressions that changed while they were read."""
    older: int = 0
    """Regressions that are older than the rules in force, and which differ from what these give."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.found

    @property
    def not_checked(self) -> int:
        """Regressions of which nothing can be said."""
        return self.sealed + self.cut + self.moved + self.older

    def add(self, lines: Iterable[str]) -> None:
        """Count differences and list them while there is room."""
        for line in lines:
            self.found += 1
            if len(self.differences) < DIFFERENCES_MAX:
                self.differences.append(line)

    def __str__(self) -> str:
        reasons = (
            (self.sealed, "sealed"),
            (self.cut, "first message gone"),
            (self.moved, "changed meanwhile"),
            (self.older, "older than a change of [sigs]"),
        )
        why = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
        more = self.found - len(self.differences)
        lines = list(self.differences)
        if more:
            lines.append(f"... and {more} more")
        lines.append(
            f"{self.found or 'no'} difference{'' if self.found == 1 else 's'}: {self.events} messages, {self.jobs} job "
            f"rows, {self.checked} regressions checked, {self.not_checked} not checked{f' ({why})' if why else ''}"
        )
        return "\n".join(lines)


@dataclass
class Work:
    """What all partitions share."""

    report: Report
    left: dict[int, int]
    """Messages to fold by partition."""
    progress: Progress

    def show(self) -> None:
        """Say how far it is."""
        done = self.report.events
        self.progress(done, done + sum(self.left.values()))
