"""The pure modules stay pure, the hash is Kafka's, and tables/ knows nothing of streams/."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis.strategies import binary

from livejobs import streams
from livejobs.streams.core import partitioner

PURE = (*(f"core.{name}" for name in ("fold", "decisions", "overlay", "messages", "rules", "statistics", "signature", "transition", "partitioner")), "config")


@pytest.mark.parametrize("module", [f"streams.{name}" for name in PURE] + [f"tables.{name}" for name in ("jobs", "keys", "regressions", "times")])
def test_pure_modules_import_neither_faust_nor_a_client_nor_rocksdb(module: str) -> None:
    code = f"import sys, livejobs.{module}; print(sorted({{'faust', 'aiokafka', 'rocksdict', 'asyncio'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_tables_import_nothing_of_streams() -> None:
    folder = Path(streams.__file__).parent.parent / "tables"
    sources = list(folder.glob("*.py")) or list((Path(__file__).parent.parent / "tables").glob("*.py"))
    assert len(sources) > 4
    assert not [path.name for path in sources if re.search(r"^(from|import) livejobs(\.streams| import streams)", path.read_text(), re.MULTILINE)]


@given(key=binary(max_size=40))
def test_the_hash_is_kafkas(key: bytes) -> None:
    assert partitioner.murmur2(key) == murmur2(key) & 0xFFFFFFFF
    assert partitioner.partition_of(key, 8) == (murmur2(key) & 0x7FFFFFFF) % 8
