"""Publish a file by confluent-kafka (librdkafka), and check nothing: BROKER TOPIC REGRESSION FILE."""

import sys
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

QUEUE_MESSAGES = 100_000
FLUSH_SECONDS_MAX = 60.0
POLL_EVERY = 1000


def main(broker: str, topic: str, regression: str, file: str) -> int:
    """Send each line; 1 when some did not arrive."""
    failed = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    settings = {"acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5}
    producer = Producer({"bootstrap.servers": broker, "queue.buffering.max.messages": QUEUE_MESSAGES} | settings)
    with Path(file).open("rb") as lines:
        for number, line in enumerate(lines):
            while True:
                try:
                    producer.produce(
                        topic, line.rstrip(), regression, headers=[("type", b"job-finish")], on_delivery=delivered
                    )
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
            if number % POLL_EVERY == 0:
                producer.poll(0)
    return int(bool(producer.flush(FLUSH_SECONDS_MAX) or failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
