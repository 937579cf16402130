"""The core against the naive model: thousands of generated histories."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from random import Random
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import model as model_of
import pytest
from histories import Message, histories
from histories import rules as rule_sets
from hypothesis import HealthCheck, given, settings
from memory import MemoryBatch, MemoryMap, Record, compiled_record
from model import Model

from livejobs.streams.config import Sigs
from livejobs.streams.core import decisions, overlay
from livejobs.streams.core import rules as rules_of
from livejobs.streams.core.fold import Fold
from livejobs.streams.core.partitioner import partition_of
from livejobs.streams.core.rules import Rules
from livejobs.streams.verify.differences import Count
from livejobs.tables import jobs, keys, regressions, times
from livejobs.tables.staged import Staged

FETCHED = 7
"""Records of `jobs` that a restore takes at once."""
HISTORIES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def record_of(message: Message) -> Any:
    """By turns one of the compiled part's records, which it takes if they are plain, and one for the rules alone."""
    record = Record(message.offset, message.timestamp, message.key, message.value, tuple(message.headers))
    return record if message.offset % 5 == 0 else compiled_record(record)


def assert_memory_counted(fold: Fold) -> None:
    """What is remembered is bounded by these numbers, so they must not drift."""
    known = fold._regressions.values()
    for one in known:
        rows_bytes = overlay.held_by(one.rows) + (0 if one.span is None else regressions.SPAN_BYTES)
        assert one.held_bytes == overlay.REGRESSION_BYTES + overlay.RECORD_COPIES * one.size + rows_bytes
    assert fold._cached == sum(one.held_bytes for one in known)


class Core:
    """The fold over a map in memory, its output topics kept as compacted dictionaries.

    As in a worker, a batch is folded while the writes of the one before are still on their way to the map.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.map = MemoryMap()
        self.on_their_way: list[tuple[bytes, bytes | None]] = []
        self.changelog: list[tuple[bytes, bytes | None, Any]] = []
        """All records of `jobs`, before they are compacted."""
        self.kept: tuple[dict[bytes, bytes], int] = ({}, 0)
        """What a crash leaves of the map, and how much of the changelog is in it."""
        self.jobs: dict[bytes, tuple[bytes, Any]] = {}
        self.stats: dict[bytes, tuple[bytes, Any]] = {}
        self.rejects: list[tuple[str, int, int | None]] = []
        self.reopen()

    def reopen(self) -> None:
        self.settle()
        self.staged = Staged(self.map)
        self.fold = Fold(self.rules, self.staged, partition=0, partitions=1)

    def settle(self) -> None:
        self.map.write(self.on_their_way)
        self.on_their_way = []

    def apply(
        self, messages: Iterable[Message], cuts: set[int] = frozenset(), restarts: set[int] = frozenset()
    ) -> None:
        batch: list[Any] = []
        for number, message in enumerate(messages):
            batch.append(record_of(message))
            if number in cuts or number in restarts:
                self.run(batch)
                batch = []
            if number in restarts:
                self.reopen()
        self.run(batch)

    def run(self, batch: list[Any]) -> None:
        at = 0
        while at < len(batch):
            at = self.fold.run(batch, at)
            if at < len(batch):
                self.commit()
        self.commit()

    def commit(self) -> None:
        changes = self.fold.take()
        assert_memory_counted(self.fold)
        self.settle()
        self.on_their_way = changes.ops
        self.staged.stage(changes.ops)
        self.changelog += changes.jobs
        for table, outputs in ((self.jobs, changes.jobs), (self.stats, changes.stats)):
            for key, value, headers in outputs:
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = (value, headers)
        for _, _, headers in changes.rejects:
            head = dict(headers)
            index = head.get("livejobs.batch.index")
            self.rejects.append(
                (
                    head["__streams.errors.exception"].decode(),
                    int(head["__streams.errors.offset"]),
                    None if index is None else int(index),
                )
            )

    def restored(self) -> "Core":
        """A core rebuilt from the two topics alone."""
        other = Core(self.rules)
        other.restore([Record(at, 0, key, value, tuple(headers)) for at, (key, (value, headers)) in enumerate(self.jobs.items())])
        for key, (value, headers) in self.stats.items():
            other.map.write(rules_of.restore_ops(self.rules, key, value, headers))
        other.jobs, other.stats, other.rejects = dict(self.jobs), dict(self.stats), list(self.rejects)
        other.reopen()
        return other

    def restore(self, records: list[Record]) -> None:
        """Write what records of `jobs` say to the map; the compiled part says the same as the rules alone."""
        for at in range(0, len(records), FETCHED):
            some, batch, by_rules = records[at : at + FETCHED], MemoryBatch(), MemoryBatch()
            jobs.restore([compiled_record(record) for record in some], batch, None)
            jobs.restore(some, by_rules, None)
            assert batch.ops == by_rules.ops
            self.map.write(list(batch.ops.items()))

    def keep(self) -> None:
        """From now on a crash leaves what is in the map."""
        self.settle()
        self.kept = dict(self.map.values), len(self.changelog)

    def crash(self) -> None:
        """Lose all that is not kept, and restore it; the regressions' rows are as they were, to keep this short."""
        values, begin = self.kept
        self.settle()
        values = {key: value for key, value in values.items() if key[:1] not in keys.REGRESSION + keys.DEADLINE}
        values |= {key: value for key, value in self.map.values.items() if key[:1] in keys.REGRESSION + keys.DEADLINE}
        self.map = MemoryMap()
        self.map.write(list(values.items()))
        changelog = [Record(at, 0, key, value, tuple(more)) for at, (key, value, more) in enumerate(self.changelog)]
        self.restore(changelog[begin:])
        self.reopen()

    def job_records(self) -> dict[tuple[str, ...], dict[str, Any]]:
        return {tuple(json.loads(key)): json.loads(value) for key, (value, _) in self.jobs.items()}

    def stats_records(self) -> dict[str, dict[str, Any]]:
        return {key.decode(): json.loads(value) for key, (value, _) in self.stats.items()}

    def check_rows(self) -> None:
        """The store holds what the topics hold, and nothing is live and finished."""
        self.settle()
        live = {key[1:]: jobs.record_of(value, live=True) for key, value in self.map.scan(keys.LIVE, b"M")}
        finished = {key[1:]: value for key, value in self.map.scan(keys.FINISHED, b"G")}
        assert not live.keys() & finished.keys()
        assert live | finished == {key: value for key, (value, _) in self.jobs.items()}


def folded(rules: Any, messages: list[Message]) -> tuple[Core, Model]:
    """The core and the model after the same messages."""
    core, model = Core(Rules(**asdict(rules))), Model(rules)
    core.apply(messages)
    for m in messages:
        model.apply(m.offset, m.timestamp, m.key, m.kind, m.value)
    return core, model


def close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-12))


def assert_same_stats(got: dict[str, dict[str, Any]], want: dict[str, dict[str, Any]]) -> None:
    assert got.keys() == want.keys()
    for name, record in want.items():
        mine = dict(got[name])
        for field in ("pass_rate", "cycles_per_second"):
            assert close(mine[field], record[field]), field
            mine[field] = record[field]
        assert mine == record


@HISTORIES
@given(rules=rule_sets(), messages=histories())
def test_the_core_equals_the_model(rules: Any, messages: list[Message]) -> None:
    core, model = folded(rules, messages)
    assert core.job_records() == model.jobs()
    assert_same_stats(core.stats_records(), model.stats())
    assert core.rejects == model.rejects
    core.check_rows()


@HISTORIES
@given(rules=rule_sets(), messages=histories())
def test_ending_in_steps_equals_the_model(rules: Any, messages: list[Message]) -> None:
    with patch.object(decisions, "ENDING_STEP", 2), patch.object(model_of, "ENDING_STEP", 2):
        core, model = folded(rules, messages)
        assert core.job_records() == model.jobs()
        assert_same_stats(core.stats_records(), model.stats())


@HISTORIES
@given(
    rules=rule_sets(),
    messages=histories(),
    seed=st.integers(0, 2**32),
    step=st.sampled_from([1, 10_000]),
    room=st.sampled_from([0, 4_000, 10_000, 10**7]),
    seen_bytes=st.sampled_from([1, 128]),
    least_kept=st.sampled_from([1, 2]),
    bundle=st.sampled_from([1, 2, 256]),
)
def test_batch_boundaries_restarts_restores_and_room_in_memory_do_not_matter(
    rules: Any,
    messages: list[Message],
    seed: int,
    step: int,
    room: int,
    seen_bytes: int,
    least_kept: int,
    bundle: int,
) -> None:
    whole = Core(Rules(**asdict(rules)))
    with patch.object(decisions, "ENDING_STEP", step):
        whole.apply(messages)
        little = patch.multiple(
            overlay,
            CACHE_BYTES=room, CACHE_BYTES_MIN=0, SEEN_BYTES=2 * seen_bytes, SEEN_BYTES_MAX=seen_bytes,
        )  # fmt: skip
        bundles = patch.object(jobs, "BUNDLE_ENTRIES_MAX", bundle)
        with little, bundles, patch.object(regressions, "LEAST_KEPT", least_kept):
            _boundaries(whole, messages, Random(seed))


def _boundaries(whole: Core, messages: list[Message], random: Random) -> None:
    numbers = range(len(messages))
    cut = Core(whole.rules)
    cut.apply(
        messages,
        cuts=set(random.sample(numbers, random.randint(0, len(messages)))),
        restarts=set(random.sample(numbers, random.randint(0, len(messages)))),
    )
    assert (cut.jobs, cut.stats, cut.rejects) == (whole.jobs, whole.stats, whole.rejects)
    at = random.randint(0, len(messages))
    first = Core(whole.rules)
    first.apply(messages[:at])
    second = first.restored()
    second.apply(messages[at:])
    assert (second.jobs, second.stats, second.rejects) == (whole.jobs, whole.stats, whole.rejects)
    second.check_rows()


@HISTORIES
@given(rules=rule_sets(), messages=histories(), seed=st.integers(0, 2**32), bundle=st.sampled_from([1, 2, 256]))
def test_crashes_that_take_the_last_writes_away_do_not_matter(
    rules: Any, messages: list[Message], seed: int, bundle: int
) -> None:
    whole, crashing, random = Core(Rules(**asdict(rules))), Core(Rules(**asdict(rules))), Random(seed)
    whole.apply(messages)
    with patch.object(jobs, "BUNDLE_ENTRIES_MAX", bundle):
        for message in messages:
            crashing.apply([message])
            if random.random() < 0.2:
                random.choice([crashing.keep, crashing.crash])()
    assert (crashing.jobs, crashing.stats, crashing.rejects) == (whole.jobs, whole.stats, whole.rejects)
    crashing.check_rows()


@HISTORIES
@given(rules=rule_sets(), messages=histories(), start=st.integers(0, 60))
def test_replaying_any_part_changes_nothing(rules: Any, messages: list[Message], start: int) -> None:
    # Statistics outlive the messages (eventsretentiondays): a forgotten regression has nothing left to replay.
    core = Core(Rules(**asdict(rules))._replace(stats_ms=10**15))
    core.apply(messages)
    before = (dict(core.jobs), dict(core.stats))
    core.reopen()
    core.apply(messages[start:])
    assert (core.jobs, core.stats) == before


@HISTORIES
@given(
    rules=st.tuples(rule_sets(), rule_sets()),
    signature=st.sampled_from(["LIVE Job Timeout or Missing", "gone"]),
    messages=histories(),
    at=st.integers(0, 60),
)
def test_rules_may_change_between_two_runs(rules: tuple[Any, Any], signature: str, messages: list[Message], at: int) -> None:
    """No job is judged twice, every verdict has a signature, and the statistics stay a fold over the rows."""
    old, new = (Rules(**asdict(one)) for one in rules)
    new = new._replace(timeout_signature=new.timeout_signature and signature)
    with patch.object(decisions, "ENDING_STEP", 2):
        core, judged = Core(old), dict[tuple[str, ...], str]()
        for number, message in enumerate(messages):
            if number == at:
                core.rules = new
                core = core.restored()
            core.apply([message])
            records = core.job_records()
            for key in judged.keys() & {key for key, record in records.items() if "verdict" in record}:
                assert records[key]["updated"] == judged[key]
            judged = {key: record["updated"] for key, record in records.items() if "verdict" in record}
            assert all(records[key]["signature"] for key in judged)
        core.check_rows()
        assert_counted(core)


def test_an_ending_stops_where_its_signature_was_taken_away() -> None:
    core = Core(Rules(True, "lost", None, prune_ms=10**6, retention_ms=10**6, stats_ms=10**9))
    lives = [("job-live", b'{"uniqueid":"%d","result":"live"}' % number) for number in range(5)]
    steps = [*lives, ("regr-finish", None), ("_livejobs.tick", None), ("_livejobs.tick", None)]
    messages = [
        Message(offset, 10**12 + offset, key=None if "tick" in kind else b"run", kind=kind, value=value)
        for offset, (kind, value) in enumerate(steps)
    ]
    with patch.object(decisions, "ENDING_STEP", 2):
        core.apply(messages[:6])
        core.rules = core.rules._replace(timeout_signature=None)
        core = core.restored()
        core.apply(messages[6:])
    record = core.stats_records()["run"]
    assert (record["live"], record["fail"], record["signatures"]) == (3, 2, {"lost": 2})
    assert b"ending" not in core.stats[b"run"][1][0][1]
    core.check_rows()


def test_restored_live_jobs_are_pruned_when_they_are_due() -> None:
    """More than one tick may touch, and more than one bundle holds; one has finished meanwhile, one was heard of."""
    core, count, begin_ms = Core(Rules(True, None, None, prune_ms=1000, retention_ms=10**6, stats_ms=10**9)), 600, 10**12

    def message(offset: int, after_ms: int, kind: str, job: int = 0, result: str = "live") -> Message:
        key, value = (None, None) if "tick" in kind else (b"run", b'{"uniqueid":"%d","result":"%s"}' % (job, result.encode()))
        return Message(offset, begin_ms + after_ms, key=key, kind=kind, value=value)

    core.apply(message(job, job // 50 * 50, "job-live", job) for job in range(count))  # many at the same time
    core = core.restored()
    core.apply([message(600, 700, "job-finish", 5, "pass"), message(601, 700, "job-live", 7)])
    with patch.object(decisions, "TICK_ROWS", 50):
        core.apply(message(offset, 1300, "_livejobs.tick") for offset in range(602, 620))
        left = {int(key[-1]) for key, record in core.job_records().items() if record["result"] == "live"}
        assert left == {7, *range(350, count)}
        core.apply(message(offset, 1700, "_livejobs.tick") for offset in range(620, 640))
    assert [(key[-1], record["result"]) for key, record in core.job_records().items()] == [("5", "pass")]
    core.settle()
    assert not [key for table in (keys.SEEN, keys.BUNDLE) for key, _ in core.map.scan(table, bytes([table[0] + 1]))]


def test_jobs_that_ended_cost_no_look_when_they_would_be_due() -> None:
    """Only those of a regression that has live jobs are looked at; nothing stays of the places in time of all others."""
    core, count = Core(Rules(True, None, None, prune_ms=1000, retention_ms=10**6, stats_ms=10**9)), 600

    def message(offset: int, kind: str, result: str) -> Message:
        job = offset % count
        body = json.dumps({"uniqueid": str(job), "result": result}).encode()
        return Message(offset, 10**12 + offset // 10, key=b"r%d" % (job % 3), kind=kind, value=body)

    core.apply(message(job, "job-live", "live") for job in range(count))
    core.apply(message(count + job, "job-finish", "pass") for job in range(count) if job != 7)
    below, looked = core.map.get, []

    def get(key: bytes) -> bytes | None:
        looked.append(key)
        return below(key)

    with patch.object(core.map, "get", get), patch.object(decisions, "TICK_ROWS", 50):
        core.reopen()
        for left in (2, 1, 0):  # no tick takes more than there are in a bundle
            core.apply([Message(2 * count + 2 - left, 10**12 + 10**4, key=None, kind="_livejobs.tick", value=None)])
            core.settle()
            assert len(list(core.map.scan(keys.BUNDLE, b"C"))) == left
    assert {json.loads(key[1:])[0] for key in looked if key.startswith(keys.LIVE)} == {"r1"}
    assert len(core.job_records()) == count - 1
    assert ("r1", "7") not in core.job_records()
    assert not [key for table in (keys.SEEN, keys.BUNDLE) for key, _ in core.map.scan(table, bytes([table[0] + 1]))]


def test_a_regression_that_is_run_again_in_its_order_does_not_look_at_all_jobs_for_each() -> None:
    """Each correction takes the first start away, the next one is the next job's."""
    core, count, begin_ms = Core(Rules(True, None, None, prune_ms=10**6, retention_ms=10**6, stats_ms=10**9)), 600, 1_772_438_400_000

    def done(offset: int, job: int, start_ms: int) -> Message:
        body = json.dumps({"uniqueid": str(job), "result": "pass", "start_time": times.to_text(start_ms), "runtime_ms": 1}).encode()
        return Message(offset, 10**12, key=b"run", kind="job-finish", value=body)

    scans = 0
    below = core.map.scan

    def scan(start: bytes, stop: bytes) -> Any:
        nonlocal scans
        scans += start.startswith(keys.FINISHED)
        return below(start, stop)

    core.apply(done(job, job, begin_ms + job) for job in range(count))
    with patch.object(core.map, "scan", scan):
        core.reopen()
        for job in range(count):
            core.apply([done(count + job, job, begin_ms + count + job)])
            first = times.to_text(begin_ms + job + 1)
            assert core.stats_records()["run"]["first_start"] == first
    assert 1 <= scans <= 1 + count // regressions.LEAST_KEPT
    assert_counted(core)


def assert_counted(core: Core) -> None:
    """The statistics of each regression that has its rows are what the verifier makes of these."""
    for name, (value, headers) in core.stats.items():
        if "sealed_ms" not in json.loads(headers[0][1]):
            count = Count()
            for key, (row, _) in core.jobs.items():
                if json.loads(key)[0] == name.decode():
                    count.add(jobs.decode(row))
            assert list(count.differences(name.decode(), "stats", "jobs", (headers[0][1], value))) == []


def test_a_tick_finds_what_the_tick_before_it_moved() -> None:
    core = Core(Rules(True, None, None, prune_ms=100, retention_ms=10**6, stats_ms=10**9))
    beats = [(0, "job-live"), (150, None), (160, "job-live"), (170, None), (300, None)]
    core.apply([
        Message(offset, 10**12 + ms, key=b"run" if kind else None, kind=kind or "_livejobs.tick", value=b'{"uniqueid":"a","result":"live"}' if kind else None)
        for offset, (ms, kind) in enumerate(beats)
    ])
    assert core.job_records() == {}


LIVE_JOB = b'{"uniqueid":"u","result":"live"}'


def stored_elsewhere(name: str, said: str) -> MemoryMap:
    """A map with a regression's row that does not belong there."""
    rows = MemoryMap()
    one = regressions.Regression(said)
    one.exists = True
    rows.write([(keys.REGRESSION + name.encode(), regressions.stored_value(one.deadline_ms, one.value(), one.headers()))])
    return rows


@pytest.mark.parametrize("offset", [5, 6], ids=["rules", "compiled"])
def test_a_regression_of_another_partition_is_sent_on_even_if_the_store_has_it(offset: int) -> None:
    partition = 1 - partition_of(b"run", 2)
    fold = Fold(Rules.of(Sigs(enablelivejobs=True)), Staged(stored_elsewhere("run", "run")), partition=partition, partitions=2)
    fold.run([record_of(Message(offset, 1000, b"run", "job-live", LIVE_JOB))], 0)
    changes = fold.take()
    assert ([key for _, key, _, _ in changes.reroutes], changes.jobs, changes.stats) == ([b"run"], [], [])


@pytest.mark.parametrize("offset", [5, 6], ids=["rules", "compiled"])
def test_statistics_under_another_regressions_name_end_the_worker(offset: int) -> None:
    fold = Fold(Rules.of(Sigs(enablelivejobs=True)), Staged(stored_elsewhere("run", "other")), partition=0, partitions=1)
    with pytest.raises(ValueError, match="the statistics of b'run' are those of 'other'"):
        fold.run([record_of(Message(offset, 1000, b"run", "job-live", LIVE_JOB))], 0)
