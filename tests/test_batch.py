"""Batches, lines of NDJSON, blocks of input: what goes in comes out, each line once, in order, with its number."""

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livejobs.streams.core.messages import MESSAGE_BYTES_MAX, Reject
from livejobs.streams.publisher import batch, inputs
from livejobs.streams.publisher.batch import Batch, target
from livejobs.streams.publisher.outgoing import Lines, Source, checked

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

GOOD = [json.dumps({"uniqueid": str(number), "result": "pass"}).encode() for number in range(6)]
ODD = [b'{"uniqueid": "\\u0041", "result": "fail", "cycles": 3.0}', b' {"uniqueid":"x","result":"skip"} \r']  # good, not plain
BAD = [b"{", b'{"uniqueid": "1", "result": "live"}', b"\xff", b'{"uniqueid": "1", "result": "pass", "result": "pass"}']
BLANK = [b"", b" \t\r", b"\x0b"]
texts = st.lists(st.sampled_from(GOOD * 4 + ODD + BAD + BLANK), max_size=60)


@pytest.fixture(params=["compiled", "without"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(batch, "native", None)
        monkeypatch.setattr(batch, "_Packer", batch._SlowPacker)
    else:
        pytest.importorskip("livejobs.tables._native")


def lines(text: bytes, refused: list[tuple[Source, Reject]] | None = None, first: int = 1) -> Lines:
    told = [] if refused is None else refused
    return Lines("job-finish", "r/1", text, Source("f", first), lambda *what: told.append(what))


def filled(given: Lines, bytes_max: int) -> list[Batch]:
    """What a publisher does with lines."""
    where = target("job-finish", "r/1", (), 0)
    batches = [Batch(bytes_max, 0)]
    number = 0
    while not given.is_over():
        count, full = batches[-1].add_lines(number, where, given)
        number += count
        if full:
            batches.append(Batch(bytes_max, 0))
        elif not count and (message := given.take()) is not None:
            if not batches[-1].add(number, where, message.body, message.source):
                batches.append(Batch(bytes_max, 0))
                assert batches[-1].add(number, where, message.body, message.source)
            number += 1
    return batches


@settings(max_examples=200)
@given(text=texts, end=st.booleans(), bytes_max=st.sampled_from([100, 400, 100_000]), first=st.sampled_from([1, 17]))
def test_each_good_line_once_in_order_with_its_number(text: list[bytes], end: bool, bytes_max: int, first: int) -> None:
    data = b"\n".join(text) + (b"\n" if end else b"")
    refused: list[tuple[Source, Reject]] = []
    batches = filled(lines(data, refused, first), bytes_max)
    numbered = list(enumerate(text, first))
    assert [source for source, _ in refused] == [Source("f", number) for number, line in numbered if line in BAD]
    expected = [checked("job-finish", "r/1", line, (), Source("f", n)) for n, line in numbered if line not in BAD + BLANK]
    assert [item for some in batches for item in some.messages()] == list(enumerate(expected))
    assert all(some.builder.size() <= bytes_max or len(some) == 1 for some in batches)
    again: list[tuple[Source, Reject]] = []
    assert list(lines(data, again, first)) == expected  # as the spool takes them
    assert [source for source, _ in again] == [source for source, _ in refused]


def test_what_is_left_of_lines_is_what_no_batch_has_taken() -> None:
    given_lines = lines(b"\n".join([*GOOD[:3], b"{", *GOOD[3:]]))
    taken = Batch(100_000, 0)
    count, full = taken.add_lines(0, target("job-finish", "r/1", (), 0), given_lines)
    assert not full
    rest = list(given_lines)
    assert [message.body for _, message in taken.messages()] + [message.body for message in rest] == GOOD
    assert [message.source.line for message in rest] == [line for line in (1, 2, 3, 5, 6, 7) if line > count]


def test_a_batch_gives_messages_back_as_they_were() -> None:
    given_messages = [
        checked("job-live", "ä/1", b'{"uniqueid": "1", "result": "live"}', (("traceparent", b"\x00\xff"), ("ü", b"")), Source("a", 7)),
        checked("regr-start", "r/1", b"", (), Source("b")),
        checked("batch-job-finish", "r/1", b"[]"),
    ]
    taken = Batch(100_000, 0)
    for number, message in enumerate(given_messages):
        where = target(message.kind, message.regression, message.headers, 0)
        assert taken.add(number, where, message.body, message.source)
    assert [message for _, message in taken.messages()] == given_messages
    assert len(taken) == 3


def test_memory_of_small_messages_is_counted() -> None:
    taken, where = Batch(100_000, 0), target("regr-start", "r/1", (), 0)
    for number in range(100):
        assert taken.add(number, where, b"", Source())
    assert taken.size >= 100 * batch.MARK_BYTES


async def blocks(data: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


async def _read(data: bytes, sizes: list[int]) -> list[bytes]:
    return [found async for found in inputs.lines(blocks(data, sizes))]


@given(text=st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=30), sizes=st.lists(st.integers(0, 40)))
def test_blocks_are_cut_into_whole_lines(text: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join(text)
    found = asyncio.run(_read(data, sizes))
    assert b"".join(found) == data
    assert all(part.endswith(b"\n") or not part for part in found[:-1])
    assert len(found) == len(sizes) + 2


@pytest.mark.parametrize("start", [b"{", b" " * (MESSAGE_BYTES_MAX + 7) + b"{"])
@pytest.mark.parametrize("tail", [b"x", b" "])
def test_a_line_without_an_end_takes_no_memory_and_is_refused(start: bytes, tail: bytes) -> None:
    """A line of 40 MiB, also of white space, does not become a good one because its end was cut off."""
    size = inputs.BLOCK_BYTES
    data = start + tail * (40 * size) + b"\n" + GOOD[0] + b"\n"
    found = asyncio.run(_read(data, [size] * 41))
    assert max(map(len, found)) < 4 * size
    refused: list[tuple[Source, Reject]] = []
    good, number = [], 1
    for part in found:
        some = lines(part, refused, number)
        good += some
        number = some.line
    assert [(message.body, message.source.line) for message in good] == [(GOOD[0], 2)]
    assert [(source.line, reject.code) for source, reject in refused] == [(1, "too-large")]


def test_a_pipe_is_read_as_it_comes() -> None:
    async def read() -> list[bytes]:
        near, far = os.pipe()
        try:
            source = inputs.blocks(near)
            found = []
            for text in (b"a", b"bc", b"d" * 1000):
                os.write(far, text)
                found.append(await asyncio.wait_for(anext(source), 10))
            os.close(far)
            assert [block async for block in source] == []
            return found
        finally:
            os.close(near)

    assert asyncio.run(read()) == [b"a", b"bc", b"d" * 1000]
