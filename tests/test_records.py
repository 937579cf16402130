"""aiokafka's consumer with our parts in it: how often it asks a broker, how long it lets that wait; it can be closed at any moment."""

import asyncio
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from livejobs.streams.kafka import records
from livejobs.streams.kafka.records import FETCH_PAUSE_MS, _PacedFetcher

LONG_MS = 500


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> _PacedFetcher:
    """A fetcher that would always ask broker 1, its request being how long that may wait for messages."""

    def always(self: Any, _assignment: object) -> Any:
        return [(1, self._fetch_max_wait_ms)], {}, 0.2, False, []

    monkeypatch.setattr(Fetcher, "_get_actions_per_node", always)
    made = _PacedFetcher.__new__(_PacedFetcher)
    made._fetch_max_wait_ms, made._records = LONG_MS, {}
    made._in_flight, made._pending_tasks = set(), set()
    return made


def test_a_broker_is_asked_again_only_after_a_pause(fetcher: _PacedFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(records.time, "monotonic", lambda: now)
    assert fetcher._get_actions_per_node(None)[0]
    now += FETCH_PAUSE_MS / 1000 / 4
    asked, _, wait_seconds, _, _ = fetcher._get_actions_per_node(None)
    assert not asked
    assert wait_seconds == pytest.approx(FETCH_PAUSE_MS / 1000 * 3 / 4)  # and then it is
    now += wait_seconds
    assert fetcher._get_actions_per_node(None)[0]


def test_a_partition_that_is_left_out_waits_for_no_long_poll(fetcher: _PacedFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition whose messages have not been taken is not asked for: else it would wait until others have some."""
    now = 100.0
    monkeypatch.setattr(records.time, "monotonic", lambda: now)
    for waiting, wait_ms in (({}, LONG_MS), ({"tp": "records"}, FETCH_PAUSE_MS), ({}, LONG_MS)):
        fetcher._records = waiting
        now += 1
        assert fetcher._get_actions_per_node(None)[0] == [(1, wait_ms)]


@pytest.mark.parametrize(("running", "wait_seconds"), [(set(), 0.0), ({"the fetch"}, 0.2)])
def test_a_broker_whose_answer_has_just_come_is_looked_at_again_at_once(
    fetcher: _PacedFetcher, monkeypatch: pytest.MonkeyPatch, running: set[str], wait_seconds: float
) -> None:
    """That it may be asked again is noted by a callback of the fetch, which may run behind us: nobody calls us then."""
    monkeypatch.setattr(Fetcher, "_get_actions_per_node", lambda *_: ([], {}, 0.2, False, []))
    fetcher._in_flight, fetcher._pending_tasks = {1}, running
    assert fetcher._get_actions_per_node(None)[2] == wait_seconds


def test_a_fetch_that_is_closed_while_it_waits_ends_quietly() -> None:
    """`close` cancels each fetch and awaits it: an error would end whoever closes the consumer, a restore for example."""

    class Silent:
        async def send(self, *_: object) -> None:
            await asyncio.sleep(60)

    async def close() -> bool:
        fetcher = _PacedFetcher.__new__(_PacedFetcher)
        fetcher._client = Silent()
        fetch = asyncio.create_task(fetcher._proc_fetch_request(None, 1, None))
        await asyncio.sleep(0)  # it begins
        fetch.cancel()
        return await fetch

    assert asyncio.run(close()) is False


def test_a_batch_that_is_sent_again_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that it was sent on first may still hold its bytes."""
    now = 1000.0
    monkeypatch.setattr(records.time, "time", lambda: now)
    (batch,) = records.batches([(b"key", b"value", [])])
    batch._set_producer_state(1, 2, 3)
    built = batch._build()
    before = bytes(built)
    now += 1
    assert batch._build() is built
    assert bytes(built) == before
