"""What every measurement is given, and what it gives back."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.engines import Task
from bench.kafka import Broker, Input
from bench.measure import Run, machine_speed

Runs = dict[str, list[Run]]
"""Runs by the name of what ran."""


@dataclass(frozen=True)
class Setting:
    """Where the measurements run, and the command line's wishes."""

    broker: Broker
    livejobs: Path
    """The executable."""
    build: Path
    """Of the Java peers."""
    folder: Path
    logs: Path
    runs: int
    seconds_max: float
    """Of one run."""
    events: int | None = None
    peers: tuple[str, ...] = ()
    largest: int = 1_000_000
    """Size in a series of `growth`."""

    @contextlib.contextmanager
    def task(self, source: Input, engine: str) -> Iterator[Task]:
        """One run of a program; in the end nothing of it is left but its logs."""
        task = Task(self.broker, source, engine, self.folder, self.logs, self.seconds_max)
        try:
            yield task
        finally:
            task.close()

    def note(self, measurement: str, name: str, number: int, run: Run, runs: list[Run]) -> None:
        """Keep a run, and say what it gave."""
        run |= {"round": number, "machine_speed": machine_speed()}
        runs.append(run)
        with (self.logs / "runs.ndjson").open("a") as kept:  # also when a later run fails
            kept.write(json.dumps({"measurement": measurement, "name": name, **run}) + "\n")
        numbers = " ".join(f"{key}={_short(value)}" for key, value in run.items())
        say(f"{measurement} {number}/{self.runs} {name}: {numbers}")


@dataclass(frozen=True)
class Result:
    """What a measurement has found."""

    name: str
    title: str
    runs: Runs
    tables: list[str]
    remarks: list[str] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        """Whether every answer of every run was right."""
        return all(run.get("correct", True) for some in self.runs.values() for run in some)


def say(line: str) -> None:
    """Tell a person how far it is."""
    sys.stderr.write(f"{line}\n")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
