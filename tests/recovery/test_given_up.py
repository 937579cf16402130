"""A partition is given to a worker and taken away again before its store is up to date: the store can be opened again, by the same process.

How: the opening is cancelled at many moments, as a rebalance does, restoring in bulk and as usual; then RocksDB's lock must be free. And it is cancelled at the moment
when it has connected for the first time: aiokafka would forget that connection; and while its consumer is being stopped. And its consumer is stopped when a fetch has just failed: aiokafka would say that
somebody cancelled us.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.group_coordinator import NoGroupCoordinator
from aiokafka.errors import RequestTimedOutError
from harness import Site
from load import Load

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.kafka.client import client_options
from livejobs.streams.worker import commit
from livejobs.streams.worker.commit import Partition, data_path
from livejobs.tables import restore
from livejobs.tables.store import Store

STEP_SECONDS = 0.025
STEPS = 12


class NoTakeover:
    """What a partition asks when it is opened; nothing is committed."""

    def __init__(self, *_: Any) -> None:
        pass

    async def settled(self, _source: TopicPartition, _changelogs: Sequence[TopicPartition]) -> tuple[int, str]:
        return -1, ""

    async def claim(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("bulk_records", [0, restore.BULK_RECORDS], ids=["in bulk", "as usual"])
def test_a_store_can_be_opened_again_whenever_its_opening_was_given_up(bulk_records: int, site: Site) -> None:
    worker = site.start().ready()
    site.load(Load("given up", 2_000, 10).messages, 4_000).result()
    site.wait_for_no_lag()
    assert worker.stop()[0] == 0
    config = configuration.load(worker.config)
    given_up = [site.background.run(give_up(config, site.partitions, step * STEP_SECONDS, bulk_records)) for step in range(STEPS)]
    assert any(given_up)


def of_a_worker_that_has_ended(site: Site) -> Config:
    worker = site.start().ready()
    assert worker.stop()[0] == 0
    return configuration.load(worker.config)


def being_opened(config: Config, partitions: int) -> "asyncio.Task[Partition]":
    transactions: Any = None
    return asyncio.create_task(Partition.open(0, partitions, config, transactions, lambda: None, refuse))


def test_a_connection_is_closed_of_an_opening_that_was_given_up_meanwhile(site: Site) -> None:
    site.background.run(give_up_a_connection(of_a_worker_that_has_ended(site), site.partitions))


async def give_up_a_connection(config: Config, partitions: int) -> None:
    made: list[AIOKafkaConnection] = []

    async def connect(*arguments: Any, **keywords: Any) -> AIOKafkaConnection:
        made.append(await create_conn(*arguments, **keywords))
        opening.cancel()
        return made[-1]

    with patch("aiokafka.client.create_conn", connect), patch.object(commit, "Takeover", NoTakeover):
        opening = being_opened(config, partitions)
        await asyncio.wait([opening])
        assert opening.cancelled()
        await asyncio.wait_for(made[0]._closed_fut, 10)


def test_its_consumer_is_stopped_to_the_end_though_the_opening_is_given_up_just_then(site: Site) -> None:
    site.background.run(give_up_a_stop(of_a_worker_that_has_ended(site), site.partitions))


async def give_up_a_stop(config: Config, partitions: int) -> None:
    made: list[AIOKafkaConnection] = []
    close = NoGroupCoordinator.close

    async def connect(*arguments: Any, **keywords: Any) -> AIOKafkaConnection:
        made.append(await create_conn(*arguments, **keywords))
        return made[-1]

    async def give_up_and_close(coordinator: NoGroupCoordinator) -> None:
        opening.cancel()
        await asyncio.sleep(0)
        await close(coordinator)

    with (
        patch("aiokafka.client.create_conn", connect),
        patch.object(NoGroupCoordinator, "close", give_up_and_close),
        patch.object(commit, "Takeover", NoTakeover),
    ):
        opening = being_opened(config, partitions)
        await asyncio.wait([opening])
    assert opening.cancelled()
    assert made
    assert all(one._closed_fut.done() for one in made)


def test_a_consumer_stops_when_a_fetch_has_just_failed(site: Site) -> None:
    site.background.run(stop_after_a_failed_fetch(site.config))


async def stop_after_a_failed_fetch(config: Config) -> None:
    failed = asyncio.Event()

    async def fail(*_: Any, **__: Any) -> None:
        failed.set()
        raise RequestTimedOutError

    consumer = AIOKafkaConsumer(**client_options(config.kafka), retry_backoff_ms=60_000)
    await consumer.start()
    events = TopicPartition(config.kafka.events_topic, 0)
    consumer.assign([events])
    consumer.seek(events, 0)
    with patch.object(consumer._client, "send", fail):
        await asyncio.wait_for(failed.wait(), 10)
    await asyncio.wait_for(consumer.stop(), 10)


def refuse(error: BaseException) -> None:
    """Nothing is committed here, so nothing fails."""
    raise error


async def give_up(config: Config, partitions: int, seconds: float, bulk_records: int) -> bool:
    """Cancel an opening after some time, and open the store; whether it was not ready by then."""
    with patch.object(commit, "Takeover", NoTakeover), patch.object(restore, "BULK_RECORDS", bulk_records), contextlib.suppress(asyncio.CancelledError):
        opening = being_opened(config, partitions)
        await asyncio.sleep(seconds)
        opening.cancel()
        (await opening)._store.close()
    again = Store(data_path(config) / "0")
    again.wipe()  # so that there is something to restore the next time
    again.close()
    return opening.cancelled()
