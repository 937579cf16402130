"""The publisher: what arrives, in which order, on which partition; what it refuses; what it does when Kafka is gone."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from conftest import MakeConfig
from reading import events

from livejobs.streams import config as configuration
from livejobs.streams import messages, publish, topics
from livejobs.streams.broker import Broker, free_port
from livejobs.streams.config import Config
from livejobs.streams.messages import Reject
from livejobs.streams.publish import BrokerAwayError, Publisher, Undelivered

LIVE = b'{"uniqueid": "1", "result": "live"}'


def live(number: int) -> bytes:
    return json.dumps({"uniqueid": str(number), "result": "live"}).encode()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may end."""
    with Broker(free_port(), tmp_path / "own-broker") as running:
        yield running


@pytest.fixture
def own_config(own_broker: Broker) -> Config:
    config = configuration.load(flags={"kafka.brokers": own_broker.bootstrap, "kafka.partitions": 3}, environ={})
    assert asyncio.run(topics.create(config)) == []
    return config


def test_a_message_arrives_as_given_with_key_headers_and_partition(config: Config) -> None:
    async def send() -> None:
        async with Publisher(config.kafka) as publisher:
            for number in range(20):
                name = f"myrun/{number}"
                await publisher.send("job-live", name, b'  {"uniqueid" :"\xc3\xa4",  "result":"live"}\n')
            await publisher.send("regr-finish", "myrun/0", b"\n", (("traceparent", b"00-ab-cd-01"),))

    asyncio.run(send())
    records = events(config)
    assert len(records) == 21
    for record in records:
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 3
    lives = [record for record in records if record.headers == (("type", b"job-live"),)]
    assert {record.key for record in lives} == {f"myrun/{number}".encode() for number in range(20)}
    # The body's own bytes; only the white space around it is gone.
    assert {record.value for record in lives} == {b'{"uniqueid" :"\xc3\xa4",  "result":"live"}'}
    finish = next(record for record in records if record not in lives)
    assert (finish.value, finish.headers) == (b"", (("type", b"regr-finish"), ("traceparent", b"00-ab-cd-01")))


def test_many_messages_keep_the_order_of_each_regression(config: Config) -> None:
    count, regressions = 30_000, 7

    async def send() -> int:
        async with Publisher(config.kafka) as publisher:
            for number in range(count):
                await publisher.send("job-live", f"r/{number % regressions}", live(number))
            await publisher.flush()
            return publisher.acknowledged

    assert asyncio.run(send()) == count
    of: dict[bytes, list[int]] = {}
    for record in events(config):
        of.setdefault(record.key, []).append(int(json.loads(record.value)["uniqueid"]))
    assert of == {f"r/{rest}".encode(): list(range(rest, count, regressions)) for rest in range(regressions)}


def test_tasks_that_send_at_once_keep_their_order_each(config: Config) -> None:
    async def send(publisher: Publisher, task: int) -> None:
        for number in range(500):
            await publisher.send("job-live", f"r/{task}", live(number))
            if number % 50 == task:
                await publisher.flush()

    async def send_all() -> None:
        async with Publisher(config.kafka) as publisher:
            await asyncio.gather(*(send(publisher, task) for task in range(8)))

    asyncio.run(send_all())
    of: dict[bytes, list[int]] = {}
    for record in events(config):
        of.setdefault(record.key, []).append(int(json.loads(record.value)["uniqueid"]))
    assert of == {f"r/{task}".encode(): list(range(500)) for task in range(8)}


def test_a_message_is_sent_without_a_flush(config: Config) -> None:
    async def send() -> None:
        async with Publisher(config.kafka) as publisher:
            await publisher.send("job-live", "r/1", LIVE)
            async with asyncio.timeout(10):
                while publisher.acknowledged < 1:  # noqa: ASYNC110  it has no event for that
                    await asyncio.sleep(0.01)

    asyncio.run(send())


def test_send_now_sends_one(config: Config) -> None:
    publish.send_now(config, "regr-tank", "r/1", b"{}")
    assert [(record.key, record.value) for record in events(config)] == [(b"r/1", b"{}")]


def test_a_body_and_a_key_of_the_greatest_size_fit_into_the_topic(config: Config) -> None:
    job = b'{"uniqueid": "%d", "result": "pass", "sourcecode": "' % 1
    job += b"x" * (messages.JOB_BYTES_MAX - 2 - len(job)) + b'"}'
    # Two of them and the array's own three bytes are too much; fill up to the last byte.
    small = job[: -(3 + 2)] + b'"}'
    body = b"[" + job + b"," + small + b"]"
    assert len(body) == messages.MESSAGE_BYTES_MAX
    name = "n" * messages.KEY_BYTES_MAX
    headers = (("h", b"x" * (publish.HEADERS_BYTES_MAX - 1)),)

    async def send() -> None:
        async with Publisher(config.kafka) as publisher:
            await publisher.send("batch-job-finish", name, body, headers)

    asyncio.run(send())
    assert [record.value for record in events(config)] == [body]


@pytest.mark.parametrize(
    ("kind", "regression", "body", "code", "text"),
    [
        ("_livejobs.tick", "r/1", b"{}", "bad-type", "reserved"),
        ("_livejobs.other", "r/1", b"{}", "bad-type", "reserved"),
        ("job-dead", "r/1", b"{}", "bad-type", "job-finish"),
        ("job-live", "", LIVE, "bad-key", "key"),
        ("job-live", "n" * 1025, LIVE, "too-large", "key"),
        ("job-live", os.fsdecode(b"r/\xff"), LIVE, "bad-key", "UTF-8"),
        ("job-live", "r/1", b"", "bad-json", "body"),
        ("job-live", "r/1", b"{", "bad-json", "body"),
        ("job-live", "r/1", b'{"uniqueid": "1", "result": "live", "cycles": 3}', "bad-field", "cycles"),
        ("job-live", "r/1", b'{"uniqueid": "1", "result": "\xff"}', "bad-json", "body"),
        ("job-finish", "r/1", b'{"category": "c", "result": "pass"}', "bad-field", "start_time"),
        ("regr-tank", "r/1", b'{"reason": "%s"}' % (b"x" * 1024 * 1024), "too-large", "body"),
        ("batch-job-finish", "r/1", b'[{"uniqueid": "1", "result": "live"}]', "bad-field", "job 0: result"),
    ],
)
def test_what_is_refused(kind: str, regression: str, body: bytes, code: str, text: str) -> None:
    with pytest.raises(Reject, match=text) as caught:
        publish.checked(kind, regression, body)
    assert caught.value.code == code


def test_extra_headers_are_checked() -> None:
    with pytest.raises(Reject, match="type"):
        publish.checked("job-live", "r/1", LIVE, (("type", b"job-finish"),))
    with pytest.raises(Reject, match="headers"):
        publish.checked("job-live", "r/1", LIVE, (("h", b"x" * 9000),))


def test_a_missing_topic_is_told_and_not_made(loose_config: MakeConfig) -> None:
    config = loose_config()
    with pytest.raises(BrokerAwayError, match=r"job-events is not there.*topics create"):
        publish.send_now(config, "regr-start", "r/1", b"")
    assert f"{config.kafka.events_topic}: missing" in asyncio.run(topics.differences(config))


def test_nobody_listens() -> None:
    config = configuration.load(flags={"kafka.brokers": f"127.0.0.1:{free_port()}"}, environ={})

    async def send() -> None:
        async with Publisher(config.kafka, connect_seconds=0.5):
            raise AssertionError

    begin = time.monotonic()
    with pytest.raises(BrokerAwayError, match=r"no Kafka broker answers at 127\.0\.0\.1:\d+ \(.*Connect call failed"):
        asyncio.run(send())
    assert time.monotonic() - begin < 5


def test_one_who_listens_but_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = configuration.load(flags={"kafka.brokers": f"127.0.0.1:{silent.getsockname()[1]}"}, environ={})

        async def send() -> None:
            async with Publisher(config.kafka, connect_seconds=0.5):
                raise AssertionError

        begin = time.monotonic()
        with pytest.raises(BrokerAwayError, match=r"no Kafka broker answers .* within 0\.5 s"):
            asyncio.run(send())
        assert time.monotonic() - begin < 8


def test_it_waits_for_a_broker_that_starts(tmp_path: Path) -> None:
    with Broker(free_port(), tmp_path / "data") as running:
        config = configuration.load(flags={"kafka.brokers": running.bootstrap}, environ={})
        assert asyncio.run(topics.create(config)) == []

    async def send() -> None:
        starting = asyncio.create_task(asyncio.to_thread(running.start))
        async with Publisher(config.kafka, connect_seconds=60) as publisher:
            await publisher.send("job-live", "r/1", LIVE)
        await starting

    try:
        asyncio.run(send())
        assert len(events(config)) == 1
    finally:
        running.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_broker_goes_while_messages_are_on_the_way(own_broker: Broker, own_config: Config, number: int) -> None:
    """All that has no acknowledgement at the deadline is told, in order; it ends in time; nothing after it is sent."""
    count = 2000
    pid = own_broker.pid
    assert pid is not None

    async def send() -> tuple[int, list[publish.Message]]:
        async with Publisher(own_config.kafka, delivery_seconds=3) as publisher:
            for index in range(1000):
                await publisher.send("job-live", f"r/{index % 5}", live(index))
            await publisher.flush()
            os.kill(pid, number)
            for index in range(1000, count):
                await publisher.send("job-live", f"r/{index % 5}", live(index))
            with pytest.raises(Undelivered) as caught:
                await publisher.flush()
            with pytest.raises(Undelivered) as after:
                await publisher.send("job-live", "r/0", live(count))
            assert [message.body for message in after.value.messages] == [live(count)]
            assert "within 3 s" in str(caught.value)
            return publisher.acknowledged, caught.value.messages

    begin = time.monotonic()
    try:
        acknowledged, undelivered = asyncio.run(send())
    finally:
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - begin < 25
    assert acknowledged == 1000
    assert [message.body for message in undelivered] == [live(index) for index in range(1000, count)]


def test_a_restart_of_the_broker_is_ridden_out(own_broker: Broker, own_config: Config) -> None:
    """Exactly once and in order over a broker's restart: idempotence, with retries until the deadline."""

    async def send() -> None:
        async with Publisher(own_config.kafka, delivery_seconds=60) as publisher:
            for index in range(6000):
                await publisher.send("job-live", "r/1", live(index))
                if index == 3000:
                    own_broker.kill()
                    starting = asyncio.create_task(asyncio.to_thread(own_broker.start))
            await publisher.flush()
            await starting

    asyncio.run(send())
    assert [record.value for record in events(own_config)] == [live(index) for index in range(6000)]
