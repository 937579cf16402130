"""aiokafka's producer as the publisher needs it: found in time or not at all, and ended in time."""

import asyncio
import contextlib

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from livejobs.streams.config import Kafka
from livejobs.streams.kafka.client import Heard, client_options

CONNECT_PAUSE_SECONDS = 0.2
REQUEST_SECONDS_MAX = 10.0
CLOSE_SECONDS_MAX = 2.0


class BrokerAwayError(Exception):
    """Kafka can't be reached or does not take messages; the text is one line that says why."""


async def connect(kafka: Kafka, seconds: float) -> AIOKafkaProducer:
    """A started producer that knows our topic. Raises BrokerAwayError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    options = client_options(kafka)
    heard = Heard()  # over all attempts: the last one may be cut short before it has heard anything
    while True:
        producer = AIOKafkaProducer(
            **options,
            client_id="livejobs-publish",
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=int(1000 * REQUEST_SECONDS_MAX),
        )
        try:
            with heard:
                async with asyncio.timeout_at(deadline):
                    await producer.start()
                    await _find_topic(producer, kafka.events_topic)
                    return producer
        except TimeoutError:
            failure = BrokerAwayError(f"no Kafka broker answers at {kafka.brokers} within {seconds:g} s{heard}")
        except KafkaConnectionError:
            failure = BrokerAwayError(f"no Kafka broker answers at {kafka.brokers}{heard}")
        except KafkaError as error:
            deadline = 0.0  # another attempt would end in the same way
            failure = BrokerAwayError(f"the Kafka broker at {kafka.brokers} does not take messages: {text(error)}")
        except BaseException:
            await close(producer, clean=False)
            raise
        await close(producer, clean=False)
        if loop.time() + CONNECT_PAUSE_SECONDS > deadline:
            raise failure
        await asyncio.sleep(CONNECT_PAUSE_SECONDS)


async def _find_topic(producer: AIOKafkaProducer, topic: str) -> None:
    # All topics are asked for: to ask for one by name makes it, with the wrong settings, where brokers allow that.
    await producer.client.force_metadata_update()
    if not producer.client.cluster.partitions_for_topic(topic):
        raise KafkaError(f"topic {topic} is not there; make it with `livejobs topics create`")
    await producer.client.add_topic(topic)


async def close(producer: AIOKafkaProducer, *, clean: bool) -> None:
    """Stop a producer. aiokafka's own `stop` waits for ever for what can't be delivered, so that is cut off."""
    if clean:
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(producer.stop(), CLOSE_SECONDS_MAX)
            return
    sender = producer._sender.sender_task  # noqa: SLF001
    producer._closed = True  # noqa: SLF001
    if sender is not None:
        sender.cancel()
    with contextlib.suppress(TimeoutError, KafkaError):
        await asyncio.wait_for(producer.client.close(), CLOSE_SECONDS_MAX)
    if sender is not None:
        await asyncio.wait({sender}, timeout=CLOSE_SECONDS_MAX)


def text(error: BaseException) -> str:
    """What an error says, in one line."""
    # str() of aiokafka's errors puts the class before it.
    said = str(error.args[0]) if error.args else ""
    return " ".join(said.split()) or type(error).__name__
