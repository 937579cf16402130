"""The end of each test of faults, always the same: all is exact, and nobody is alive but idle."""

import json
import subprocess
import sys
from typing import Protocol

from harness import SECONDS, STOP_SECONDS_MAX, Site

VERIFY_SECONDS = 120.0
VERIFY = [sys.executable, "-c", "from livejobs.streams.cli import main; main()", "verify", "--json", "--config"]


class Expected(Protocol):
    """What was sent (`load.Load`, `load.Traffic`)."""

    def assert_counts(self, site: Site) -> None: ...


def verdict(site: Site, *sent: Expected, seconds: float = 2 * SECONDS, not_checked: int = 0) -> None:
    """After the fault and the end of the traffic: all is exact, and each partition is worked on.

    That is: nothing waits; a message of ours into each partition is applied; the workers end in time; `livejobs verify` finds no difference, the model none; no
    version went down; the counts are those that the generator meant.

    `seconds` is how long the backlog may take, and what `livejobs verify` reads; `not_checked` is how many regressions that may leave out.
    """
    site.wait_for_no_lag(seconds)
    for number in range(site.partitions):
        site.settle(number)  # a message of ours there is applied
    running = [worker for worker in site.workers if worker.expected_to_run]
    assert running
    for worker in running:
        code, stop_seconds = worker.stop()
        assert (code, stop_seconds < STOP_SECONDS_MAX) == (0, True), worker.tail()
    verified(site, not_checked, max(seconds, VERIFY_SECONDS))
    site.assert_as_the_model()
    for expected in sent:
        expected.assert_counts(site)


def verified(site: Site, not_checked: int = 0, seconds: float = VERIFY_SECONDS) -> None:
    """What the real command says of the topics."""
    done = subprocess.run([*VERIFY, str(site.config_file)], capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"], report
    assert report["checked"] > 0
    assert report["not_checked"] <= not_checked, report
