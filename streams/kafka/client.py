"""What every aiokafka client of ours is made with, from the configuration, and what it says when it can't get in."""

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path
from typing import Any, Self

from aiokafka import conn, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from livejobs.streams.config import ConfigError, Kafka
from livejobs.streams.kafka import produce
from livejobs.streams.kafka.answers import Answers, receive


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Keyword arguments common to aiokafka's producer, consumer and admin client.

    Reads the files that the configuration names, now: a changed password file is seen at the next start. Raises
    ConfigError when one can't be read or used. From now on aiokafka's log says clearly why it can't connect, and
    nothing of a login; a connection that is gone is one, whatever the event loop makes of it; none is left open by a
    start that is given up; and a consumer stops, whatever its fetches do. What is sent and what
    is answered goes its way without aiokafka's copies.
    """
    AIOKafkaConnection.send, AIOKafkaClient.bootstrap, Fetcher.close = _send, _bootstrap, _close
    conn.AIOKafkaProtocol, AIOKafkaConnection._create_reader_task = Answers, receive  # noqa: SLF001
    for name in ("aiokafka", "aiokafka.conn", "asyncio"):
        logging.getLogger(name).addFilter(_say_clearly)  # once, however often
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


_aiokafkas_send = AIOKafkaConnection.send


def _send(self: AIOKafkaConnection, *arguments: Any, **keywords: Any) -> Any:
    """Raises KafkaConnectionError on a connection that was closed a moment ago.

    uvloop refuses to write to it with a RuntimeError, where asyncio does nothing, or what harms the next connection
    (`writelines` of Python 3.12 and 3.13). aiokafka knows no such error: it would end the task that keeps the cluster's
    metadata up to date, unseen and for ever.
    """
    try:
        if self._writer is not None and self._writer.is_closing():
            raise ConnectionError("it is being closed")
        if produce.is_for_us(self, arguments[0]):
            return produce.send(self, arguments[0])
        return _aiokafkas_send(self, *arguments, **keywords)
    except (RuntimeError, OSError) as error:
        if isinstance(error, KafkaError):
            raise
        if isinstance(error, RuntimeError) and not self._writer.is_closing():
            raise
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error


_aiokafkas_bootstrap = AIOKafkaClient.bootstrap
_given_up: set[asyncio.Task[None]] = set()


async def _bootstrap(self: AIOKafkaClient) -> None:
    """Connect for the first time; given up meanwhile, it goes on by itself to where the connection can be closed.

    A bootstrap that is cancelled while it waits for metadata forgets its connection: the socket would stay open until
    the collector comes.
    """
    connecting = asyncio.ensure_future(_aiokafkas_bootstrap(self))
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        closing = asyncio.ensure_future(_close_after(connecting, self))
        _given_up.add(closing)
        closing.add_done_callback(_given_up.discard)
        raise


async def _close_after(connecting: asyncio.Future[None], client: AIOKafkaClient) -> None:
    await asyncio.wait([connecting])
    await client.close()


_aiokafkas_close = Fetcher.close


async def _close(self: Fetcher) -> None:
    """End the fetches first, each however it ends.

    One that has just failed waits a little before it is over. aiokafka cancels that, and then takes the end of the wait
    for one of its own: `stop` would raise CancelledError, though nobody cancelled it.
    """
    self._fetch_task.cancel()
    for fetch in self._pending_tasks:
        fetch.cancel()
    await asyncio.wait([self._fetch_task, *self._pending_tasks])
    self._pending_tasks.clear()
    await _aiokafkas_close(self)


async def stop_to_the_end(client: Any) -> None:
    """Stop a consumer or producer, whoever cancels that: else its connections and tasks would stay."""
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.shield(stopping)
    except asyncio.CancelledError:
        await asyncio.wait([stopping])
        raise


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    """One that checks the broker's certificate and name, against `cafile` or the system's authorities."""
    key = "cafile"
    try:
        context = ssl.create_default_context(cafile=kafka.cafile)
        context.sslobject_class = _Brief
        if kafka.certfile is not None:
            key = "certfile and keyfile"
            # An encrypted key would make OpenSSL ask at the terminal; a service has none.
            context.load_cert_chain(kafka.certfile, kafka.keyfile, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(f"[kafka] {key} can't be used: {error}") from error
    return context


class _Brief(ssl.SSLObject):
    """A TLS session whose end does not wait for the broker to say that it ends, too.

    A broker that reads our last request and our farewell together takes the request, and looks no further: the event
    loop waits for 30 s then, longer than a worker may take to stop. Kafka's messages have lengths, so nothing depends
    on the broker's farewell.
    """

    def unwrap(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            super().unwrap()


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


class Heard(logging.Filter):
    """Why aiokafka could not connect, while this context is open: it logs that, and raises one error for all causes.

    What is heard is not logged. The text is empty, or ends a sentence: ` (host:port: ...)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a warning's text instead of letting it be logged."""
        if record.levelno < logging.WARNING:
            return True
        self._text = " ".join(record.getMessage().split())
        return False

    def __enter__(self) -> Self:
        logging.getLogger("aiokafka").addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("aiokafka").removeFilter(self)

    def __str__(self) -> str:
        return f" ({self._text})" if self._text else ""


def _say_clearly(record: logging.LogRecord) -> bool:
    """Rewrite what aiokafka logs of a connection that failed, and leave out what it logs of a login."""
    if record.name == "asyncio":
        # Of a connection that ends while it is given up, a future stays behind that nobody asks for its error.
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, OSError | KafkaError) and "never retrieved" in str(record.msg))
    if not isinstance(record.args, tuple) or not record.args:
        return True
    *where, last = record.args
    if isinstance(last, Exception) and record.msg.startswith("Unable connect to"):
        record.msg, record.args = "%s: %s", (":".join(map(str, where)), why(last))
    elif type(last).__name__.startswith("SaslAuthenticate"):
        # At the level of debugging it writes requests out: the password itself with PLAIN, its proof with SCRAM.
        record.args = (*where, "(a login)")
    return True


_SEE_LIMITS = "is over its limit; compare max.message.bytes: livejobs topics check"
_SEE_RIGHTS = "see deploy/acls.sh --worker"
_TAKEN_OVER = "another worker has taken its partitions over"
ENDS: dict[type[BaseException], str] = {
    errors.ProducerFenced: _TAKEN_OVER,
    errors.InvalidProducerEpoch: _TAKEN_OVER,
    errors.KafkaConnectionError: "no broker answers",
    TimeoutError: "the broker has not answered in time",
    errors.MessageSizeTooLargeError: f"a record that it writes {_SEE_LIMITS}",
    errors.RecordListTooLargeError: f"a batch that it writes {_SEE_LIMITS}",
    errors.TopicAuthorizationFailedError: f"no right to a topic; {_SEE_RIGHTS}",
    errors.GroupAuthorizationFailedError: f"no right to its consumer group; {_SEE_RIGHTS}",
    errors.TransactionalIdAuthorizationFailed: f"no right to its transactions; {_SEE_RIGHTS}",
    errors.UnknownTopicOrPartitionError: "a topic is missing; see livejobs topics check",
}
"""Why a worker may end that is no fault of its own. The runbook says what to do."""


def end_of_worker(error: BaseException) -> str | None:
    """One line of ENDS, with what the error names; None when it is another error."""
    for kind, text in ENDS.items():
        if isinstance(error, kind):
            named = ", ".join(str(argument) for argument in error.args if argument)
            return f"{text} ({named})" if named else text
    return None


def why(error: BaseException) -> str:
    """Why a connection failed: one line that names what to look at."""
    while error.__cause__ is not None:  # of "connection closed"
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        key = "brokers" if "match" in error.verify_message.lower() else "cafile"
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}; see [kafka] {key}"
    if isinstance(error, ssl.SSLError):
        # Its name is all that OpenSSL says of an alert: SSLV3_ALERT_BAD_CERTIFICATE.
        alert = (error.reason or "").partition("_ALERT_")[2].replace("_", " ").lower()
        if alert:
            return f"it refuses our TLS: {alert}; see [kafka] certfile and keyfile"
    if isinstance(error, SaslAuthenticationFailed):
        told = error.args[0] if error.args and isinstance(error.args[0], str) else "login refused"
        return f"{told}; see [kafka] username, password and mechanism"
    if isinstance(error, UnsupportedSaslMechanismError):
        return "login refused: it has no such mechanism; see [kafka] mechanism"
    if isinstance(error, EOFError | ConnectionResetError):
        return "it closed the connection; see [kafka] protocol"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
