"""The store of one partition: an ordered map of bytes in RocksDB, written atomically.

Next to the rows it keeps, in the same write, how far it is: the source offset applied, the changelog offsets, the
broker time of the last record, and what it was made with. Memory budgets are of the process, not of a store: a worker
may own hundreds of them. There is no write-ahead log: after a crash a store is as it was at its last flush, position
and all, and the changelogs hold the rest. So a store that is corrupt, or of another version's format, is no loss: it is
made anew.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompactionStyle,
    DBCompressionType,
    Env,
    MemtableFactory,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from livejobs.tables import keys
from livejobs.tables.jobs import Batch, Op, put_into

WRITE_BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""Of one store; those of many are smaller, for an empty one takes a fifth of that: a filter, and its first block."""
WRITE_BUFFERS_BYTES = 48 * 1024 * 1024
"""Of all stores of the process together; one of them is flushed when there are more."""
BLOCK_CACHE_BYTES = 24 * 1024 * 1024
"""For all stores of the process."""
CACHED_BLOCK_BYTES = 4096
"""About as large as one of them is."""
COMPACTION_READ_BYTES = 256 * 1024
"""Read ahead of each file that is compacted, of which there are more than ten at once; RocksDB would take 2 MiB."""
FLUSH_THREADS = 2
"""Of the process: stores that are flushed at the same time. With one, a restore waits for it."""
OPEN_FILES_MAX = 256
LEVEL_ZERO_FILES = 12
"""Of a store until some are compacted: with four, compacting was a fifth of a worker's CPU, with eight a seventh; with
twelve a worker takes a tenth less CPU than with eight."""
BULK_FILES_MAX = 1_000_000
FORMAT = 2

_META = keys.META + b"position"
_CORRUPT = "CORRUPT"
"""A file of this name in a store's folder: it is to be made anew, for what was read did not have its checksum."""
_shared: list[tuple[Cache, WriteBufferManager]] = []  # by all stores of the process


log = logging.getLogger("livejobs.store")


class StoreError(Exception):
    """The store can't be used: one line that says why, and what to do."""


class Position(msgspec.Struct, kw_only=True):
    """How far a store is. Offsets are those of the next record to read; -1: not known."""

    format: int = FORMAT
    source: int = -1
    """Offset of the next message of `job-events`."""
    jobs: int = 0
    """Offset of the next record of the changelog `jobs`."""
    stats: int = 0
    """Offset of the next record of the changelog `regression-stats`."""
    updated_ms: int = 0
    """When it was last up to date: broker time of the last message applied, or our time of the last restore."""
    partitions: int = 0
    """Partition count of the topics that the state was made with."""
    topics: list[str] = []
    rules: list[object] = []
    """The rules that the deadline index was made with."""


class _Made(msgspec.Struct):
    """What every version's position has."""

    format: int


class Store:
    """One partition's RocksDB. Not to be shared between threads while it is written.

    `stores` is how many the process may have open.
    """

    def __init__(self, path: Path, *, stores: int = 1) -> None:
        self.path = path
        self._write_buffer_bytes = min(WRITE_BUFFER_BYTES_MAX, 4 * WRITE_BUFFERS_BYTES // stores)
        self._start(bulk=False)

    def _start(self, *, bulk: bool) -> None:
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: can't be used: {error.strerror}") from error
        options = _options(WRITE_BUFFER_BYTES_MAX if bulk else self._write_buffer_bytes, bulk=bulk)
        try:
            with self.explained():
                self._db = self._open(options)
        except StoreError:
            if not self._marked:
                raise
            self._db = self._open(options)
        unlogged = WriteOptions()
        unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # its stubs take a property for a method
        self._db.set_write_options(unlogged)
        with self.explained():
            stored = self._db.get(_META)
        if stored is not None and (found := msgspec.json.decode(stored, type=_Made).format) != FORMAT:
            log.warning("%s: is of format %d, not %d, and made anew", path, found, FORMAT)
            self.wipe()
            return
        self.position = Position() if stored is None else msgspec.json.decode(stored, type=Position)
        self.get = self._db.get

    def _open(self, options: Options) -> Rdict:
        if self._marked:
            log.warning("%s: is corrupt, and made anew", self.path)
            shutil.rmtree(self.path)
        # Not the options that it was last opened with, which rocksdict keeps.
        return Rdict(str(self.path), options, column_families={"default": options})

    @property
    def _marked(self) -> bool:
        return (self.path / _CORRUPT).exists()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise RocksDB's errors as StoreError; a corrupt store is marked, and made anew when it is next opened."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception:  # what rocksdict raises is of no class of its own
                raise
            text = " ".join(str(error).split())[:300]
            if not text.startswith("Corruption"):
                raise StoreError(f"{self.path}: can't be used: {text}") from error
            with contextlib.suppress(OSError):
                (self.path / _CORRUPT).touch()
            raise StoreError(f"{self.path}: the next start makes it anew: {text}") from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from `start` (included) to `stop` (excluded), in order."""
        read = ReadOptions()
        read.set_iterate_upper_bound(stop)
        it = self._db.iter(read)
        it.seek(start)
        while it.valid():
            yield it.key(), it.value()
            it.next()
        it.status()  # raises, if that was not the end

    @contextlib.contextmanager
    def batch(self) -> Iterator[Batch]:
        """A batch of writes, to be filled: all or nothing of it is written in the end, and the position with it."""
        batch = WriteBatch(raw_mode=True)
        yield batch
        batch.put(_META, msgspec.json.encode(self.position))
        self._db.write(batch)

    def write(self, ops: Iterable[Op]) -> None:
        """Write all or nothing: (key, value), or None as value to delete; the position goes with it."""
        with self.batch() as batch:
            put_into(batch, ops)

    def begin_flush(self) -> None:
        """Let what is in memory be written to a file; it does not wait for that, if nothing is `unflushed` before."""
        self._db.flush(wait=False)

    @property
    def unflushed(self) -> int:
        """How many memtables are on their way to files. With three, a write waits, and all of Python with it.

        Raises what RocksDB raises where they can't be written.
        """
        if self._db.property_int_value("rocksdb.background-errors"):
            self._db.flush()
        return self._db.property_int_value("rocksdb.num-immutable-mem-table") or 0

    def close(self) -> None:
        """Flush and close; a store that could not be opened again is closed already."""
        with contextlib.suppress(DbClosedError):
            self._db.close()

    def wipe(self) -> None:
        """Close, delete and open anew: an empty store at the same place. Raises StoreError."""
        self.close()
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise StoreError(f"{self.path}: can't be deleted: {error.strerror}") from error
        self._start(bulk=False)

    def reopen(self, *, bulk: bool = False) -> None:
        """Close, and open anew with what it holds.

        With `bulk` it is for many writes and no reads: sorting is left to the flushes, and nothing is compacted.
        """
        self.close()
        self._start(bulk=bulk)


def shared_bytes() -> dict[str, int]:
    """Memory that all stores of the process share: blocks of files that were read, and writes that are in none yet."""
    if not _shared:
        return {}
    cache, buffers = _shared[0]
    return {"blocks": cache.get_usage(), "writes": buffers.get_usage()}


def _options(write_buffer_bytes: int, *, bulk: bool) -> Options:
    if not _shared:
        Env().set_high_priority_background_threads(FLUSH_THREADS)
        buffers = WriteBufferManager(WRITE_BUFFERS_BYTES, allow_stall=False)
        # The usual cache is 64 small ones: a large file's filter would be in none of them, and read for each row.
        cache = Cache.new_hyper_clock_cache(BLOCK_CACHE_BYTES, CACHED_BLOCK_BYTES)
        _shared.append((cache, buffers))
    cache, buffers = _shared[0]
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(10, block_based=False)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_manager(buffers)
    options.set_write_buffer_size(write_buffer_bytes)
    if bulk:
        options.set_memtable_factory(MemtableFactory.vector())
        options.set_allow_concurrent_memtable_write(False)  # a vector can't
        options.set_disable_auto_compactions(True)
        options.set_level_zero_slowdown_writes_trigger(BULK_FILES_MAX)
        options.set_level_zero_stop_writes_trigger(BULK_FILES_MAX)
    else:
        options.set_memtable_prefix_bloom_ratio(0.05)
        options.set_memtable_whole_key_filtering(True)
        options.set_level_zero_file_num_compaction_trigger(LEVEL_ZERO_FILES)
    options.set_compaction_readahead_size(COMPACTION_READ_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_max_open_files(OPEN_FILES_MAX)
    # Many rows do not live until the first compaction: those are not worth to be compressed.
    options.set_compression_per_level([DBCompressionType.none(), DBCompressionType.lz4(), DBCompressionType.lz4()])
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1024 * 1024)
    # Levels would write what rests again with each turn of what changes; this takes up to three times the disk instead.
    options.set_compaction_style(DBCompactionStyle.universal())
    return options
