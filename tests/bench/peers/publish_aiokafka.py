"""Publish a file by aiokafka in a plain loop, and check nothing: BROKER TOPIC REGRESSION FILE."""

import asyncio
import sys
from pathlib import Path

from aiokafka import AIOKafkaProducer

LINGER_MS, BATCH_BYTES = 5, 512 * 1024
"""As our publisher has them."""
WAITING_MAX = 10_000


async def main(broker: str, topic: str, regression: str, file: str) -> None:
    """Send each line, and wait for all acknowledgements."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker, acks="all", enable_idempotence=True, linger_ms=LINGER_MS, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    key, headers = regression.encode(), [("type", b"job-finish")]
    waiting = []
    with Path(file).open("rb") as lines:  # noqa: ASYNC230  from the page cache
        for line in lines:
            waiting.append(await producer.send(topic, line.rstrip(), key=key, headers=headers))
            if len(waiting) == WAITING_MAX:
                await asyncio.gather(*waiting)
                waiting.clear()
    await asyncio.gather(*waiting)
    await producer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
