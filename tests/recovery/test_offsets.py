"""The committed offsets are gone, or `job-events` was cut beyond them: the same state, nothing said twice; or a clear refusal, never a silent reset.

How: the group is deleted as Kafka itself does when it was empty for a week, with the disk kept, wiped, too old to be used, or as a kill left it (a store has no log of
its own, so it is behind). Messages are removed with DeleteRecords, under a worker that is stopped and under one that runs.
"""

import json
import shutil
import signal
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import CommitFailedError, UnknownMemberIdError
from aiokafka.protocol.admin import DeleteGroupsRequest
from harness import SECONDS, Site, WorkerProcess
from load import Load, Message
from verdict import verdict

from livejobs.streams.kafka import topics
from livejobs.tables.store import Store

DAY_MS = 86_400_000
NON_EMPTY_GROUP = 68


def delete_offsets(site: Site) -> None:
    """Delete the group; one that was killed is a member until its session is over."""
    deadline = time.monotonic() + SECONDS
    while code := site.background.run(_delete_group(site)):
        assert code == NON_EMPTY_GROUP
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not any(site.committed().values())


async def _delete_group(site: Site) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.config.kafka.brokers)
    await admin.start()
    try:
        group = site.config.kafka.group
        answer = await admin._send_request(DeleteGroupsRequest([group]), await admin.find_coordinator(group))
        return int(answer.results[0][1])
    finally:
        await admin.close()


def cut(site: Site, partition: int, before: int) -> None:
    """Remove the messages before an offset."""
    tp = TopicPartition(site.config.kafka.events_topic, partition)
    site.admin("delete_records", {tp: RecordsToDelete(before)})


def end_of(site: Site, partition: int = 0) -> int:
    """The offset behind the last message."""
    return 1 + max(record.offset for record in site.reader.events.records if record.partition == partition)


def make_old(site: Site) -> None:
    """As if the disk had been away for eight days, so that tombstones may be gone."""
    for number in range(site.partitions):
        store = Store(site.disk() / site.config.kafka.group / str(number))
        store.position.updated_ms -= 8 * DAY_MS
        store.write([])
        store.close()


def leave_no_trace(site: Site, name: str) -> list[Message]:
    """Messages that change nothing, are rejected, or belong elsewhere: all that no statistics tell of."""
    finish = json.dumps({"uniqueid": "a", "result": "pass"}).encode()
    bad = [("job-finish", name, b"no JSON"), ("job-done", name, b"{}"), ("batch-job-finish", name, b'[1, {"x": 2}]')]
    return [("job-finish", name, finish), *bad * 3, ("job-finish", name, finish)]


@pytest.mark.parametrize("disk", ["kept", "wiped", "old", "killed"])
def test_committed_offsets_are_deleted(disk: str, site: Site) -> None:
    names = [f"{number}" for number in range(16)]
    load = Load(f"offsets {disk}", 4_000, 10)
    first, second = load.parts(2)
    site.start().ready()
    site.load([*first, *(message for name in names for message in leave_no_trace(site, name))], 4_000).result()
    for name in names:  # the last that was applied is rejected
        site.send("job-finish", name, b"{")
    site.send("job-finish", "r", {"uniqueid": "x", "result": "pass"}, partition=1 - site.partition_of("r") % 2)
    site.wait_for_no_lag()
    before = state(site)
    if disk == "killed":
        site.workers[0].kill()
    else:
        assert site.workers[0].stop()[0] == 0
    delete_offsets(site)
    if disk == "wiped":
        shutil.rmtree(site.disk())
    elif disk == "old":
        make_old(site)
    site.start().ready()
    for number in range(site.partitions):
        site.settle(number)
    assert without_probes(state(site)) == before
    site.load(second, 4_000).result()
    verdict(site, load)


State = tuple[dict[bytes, Any], dict[bytes, Any], list[Any]]


def state(site: Site) -> State:
    site.reader.read_to_the_end()
    rejects = [(record.partition, record.key, record.value, record.headers) for record in site.reader.rejects.records]
    return dict(site.reader.jobs.last), dict(site.reader.stats.last), rejects


def without_probes(found: State) -> State:
    jobs, stats, rejects = found
    return jobs, {key: value for key, value in stats.items() if not key.startswith(b"probe/")}, rejects


# --- messages are gone ------------------------------------------------------------------------------------------------


def assert_refused(worker: WorkerProcess, *words: str) -> None:
    assert worker.wait() == 70
    lines = [line for line in worker.output().splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, worker.output()
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("offsets", ["committed", "deleted"])
@pytest.mark.parametrize("disk", ["kept", "wiped"])
def test_job_events_were_cut_below_the_next_message(offsets: str, disk: str, site: Site) -> None:
    """Refused at each start, until an operator says that it may go on without them."""
    name = next(name for name in map(str, range(100)) if site.partition_of(name) == 0)
    worker = site.start().ready()
    site.stats(name, site.send("job-finish", name, {"uniqueid": "a", "result": "pass"}))
    assert worker.stop()[0] == 0
    at = site.committed()[0]
    for number in range(5):
        site.send("job-finish", name, {"uniqueid": f"unread {number}", "result": "pass"})
    left = site.send("job-finish", name, {"uniqueid": "left", "result": "pass"}).offset
    if offsets == "deleted":
        delete_offsets(site)
    if disk == "wiped":
        shutil.rmtree(site.disk())
    cut(site, 0, left)
    for attempt in range(2):
        # Without offsets and disk, what is known is the last trace: ticks behind it may come first.
        next_message = "" if (offsets, disk) == ("deleted", "wiped") else f"the next message to apply is {at}, "
        assert_refused(
            site.start(f"refused {attempt}", datadir=str(site.disk())),
            f"{site.config.kafka.events_topic} partition 0: ",
            f"{next_message}the topic holds {left} to {left + 1}",
            f"set the offset of the group {site.config.kafka.group} to {left}",
        )
    set_offset(site, 0, left)
    site.start("again", datadir=str(site.disk())).ready()
    site.settle(0)
    assert site.reader.stats[name]["pass"] == 2
    assert set(site.jobs(name)) == {"a", "left"}
    assert site.reader.stats.went_back == []


def set_offset(site: Site, partition: int, offset: int) -> None:
    """As `kafka-consumer-groups --reset-offsets` does, once the group has no members; one that ended by itself is a member until its session is over."""

    async def commit() -> None:
        kafka = site.config.kafka
        tp = TopicPartition(kafka.events_topic, partition)
        async with AIOKafkaConsumer(bootstrap_servers=kafka.brokers, group_id=kafka.group, enable_auto_commit=False) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: offset})

    deadline = time.monotonic() + SECONDS
    while True:
        try:
            site.background.run(commit())
        except (CommitFailedError, UnknownMemberIdError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def test_job_events_are_cut_under_a_worker_that_is_behind(site: Site) -> None:
    """It is stopped for less than its session; the messages come and go meanwhile."""
    worker = site.start(tickseconds=0).ready()
    name = next(name for name in map(str, range(100)) if site.partition_of(name) == 0)
    site.stats(name, site.send("job-finish", name, {"uniqueid": "a", "result": "pass"}))
    worker.process.send_signal(signal.SIGSTOP)
    for number in range(5):
        last = site.send("job-finish", name, {"uniqueid": f"unread {number}", "result": "pass"}).offset
    cut(site, 0, last + 1)
    worker.expected_to_run = False
    worker.process.send_signal(signal.SIGCONT)
    site.send("job-finish", name, {"uniqueid": "left", "result": "pass"})
    assert_refused(worker, f"{site.config.kafka.events_topic} partition 0: ", f"set the offset of the group {site.config.kafka.group} to {last + 1}")
    applied = site.jobs(name)  # some may have been on their way when it was stopped
    assert set(applied) == {"a", *(f"unread {number}" for number in range(len(applied) - 1))}


def test_job_events_were_made_anew(site: Site) -> None:
    worker = site.start().ready()
    for number in range(site.partitions):
        site.settle(number)
    assert worker.stop()[0] == 0
    topic = site.config.kafka.events_topic
    site.admin("delete_topics", [topic])
    site.background.run(topics.create(site.config))
    assert_refused(site.start("refused", datadir=str(site.disk())), f"{topic} partition ", "the topic holds 0 to 0", "was made anew")
