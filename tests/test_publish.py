"""The publisher: what arrives, in which order, on which partition; what it refuses; what it does when Kafka is gone."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from harness import MakeConfig
from reading import events

from livejobs.streams import config as configuration
from livejobs.streams.config import Config
from livejobs.streams.core import messages
from livejobs.streams.core.messages import Reject
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.broker import Broker, free_port
from livejobs.streams.publisher import delivery, publish
from livejobs.streams.publisher.publish import BrokerAwayError, Lines, Message, Publisher, Source, Undelivered

LIVE = b'{"uniqueid": "1", "result": "live"}'


def live(number: int) -> bytes:
    return json.dumps({"uniqueid": str(number), "result": "live"}).encode()


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


def finish(number: int, *, plain: bool = True) -> bytes:
    """Of a batch's size in some thousands; one that is not plain is spelled so that the rules must look at it."""
    body = json.dumps({"uniqueid": str(number), "result": "pass", "sourcecode": "x" * 400})
    return (body if plain else body.replace("pass", "p\\u0061ss")).encode()


def refuse(source: Source, reject: Reject) -> None:
    raise AssertionError(source, reject)


def test_lines_and_single_messages_keep_their_order_over_batches(config: Config) -> None:
    """Two regressions of one partition and one of another, blocks of lines, lines that are not plain, single messages."""
    names = ("r/1", "r/3", "r/2")  # r/1 and r/3 share a partition
    sent: dict[bytes, list[bytes]] = {name.encode(): [] for name in names}

    async def send() -> int:
        async with Publisher(config.kafka) as publisher:
            number = 0
            for turn in range(60):
                name = names[turn % 3]
                block = [finish(number + index, plain=index % 500 != 7) for index in range(600)]
                number += 600
                await publisher.post_all(Lines("job-finish", name, b"\n".join(block), Source("f", 1), refuse))
                await publisher.send("job-live", name, live(number))
                sent[name.encode()] += [*block, live(number)]
            await publisher.flush()
            return publisher.acknowledged

    assert asyncio.run(send()) == 60 * 601
    of: dict[bytes, list[bytes]] = {}
    for record in events(config):
        of.setdefault(record.key, []).append(record.value)
    assert of == sent


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


@pytest.mark.parametrize("end", [Broker.kill, Broker.stop], ids=["killed", "stopped"])
def test_a_restart_of_the_broker_is_ridden_out(
    own_broker: Broker, own_config: Config, end: Callable[[Broker], None]
) -> None:
    """Exactly once and in order over a broker's restart, with several batches of one partition on their way."""
    count, padding, some = 12_000, "x" * 2000, 1100  # two batches

    def body(number: int) -> bytes:
        return json.dumps({"uniqueid": str(number), "result": "live", "note": padding}).encode()

    def restart() -> None:
        end(own_broker)
        own_broker.start()

    async def send() -> int:
        restarting: asyncio.Task[None] | None = None
        async with Publisher(own_config.kafka, delivery_seconds=60) as publisher:
            index = 0
            while restarting is None or index < count:  # what is not acknowledged has a limit, so it must come
                await publisher.send("job-live", "r/1", body(index))
                if restarting is None and 0 < publisher.acknowledged < index - some:
                    restarting = asyncio.create_task(asyncio.to_thread(restart))
                index += 1
                assert index < 20 * count
            await publisher.flush()
            await restarting
            return index

    sent = asyncio.run(send())
    assert [record.value for record in events(own_config)] == [body(index) for index in range(sent)]


def numbered(text: Iterable[bytes]) -> Lines:
    return Lines("job-finish", "r/1", b"".join(line + b"\n" for line in text), Source("f", 1), refuse)


def test_lines_without_an_acknowledgement_are_told_with_their_numbers(own_broker: Broker, own_config: Config) -> None:
    """The broker goes in the middle of a block: what is told and what the block still has are all that did not arrive."""
    first, count = 3000, 60_000  # more than may be on the way

    async def send() -> tuple[int, list[Message]]:
        async with Publisher(own_config.kafka, delivery_seconds=3) as publisher:
            await publisher.post_all(numbered(map(finish, range(first))))
            await publisher.flush()
            own_broker.kill()
            rest = numbered(map(finish, range(first, count)))
            with pytest.raises(Undelivered) as caught:
                await publisher.post_all(rest)
            with pytest.raises(Undelivered):
                await publisher.post_all(iter([]))
            return publisher.acknowledged, [*caught.value.messages, *rest]

    acknowledged, undelivered = asyncio.run(send())
    assert acknowledged == first
    assert [message.body for message in undelivered] == [finish(number) for number in range(first, count)]
    assert [message.source for message in undelivered] == [Source("f", 1 + index) for index in range(count - first)]


def test_a_broker_that_goes_in_the_middle_of_a_stream_loses_nothing(
    own_broker: Broker, own_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What can't be delivered is kept, and what is read after that, too; the next call sends all of it, in order."""
    flags = {"kafka.brokers": own_broker.bootstrap, "kafka.partitions": 3, "tunnel.spool": tmp_path / "spool"}
    config = configuration.load(flags=flags, environ={})
    monkeypatch.setattr(Publisher.__init__, "__kwdefaults__", {"delivery_seconds": 3.0, "connect_seconds": 10.0})
    size, blocks = 2000, 30

    async def stream(outcome: delivery.Outcome) -> AsyncIterator[Iterable[Message]]:
        for block in range(blocks):
            if block == 3:
                async with asyncio.timeout(30):
                    while not outcome.sent:
                        await asyncio.sleep(0.01)
                        yield []
                own_broker.kill()
            yield numbered(finish(number) for number in range(block * size, (block + 1) * size))

    first, second = delivery.Outcome(), delivery.Outcome()
    asyncio.run(delivery.deliver(config, stream(first), first))
    assert first.sent + first.kept.count == size * blocks
    assert 0 < first.sent <= 3 * size
    assert (first.undelivered.count, first.full) == (0, None)

    async def nothing() -> AsyncIterator[Iterable[Message]]:
        yield []

    own_broker.start()
    asyncio.run(delivery.deliver(config, nothing(), second))
    assert second.resent == first.kept.count
    values = [record.value for record in events(config)]
    assert list(dict.fromkeys(values)) == [finish(number) for number in range(size * blocks)]  # at least once, in order
