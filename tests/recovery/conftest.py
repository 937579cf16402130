"""What the tests of faults share. `soak` (pytest's option --soak, `make soak`) asks a test for its long form; `load.py` is the traffic, `verdict.py` the end of each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Site

from livejobs.streams.kafka.broker import Broker


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    """Topics of four partitions, with a deadline for silent live jobs; no worker runs yet."""
    with Site(broker.bootstrap, tmp_path, partitions=4) as site:
        yield site


@pytest.fixture
def bare(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    """A site whose topics the test makes."""
    with Site(broker.bootstrap, tmp_path, create=False) as site:
        yield site
