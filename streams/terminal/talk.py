"""What our commands say to a person: lines on standard error."""

import sys


def say(line: str) -> None:
    """Say one line."""
    # A file's name may have bytes that are no UTF-8.
    sys.stderr.write(f"livejobs: {line}\n".encode("utf-8", "backslashreplace").decode())
    sys.stderr.flush()
