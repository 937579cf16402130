"""Rebuild a store from its two changelog partitions, from where it stands to their ends.

The caller has waited for the predecessor's last transaction before, so that the ends don't move any more.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from livejobs.tables.jobs import Batch
from livejobs.tables.store import Store

BATCH_RECORDS = 2_000
"""Put into a store at once: so they are still in the processor's caches when it copies them."""
BATCH_VERSIONS = 10_000
"""The same of a changelog in which only the last record of each key in a batch costs something."""
STALL_SECONDS = 60.0
BULK_RECORDS = 50_000
"""From so many records on, it pays to open the store anew for the restore alone."""
UNFLUSHED_MAX = 1
"""Memtables of a store on their way to files: while there are more, nothing is put into it."""
FLUSH_LOOK_SECONDS = 0.005
"""From one look at them to the next."""

SEEN_BYTES = 1 << 20
"""Of the bits that tell which keys came before: with a million of them, one in eight is deleted without need."""

Apply = Callable[[list[Any], Batch, bytearray | None], None]


class RestoreError(Exception):
    """The changelogs can't be read to their ends: one line that says why."""


@dataclass(frozen=True)
class Changelog:
    """One changelog partition: its name in the store's position, and what puts its records' effects into a batch.

    `apply` gets the records, the batch, and bits for what came before (`tables.jobs.restore`).
    """

    field: str
    tp: TopicPartition
    batch_records: int
    """Applied at once, at most."""
    apply: Apply


def stale(store: Store, now_ms: int, tombstones_ms: int) -> bool:
    """Whether a store was away for so long, half of their time, that tombstones may be gone from the changelogs."""
    return store.position.source >= 0 and now_ms - store.position.updated_ms > tombstones_ms / 2


async def restore(
    consumer: AIOKafkaConsumer,
    store: Store,
    changelogs: Sequence[Changelog],
    tombstones_ms: int,
    moved: Callable[[], None],
) -> int:
    """Bring a store up to date; `moved` is called as it proceeds. The consumer reads committed, and is ours alone.

    `tombstones_ms` is how long the changelogs keep a tombstone at least (their delete.retention.ms). Returns how
    many records were read. Raises RestoreError.
    """
    tps = [changelog.tp for changelog in changelogs]
    first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    now_ms = int(time.time() * 1000)
    if stale(store, now_ms, tombstones_ms) or any(
        not first[log.tp] <= getattr(store.position, log.field) <= end[log.tp]
        for log in changelogs
        if getattr(store.position, log.field)
    ):
        source = store.position.source
        store.wipe()
        store.position.source, store.position.updated_ms = source, now_ms  # what was applied, was
        store.write([])
    starts = {log.tp: max(getattr(store.position, log.field), first[log.tp]) for log in changelogs}
    seen = None if any(getattr(store.position, log.field) for log in changelogs) else bytearray(SEEN_BYTES)
    bulk = sum(end[tp] - starts[tp] for tp in tps) > BULK_RECORDS
    if bulk:
        store.reopen(bulk=True)
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, starts[tp])
    with store.explained():
        read = sum([await _read(consumer, store, log, end[log.tp], seen, moved) for log in changelogs])
    # It has seen every tombstone until now, however long ago the last message came.
    store.position.updated_ms = max(store.position.updated_ms, int(time.time() * 1000))
    store.write([])
    if bulk:
        with store.explained():
            await _flushed(store, 0)
            store.begin_flush()
            await _flushed(store, 0)
        store.reopen()
    return read


async def _flushed(store: Store, most: int) -> None:
    """Let others work until no more than so many memtables of a store are on their way to files."""
    while store.unflushed > most:  # noqa: ASYNC110  RocksDB tells nobody
        await asyncio.sleep(FLUSH_LOOK_SECONDS)


async def _read(  # noqa: PLR0913, PLR0917  what `restore` knows
    consumer: AIOKafkaConsumer,
    store: Store,
    log: Changelog,
    end: int,
    seen: bytearray | None,
    moved: Callable[[], None],
) -> int:
    """Read one changelog to its end; returns how many records that were."""
    read = 0
    moved_at, before = time.monotonic(), -1
    while True:
        position = await consumer.position(log.tp)
        if position >= end:
            setattr(store.position, log.field, max(getattr(store.position, log.field), position))
            return read
        if position != before:
            moved_at, before = time.monotonic(), position
            moved()
        elif time.monotonic() - moved_at > STALL_SECONDS:
            raise RestoreError(
                f"restore: no record of {log.tp.topic} {log.tp.partition} for {STALL_SECONDS:.0f} s "
                f"at {position}, its end is {end}"
            )
        for records in (await consumer.getmany(log.tp, timeout_ms=200, max_records=log.batch_records)).values():
            await _flushed(store, UNFLUSHED_MAX)
            with store.batch() as batch:
                log.apply(records, batch, seen)
                setattr(store.position, log.field, records[-1].offset + 1)
            read += len(records)
