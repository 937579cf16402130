"""One partition's output held against its messages, regression by regression."""

import asyncio
import time
from collections.abc import Iterator

import msgspec

from livejobs.streams.core.fold import EPOCH_BITS
from livejobs.streams.core.partitioner import partition_of
from livejobs.streams.verify.differences import SHOWN_MAX, Count, Kept, differences, paired
from livejobs.streams.verify.partition import Partition
from livejobs.streams.verify.report import DIFFERENCES_MAX, Report
from livejobs.streams.verify.source import LAG_SECONDS
from livejobs.tables import jobs, regressions, times
from livejobs.tables.regressions import StatsPrivate, StatsRecord

VERSION_MASK = (1 << EPOCH_BITS) - 1

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Comparison:
    """Says to a report what differs in a partition that was read."""

    def __init__(self, partition: Partition, report: Report) -> None:
        self._partition, self._report = partition, report
        self._jobs, self._stats = partition.jobs, partition.stats
        self._ahead: list[tuple[str, int]] = []  # version not below the latest committed offset

    async def run(self) -> None:
        """Compare all."""
        latest = await self._partition.latest()
        for key in self._partition.names():
            self._compare_regression(key, latest)
            await asyncio.sleep(0)  # what is on its way to us must not time out
        self._report.add(self._orphans())
        await self._settle_ahead()

    def _compare_regression(self, key: bytes, latest: int) -> None:
        report, shown = self._report, _encode(key.decode(errors="replace")).decode()
        want, got = self._partition.folded_stats(key), self._partition.copied_stats(key)
        record, private, oldest_ms = None, StatsPrivate(), None
        if got is not None:
            if partition_of(key, self._partition.partitions) != self._stats.partition:
                where = f"partition {self._stats.partition} of {self._stats.topic}"
                report.add([f"{shown}: is in {where}, its key belongs to another"])
                return
            try:
                record, private = regressions.decode(got[1]), _decode(got[0] or b"{}", type=StatsPrivate)
                oldest_ms = min(times.from_text(record.heard), times.from_text(record.updated))
            except ValueError as error:  # msgspec's errors are ValueErrors
                report.add([f"{shown}: its record in {self._stats.topic} is none of ours: {error}"])
                return
        wanted = private if want is None else _decode(want[0], type=StatsPrivate)
        # An ending's last step that finds no job left writes no new version.
        ended = wanted.ending is not None and private.ending is None and got and want and got[1] == want[1]
        if self._has_moved(key, shown, record, latest) or ended:
            report.moved += 1
        elif wanted.sealed_ms is not None:
            report.sealed += 1
        else:
            self._compare_all(key, want, got, oldest_ms)

    def _compare_all(self, key: bytes, want: Kept | None, got: Kept | None, oldest_ms: int | None) -> None:
        """Compare a regression that can be compared: its record, its rows, and its record with its rows."""
        report, name_json = self._report, _encode(key.decode(errors="replace"))
        shown, prefix = name_json.decode(), b"[" + name_json + b","
        folded, counted = Report(), Count()
        folded.add(differences(shown, self._stats.topic, got, want))
        rows = paired(self._partition.copied_rows(prefix), self._partition.folded_rows(prefix))
        for job_key, row_got, row_want in rows:
            label = f"{shown} job [{job_key[len(prefix) :].decode(errors='replace')}"
            if row_got is not None:
                report.jobs += 1
                try:
                    row = jobs.decode(row_got[1])
                    first_ms = times.from_text(row.first_seen)
                    counted.add(row)
                except ValueError as error:  # msgspec's errors and Reject are ValueErrors
                    report.add([f"{label}: its record in {self._jobs.topic} is none of ours: {error}"])
                    continue
                oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
            if row_got != row_want:
                folded.add(differences(label, self._jobs.topic, row_got, row_want))
        if got is not None:
            report.add(counted.differences(shown, self._stats.topic, self._jobs.topic, got))
        if folded.found and self._partition.is_older(key):
            report.older += 1
            return
        if folded.found and not self._whole(key, oldest_ms):
            report.cut += 1
            return
        report.checked += 1
        report.add(folded.differences)
        report.found += folded.found - len(folded.differences)

    def _has_moved(self, key: bytes, shown: str, record: StatsRecord | None, latest: int) -> bool:
        """Whether a regression changed after the last message that was folded here."""
        if not self._partition.known:
            return False
        if record is None:
            tombstone = self._partition.forgotten_at(key)
            return tombstone is not None and tombstone >= self._partition.mark
        offset = record.version & VERSION_MASK
        if offset >= latest and len(self._ahead) < DIFFERENCES_MAX:
            self._ahead.append((shown, offset))
        return offset >= self._partition.committed

    def _whole(self, key: bytes, oldest_ms: int | None) -> bool:
        """Whether all messages of a regression are surely still there."""
        if not self._partition.known:
            return False
        if self._partition.first == 0:
            return True
        since_ms = self._partition.first_ms or 0
        return self._partition.begins_here(key) and (oldest_ms is None or oldest_ms >= since_ms)

    async def _settle_ahead(self) -> None:
        """A version can't be above the committed offset, unless the offset shows a moment later."""
        until = time.monotonic() + LAG_SECONDS
        while self._ahead:
            latest = await self._partition.latest()
            self._ahead = [item for item in self._ahead if item[1] >= latest]
            if self._ahead and time.monotonic() > until:
                told = f"{self._partition.events.topic} is folded up to {latest} only"
                self._report.add(
                    f"{shown}: version is {at} in {self._stats.topic}, {told}" for shown, at in self._ahead
                )
                return
            await asyncio.sleep(0.5 if self._ahead else 0)

    def _orphans(self) -> Iterator[str]:
        """Job rows whose regression has no statistics, or whose key is not as keys are."""
        start = b""
        while (key := self._partition.next_row(start)) is not None:
            try:
                name = _decode(key, type=list[str])[0]
                prefix = b"[" + _encode(name) + b","
            except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
                name, prefix = "", b""
            if not prefix or not key.startswith(prefix):
                yield f"{self._jobs.topic} partition {self._jobs.partition}: {key[:SHOWN_MAX]!r} is no key of ours"
                start = key + b"\0"
                continue
            if not (self._partition.copied_stats(name.encode()) or self._partition.folded_stats(name.encode())):
                shown = _encode(name).decode()
                yield f"{shown}: has job rows, but no record in {self._stats.topic} partition {self._stats.partition}"
            start = prefix[:-1] + b"-"
