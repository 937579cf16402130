"""A client of the tunnel. It needs no package but msgspec, and starts fast: a job runs one to say one thing.

    answer = await client.publish("/run/livejobs/tunnel.sock", "job-live", "nightly/core_17", body)

What is answered as sent or kept is safe. Without an answer it must be sent again in another way, as `livejobs publish`
does.
"""

import asyncio
from os import PathLike
from urllib.parse import quote

import msgspec

from livejobs.streams.tunnel import answer
from livejobs.streams.tunnel.answer import Answer

TAKE_SECONDS_MAX = 5.0
"""For the tunnel to ask for the body. One that is frozen gets none, and so can't send it when it thaws."""
ANSWER_SECONDS_MAX = 60.0
"""For all the rest: more than it takes the tunnel to give up on a broker and to write to a disk."""
CONTINUE = 100


class TunnelGoneError(Exception):
    """The tunnel gave no answer; the text is one line that says why."""


class NoTunnelError(TunnelGoneError):
    """There is none."""


async def publish(
    path: str | PathLike[str], kind: str, regression: str, body: bytes, *, lines: bool = False
) -> Answer:
    """Send a message, or with `lines` one for each line of `body`, to the tunnel at `path`. Raises TunnelGoneError."""
    head = (
        f"POST /publish/{quote(kind, safe='')}?regression={quote(regression, safe='')} HTTP/1.1\r\n"
        f"Host: localhost\r\nContent-Type: application/{'x-ndjson' if lines else 'json'}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    try:
        found = await _exchange(path, head.encode(), body)
    except TimeoutError:
        raise TunnelGoneError(f"the tunnel at {path} does not answer in time") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoTunnelError(f"no tunnel at {path}") from None
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, msgspec.MsgspecError) as error:
        raise TunnelGoneError(f"the tunnel at {path} gives no answer: {error}") from error
    if found.error is not None:
        raise TunnelGoneError(f"the tunnel at {path} takes nothing: {found.reason or found.error}")
    return found


async def _exchange(path: str | PathLike[str], head: bytes, body: bytes) -> Answer:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TAKE_SECONDS_MAX) as limit:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(head)
            status, text = await _response(reader)
            if status == CONTINUE:
                limit.reschedule(loop.time() + ANSWER_SECONDS_MAX)
                writer.write(body)
                await writer.drain()
                _, text = await _response(reader)
        finally:
            writer.close()
    return answer.decode(text)


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body. Raises OSError, EOFError, ValueError, LimitOverrunError."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): text for name, _, text in (line.partition(":") for line in lines)}
    return int(first.split()[1]), await reader.readexactly(int(headers.get("content-length", 0)))
