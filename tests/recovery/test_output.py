"""An output topic does not take what the worker writes: its limit of a record is too small, it is gone, or the worker has no right to it.

The worker ends with one clear line and commits nothing past the message concerned; when the topic is put right (`deploy/RUNBOOK.md`), it goes on, and nothing is lost. How: the
topic's limit is lowered, or the worker's right to write is taken away (on a real broker with ACLs), in the middle of its work.
"""

import asyncio
from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from harness import Site, WorkerProcess
from secure import SecureBroker, SecureSite
from verdict import verdict

from livejobs.streams.kafka import topics
from livejobs.streams.kafka.client import ENDS

TOPIC, LITERAL, WRITE, DENY = 2, 3, 4, 2
"""Kafka's numbers."""


def set_limit(site: Site, topic: str, limit_bytes: int) -> None:
    site.admin("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(limit_bytes)})])


def assert_ends_clearly(worker: WorkerProcess, *words: str) -> None:
    assert worker.wait(90) == 70, worker.tail()
    said = worker.output().splitlines()[-1]
    assert "the worker ends" in said, worker.tail()
    assert all(word in said for word in words), said
    assert "Traceback" not in worker.output(), worker.tail()


@pytest.mark.parametrize("output", ["jobs", "stats", "rejects"])
def test_a_limit_that_is_too_small(output: str, site: Site) -> None:
    topic = getattr(site.config.kafka, f"{output}_topic")
    worker = site.start(instanceid="one").ready()
    site.stats("run", site.send("regr-start", "run"))
    set_limit(site, topic, 3_000)
    if output == "rejects":
        sent = site.send("job-finish", "run", b"{" + b" " * 10_000)
    elif output == "stats":
        sent = site.send("regr-update", "run", {"note": "x" * 10_000})
    else:
        sent = site.send("job-finish", "run", {"uniqueid": "one", "result": "pass", "note": "x" * 10_000})
    assert_ends_clearly(worker, "a record that it writes is over its limit", topic, "max.message.bytes", "livejobs topics check")
    again = site.start(instanceid="one")
    assert_ends_clearly(again, "a record that it writes is over its limit")
    assert site.committed()[sent.partition] <= sent.offset
    set_limit(site, topic, 2 << 20)
    site.start(instanceid="one").ready()
    site.wait_for_no_lag()
    if output == "rejects":
        assert site.reject_of(sent).value == b"{" + b" " * 10_000
    elif output == "stats":
        assert site.stats("run", sent)["fields"] == {"note": "x" * 10_000}
    else:
        assert site.stats("run", sent)["pass"] == 1
    verdict(site)


def test_the_runbook_has_every_end() -> None:
    runbook = (Path(__file__).resolve().parents[2] / "deploy" / "RUNBOOK.md").read_text(encoding="utf-8")
    for text in ENDS.values():
        assert text.split(";")[0] in runbook


async def change_right(broker: SecureBroker, request: CreateAclsRequest | DeleteAclsRequest) -> None:
    connection = AIOKafkaConnection("127.0.0.1", broker.port)
    await connection.connect()
    try:
        answer = repr(await connection.send(request))
        assert "error_code=0" in answer, answer
    finally:
        await connection.close()


@pytest.mark.parametrize("output", ["jobs", "stats"])
def test_a_right_that_is_taken_away(output: str, secure_broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory) -> None:
    with SecureSite(secure_broker, tmp_path_factory.mktemp("rights")) as site:
        prefix = site.config.kafka.topicprefix
        secure_broker.acls("--apply", "--prefix", prefix, "--worker", "User:worker")
        site.background.run(topics.create(site.config))
        topic = getattr(site.config.kafka, f"{output}_topic")
        login = secure_broker.login("worker")
        worker = site.start_as(login).ready()
        site.stats("run", site.send("regr-start", "run"))
        right = (TOPIC, topic, LITERAL, "User:worker", "*", WRITE, DENY)
        asyncio.run(change_right(secure_broker, CreateAclsRequest(*right)))
        sent = site.send("job-finish", "run", {"uniqueid": "one", "result": "pass"})
        assert_ends_clearly(worker, "no right to a topic", topic, "deploy/acls.sh")
        assert site.committed()[sent.partition] <= sent.offset
        asyncio.run(change_right(secure_broker, DeleteAclsRequest(*right)))
        site.start_as(login).ready()
        assert site.stats("run", sent)["pass"] == 1
        verdict(site)
