"""The options that every Kafka client of ours takes from the configuration."""

import ssl
from pathlib import Path
from typing import Any

from livejobs.streams.config import ConfigError, Kafka


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Keyword arguments common to aiokafka's producer, consumer and admin client. Raises ConfigError."""
    options: dict[str, Any] = {"bootstrap_servers": kafka.brokers, "security_protocol": kafka.protocol}
    if kafka.protocol in ("SSL", "SASL_SSL"):
        try:
            context = ssl.create_default_context(cafile=kafka.cafile)
            if kafka.certfile:
                context.load_cert_chain(kafka.certfile, kafka.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"[kafka] cafile, certfile, keyfile: can't be read: {error}") from None
        options["ssl_context"] = context
    if kafka.protocol.startswith("SASL"):
        options |= {"sasl_mechanism": kafka.mechanism, "sasl_plain_username": kafka.username, "sasl_plain_password": _password(kafka)}
    return options


def _password(kafka: Kafka) -> str | None:
    if kafka.passwordfile is None:
        return kafka.password
    try:
        return Path(kafka.passwordfile).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"[kafka] passwordfile: can't be read: {error.strerror}: {kafka.passwordfile}") from None
