"""What the system decides by itself: jobs whose regression ends, regressions and jobs of which nothing more is heard.

An ending (by a finish, a timeout or a tank) judges the jobs that are still live, a step at a time. A tick looks for
what is due by its broker time: regressions time out, are sealed and dropped, live jobs are pruned.
"""

from collections.abc import Iterator
from itertools import islice

import msgspec

from livejobs.streams.core import statistics
from livejobs.streams.core.overlay import ABSENT, BATCH_BYTES, LIVE, Overlay
from livejobs.streams.core.rules import deadline
from livejobs.streams.core.transition import MOVES, JobEvent
from livejobs.tables import jobs, keys, regressions, times
from livejobs.tables.fields import Row
from livejobs.tables.jobs import Verdict
from livejobs.tables.regressions import NEVER_MS, Ending, Regression

ENDING_STEP = 10_000
"""Live jobs judged at once; the rest follows with the ticks."""
TICK_ROWS = 10_000
"""Rows that one tick touches; the rest is left to the next."""


class Decisions(Overlay):
    """The tables of one partition, and what becomes of them when no message says it."""

    # ------------------------------------------------------------------ moves

    def _move(  # noqa: PLR0913, PLR0917  the parts of a row
        self,
        regression: Regression,
        key: bytes,
        row: Row,
        event: JobEvent,
        result: str,
        body: bytes | None,
        sig: str | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        """Take a job where the transition table says; the counts follow."""
        statistics.leave(regression, row)
        self._place(regression, key, row, event, result, body, sig, verdict)
        statistics.enter(regression, row)

    def _place(  # noqa: PLR0913, PLR0917  the parts of a row
        self,
        regression: Regression,
        key: bytes,
        row: Row,
        event: JobEvent,
        result: str,
        body: bytes | None,
        sig: str | None,
        verdict: Verdict | None = None,
    ) -> None:
        target = MOVES[event][row.state]
        if target is None:
            raise KeyError(f"a job that is {row.state!r} can't {event!r}")
        if row.state is ABSENT:
            row.first_seen = times.to_text(self.now_ms)
        row.state, row.result, row.body, row.updated_ms = target, result, body, self.now_ms
        row.signature, row.verdict = sig, verdict
        if target is not LIVE:
            row.spared = 0
        self._touch(regression, key, row)

    # ------------------------------------------------------------------ a regression ends

    def _begin_ending(self, regression: Regression, verdict: Verdict) -> None:
        if self.rules.timeout_signature is not None:
            regression.ending = Ending(verdict, self.version) if regression.live else None
            self._step_ending(regression)

    def _step_ending(self, regression: Regression) -> int:
        """Judge the next live jobs of a regression; returns how many rows were looked at."""
        ending, sig = regression.ending, self.rules.timeout_signature
        if ending is None:
            return 0
        if sig is None:  # it was begun under other rules
            regression.ending = None
            self._publish(regression)
            return 0
        done = judged = 0
        start_bytes = self._bytes
        live = self._live_keys(regression, ending.after.encode(), ENDING_STEP + 1)
        for key in live:
            if done == ENDING_STEP or self._bytes - start_bytes >= BATCH_BYTES:
                break
            done += 1
            ending.after = key.decode()
            row = self._row(regression, key)
            if row.spared != ending.version:
                judged += 1
                body = self._body(key, row)
                self._move(regression, key, row, JobEvent.JUDGE, "fail", body, sig, ending.verdict)
        if done == len(live):
            regression.ending = None
        if judged:
            self._change(regression)
        else:
            self._publish(regression)
        return done

    # ------------------------------------------------------------------ time passes

    def _tick(self, tick_ms: int) -> bool:
        """Take what is due, at most TICK_ROWS rows of it. False: changes must be written out first."""
        if self._dirty_rows or self._dirty_regressions or self._moved or self._changes.ops:
            return False
        cutoff_ms = tick_ms - self.rules.prune_ms
        if self._bundle_head <= cutoff_ms and self._unbundled < self.version:
            self._unbundled = self.version
            self._unbundle(cutoff_ms)
            return False
        left = TICK_ROWS
        if self._deadline_head <= tick_ms:
            left = self._tick_regressions(tick_ms, left)
        if self._seen_head <= cutoff_ms and left > 0:
            self._tick_live(tick_ms, cutoff_ms, left)
        return True

    def _tick_regressions(self, tick_ms: int, left: int) -> int:
        due, self._deadline_head = self._due(keys.DEADLINE, self._deadline_head, tick_ms, left)
        for entry in due:
            if left <= 0:
                self._deadline_head = keys.time_of(entry)
                break
            name = keys.rest_of(entry)
            regression = self._regression(name, name.decode())
            if not regression.exists or regression.deadline_ms != keys.time_of(entry):
                self._changes.ops.append((entry, None))  # stale
                continue
            if self.version <= regression.version:
                self._deadline_head = min(self._deadline_head, keys.time_of(entry))
                continue
            self.now_ms = max(tick_ms, regression.updated_ms)
            left -= 1 + self._take_due(regression, tick_ms)
            self._moved[regression.key] = regression
        return left

    def _take_due(self, regression: Regression, tick_ms: int) -> int:
        """Do what a regression's deadline asks for, if it is really there; returns the rows touched."""
        if deadline(self.rules, regression) > tick_ms:
            return 0
        if regression.dropping:
            return self._drop_rows(regression, TICK_ROWS)
        if regression.sealed_ms is not None:
            self._change(regression)
            self._forget_rows(regression)
            regression.forget()
            return 0
        if regression.ending is not None:
            return self._step_ending(regression)
        if regression.phase == "open":
            regression.phase, regression.closed_ms = "timed-out", self.now_ms
            self._change(regression)
            ended = regression.live
            self._begin_ending(regression, "timeout")
            return ended
        regression.sealed_ms, regression.dropping, regression.live = self.now_ms, True, 0
        self._change(regression)
        return self._drop_rows(regression, TICK_ROWS)

    def _drop_rows(self, regression: Regression, most: int) -> int:
        """Drop some of a sealed regression's job rows; not to be called with changed rows in memory."""
        self._forget_rows(regression)
        regression.complete = False
        dropped = 0
        for table in (keys.LIVE, keys.FINISHED):
            for key, _ in islice(self.store.scan(*keys.job_range(table, regression.prefix)), most - dropped):
                dropped += 1
                self._changes.jobs.append((key[1:], None, []))
                self._changes.ops.append((key, None))
        if dropped < most:
            regression.dropping, regression.complete = False, True
        self._moved[regression.key] = regression
        self._publish(regression)  # only the private state changes: the record is written again with the same version
        return dropped

    def _unbundle(self, cutoff_ms: int) -> None:
        """Put P entries into the place of the bundles with some that are due: of jobs that are live now.

        Once in a tick, of TICK_ROWS entries or BATCH_BYTES of them, and one bundle more; the rest is left to the next.
        """
        known, _ = self._due(keys.SEEN, self._seen_head, cutoff_ms, TICK_ROWS)
        until_ms = keys.time_of(known[-1]) if len(known) == TICK_ROWS else cutoff_ms
        ops, size = self._changes.ops, 0
        entries: list[bytes] = []
        head_ms, self._bundle_head = self._bundle_head, NEVER_MS
        for bundle, value in self._entries(keys.BUNDLE, head_ms):
            first_ms = keys.time_of(bundle)
            if first_ms > until_ms or len(entries) >= TICK_ROWS or size >= BATCH_BYTES:
                self._bundle_head = first_ms
                break
            self._seen_head = min(self._seen_head, first_ms)
            more = jobs.unbundled(value)
            ops.append((bundle, None))
            entries += more
            size += sum(map(len, more))
        ops += [(entry, b"") for entry in self._still_live(entries)]

    def _still_live(self, entries: list[bytes]) -> Iterator[bytes]:
        """Those P entries whose jobs are live. Not to be called with changed rows in memory.

        Most jobs have long ended. Where none of their regression is live, they need no look of their own.
        """
        live: dict[str, int] = {}  # jobs, by the name of their regression
        for entry in entries:
            key = keys.rest_of(entry)
            name = msgspec.json.decode(key)[0]
            if name not in live:
                stored = self.store.get(keys.REGRESSION + name.encode())
                live[name] = 0 if stored is None else regressions.live_of(stored)
            if live[name] and self.store.get(keys.LIVE + key) is not None:
                yield entry

    def _tick_live(self, tick_ms: int, cutoff_ms: int, left: int) -> None:
        """Prune live jobs of which nothing was heard for too long."""
        due, self._seen_head = self._due(keys.SEEN, self._seen_head, cutoff_ms, left)
        for entry in due:
            key = keys.rest_of(entry)
            stored = self.store.get(keys.LIVE + key)
            if stored is None or jobs.seen_ms_of(stored) != keys.time_of(entry):
                self._changes.ops.append((entry, None))  # stale
                continue
            name = msgspec.json.decode(key)[0]
            regression = self._regression(name.encode(), name)
            if self.version < regression.version:  # a replayed tick
                self._seen_head = min(self._seen_head, keys.time_of(entry))
                continue
            row = self._row(regression, key)
            if row.dirty or regression.sealed_ms is not None:  # judged or dropped by this very tick
                self._seen_head = min(self._seen_head, keys.time_of(entry))
                continue
            self.now_ms = max(tick_ms, regression.updated_ms)
            if row.updated_ms <= cutoff_ms:
                self._move(regression, key, row, JobEvent.PRUNE, "", None)
                self._change(regression)
            else:
                later = row.updated_ms
                row.seen_ms = later
                self._changes.ops += [
                    (entry, None),
                    (keys.timed(keys.SEEN, later, key), b""),
                    (keys.LIVE + key, later.to_bytes(8, "big") + stored[8:]),
                ]
                self._seen_head = min(self._seen_head, later)
