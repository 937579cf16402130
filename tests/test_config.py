"""The configuration: where values come from, and one clear line for each mistake."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from livejobs.streams import config as configuration
from livejobs.streams.config import Config, ConfigError
from livejobs.streams.kafka.client import client_options

SASL = {"kafka.protocol": "SASL_SSL", "kafka.mechanism": "PLAIN", "kafka.username": "u"}


def load(
    flags: dict[str, Any] | None = None, toml: str | None = None, tmp_path: Path | None = None, **env: str
) -> Config:
    path = None
    if toml is not None:
        assert tmp_path is not None
        path = tmp_path / "livejobs.toml"
        path.write_text(toml, encoding="utf-8")
    return configuration.load(path, flags, env)


def error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_are_those_of_the_specification() -> None:
    config = load()
    sigs, kafka, worker, web, tunnel = config.sigs, config.kafka, config.worker, config.web, config.tunnel
    assert (sigs.enablelivejobs, sigs.livetimeoutsignature, sigs.autotimeouthours) == (False, None, None)
    assert (sigs.liveprunedays, sigs.eventsretentiondays, sigs.retentiondays, sigs.statsdays) == (7, 14, 7, 365)
    assert (kafka.brokers, kafka.topicprefix, kafka.partitions, kafka.replication) == ("localhost:9092", "", 8, 1)
    assert (worker.datadir, worker.tickseconds, worker.healthbind, worker.instanceid) == (
        "data",
        1,
        "127.0.0.1:8081",
        "",
    )
    assert (web.bind, web.datadir) == ("127.0.0.1:8080", "view")
    assert (tunnel.spool, tunnel.spoolbytes) == (None, 1073741824)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    toml = "[kafka]\npartitions = 2\nreplication = 2\ntopicprefix = 'file-'\n"
    env = {"LIVEJOBS_KAFKA_REPLICATION": "3", "LIVEJOBS_KAFKA_TOPICPREFIX": "env-"}
    kafka = load({"kafka.topicprefix": "flag-", "kafka.partitions": None}, toml, tmp_path, **env).kafka
    assert (kafka.partitions, kafka.replication, kafka.topicprefix) == (2, 3, "flag-")
    assert kafka.brokers == "localhost:9092"


def test_every_key_can_be_set_in_the_environment() -> None:
    texts = {bool: "true", int: "5", float: "1.5", str: "text"}
    for section, kind in configuration.SECTIONS.items():
        for key in kind.__struct_fields__:
            value = texts[configuration._key_type(section, key)]
            name = f"LIVEJOBS_{section}_{key}".upper()
            try:
                seen = str(getattr(getattr(configuration.load(environ={name: value}), section), key))
            except ConfigError as problem:  # "text" is no address, and a certificate needs a protocol
                seen = str(problem)
            assert seen.lower() in {value, "5.0"} or (f"[{section}]" in seen and "unknown" not in seen)


def test_the_environment_s_text_has_the_type_of_its_key() -> None:
    config = load(
        LIVEJOBS_SIGS_ENABLELIVEJOBS="true", LIVEJOBS_SIGS_LIVETIMEOUTSIGNATURE="1", LIVEJOBS_WORKER_TICKSECONDS="0"
    )
    assert config.sigs.enablelivejobs is True
    assert config.sigs.livetimeoutsignature == "1"
    assert config.worker.tickseconds == 0
    assert load(LIVEJOBS_SIGS_ENABLELIVEJOBS="false").sigs.enablelivejobs is False


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"LIVEJOBS_KAFKA_FOO": "1"}, "[kafka] foo is unknown (from LIVEJOBS_KAFKA_FOO); allowed are brokers,"),
        ({"LIVEJOBS_KAFKA_FOO_BAR": "1"}, "[kafka] foo_bar is unknown"),
        ({"LIVEJOBS_SIGS_": "1"}, "[sigs]  is unknown"),
        (
            {"LIVEJOBS_KAFKA_PARTITIONS": "8.5"},
            "[kafka] partitions must be an integer (from LIVEJOBS_KAFKA_PARTITIONS)",
        ),
        ({"LIVEJOBS_KAFKA_PARTITIONS": ""}, "[kafka] partitions must be an integer"),
        ({"LIVEJOBS_SIGS_ENABLELIVEJOBS": "yes"}, "[sigs] enablelivejobs must be true or false"),
        ({"LIVEJOBS_SIGS_ENABLELIVEJOBS": "1"}, "[sigs] enablelivejobs must be true or false"),
        ({"LIVEJOBS_SIGS_STATSDAYS": "long"}, "[sigs] statsdays must be a number"),
        ({"LIVEJOBS_WORKER_DATADIR": "\udcff"}, "[worker] datadir must be a string"),
    ],
)
def test_a_wrong_variable_of_one_of_our_sections_is_an_error(env: dict[str, str], said: str) -> None:
    assert said in error(**env)


def test_other_variables_are_none_of_our_business() -> None:
    assert load(LIVEJOBS_HOME="/x", LIVEJOBS_FOO_BAR="1", HOME="/", livejobs_kafka_brokers="x") == load()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[sig]\n", "[sig] is unknown; allowed are [sigs], [kafka], [worker], [web], [tunnel]"),
        ("[sigs]\nenableLiveJobs = true\n", "[sigs] enableLiveJobs is unknown; allowed are enablelivejobs,"),
        ("brokers = 'a:1'\n", "[brokers] is unknown"),
        ("kafka = 'a:1'\n", "kafka must be a section: [kafka]"),
        ("[sigs]\nenablelivejobs = 'true'\n", "[sigs] enablelivejobs must be true or false, not a string"),
        ("[sigs]\nenablelivejobs = 1\n", "[sigs] enablelivejobs must be true or false, not an integer"),
        ("[kafka]\npartitions = 8.0\n", "[kafka] partitions must be an integer, not a number with a fraction"),
        ("[kafka]\npartitions = true\n", "[kafka] partitions must be an integer, not a boolean"),
        ("[kafka]\nbrokers = ['a:1']\n", "[kafka] brokers must be a string, not an array"),
        ("[sigs]\nliveprunedays = 2026-01-01\n", "[sigs] liveprunedays must be a number, not a date"),
        ("[kafka]\npassword = 12345\n", "[kafka] password must be a string, not an integer"),
        ("[sigs\n", "is not TOML"),
        ("[sigs]\nstatsdays = 1\nstatsdays = 2\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_an_error(toml: str, said: str, tmp_path: Path) -> None:
    assert said in error(toml=toml, tmp_path=tmp_path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*none.toml: No such file"):
        configuration.load(tmp_path / "none.toml", environ={})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        configuration.load(tmp_path / "latin.toml", environ={})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"sigs.livetimeoutsignature": "x"}, "[sigs] livetimeoutsignature needs [sigs] enablelivejobs"),
        (
            {"sigs.livetimeoutsignature": "x", "sigs.enablelivejobs": False},
            "[sigs] livetimeoutsignature needs [sigs] enablelivejobs",
        ),
        ({"sigs.livetimeoutsignature": "", "sigs.enablelivejobs": True}, "livetimeoutsignature must be 1 to 256 bytes"),
        (
            {"sigs.livetimeoutsignature": "é" * 129, "sigs.enablelivejobs": True},
            "livetimeoutsignature must be 1 to 256",
        ),
        ({"sigs.autotimeouthours": 0}, "[sigs] autotimeouthours must be more than 0"),
        ({"sigs.autotimeouthours": 1e-9}, "[sigs] autotimeouthours must be at least one millisecond"),
        ({"sigs.liveprunedays": 0}, "[sigs] liveprunedays must be more than 0"),
        ({"sigs.liveprunedays": float("nan")}, "[sigs] liveprunedays must be more than 0"),
        ({"sigs.retentiondays": -1}, "[sigs] retentiondays must be more than 0"),
        ({"sigs.statsdays": float("inf")}, "[sigs] statsdays must be more than 0 and at most 36500 days"),
        ({"sigs.liveprunedays": 14}, "[sigs] eventsretentiondays must be more than [sigs] liveprunedays (14), not 14"),
        ({"kafka.partitions": 0}, "[kafka] partitions must be 1 to 10000"),
        ({"kafka.partitions": 10001}, "[kafka] partitions must be 1 to 10000"),
        ({"kafka.replication": 0}, "[kafka] replication must be 1 to"),
        ({"kafka.brokers": ""}, "[kafka] brokers must be host:port"),
        ({"kafka.brokers": "a:9092,b"}, "[kafka] brokers must be host:port"),
        ({"kafka.brokers": "a:0"}, "[kafka] brokers must be host:port"),
        ({"kafka.topicprefix": "a/"}, "[kafka] topicprefix makes a topic's name that Kafka does not allow"),
        ({"kafka.topicprefix": "a" * 240}, "[kafka] topicprefix makes a topic's name that Kafka does not allow"),
        ({"kafka.jobstopic": ""}, "[kafka] jobstopic makes a topic's name"),
        ({"kafka.jobstopic": ".."}, "[kafka] jobstopic makes a topic's name"),
        ({"kafka.jobstopic": "job-events"}, "[kafka] jobstopic must differ from the other topics' names"),
        ({"kafka.eventstopic": "jobs"}, "[kafka] eventstopic must differ from the other topics' names"),
        ({"kafka.protocol": "TLS"}, "[kafka] protocol must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"kafka.mechanism": "MD5"}, "[kafka] mechanism must be one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ({"kafka.mechanism": "PLAIN"}, "[kafka] mechanism needs [kafka] protocol SASL_PLAINTEXT or SASL_SSL"),
        ({"kafka.protocol": "SASL_SSL"}, "[kafka] protocol SASL_SSL needs [kafka] mechanism"),
        (SASL, "[kafka] mechanism PLAIN needs [kafka] password or passwordfile"),
        ({**SASL, "kafka.username": None, "kafka.password": "p"}, "[kafka] mechanism PLAIN needs [kafka] username"),
        ({**SASL, "kafka.password": "p", "kafka.passwordfile": "f"}, "password and passwordfile exclude each other"),
        ({"kafka.cafile": "ca.pem"}, "[kafka] cafile needs [kafka] protocol SSL or SASL_SSL"),
        ({"kafka.protocol": "SSL", "kafka.certfile": "c"}, "[kafka] certfile needs [kafka] keyfile"),
        ({"kafka.protocol": "SSL", "kafka.keyfile": "k"}, "[kafka] keyfile needs [kafka] certfile"),
        ({"kafka.protocol": "SSL", "kafka.cafile": ""}, "[kafka] cafile must not be empty"),
        ({"worker.tickseconds": -1}, "[worker] tickseconds must be 0 (no ticks) to 3600"),
        ({"worker.healthbind": "8081"}, "[worker] healthbind must be host:port"),
        ({"worker.healthbind": "a:65536"}, "[worker] healthbind must be host:port"),
        ({"worker.healthbind": "::1:80"}, "[worker] healthbind must be host:port"),
        ({"worker.datadir": ""}, "[worker] datadir must not be empty"),
        ({"web.bind": ":80"}, "[web] bind must be host:port"),
        ({"tunnel.bind": "x"}, "[tunnel] bind must be host:port"),
        ({"tunnel.bind": "0.0.0.0:7000"}, "[tunnel] bind must be on loopback"),
        ({"tunnel.bind": "localhost.example:7000"}, "[tunnel] bind must be on loopback"),
        ({"tunnel.socketmode": "rw"}, "[tunnel] socketmode must be octal digits"),
        ({"tunnel.socketmode": "0066"}, "[tunnel] socketmode must be octal digits"),
        ({"tunnel.spoolbytes": 0}, "[tunnel] spoolbytes must be 1 to"),
        ({"sigs.foo": 1}, "[sigs] foo is unknown"),
        ({"foo": 1}, "the flag foo belongs to no section"),
    ],
)
def test_an_impossible_value_or_pair_is_an_error(flags: dict[str, Any], said: str) -> None:
    assert said in error(flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"sigs.enablelivejobs": True, "sigs.livetimeoutsignature": "é" * 128},
        {"sigs.autotimeouthours": 0.25, "sigs.liveprunedays": 0.5, "sigs.eventsretentiondays": 0.6},
        {"kafka.brokers": "a:9092, b.example:9093,[::1]:9094"},
        {"kafka.topicprefix": "site.A_1-"},
        {"kafka.protocol": "SSL"},
        {**SASL, "kafka.passwordfile": "f"},
        {"worker.healthbind": "[::1]:0", "worker.tickseconds": 0},
        {"tunnel.spool": "", "tunnel.socket": "", "tunnel.bind": ""},
        {"tunnel.socketmode": "660", "tunnel.bind": "[::1]:7000"},
    ],
)
def test_what_is_possible_is_taken(flags: dict[str, Any]) -> None:
    load(flags)


def test_topics_have_the_prefix_unless_named_in_full() -> None:
    kafka = load({"kafka.topicprefix": "p-", "kafka.statstopic": "site.stats"}).kafka
    assert (kafka.events_topic, kafka.jobs_topic, kafka.rejects_topic) == ("p-job-events", "p-jobs", "p-job-rejects")
    assert kafka.stats_topic == "site.stats"
    assert kafka.group == "p-livejobs"


def test_a_password_is_never_shown() -> None:
    config = load({**SASL, "kafka.password": "hunter2"})
    assert "hunter2" not in repr(config) + str(config.kafka) + repr(config.kafka.__rich_repr__())
    assert "hunter2" not in error({**SASL, "kafka.password": "hunter2", "kafka.passwordfile": "f"})
    assert config.kafka.password == "hunter2"  # noqa: S105


def test_configuration_needs_none_of_the_engines() -> None:
    code = "import sys, livejobs.streams.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"faust", "aiokafka", "rocksdict", "asyncio", "click", "rich"} & set(done.stdout.split())


def test_client_options_read_the_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("  secret\n", encoding="utf-8")
    options = client_options(load({**SASL, "kafka.brokers": "a:1, b:2", "kafka.passwordfile": path}).kafka)
    context = options.pop("ssl_context")
    assert context.check_hostname
    assert options == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "u",
        "sasl_plain_password": "secret",
    }


def test_client_options_without_security_are_two() -> None:
    assert client_options(load().kafka) == {"bootstrap_servers": ["localhost:9092"], "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({**SASL, "kafka.passwordfile": "none"}, "passwordfile .*none can't be read"),
        ({**SASL, "kafka.passwordfile": "empty"}, "passwordfile .*empty is empty"),
        ({"kafka.protocol": "SSL", "kafka.cafile": "none"}, "cafile can't be used"),
        ({"kafka.protocol": "SSL", "kafka.cafile": "empty"}, "cafile can't be used"),
        ({"kafka.protocol": "SSL", "kafka.certfile": "empty", "kafka.keyfile": "empty"}, "certfile and keyfile can't"),
    ],
)
def test_a_security_file_that_cannot_be_used_is_named(flags: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    placed = {key: tmp_path / value if key.endswith("file") else value for key, value in flags.items()}
    with pytest.raises(ConfigError, match=said):
        client_options(load(placed).kafka)
