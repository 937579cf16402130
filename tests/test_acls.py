"""The rights that `deploy/acls.sh` gives are what each role needs, and no more.

A real broker that refuses everybody without a right; the script runs Kafka's own `kafka-acls` on it. Each role does its whole work as a user who has only that role;
then each tries everything that there is to do, and what it could do is compared with what it should.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.admin import (
    AlterConfigsRequest,
    CreateAclsRequest,
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from secure import ADMIN, ROLES, STRANGER, SecureBroker, SecureSite
from test_secure import command

from livejobs.streams.config import Config
from livejobs.streams.kafka.client import client_options

COMMANDS = 12
"""That the script prints when each role is given to somebody."""
REFUSED = {29, 30, 31, 53}
"""Kafka's error codes for a topic, a group, the cluster, a transactional id that one has no right to."""


@pytest.fixture(scope="module")
def site(secure_broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSite]:
    """Topics that the operator has made, and a worker; each user has the role of its name."""
    with SecureSite(secure_broker, tmp_path_factory.mktemp("acls")) as site:
        roles = [part for role in ROLES for part in (f"--{role}", f"User:{role}")]
        said = secure_broker.acls("--apply", "--prefix", site.config.kafka.topicprefix, *roles)
        assert said.count("kafka-acls") == COMMANDS
        for what in ("create", "check"):
            done = command(["topics", what], site.file("operator", secure_broker.login("operator")))
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
        site.start_as(secure_broker.login("worker", None)).ready()  # by its certificate; the others by password
        yield site


def run(site: SecureSite, broker: SecureBroker, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `livejobs ARGUMENTS` as a user."""
    return command(list(arguments), site.file(role, broker.login(role)))


def test_each_role_does_its_work(site: SecureSite, secure_broker: SecureBroker) -> None:
    folder = site.folder
    jobs = [{"uniqueid": str(number), "result": result} for number, result in enumerate(["live", "pass", "fail", "skip", "live"])]
    (folder / "live.ndjson").write_text("\n".join(json.dumps(job | {"result": "live"}) for job in jobs))
    (folder / "finish.ndjson").write_text("\n".join(json.dumps(job) for job in jobs[1:3]))
    (folder / "batch.json").write_text(json.dumps(jobs[3:4]))
    sent = {"regr-start": [], "job-live": ["--ndjson", "live.ndjson"], "job-finish": ["--ndjson", "finish.ndjson"], "batch-job-finish": ["batch.json"]}
    for kind, (*flags, file) in {kind: files or ["-"] for kind, files in sent.items()}.items():
        name = file if file == "-" else str(folder / file)
        done = run(site, secure_broker, "publisher", "publish", kind, "--regression", "night/1", *flags, name)
        assert done.returncode == 0, done.stderr
    site.status("night/1", "LIVE", live=2, finished=3)
    # What a worker does beside: it rejects, and sends on what is on a wrong partition.
    bad = site.send("job-finish", "night/1", b"{")
    assert site.reject_of(bad).value == b"{"
    site.send("regr-update", "night/1", {"tag": "sent on"}, partition=1 - site.partition_of("night/1"))
    site.wait_for(lambda: (site.reader.stats["night/1"] or {"fields": {}})["fields"].get("tag") == "sent on")
    assert run(site, secure_broker, "operator", "tank", "night/1").returncode == 0
    site.status("night/1", "TANKED", live=0)
    assert run(site, secure_broker, "operator", "untank", "night/1").returncode == 0
    site.status("night/1", "LIVE")
    done = run(site, secure_broker, "verifier", "verify", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checked"] == 1
    # A second start restores from the tables; a second worker takes a part of the partitions.
    assert site.workers[0].stop()[0] == 0
    site.start_as(secure_broker.login("worker", None)).ready()
    site.start_as(secure_broker.login("worker", None), "second").ready()
    site.stats("night/1", site.send("regr-finish", "night/1"))
    site.wait_for_no_lag()
    for worker in site.workers[1:]:
        assert worker.stop()[0] == 0
    site.assert_as_the_model()


@pytest.mark.parametrize(
    ("role", "arguments", "text"),
    [
        ("viewer", ["tank", "r"], "does not take messages"),
        ("viewer", ["verify"], "missing on the broker"),
        ("publisher", ["topics", "check"], "can't be read: Topic authorization failed"),
        ("publisher", ["worker"], "missing on the broker"),
        ("worker", ["topics", "create"], "can't be read: Topic authorization failed"),
        (STRANGER, ["topics", "create"], "can't be created: Authorization failed"),
        (STRANGER, ["publish", "regr-start", "--regression", "r"], "does not take messages"),
    ],
)
def test_a_command_without_the_right_says_so_in_one_line(
    role: str, arguments: list[str], text: str, site: SecureSite, secure_broker: SecureBroker
) -> None:
    done = run(site, secure_broker, role, *arguments)
    kept = "messages" in text
    assert (done.returncode, done.stderr.count("\n")) == ((75, 2) if kept else (69, 1)), done.stderr
    assert text in done.stderr


# --- everything there is to do ----------------------------------------------------------------------------------------


def deeds(site: SecureSite) -> dict[str, Any]:
    """What one may try, as requests that change nothing even where they are allowed."""
    kafka = site.config.kafka
    topics = {"events": kafka.events_topic, "jobs": kafka.jobs_topic, "stats": kafka.stats_topic, "rejects": kafka.rejects_topic}
    found: dict[str, Any] = {}
    for what, topic in topics.items():
        setting = ("retention.ms", "1")
        found |= {
            f"write {what}": ProduceRequest(None, -1, 5000, [(topic, [(0, b"")])]),
            f"read {what}": FetchRequest(10, 0, 1000, 0, [(topic, [(0, 0, 1000)])]),
            f"see {what}": MetadataRequest([topic], allow_auto_topic_creation=False),
            f"see settings of {what}": DescribeConfigsRequest([(2, topic, [setting[0]])]),
            f"change settings of {what}": AlterConfigsRequest([(2, topic, [setting])], validate_only=True),
            f"clear {what}": DeleteRecordsRequest([(topic, [(0, 0)])], 5000),
            f"create {what}": CreateTopicsRequest([(topic, 1, 1, [], [])], 5000, validate_only=True),
        }
    for what, name in {"workers": kafka.group, "other": "another"}.items():
        found |= {
            f"be in {what}' group": HeartbeatRequest(name, 1, "nobody"),
            f"see {what}' group": OffsetFetchRequest(name, [(kafka.events_topic, [0])]),
            f"delete {what}' group": DeleteGroupsRequest([name]),
        }
    return found | {
        "transact as a worker": InitProducerIdRequest(f"{kafka.group}-99", 1000),
        "transact": InitProducerIdRequest("mine", 1000),
        "create another": CreateTopicsRequest([(f"{kafka.topicprefix}another", 1, 1, [], [])], 5000, validate_only=True),
        "write another": ProduceRequest(None, -1, 5000, [("another", [(0, b"")])]),
        "delete events": DeleteTopicsRequest([kafka.events_topic], 5000),
        "give rights": CreateAclsRequest(2, kafka.events_topic, 3, f"User:{STRANGER}", "*", 3, 3),
    }


async def done_by(config: Config, tried: dict[str, Any]) -> set[str]:
    """What of it the broker did not refuse, or refused for another reason than a right."""
    options = client_options(config.kafka)
    host, port = options.pop("bootstrap_servers")[0].rsplit(":", 1)
    connection = AIOKafkaConnection(host, int(port), **options)
    await connection.connect()
    try:
        could = set()
        for name, request in tried.items():
            answer = repr(await connection.send(request))
            codes = {int(code) for code in re.findall(r"error_code=(-?\d+)", answer)}
            assert codes, answer
            if not codes & REFUSED:
                could.add(name)
        return could
    finally:
        await connection.close()


SEEN = {f"see {topic}" for topic in ("events", "jobs", "stats", "rejects")}
RIGHTS = {
    "publisher": {"see events", "write events"},
    "worker": {
        *SEEN,
        *("read events", "read jobs", "read stats", "read rejects"),
        *("write events", "write jobs", "write stats", "write rejects"),
        *("see settings of events", "see settings of jobs", "see settings of stats"),
        *("be in workers' group", "see workers' group", "transact as a worker"),
    },
    "viewer": {"see jobs", "see stats", "read jobs", "read stats"},
    "verifier": {*SEEN, "read events", "read jobs", "read stats", "see settings of events", "see workers' group"},
    "operator": {
        *SEEN,
        *(f"{what} {topic}" for topic in ("events", "jobs", "stats", "rejects") for what in ("see settings of", "create")),
        "write events",
    },
    STRANGER: set[str](),
}


@pytest.mark.parametrize("role", [*ROLES, STRANGER])
def test_a_role_can_do_its_own_and_no_more(role: str, site: SecureSite, secure_broker: SecureBroker) -> None:
    assert asyncio.run(done_by(site.config_of(secure_broker.login(role)), deeds(site))) == RIGHTS[role]


def test_what_is_tried_is_all_possible(site: SecureSite, secure_broker: SecureBroker) -> None:
    """With all rights nothing is refused; but for what would do harm."""
    tried = {name: request for name, request in deeds(site).items() if name not in ("delete events", "give rights")}
    assert asyncio.run(done_by(site.config_of(secure_broker.login(ADMIN)), tried)) == set(tried)


def test_rights_are_taken_away_again(site: SecureSite, secure_broker: SecureBroker) -> None:
    prefix = site.config.kafka.topicprefix
    secure_broker.acls("--apply", "--remove", "--prefix", prefix, "--viewer", "User:viewer")
    assert asyncio.run(done_by(site.config_of(secure_broker.login("viewer")), deeds(site))) == set()


# --- the script itself ------------------------------------------------------------------------------------------------


def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parent.parent / "deploy" / "acls.sh"
    # A program that does not exist: nothing may be run.
    return subprocess.run([script, *arguments], env={"KAFKA_ACLS": "./none"}, capture_output=True, text=True, check=False)


def test_without_apply_nothing_is_run_and_names_are_quoted() -> None:
    name = "User:CN=it's a farm,O=x"
    done = printed("--prefix", "a-", "--events", "my-events", "--command-config", "admin.properties", "--publisher", name, "--viewer", "User:v")
    assert done.returncode == 0
    publisher, viewer = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert publisher == (
        "./none --bootstrap-server localhost:9092 --add --command-config admin.properties --topic my-events --operation Write "
        "--allow-principal 'User:CN=it'\\''s a farm,O=x'"
    )
    assert viewer.endswith("--topic a-jobs --topic a-regression-stats --operation Read --allow-principal User:v")


@pytest.mark.parametrize(
    "arguments", [[], ["--viewer"], ["--viewer", ""], ["--viewer", "ada"], ["--viewer", "User:a\nb"], ["--what", "x"], ["--prefix", "a-"]]
)
def test_a_mistake_on_its_command_line_is_one_line(arguments: list[str]) -> None:
    done = printed(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_command_that_fails_ends_it() -> None:
    done = printed("--apply", "--viewer", "User:v", "--operator", "User:o")
    assert done.returncode == 2
    assert "were not run" in done.stderr
    assert "operator" not in done.stdout.lower()
