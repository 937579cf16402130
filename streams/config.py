"""The configuration: one TOML file, the environment, flags.

A flag beats the environment, which beats the file, which beats the default. Every mistake is a `ConfigError` of one
line that names the key (`[sigs] liveprunedays`) and what is allowed; nothing is silently ignored. The publisher
imports this module, so it needs only msgspec.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias, get_args

import msgspec

from livejobs.streams.core.signature import BYTES_MAX as SIGNATURE_BYTES_MAX
from livejobs.tables.times import DAY_MS, HOUR_MS

ENVIRONMENT_PREFIX = "LIVEJOBS_"
PARTITIONS_MAX = 10_000
DAYS_MAX = 36_500  # a hundred years: far above any use, and every sum of milliseconds stays far below 2^63
TOPIC_CHARACTERS_MAX = 249  # Kafka's own limit
TICK_SECONDS_MAX = 3600.0

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
TOPIC_KEYS = ("eventstopic", "jobstopic", "statstopic", "rejectstopic")


class ConfigError(ValueError):
    """The configuration can't be used: one line that names the key and what is allowed."""


class Sigs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of the fold. Days and hours may have fractions."""

    enablelivejobs: bool = False
    livetimeoutsignature: str | None = None
    autotimeouthours: float | None = None
    liveprunedays: float = 7.0
    eventsretentiondays: float = 14.0
    retentiondays: float = 7.0
    statsdays: float = 365.0


class Kafka(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is, how to get in, and what our topics are called."""

    brokers: str = "localhost:9092"
    topicprefix: str = ""
    eventstopic: str | None = None
    jobstopic: str | None = None
    statstopic: str | None = None
    rejectstopic: str | None = None
    partitions: int = 8
    replication: int = 1
    protocol: str = "PLAINTEXT"
    mechanism: str | None = None
    username: str | None = None
    password: str | None = None
    passwordfile: str | None = None
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def events_topic(self) -> str:
        """Full name of the topic that messages come from."""
        return self.eventstopic or self.topicprefix + "job-events"

    @property
    def jobs_topic(self) -> str:
        """Full name of the topic of job records."""
        return self.jobstopic or self.topicprefix + "jobs"

    @property
    def stats_topic(self) -> str:
        """Full name of the topic of statistics records."""
        return self.statstopic or self.topicprefix + "regression-stats"

    @property
    def rejects_topic(self) -> str:
        """Full name of the topic that rejected messages go to."""
        return self.rejectstopic or self.topicprefix + "job-rejects"

    @property
    def group(self) -> str:
        """The workers' consumer group."""
        return self.topicprefix + "livejobs"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Name and value of each field, without the password: msgspec's own would put it into logs and tracebacks."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.password is not None:
            values["password"] = "***"  # noqa: S105  it hides one
        return list(values.items())

    def __repr__(self) -> str:
        return f"Kafka({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Worker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker.

    `tickseconds` 0: it sends no ticks. `healthbind` with port 0: any free port. `instanceid` empty: no static
    membership.
    """

    datadir: str = "data"
    tickseconds: float = 1.0
    healthbind: str = "127.0.0.1:8081"
    instanceid: str = ""


class Web(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The web view and API."""

    bind: str = "127.0.0.1:8080"
    datadir: str = "view"
    tokenfile: str | None = None
    trustedheader: str | None = None
    adminrole: str | None = None


class Tunnel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The publisher. Without `spool` nothing is kept on disk when the broker is away.

    `socket` is where the long-lived one listens, with the access rights `socketmode` (octal); `bind` is where it
    listens, too. All three may be empty, which is the same as missing.
    """

    spool: str | None = None
    spoolbytes: int = 1 << 30
    socket: str | None = None
    socketmode: str = "0600"
    bind: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Made without `load` it is not checked."""

    sigs: Sigs = Sigs()
    kafka: Kafka = Kafka()
    worker: Worker = Worker()
    web: Web = Web()
    tunnel: Tunnel = Tunnel()


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "sigs": Sigs,
    "kafka": Kafka,
    "worker": Worker,
    "web": Web,
    "tunnel": Tunnel,
}
Raw: TypeAlias = dict[str, dict[str, object]]
"""Section -> key -> value as given; the text of the environment and of flags already has the key's type."""

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def load(
    path: Path | str | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read the file at `path` (if any), the environment and `flags` ("section.key" -> value; None is a flag not given).

    Raises ConfigError, also when the file can't be read. Relative paths are relative to the current directory.
    """
    raw: Raw = {section: {} for section in SECTIONS}
    if path is not None:
        _merge_file(raw, Path(path))
    _merge_environment(raw, environ)
    _merge_flags(raw, flags or {})
    sections = {name: _section(name, values) for name, values in raw.items()}
    config = msgspec.convert(sections, Config)
    check(config)
    return config


def check(config: Config) -> None:
    """What types can't say. Raises ConfigError for the first rule broken."""
    _check_sigs(config.sigs)
    _check_topics(config.kafka)
    _check_security(config.kafka)
    _check_ends(config)


def _merge_file(raw: Raw, path: Path) -> None:
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for section, values in document.items():
        if section not in SECTIONS:
            raise ConfigError(f"[{section}] is unknown; allowed are {_listed(f'[{name}]' for name in SECTIONS)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{section} must be a section: [{section}]")
        for key, value in values.items():
            _key_type(section, key)
            raw[section][key] = value


def _merge_environment(raw: Raw, environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        section, underscore, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if name != name.upper() or not name.startswith(ENVIRONMENT_PREFIX) or not underscore or section not in SECTIONS:
            continue  # not one of ours
        raw[section][key] = _from_text(section, key, text, f"from {name}")


def _merge_flags(raw: Raw, flags: Mapping[str, object]) -> None:
    for name, value in flags.items():
        if value is None:
            continue
        section, _, key = name.partition(".")
        if section not in SECTIONS:
            raise ConfigError(f"the flag {name} belongs to no section; allowed are {_listed(SECTIONS)}")
        _key_type(section, key)
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        raw[section][key] = _from_text(section, key, plain, "from a flag") if isinstance(plain, str) else plain


def _key_type(section: str, key: str, source: str = "") -> type:
    """The type of a key's value, without the None of one that may be absent. Raises ConfigError for an unknown key."""
    for field in msgspec.structs.fields(SECTIONS[section]):
        if field.name == key:
            kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
            kind: type = kinds[0] if kinds else field.type
            return kind
    allowed = _listed(SECTIONS[section].__struct_fields__)
    raise ConfigError(f"[{section}] {key} is unknown{source}; allowed are {allowed}")


def _from_text(section: str, key: str, text: str, source: str) -> object:
    """The value that a text from the environment or a flag stands for, by the type of the key."""
    kind = _key_type(section, key, f" ({source})")
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        text.encode()  # an environment of other bytes than UTF-8 comes as lone surrogates
    except (KeyError, ValueError):
        raise ConfigError(f"[{section}] {key} must be {_NAMES[kind]} ({source})") from None
    return text


def _section(section: str, values: Mapping[str, object]) -> msgspec.Struct:
    for key, value in values.items():
        kind = _key_type(section, key)
        try:
            msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError:
            raise ConfigError(f"[{section}] {key} must be {_NAMES[kind]}, not {_shown(value)}") from None
    return msgspec.convert(values, SECTIONS[section], strict=True)


def _shown(value: object) -> str:
    """What a value of the wrong type is, without its text: it may be a password in the wrong place."""
    names = {bool: "a boolean", int: "an integer", float: "a number with a fraction", str: "a string", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else f"a {type(value).__name__}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _check_sigs(sigs: Sigs) -> None:
    for key in ("liveprunedays", "eventsretentiondays", "retentiondays", "statsdays"):
        _check_span("[sigs] " + key, getattr(sigs, key), DAY_MS, DAYS_MAX, "days")
    if sigs.autotimeouthours is not None:
        _check_span("[sigs] autotimeouthours", sigs.autotimeouthours, HOUR_MS, DAYS_MAX * 24, "hours")
    if sigs.eventsretentiondays <= sigs.liveprunedays:
        bound = f"more than [sigs] liveprunedays ({sigs.liveprunedays:g})"
        raise ConfigError(f"[sigs] eventsretentiondays must be {bound}, not {sigs.eventsretentiondays:g}")
    signature = sigs.livetimeoutsignature
    if signature is None:
        return
    if not signature.strip() or len(signature.encode()) > SIGNATURE_BYTES_MAX:
        allowed = f"1 to {SIGNATURE_BYTES_MAX} bytes of UTF-8, not only blanks"
        raise ConfigError(f"[sigs] livetimeoutsignature must be {allowed}")
    if not sigs.enablelivejobs:
        raise ConfigError("[sigs] livetimeoutsignature needs [sigs] enablelivejobs = true")


def _check_span(key: str, value: float, unit_ms: int, most: int, unit: str) -> None:
    # The first comparison is false for nan too.
    if not value > 0 or value > most:
        raise ConfigError(f"{key} must be more than 0 and at most {most} {unit}, not {value:g}")
    if value * unit_ms < 1:
        raise ConfigError(f"{key} must be at least one millisecond, not {value:g} {unit}")


def _check_topics(kafka: Kafka) -> None:
    if not 1 <= kafka.partitions <= PARTITIONS_MAX:
        raise ConfigError(f"[kafka] partitions must be 1 to {PARTITIONS_MAX}, not {kafka.partitions}")
    if not 1 <= kafka.replication <= 2**15 - 1:
        raise ConfigError(f"[kafka] replication must be 1 to {2**15 - 1}, not {kafka.replication}")
    names: dict[str, str] = {}
    full = (kafka.events_topic, kafka.jobs_topic, kafka.stats_topic, kafka.rejects_topic)
    for key, name in zip(TOPIC_KEYS, full, strict=True):
        given = getattr(kafka, key)
        culprit = "topicprefix" if given is None else key
        legal = re.fullmatch(rf"[a-zA-Z0-9._-]{{1,{TOPIC_CHARACTERS_MAX}}}", name) and name not in {".", ".."}
        if given == "" or not legal:
            allowed = f"1 to {TOPIC_CHARACTERS_MAX} of the characters a-z A-Z 0-9 . _ -, not . or .."
            raise ConfigError(f"[kafka] {culprit} makes a topic's name that Kafka does not allow; it must be {allowed}")
        other = names.setdefault(name, key)
        if other != key:
            culprit = key if given else other
            raise ConfigError(f"[kafka] {culprit} must differ from the other topics' names, not {name!r}")


def _check_security(kafka: Kafka) -> None:
    for key in ("mechanism", "username", "password", "passwordfile", "cafile", "certfile", "keyfile"):
        if getattr(kafka, key) == "":
            raise ConfigError(f"[kafka] {key} must not be empty; leave it out")
    if kafka.protocol not in PROTOCOLS:
        raise ConfigError(f"[kafka] protocol must be one of {_listed(PROTOCOLS)}, not {kafka.protocol!r}")
    if kafka.mechanism is not None and kafka.mechanism not in MECHANISMS:
        raise ConfigError(f"[kafka] mechanism must be one of {_listed(MECHANISMS)}, not {kafka.mechanism!r}")
    if kafka.password is not None and kafka.passwordfile is not None:
        raise ConfigError("[kafka] password and passwordfile exclude each other; keep one of them")
    if kafka.protocol.startswith("SASL_"):
        _need(kafka, "mechanism", f"protocol {kafka.protocol}")
        _need(kafka, "username", f"mechanism {kafka.mechanism}")
        if kafka.password is None:
            _need(kafka, "passwordfile", f"mechanism {kafka.mechanism}", instead="password or passwordfile")
    else:
        _refuse(kafka, ("mechanism", "username", "password", "passwordfile"), "SASL_PLAINTEXT or SASL_SSL")
    _check_certificates(kafka)


def _check_certificates(kafka: Kafka) -> None:
    if not kafka.protocol.endswith("SSL"):
        _refuse(kafka, ("cafile", "certfile", "keyfile"), "SSL or SASL_SSL")
    if kafka.certfile is not None:
        _need(kafka, "keyfile", "certfile")
    if kafka.keyfile is not None:
        _need(kafka, "certfile", "keyfile")


def _need(kafka: Kafka, key: str, reason: str, instead: str = "") -> None:
    if getattr(kafka, key) is None:
        raise ConfigError(f"[kafka] {reason} needs [kafka] {instead or key}")


def _refuse(kafka: Kafka, keys: tuple[str, ...], protocols: str) -> None:
    for key in keys:
        if getattr(kafka, key) is not None:
            raise ConfigError(f"[kafka] {key} needs [kafka] protocol {protocols}, not {kafka.protocol}")


def _check_ends(config: Config) -> None:
    for broker in config.kafka.brokers.split(","):
        _check_address("[kafka] brokers", broker.strip(), 1, "host:port, several with commas between them")
    _check_address("[worker] healthbind", config.worker.healthbind, 0, "host:port")
    _check_address("[web] bind", config.web.bind, 0, "host:port")
    _check_tunnel(config.tunnel)
    if not 0 <= config.worker.tickseconds <= TICK_SECONDS_MAX:
        allowed = f"0 (no ticks) to {TICK_SECONDS_MAX:g}"
        raise ConfigError(f"[worker] tickseconds must be {allowed}, not {config.worker.tickseconds:g}")
    filled = {
        "[worker] datadir": config.worker.datadir,
        "[web] datadir": config.web.datadir,
        "[web] tokenfile": config.web.tokenfile,
        "[web] trustedheader": config.web.trustedheader,
        "[web] adminrole": config.web.adminrole,
    }
    for key, value in filled.items():
        if value == "":
            raise ConfigError(f"{key} must not be empty")


def _check_tunnel(tunnel: Tunnel) -> None:
    if not 1 <= tunnel.spoolbytes < 2**63:
        raise ConfigError(f"[tunnel] spoolbytes must be 1 to 2^63 - 1, not {tunnel.spoolbytes}")
    if not re.fullmatch("0?[67][0-7]{2}", tunnel.socketmode):
        raise ConfigError(f'[tunnel] socketmode must be octal digits like "0600", not {tunnel.socketmode!r}')
    if not tunnel.bind:
        return
    _check_address("[tunnel] bind", tunnel.bind, 0, "host:port")
    host, _ = split_address(tunnel.bind)
    if not is_loopback(host):
        allowed = "on loopback (127.0.0.1, ::1 or localhost), for it asks for no login"
        raise ConfigError(f"[tunnel] bind must be {allowed}; not {host!r}")


def _check_address(key: str, text: str, port_min: int, form: str) -> None:
    host, port = split_address(text)
    if not host or re.search(r"[\s/,@]", host) or not port_min <= port <= 2**16 - 1:
        raise ConfigError(f"{key} must be {form} (port {port_min} to {2**16 - 1}), not {text!r}")


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only be this machine."""
    return re.fullmatch(r"localhost|::1|127(\.[0-9]{1,3}){3}", host) is not None


def split_address(text: str) -> tuple[str, int]:
    """Host (an IPv6 one without its brackets) and port of `host:port`; ("", -1) when it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    return (match[1] or match[2], int(match[3])) if match else ("", -1)
