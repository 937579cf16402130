"""Liveness, readiness and metrics of a worker, over HTTP on `[worker] healthbind`."""

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from livejobs.streams.config import split_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from livejobs.streams.worker import Worker

STALL_SECONDS = 120.0
"""A partition with messages waiting that commits nothing for so long is stalled."""


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
        lag = GaugeMetricFamily(
            "livejobs_partition_queued_messages", "Messages fetched and not yet applied.", labels=["partition"]
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
            lag.add_metric([str(partition.number)], partition.queued_records)
            age.add_metric([str(partition.number)], time.monotonic() - partition.committed_at)
            for outcome, count in partition.fold.counts.items():
                what.add_metric([str(partition.number), outcome], count)
        yield from (lag, age, what)


class Health:
    """The HTTP endpoints `/live`, `/ready` and `/metrics`."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._registry = CollectorRegistry()
        self._registry.register(Metrics(worker))
        self._beat = time.monotonic()

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
        stalled = [
            partition.number
            for partition in self._worker.ready.values()
            if partition.queued_records and time.monotonic() - partition.committed_at > STALL_SECONDS
        ]
        return web.json_response({"live": not stalled, "stalled": stalled}, status=503 if stalled else 200)

    async def _ready(self, _: web.Request) -> web.Response:
        missing = sorted(self._worker.assigned - self._worker.ready.keys())
        ready = not missing and bool(self._worker.assigned)
        return web.json_response({"ready": ready, "restoring": missing}, status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")
