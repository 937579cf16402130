"""The spool keeps messages in order, through crashes, from several processes, up to its bound; the next call sends."""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from harness import MakeConfig
from reading import events

from livejobs.streams import config as configuration
from livejobs.streams.config import Config, ConfigError
from livejobs.streams.kafka.broker import free_port
from livejobs.streams.publisher import delivery, publish, spool
from livejobs.streams.publisher.batch import Batch
from livejobs.streams.publisher.delivery import Outcome
from livejobs.streams.publisher.publish import Message, Source
from livejobs.streams.publisher.sender import Sender
from livejobs.streams.publisher.spool import FRAME, HEADER, Spool, SpoolError, SpoolFullError

MIB = 1 << 20


def message(number: int, regression: str = "r/1") -> Message:
    body = json.dumps({"uniqueid": str(number), "result": "live"}).encode()
    return publish.checked("job-live", regression, body, (("traceparent", b"00"),), Source("x.ndjson", number + 1))


def content(kept: Spool) -> list[int]:
    """The numbers of all messages in it, which are then marked as sent."""
    numbers = []
    assert kept.try_to_send()
    while True:
        messages, offset = kept.first()
        if not messages:
            kept.sending_ends()
            return numbers
        numbers += [int(json.loads(item.body)["uniqueid"]) for item in messages]
        kept.sent_up_to(offset)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Spool:
    return Spool(tmp_path / "spool", "job-events", MIB, said.append)


def deliver(config: Config, messages: Sequence[Message], size: int = 3) -> Outcome:
    outcome = Outcome()

    async def chunks() -> AsyncIterator[Sequence[Message]]:
        for start in range(0, len(messages), size):
            yield messages[start : start + size]

    asyncio.run(delivery.deliver(config, chunks(), outcome))
    return outcome


def away(config: Config) -> Config:
    """The same with brokers that are not there."""
    flags = {"kafka.brokers": f"127.0.0.1:{free_port()}", "kafka.topicprefix": config.kafka.topicprefix}
    tunnel = {"tunnel.spool": config.tunnel.spool, "tunnel.spoolbytes": config.tunnel.spoolbytes}
    return configuration.load(flags={**flags, **tunnel}, environ={})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CONNECT_SECONDS", 0.5)


# The log


def test_a_new_one_is_empty(kept: Spool, said: list[str]) -> None:
    assert kept.is_empty()
    assert content(kept) == []
    assert said == []


def test_a_message_comes_back_as_it_was(kept: Spool) -> None:
    given = [
        publish.checked("batch-job-finish", "ä/1", b"[]", (("traceparent", b"\x00\xff"),)),
        publish.checked("regr-start", "r/1", b""),
        publish.checked("regr-start", "r/1", b'{"tag": "%s"}' % (b"x" * 60000)),
    ]
    kept.append(given)
    assert not kept.is_empty()
    assert kept.first()[0] == given


def test_order_over_appends_reopening_and_chunks(kept: Spool, tmp_path: Path) -> None:
    for start in range(0, 1000, 100):
        kept.append([message(number) for number in range(start, start + 100)])
    again = Spool(tmp_path / "spool", "job-events", MIB)
    seen: list[int] = []
    while not again.is_empty():
        messages, offset = again.first(bytes_max=997)  # cuts through records
        seen += [int(json.loads(item.body)["uniqueid"]) for item in messages]
        again.sent_up_to(offset)
    assert seen == list(range(1000))
    assert again.path.stat().st_size == HEADER.size


def test_a_message_longer_than_a_chunk_is_read(kept: Spool) -> None:
    kept.append([message(1), message(2)])
    assert len(kept.first(bytes_max=FRAME.size)[0]) == 1
    assert len(kept.first(bytes_max=10)[0]) == 1


def test_topics_do_not_mix(tmp_path: Path) -> None:
    one, other = (Spool(tmp_path, topic, MIB) for topic in ("a-job-events", "b-job-events"))
    one.append([message(1)])
    assert other.is_empty()
    assert content(one) == [1]


def test_a_full_one_refuses_and_keeps_what_fits(tmp_path: Path) -> None:
    record = len(spool._framed(message(10)))
    kept = Spool(tmp_path, "job-events", HEADER.size + 5 * record + 3)
    kept.append([message(10), message(11)])
    with pytest.raises(SpoolFullError, match=r"job-events\.log is full: \[tunnel\] spoolbytes is \d+") as caught:
        kept.append([message(number) for number in range(12, 19)])
    assert caught.value.kept == 3
    with pytest.raises(SpoolFullError) as caught:
        kept.append([message(19)])
    assert caught.value.kept == 0
    assert content(kept) == [10, 11, 12, 13, 14]
    kept.append([message(20)])
    assert content(kept) == [20]


def test_what_is_sent_makes_room(tmp_path: Path) -> None:
    record = len(spool._framed(message(10)))
    kept = Spool(tmp_path, "job-events", HEADER.size + 10 * record)
    kept.append([message(number) for number in range(10, 20)])
    assert kept.try_to_send()
    kept.sent_up_to(HEADER.size + 6 * record)
    kept.sending_ends()
    kept.append([message(number) for number in range(20, 26)])
    with pytest.raises(SpoolFullError):
        kept.append([message(26)])
    assert content(kept) == list(range(16, 26))


@pytest.mark.parametrize("cut", [1, FRAME.size - 1, FRAME.size, FRAME.size + 5])
def test_a_torn_tail_is_ignored_and_told(kept: Spool, said: list[str], cut: int) -> None:
    kept.append([message(1), message(2)])
    with kept.path.open("ab") as file:
        file.write(spool._framed(message(3))[:cut])
    assert not kept.is_empty()
    assert said == [f"{kept.path}: {cut} bytes of a write that was cut short are ignored"]
    kept.append([message(4)])
    assert content(kept) == [1, 2, 4]


def test_a_damaged_header_loses_nothing(kept: Spool, said: list[str]) -> None:
    kept.append([message(number) for number in range(5)])
    assert kept.try_to_send()
    kept.sent_up_to(HEADER.size + len(spool._framed(message(0))))
    kept.sending_ends()
    with kept.path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 8)
        file.seek(0, os.SEEK_END)
        file.write(b"torn")
    assert content(kept) == [0, 1, 2, 3, 4]
    assert "the header is damaged" in said[0]


def test_a_damaged_record_is_told_and_nothing_after_it_is_lost(kept: Spool) -> None:
    kept.append([message(1), message(2), message(3)])
    before = kept.path.read_bytes()
    at = HEADER.size + len(spool._framed(message(1)))
    kept.path.write_bytes(before[: at + 20] + b"\x00" + before[at + 21 :])
    messages, offset = kept.first()
    assert len(messages) == 1
    kept.sent_up_to(offset)
    size = kept.path.stat().st_size
    with pytest.raises(SpoolError, match=f"damaged at byte {at}"):
        kept.first()
    assert kept.path.stat().st_size == size


def test_a_directory_that_cant_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"\[tunnel\] spool .*can't be used"):
        Spool(tmp_path / "file", "job-events", MIB)
    (tmp_path / "job-events.log").write_bytes(b"something else than a spool, and quite long")
    with pytest.raises(ConfigError, match="is no spool"):
        Spool(tmp_path, "job-events", MIB)


CRASH = textwrap.dedent("""
    import os, signal, sys
    from livejobs.streams.publisher import publish, spool
    step, calls = int(sys.argv[2]), 0
    def message(number):
        return publish.checked("job-live", "r/1", b'{"uniqueid": "%d", "result": "live"}' % number)
    kept = spool.Spool(sys.argv[1], "job-events", 1 << 20)
    kept.append([message(1), message(2)])
    def die(*_):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*_)
    real, os.fdatasync = os.fdatasync, die
    kept.append([message(number) for number in range(3, 103)])
    print("kept", flush=True)
    if kept.try_to_send():
        messages, offset = kept.first()
        kept.sent_up_to(offset)
""")


@pytest.mark.parametrize(
    ("step", "expected"),
    [(1, range(1, 3)), (2, range(1, 103)), (3, range(0))],
    ids=["records written, not counted", "header written", "all sent, log not yet cut"],
)
def test_a_crash_in_the_middle_of_a_write(tmp_path: Path, said: list[str], step: int, expected: range) -> None:
    """A process that dies at a sync leaves all of an append or nothing of it; what was kept before is there."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), str(step)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (done.stdout == "kept\n") == (step == 3)
    kept = Spool(tmp_path, "job-events", MIB, said.append)
    assert content(kept) == list(expected)
    assert len(said) == (1 if step in (1, 3) else 0)


def _append_many(directory: Path, regression: str) -> None:
    kept = Spool(directory, "job-events", 10 * MIB)
    for number in range(100):
        kept.append([message(2 * number, regression), message(2 * number + 1, regression)])


def test_processes_that_keep_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(tmp_path, f"r/{number}")) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    of: dict[str, list[int]] = {}
    for item in Spool(tmp_path, "job-events", 10 * MIB).first()[0]:
        of.setdefault(item.regression, []).append(int(json.loads(item.body)["uniqueid"]))
    assert of == {f"r/{number}": list(range(200)) for number in range(3)}


def test_only_one_sends(kept: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path / "spool", "job-events", MIB)
    assert kept.try_to_send()
    assert not other.try_to_send()
    other.append([message(1)])
    kept.sending_ends()
    assert other.try_to_send()
    other.sending_ends()


# With a broker


def test_without_a_spool_nothing_is_kept(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        publish.Publisher.__init__, "__kwdefaults__", {"delivery_seconds": 30.0, "connect_seconds": 0.3}
    )
    outcome = deliver(away(make_config({"tunnel.spool": ""})), [message(number) for number in range(10)])
    assert (outcome.sent, outcome.kept.count, outcome.undelivered.count) == (0, 0, 10)
    assert outcome.undelivered.sources == {"x.ndjson": (10, 1, 10)}


def test_what_was_kept_is_sent_before_what_is_new(config: Config) -> None:
    gone = away(config)
    first = deliver(gone, [message(number) for number in range(10)])
    second = deliver(gone, [message(number) for number in range(10, 15)])
    assert (first.kept.count, second.kept.count, second.sent) == (10, 5, 0)
    assert first.reason is not None
    third = deliver(config, [message(number) for number in range(15, 20)])
    assert (third.resent, third.sent, third.kept.count, third.reason) == (15, 5, 0, None)
    assert [int(json.loads(record.value)["uniqueid"]) for record in events(config)] == list(range(20))
    assert events(config)[0].headers == (("type", b"job-live"), ("traceparent", b"00"))
    assert deliver(config, [message(20)]).resent == 0


def test_a_full_spool_says_what_is_lost_and_lets_nothing_overtake(make_config: MakeConfig) -> None:
    config = make_config({"tunnel.spoolbytes": 500})
    outcome = deliver(away(config), [message(number) for number in range(30)])
    assert 0 < outcome.kept.count < 10
    assert outcome.kept.count + outcome.undelivered.count == 30
    assert outcome.full is not None
    assert "spoolbytes is 500" in outcome.full
    deliver(config, [])
    numbers = [int(json.loads(record.value)["uniqueid"]) for record in events(config)]
    assert numbers == list(range(outcome.kept.count))


def test_a_call_that_meets_a_sender_waits_and_then_keeps(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "WAIT_SECONDS", 0.3)
    deliver(away(config), [message(0)])
    other = spool.of(config)
    assert other is not None
    assert other.try_to_send()
    outcome = deliver(config, [message(1)])
    assert (outcome.sent, outcome.kept.count) == (0, 1)
    other.sending_ends()
    assert deliver(config, [message(2)]).resent == 2
    assert [int(json.loads(record.value)["uniqueid"]) for record in events(config)] == [0, 1, 2]


def test_the_broker_goes_in_the_middle(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no acknowledgement is kept, with all that comes after it, and nothing is missing in the end."""
    real, sent, sent_max = Sender.send, [], 3

    def send_some(self: Sender, partition: int, batch: Batch) -> asyncio.Future[None]:
        if len(sent) < sent_max:
            sent.append(real(self, partition, batch))
            return sent[-1]
        return asyncio.ensure_future(no_answer())

    async def no_answer() -> None:
        await asyncio.gather(*sent)
        raise TimeoutError

    monkeypatch.setattr(publish, "BATCH_BYTES", 2000)
    monkeypatch.setattr(Sender, "send", send_some)
    given = [message(number, f"r/{number % 3}") for number in range(500)]
    first = deliver(config, given)
    assert 0 < first.sent < 500
    assert first.sent + first.kept.count == 500
    sent, sent_max = [], 2  # the next call is cut off in the middle of the spool
    second = deliver(config, [message(500, "r/0")])
    assert (second.sent, second.kept.count) == (0, 1)
    monkeypatch.setattr(Sender, "send", real)
    third = deliver(config, [message(503, "r/2")])
    assert (third.resent, third.sent) == (first.kept.count + 1, 1)
    of: dict[bytes, list[int]] = {}
    for record in events(config):
        numbers = of.setdefault(record.key, [])
        number = int(json.loads(record.value)["uniqueid"])
        if number not in numbers:  # at least once
            numbers.append(number)
    expected = {f"r/{rest}".encode(): [number for number in range(500) if number % 3 == rest] for rest in range(3)}
    expected[b"r/0"].append(500)
    expected[b"r/2"].append(503)
    assert of == expected
