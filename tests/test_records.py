"""aiokafka's consumer with our parts in it: it can be closed at any moment."""

import asyncio
import time

from livejobs.streams.records import _PacedFetcher


def test_a_fetch_that_is_closed_while_it_pauses_ends_quietly() -> None:
    """`close` cancels each fetch and awaits it: an error would end whoever closes the consumer, a restore for example."""

    async def close() -> bool:
        fetcher = _PacedFetcher.__new__(_PacedFetcher)
        fetcher._ask_at = {1: time.monotonic() + 60}
        fetch = asyncio.create_task(fetcher._proc_fetch_request(None, 1, None))
        await asyncio.sleep(0)  # it begins
        fetch.cancel()
        return await fetch

    assert asyncio.run(close()) is False
