"""What the worker and the web view log, and how often: while a broker is away its client says so hundreds of times."""

import logging
import sys
import time

REPEAT_SECONDS = 10.0
"""A library's line that comes from one place in its code is written once in so long."""
LIBRARIES = ("aiokafka", "faust", "mode", "aiohttp")


class Repeats(logging.Filter):
    """Lets through, of the lines that libraries log in one place, the first one each REPEAT_SECONDS, and their number.

    Errors with a traceback always come through. There are as many places as the libraries have.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], tuple[float, int]] = {}  # -> when one was let through, held back since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if record.name.partition(".")[0] not in LIBRARIES or record.exc_info:
            return True
        place = record.pathname, record.lineno
        now = time.monotonic()
        last, held = self._places.get(place, (-REPEAT_SECONDS, 0))
        if now - last < REPEAT_SECONDS:
            self._places[place] = last, held + 1
            return False
        self._places[place] = now, 0
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} more like it since the last one)", ()
        return True


def to_stderr() -> None:
    """Log to stderr from now on, from INFO on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats())
