"""The command line: `make bench`, `make bench ARGS='catch_up --events 2000000 --runs 3'`."""

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from confluent_kafka import KafkaException

from bench.kafka import Broker
from bench.measure import BenchError, machine_speed
from bench.setting import Result, Setting, say

MEASUREMENTS = ("catch_up", "two_workers", "latency", "restore", "growth", "publishing", "web")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
TOP = Path(__file__).resolve().parent.parent.parent


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure livejobs; see tests/bench/README.md.")
    parser.add_argument(
        "measurements", nargs="*", metavar="MEASUREMENT", help=f"of {', '.join(MEASUREMENTS)}; default: all"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each program (default: %(default)s)")
    parser.add_argument("--events", type=int, help="of one run; each measurement has its own default")
    parser.add_argument("--peers", default="", help="of catch_up and two_workers, commas between: kafka-streams, flink, limit")
    parser.add_argument("--largest", type=int, default=1_000_000, help="size in growth (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="at most, for one run (default: %(default)s)")
    parser.add_argument("--livejobs", type=Path, default=TOP / ".venv/bin/livejobs", help="the executable measured")
    parser.add_argument("--out", type=Path, default=TOP / "build/bench", help="for results and logs")
    given = parser.parse_args()
    if unknown := set(given.measurements) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    return given


def main() -> int:
    """Run the measurements that are asked for, print their tables, write their results; 0 when all was right."""
    given = arguments()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    names = given.measurements or MEASUREMENTS
    folder = Path(tempfile.mkdtemp(prefix="livejobs-bench-"))
    logs = given.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    failed = False
    try:
        seconds_max = given.seconds * 60 * len(names)  # only a bound: more than all of it can take
        with Broker(given.livejobs, folder, logs / "broker.log", seconds_max) as broker:
            setting = Setting(
                broker=broker,
                livejobs=given.livejobs,
                build=given.out,
                folder=folder,
                logs=logs,
                runs=given.runs,
                seconds_max=given.seconds,
                events=given.events,
                largest=given.largest,
                peers=tuple(filter(None, given.peers.split(","))),
            )
            for name in names:
                failed |= not measured(name, setting, given.out)
            ignore_signals()
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


def ignore_signals() -> None:
    """From here on we end in any case, and end all that we started."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupt(*_: object) -> None:
    """The one way out, for SIGTERM too."""
    ignore_signals()
    raise KeyboardInterrupt


def measured(name: str, setting: Setting, out: Path) -> bool:
    """Run one measurement, print and write what it found; whether all was right."""
    begin = time.time()
    document = out / f"{name}.json"
    document.unlink(missing_ok=True)
    try:
        result: Result = importlib.import_module(f"bench.{name}").measure(setting)
    except (BenchError, KafkaException, subprocess.SubprocessError) as error:
        say(f"{name}: {error}")
        return False
    tables = "\n\n".join([f"## {name}: {result.title}", *result.tables, *result.remarks])
    sys.stdout.write(f"{tables}\n\n")
    sys.stdout.flush()
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "turns_million_s": machine_speed()}
    found = {"when": begin, "seconds": time.time() - begin, "machine": machine, **asdict(result)}
    document.write_text(json.dumps(found, indent=1) + "\n")
    if not result.correct:
        say(f"{name}: a run gave wrong answers; see {document}")
    return result.correct


if __name__ == "__main__":
    sys.exit(main())
