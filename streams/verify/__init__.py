"""The verifier: statistics = a fold over the job rows = a fold over `job-events`, proven from the topics alone.

Each partition is folded anew into a temporary store, up to the group's committed offset, and its two output topics are
copied next to it (`partition`); then the two are compared regression by regression (`comparison`). It takes no locks
and joins no group: the system may run. Memory is bounded; the disk (of TMPDIR) holds one partition at a time.

A system that runs goes on while we read. What is read, is read in an order that makes it safe: committed offset, job
rows, statistics. So a regression whose statistics are not above the committed offset has not moved, and one that has
moved is left out and counted. The rules are those of the configuration: workers say with each commit which rules are in
force, and from which message on. So other rules are refused, and a regression that is older than them and differs is
left out and counted, for the fold may rightly give something else than what other rules gave then.
"""

import asyncio
import tempfile
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError

from livejobs.streams.config import Config
from livejobs.streams.kafka import topics
from livejobs.streams.kafka.client import Heard, client_options
from livejobs.streams.kafka.records import install as install_records
from livejobs.streams.verify.comparison import Comparison
from livejobs.streams.verify.partition import Partition
from livejobs.streams.verify.report import Progress, Report, VerifyError, Work
from livejobs.streams.verify.source import Source

__all__ = ["Report", "VerifyError", "run"]


def run(config: Config, progress: Progress = lambda _done, _total: None) -> Report:
    """Verify all partitions; `progress` gets the messages folded and the messages to fold.

    Raises VerifyError and TopicsError (also: no broker answers), ConfigError.
    """
    install_records()
    return asyncio.run(_run(config, progress))


async def _run(config: Config, progress: Progress) -> Report:
    partitions = await topics.assert_usable(config)
    kafka = config.kafka
    options = client_options(kafka)
    every = [
        TopicPartition(t, p)
        for t in (kafka.events_topic, kafka.jobs_topic, kafka.stats_topic)
        for p in range(partitions)
    ]
    reader = AIOKafkaConsumer(
        **options,
        isolation_level="read_committed",
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=100,
    )
    ends = AIOKafkaConsumer(**options, enable_auto_commit=False)  # reads uncommitted: it sees ends, not records
    admin = AIOKafkaAdminClient(**options)
    report, heard = Report(), Heard()
    try:
        with heard:
            for client in (reader, ends, admin):
                await client.start()
        ends.assign(every)
        ends.pause(*every)
        source = Source(config, reader, ends, admin)
        work = Work(report, await source.to_fold(partitions), progress)
        work.show()
        for number in range(partitions):
            with tempfile.TemporaryDirectory(prefix="livejobs-verify-") as folder:
                await _verify(Partition(number, partitions, source, Path(folder), work), report)
    except OffsetOutOfRangeError as error:
        raise VerifyError(f"messages were removed while they were read, run again: {error}") from error
    except KafkaConnectionError as error:
        raise topics.BrokerAwayError(f"no Kafka broker answers at {kafka.brokers}{heard}") from error
    except KafkaError as error:
        raise VerifyError(f"the Kafka broker at {kafka.brokers} refuses: {error!r}") from error
    finally:
        for stop in (reader.stop, ends.stop, admin.close):
            await stop()
    return report


async def _verify(partition: Partition, report: Report) -> None:
    with partition.open():
        await partition.read()
        await Comparison(partition, report).run()
