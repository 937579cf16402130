"""Fixtures around one real broker, which all tests of a run share; each test has topics of its own."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.kafka.broker import Broker, free_port

if TYPE_CHECKING:
    from harness import MakeConfig
    from secure import SecureBroker

_numbers = itertools.count(1)

# A script's `&` starts us with SIGINT ignored, and so would be all that we start; what is handled here is not ignored there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long form of the tests of faults (make soak)")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test is wanted: more faults, longer outages."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that runs for the whole session. A test that ends one makes its own."""
    with Broker(free_port(), tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may end."""
    with Broker(free_port(), tmp_path / "own-broker") as running:
        yield running


@pytest.fixture(scope="session")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SecureBroker"]:
    """A broker with logins, TLS and ACLs, for all tests that need one."""
    from secure import SecureBroker  # noqa: PLC0415  pure tests need no Kafka client

    with SecureBroker(tmp_path_factory.mktemp("secure")) as running:
        yield running


@pytest.fixture
def loose_config(broker: Broker, tmp_path: Path) -> "MakeConfig":
    """Make a checked configuration for the broker: a topicprefix of its own, directories under `tmp_path`, no topics.

    Arguments are flags, as `load` takes them: `loose_config({"sigs.enablelivejobs": True})`.
    """

    def make(flags: dict[str, object] | None = None) -> Config:
        number = next(_numbers)
        own: dict[str, object] = {
            "kafka.brokers": broker.bootstrap,
            "kafka.topicprefix": f"test{number}-",
            "kafka.partitions": 3,
            "worker.datadir": tmp_path / f"data{number}",
            "worker.healthbind": "127.0.0.1:0",
            "web.datadir": tmp_path / f"view{number}",
            "tunnel.spool": tmp_path / f"spool{number}",
        }
        return configuration.load(flags={**own, **(flags or {})}, environ={})

    return make


@pytest.fixture
def make_config(loose_config: "MakeConfig") -> "MakeConfig":
    """As `loose_config`, with the topics created."""
    from livejobs.streams.kafka import topics  # noqa: PLC0415  pure tests need no Kafka client

    def make(flags: dict[str, object] | None = None) -> Config:
        config = loose_config(flags)
        assert asyncio.run(topics.create(config)) == []
        return config

    return make


@pytest.fixture
def config(make_config: "MakeConfig") -> Config:
    """A configuration with topics of its own, three partitions each, and everything else at its default."""
    return make_config()
