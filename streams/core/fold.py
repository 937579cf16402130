"""Messages applied to the tables of one partition (pure: no clock, no I/O but the store's).

What messages say is here, what follows from time passing, or from a regression's end, in `streams.core.decisions`.

`apply` folds one message into rows held in memory; `take` hands out everything that changed since the last `take`,
coalesced: the records for the output topics and the operations for the store. Where the batches are cut makes no
difference to any row.

`now` comes with the message: the broker's time, but for each regression never before its own last change, so that it
can be derived from the records alone.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from livejobs.streams.core import messages, statistics
from livejobs.streams.core.decisions import TICK_ROWS, Decisions
from livejobs.streams.core.messages import Finish, Reject
from livejobs.streams.core.overlay import BATCH_BYTES, BATCH_ROWS, FINISHED, LIVE, ROW_BYTES
from livejobs.streams.core.partitioner import partition_of
from livejobs.streams.core.rules import Rules
from livejobs.streams.core.transition import JobEvent
from livejobs.tables.compiled import native
from livejobs.tables.fields import Row
from livejobs.tables.jobs import Headers
from livejobs.tables.regressions import SPAN_BYTES, Regression, Span, decode_fields
from livejobs.tables.staged import Map

REJECT_OVERHEAD_BYTES = 1000
"""Memory of a message that is sent on, beside its body, about."""

EPOCH_BITS = 40

_TICK = messages.TICK.encode()
_encode = msgspec.json.encode


class Record(Protocol):
    """A message as a consumer gives it (`streams.kafka.records`); `timestamp` is ms since the epoch."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """Broker time, ms since the epoch."""

    @property
    def key(self) -> bytes | None:
        """The regression's name."""

    @property
    def value(self) -> bytes | None:
        """The body."""

    @property
    def kind(self) -> bytes:
        """The value of the last header `type`; empty without one."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Names and values, in order."""


class Fold(Decisions):
    """The tables of one partition, and the rules that change them."""

    def __init__(  # noqa: PLR0913  all but two by name
        self, rules: Rules, store: Map, *, partition: int, partitions: int, topic: str = "job-events", epoch: int = 0
    ) -> None:
        super().__init__(rules, store, partitions)
        self.partition, self.partitions, self.topic = partition, partitions, topic
        self._epoch = epoch << EPOCH_BITS
        self.counts: Counter[str] = Counter()
        self._handlers: dict[bytes, Callable[[Regression, Record], bool | None]] = {
            b"job-finish": self._job_finish,
            b"batch-job-finish": self._batch_job_finish,
            b"regr-start": self._regr_start,
            b"regr-update": self._regr_update,
            b"regr-finish": self._regr_finish,
            b"regr-tank": self._regr_tank,
        }
        if rules.enable_live:
            self._handlers[b"job-live"] = self._job_live

    # ------------------------------------------------------------------ in

    def run(self, records: list[Record], start: int) -> int:
        """Fold messages in, from index `start` on, until all are or enough has changed to be written out.

        Returns the index of the next message to fold in, after what `take` gives was written out.
        """
        at, count = start, len(records)
        while at < count and len(self._dirty_rows) < BATCH_ROWS and self._bytes < BATCH_BYTES:
            if native is not None:
                after = native.run(records, at, self, BATCH_ROWS, BATCH_BYTES, ROW_BYTES)
                if after > at:
                    at = after
                    continue
            if not self.apply(records[at]):
                return at
            at += 1
        return at

    def apply(self, record: Record) -> bool:
        """Fold one message in. False: not taken; write out what `take` gives, and apply the same message again."""
        self.version = version = self._epoch | record.offset
        handler = self._handlers.get(record.kind)
        if handler is None:
            return self._apply_other(record)
        try:
            regression = self._regressions.get(record.key or b"") or self._load(record)
            if regression is None:
                return True  # sent on to its own partition
            if version <= regression.version:
                self.counts["replayed"] += 1
                return True
            now_ms = record.timestamp
            self.now_ms = now_ms if now_ms > regression.updated_ms else regression.updated_ms  # noqa: FURB136  faster
            return handler(regression, record) is not False
        except Reject as error:
            self._reject(record, error)
            return True

    def _apply_other(self, record: Record) -> bool:
        if record.kind == _TICK:
            return self._tick(record.timestamp)
        if record.kind == b"job-live":
            self.counts["live_off"] += 1
            return True
        try:
            messages.refuse_type(record.kind)
        except Reject as error:
            self._reject(record, error)
        return True

    def _load(self, record: Record) -> Regression | None:
        """The regression of a record's key: known here, stored or new; None if another partition's."""
        name = messages.check_key(record.key)
        key = record.key or b""
        partition = partition_of(key, self.partitions)
        if partition != self.partition:
            self._changes.reroutes.append((partition, key, record.value, list(record.headers)))
            self._bytes += len(record.value or b"") + REJECT_OVERHEAD_BYTES
            self.counts["rerouted"] += 1
            return None
        return self._regression(key, name)

    def _load_own(self, key: bytes | None) -> Regression | None:
        """The regression of this name that the store has, if it is one of this partition's."""
        if not key or partition_of(key, self.partitions) != self.partition:
            return None
        return self._load_regression(key)

    def _reject(self, record: Record, error: Reject, item: bytes | None = None, index: int = 0) -> None:
        extra: Headers = [
            ("__streams.errors.exception", error.code.encode()),
            ("__streams.errors.message", error.message.encode(errors="replace")),
            ("__streams.errors.topic", self.topic.encode()),
            ("__streams.errors.partition", b"%d" % self.partition),
            ("__streams.errors.offset", b"%d" % record.offset),
        ]
        value = record.value
        if item is not None:
            extra.append(("livejobs.batch.index", b"%d" % index))
            value = item
        self._changes.rejects.append((record.key, value, [*record.headers, *extra]))
        self._bytes += len(value or b"") + REJECT_OVERHEAD_BYTES
        self.counts["rejected"] += 1

    # ------------------------------------------------------------------ regressions

    def _heard(self, regression: Regression) -> None:
        """A valid message that changes something: opens an unknown regression, revives one that timed out."""
        regression.exists = True
        regression.heard_ms = self.now_ms
        if regression.phase == "timed-out" and regression.sealed_ms is None:
            regression.phase, regression.closed_ms = "open", None
            if regression.ending is not None and regression.ending.verdict == "timeout":
                regression.ending = None
        regression.version, regression.updated_ms = self.version, self.now_ms
        if not regression.dirty:
            self._publish(regression)

    def _open_only(self, regression: Regression) -> None:
        if regression.sealed_ms is not None:
            raise Reject("sealed", "the regression is sealed: its statistics are final, a regr-start begins a new run")

    def _merge(self, regression: Regression, given: dict[str, msgspec.Raw], submitted: int | None) -> None:
        if given:
            merged = _encode(decode_fields(regression.fields) | given)
            if len(merged) > messages.FIELDS_BYTES_MAX:
                raise Reject("too-large", f"fields: more than {messages.FIELDS_BYTES_MAX} bytes")
            self._bytes += len(merged)
            regression.fields = merged
        if submitted is not None:
            regression.submitted = submitted

    def _regr_start(self, regression: Regression, record: Record) -> bool:
        given, submitted = messages.regression(record.value)
        digest = hashlib.blake2b(messages.canonical(_encode(given)), digest_size=16).hexdigest()
        closed = regression.exists and regression.phase != "open"
        if regression.sealed_ms is not None:
            if regression.dropping:
                self.now_ms = max(record.timestamp, regression.updated_ms)
                self._drop_rows(regression, TICK_ROWS)
                return False
            if len(_encode(given)) > messages.FIELDS_BYTES_MAX:
                raise Reject("too-large", f"fields: more than {messages.FIELDS_BYTES_MAX} bytes")
            regression.renew()
        elif closed and (regression.start == digest if given else regression.start is not None):
            self.counts["repeated_start"] += 1
            return True
        self._merge(regression, given, submitted)
        regression.start = digest
        regression.phase, regression.closed_ms, regression.ending = "open", None, None
        self._heard(regression)
        return True

    def _regr_update(self, regression: Regression, record: Record) -> None:
        given, submitted = messages.regression(record.value)
        self._open_only(regression)
        self._merge(regression, given, submitted)
        self._heard(regression)

    def _regr_finish(self, regression: Regression, record: Record) -> None:
        given, submitted = messages.regression(record.value)
        self._open_only(regression)
        self._merge(regression, given, submitted)
        self._heard(regression)
        if regression.phase != "finished":
            regression.phase, regression.closed_ms = "finished", self.now_ms
        self._begin_ending(regression, "finish")

    def _regr_tank(self, regression: Regression, record: Record) -> None:
        regression.tanked = messages.tank(record.value)
        self._heard(regression)
        if regression.sealed_ms is not None:
            return
        if regression.tanked:
            self._begin_ending(regression, "tank")
        elif regression.ending is not None and regression.ending.verdict == "tank":
            regression.ending = None

    # ------------------------------------------------------------------ jobs

    def _job_live(self, regression: Regression, record: Record) -> None:
        body = record.value
        tail = messages.live(body)
        if regression.sealed_ms is not None:
            self._open_only(regression)
        key = regression.prefix + tail
        row = regression.rows.get(key) or self._load_row(regression, key)
        if row.state is FINISHED:
            self.counts["late_live"] += 1
            return
        self._heard(regression)
        ending = regression.ending
        row.spared = ending.version if ending is not None else 0
        if row.state is LIVE:
            row.updated_ms, row.body = self.now_ms, body
            self._touch(regression, key, row)
        else:
            self._move(regression, key, row, JobEvent.LIVE, "live", body)

    def _job_finish(self, regression: Regression, record: Record) -> None:
        self._finish(regression, record.value or b"", messages.finish(record.value))

    def _batch_job_finish(self, regression: Regression, record: Record) -> None:
        items = messages.batch(record.value)
        self._open_only(regression)
        if not items:
            self._heard(regression)
        for index, item in enumerate(items):
            try:
                self._finish(regression, item, messages.finish(item))
            except Reject as error:
                self._reject(record, error, item, index)

    def _finish(self, regression: Regression, body: bytes, given: Finish) -> None:
        if regression.sealed_ms is not None:
            self._open_only(regression)
        key = regression.prefix + given[0]
        row = regression.rows.get(key) or self._load_row(regression, key)
        if row.state is FINISHED:
            self._correct(regression, key, row, body, given)
            return
        self._heard(regression)
        statistics.leave(regression, row)
        self._place(regression, key, row, JobEvent.FINISH, given[1], body, self._signature_of(regression, given))
        statistics.enter(regression, row)
        statistics.add(regression, given, self.now_ms)

    def _correct(self, regression: Regression, key: bytes, row: Row, body: bytes, given: Finish) -> None:
        """A second finish of a job: the same changes nothing, another takes the first one's place."""
        old_body, old_ms = self._body(key, row), row.updated_ms
        old = messages.finish(old_body)
        if old[:9] == given[:9] and messages.same_json(old_body, body):
            self.counts["repeated_finish"] += 1
            return
        self._heard(regression)
        statistics.leave(regression, row)
        statistics.subtract(regression, old)
        self._place(regression, key, row, JobEvent.FINISH, given.result, body, self._signature_of(regression, given))
        statistics.enter(regression, row)
        statistics.add(regression, given, self.now_ms)
        if not statistics.narrow(regression, statistics.ran(old, old_ms), statistics.ran(given, self.now_ms)):
            self._measure_span(regression)

    def _signature_of(self, regression: Regression, given: Finish) -> str | None:
        if given[1] != "fail":
            return None
        return statistics.signature_of(regression, given, self.rules.timeout_signature)

    # ------------------------------------------------------------------ statistics

    def _measure_span(self, regression: Regression) -> None:
        """Look for the first start and the last finish among all finished jobs, and for those that come next."""
        if regression.span is None:
            self._hold(regression, SPAN_BYTES)
        regression.span = span = Span()
        for body, updated_ms in self._finished(regression):
            span.add(*statistics.ran(messages.finish(body), updated_ms))
        regression.first_start_ms, regression.last_finish_ms = span.first_start_ms, span.last_finish_ms
