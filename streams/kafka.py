"""What every aiokafka client of ours is made with, from the configuration."""

import ssl
from pathlib import Path
from typing import Any

from livejobs.streams.config import ConfigError, Kafka


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Keyword arguments common to aiokafka's producer, consumer and admin client.

    Reads the files that the configuration names, now: a changed password file is seen at the next start. Raises
    ConfigError when one can't be read or used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": [broker.strip() for broker in kafka.brokers.split(",")],
        "security_protocol": kafka.protocol,
    }
    if kafka.protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.protocol.startswith("SASL_"):
        options["sasl_mechanism"] = kafka.mechanism
        options["sasl_plain_username"] = kafka.username
        options["sasl_plain_password"] = _password(kafka)
    return options


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    """One that checks the broker's certificate and name, against `cafile` or the system's authorities."""
    key = "cafile"
    try:
        context = ssl.create_default_context(cafile=kafka.cafile)
        if kafka.certfile is not None:
            key = "certfile and keyfile"
            # An encrypted key would make OpenSSL ask at the terminal; a service has none.
            context.load_cert_chain(kafka.certfile, kafka.keyfile, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(f"[kafka] {key} can't be used: {error}") from error
    return context


def _password(kafka: Kafka) -> str | None:
    if kafka.passwordfile is None:
        return kafka.password
    try:
        password = Path(kafka.passwordfile).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[kafka] passwordfile {kafka.passwordfile} can't be read: {error}") from error
    if not password:
        raise ConfigError(f"[kafka] passwordfile {kafka.passwordfile} is empty")
    return password
