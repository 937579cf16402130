"""The fail signature: a fail message reduced so that like fails fall together (pure).

The order of the steps matters: a path may hold hexadecimal digits, and a hierarchy may hold numbers.
"""

import re

from livejobs.tables.compiled import native

BYTES_MAX = 256
NO_MESSAGE = "(no message)"
OVERFLOW = "Regression Bucket Overflow"
SIGNATURES_MAX = 25
"""Distinct signatures of a regression, the overflow and the configured timeout signature not counted."""

_READ_MAX = 4096  # characters of a fail message that are looked at

# Nothing is looked for from each place on to the end of the line: it may be made to be slow.
_NAME = r"[A-Za-z_]\w*(?:\[[^\]\s]{0,100}\])*"
_C_HEX = r"0(?<!\w0)[xX][0-9a-fA-F_]+"  # a pattern that begins with a character is searched fastest
_VERILOG_HEX = r"(?:(?<!\d)\d+)?'[hH][0-9a-fA-FxXzZ_?]+"
# What must be there for a pattern to match, the pattern, what takes its place. The first saves most of the searching.
_STEPS = (
    ("/", re.compile(r"(?<![\w/])(?:~|\.{1,2})?(?:/[\w.+@%=:~-]+)+/?"), "<path>"),
    ("'", re.compile(f"{_C_HEX}|{_VERILOG_HEX}"), "<hex>"),
    ("", re.compile(_C_HEX), "<hex>"),  # what is left of those, where there was no quote
    ("", re.compile(r"\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{6,}\b"), "<hex>"),
    (".", re.compile(rf"\b{_NAME}(?:\.{_NAME})+"), "<hierarchy>"),
    ("", re.compile(r"\d+(?:[.,_]\d+)*"), "<n>"),
)


def reduce(fail_message: str) -> str:
    """One line of at most 256 bytes of UTF-8 in which paths, hexadecimal, hierarchies and numbers are replaced.

    Only the first line that is not blank counts.
    """
    plain = None if native is None else native.reduce(fail_message)
    return reduce_any(fail_message) if plain is None else plain


def reduce_any(fail_message: str) -> str:
    """`reduce`, for any text."""
    line = next((text for text in fail_message[:_READ_MAX].splitlines() if text.strip()), "")
    for needed, pattern, word in _STEPS:
        if needed in line:
            line = pattern.sub(word, line)
    return cut(" ".join(line.split())) or NO_MESSAGE


def cut(text: str) -> str:
    """Text cut to 256 bytes of UTF-8, at a character's boundary."""
    data = text.encode()
    return text if len(data) <= BYTES_MAX else data[:BYTES_MAX].decode(errors="ignore")
