"""Liveness, readiness and metrics of a worker, over HTTP on `[worker] healthbind`."""

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from livejobs.streams.config import split_address
from livejobs.tables.store import shared_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from livejobs.streams.worker.worker import Worker

class Metrics(Collector):
    """All metrics of a worker. No label names a job or a regression."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def collect(self) -> "Iterable[Metric]":
        """The metrics, read from the worker's own figures."""
        partitions = list(self._worker.ready.values())
        yield GaugeMetricFamily(
            "livejobs_partitions_assigned", "Partitions that the group gave to this worker.", len(self._worker.assigned)
        )
        yield GaugeMetricFamily(
            "livejobs_partitions_ready", "Partitions whose store is open and up to date.", len(partitions)
        )
        watchdog = self._worker.watchdog
        yield GaugeMetricFamily(
            "livejobs_group_member", "1 when the group has given this worker its part.", int(self._worker.is_member())
        )
        yield GaugeMetricFamily(
            "livejobs_broker_silence_seconds", "Time since a broker last answered.", watchdog.away_seconds
        )
        loops = GaugeMetricFamily(
            "livejobs_event_loop_lag_seconds", "The longest that a loop was busy, in the last minute.", labels=["loop"]
        )
        for name, pulse in list(watchdog.pulses.items()):
            loops.add_metric([name.removesuffix("'s")], pulse.lag_seconds)
        opening = GaugeMetricFamily(
            "livejobs_partition_restore_age_seconds", "Time since a restore last moved.", labels=["partition"]
        )
        for number, moved_at in self._worker.opening.items():
            opening.add_metric([str(number)], time.monotonic() - moved_at)
        queued = GaugeMetricFamily(
            "livejobs_partition_queued_messages", "Messages fetched and not yet applied.", labels=["partition"]
        )
        lag = GaugeMetricFamily(
            "livejobs_partition_lag_messages", "Messages in the topic and not yet applied.", labels=["partition"]
        )
        age = GaugeMetricFamily(
            "livejobs_partition_commit_age_seconds", "Time since the last committed transaction.", labels=["partition"]
        )
        what = CounterMetricFamily(
            "livejobs_messages",
            "Messages that were not simply applied, by what became of them.",
            labels=["partition", "outcome"],
        )
        for partition in partitions:
            queued.add_metric([str(partition.number)], partition.queued_records)
            lag.add_metric([str(partition.number)], watchdog.lag(partition))
            age.add_metric([str(partition.number)], time.monotonic() - partition.committed_at)
            for outcome, count in partition.fold.counts.items():
                what.add_metric([str(partition.number), outcome], count)
        stores = GaugeMetricFamily(
            "livejobs_store_memory_bytes",
            "Memory shared by the stores: blocks of files (they fill up to their limit), and writes in no file yet.",
            labels=["use"],
        )
        for use, size in shared_bytes().items():
            stores.add_metric([use], size)
        yield from (loops, opening, queued, lag, age, what, stores)


class Health:
    """The HTTP endpoints `/live`, `/ready` and `/metrics`."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(Metrics(worker))

    async def start(self) -> None:
        """Serve until the process ends."""
        app = web.Application()
        app.add_routes(
            [web.get("/live", self._live), web.get("/ready", self._ready), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        host, port = split_address(self._worker.config.worker.healthbind)
        await web.TCPSite(runner, host, port).start()
        await asyncio.Event().wait()

    async def _live(self, _: web.Request) -> web.Response:
        """Whether it works, or waits for what is not its own: nothing that a restart would mend."""
        stalled = self._worker.watchdog.stalled()
        return web.json_response({"live": stalled is None, "reason": stalled}, status=200 if stalled is None else 503)

    async def _ready(self, _: web.Request) -> web.Response:
        """Whether it takes part in the work now."""
        worker = self._worker
        missing = sorted(worker.assigned - worker.ready.keys())
        reason = None
        if worker.watchdog.away:
            reason = f"no broker has answered for {worker.watchdog.away_seconds:.0f} s"
        elif not worker.is_member():
            reason = "joining the group"
        elif not worker.assigned:
            reason = "no partitions: others have them all"
        elif missing:
            reason = f"restoring partitions {', '.join(map(str, missing))}"
        body = {"ready": reason is None, "reason": reason, "restoring": missing}
        return web.json_response(body, status=200 if reason is None else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")
