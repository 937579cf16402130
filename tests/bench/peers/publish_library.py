"""Publish a file of finished jobs by the library call, as a flow's own program would: CONFIG REGRESSION FILE."""

import asyncio
import sys
from pathlib import Path

from livejobs.streams import config
from livejobs.streams.publisher.publish import Publisher


async def main(config_file: str, regression: str, file: str) -> None:
    """Send each line."""
    with Path(file).open("rb") as lines:  # noqa: ASYNC230  from the page cache
        async with Publisher(config.load(config_file).kafka) as publisher:
            for line in lines:
                await publisher.send("job-finish", regression, line)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
