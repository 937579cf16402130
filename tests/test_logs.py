"""What is logged while a broker is away can still be read."""

import logging

import pytest

from livejobs.streams import logs


def test_a_librarys_line_is_repeated_once_in_a_while_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    caplog.handler.addFilter(repeats := logs.Repeats())
    library, ours = logging.getLogger("aiokafka.client"), logging.getLogger("livejobs.worker")
    try:
        for number in range(100):
            library.warning("no broker %d", number)
            ours.warning("ours %d", number)
        now += logs.REPEAT_SECONDS
        for number in range(2):
            library.warning("no broker %d", number)  # another place
    finally:
        caplog.handler.removeFilter(repeats)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("ours")] == [f"ours {number}" for number in range(100)]
    assert [line for line in said if line.startswith("no")] == ["no broker 0", "no broker 0"]


def test_it_says_how_many_lines_were_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    caplog.handler.addFilter(repeats := logs.Repeats())
    try:
        for number in range(7):
            logging.getLogger("aiokafka.client").warning("no broker %d", number)
            now += logs.REPEAT_SECONDS / 5
    finally:
        caplog.handler.removeFilter(repeats)
    assert [record.getMessage() for record in caplog.records] == [
        "no broker 0",
        "no broker 5 (and 4 more like it since the last one)",
    ]
