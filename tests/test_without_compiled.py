"""Where the compiled part could not be built, all is the same.

How: the tests of the core and of the whole flow run once more, in processes that can't import it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HIDDEN = "import sys\nsys.modules['livejobs.tables._native'] = None\n"
TESTS = [
    "test_fold.py::test_the_core_equals_the_model",
    "test_flow.py::test_the_model_says_the_same",
    "recovery/test_restart.py::test_a_worker_is_restarted_with",
    "test_publish.py::test_many_messages_keep_the_order_of_each_regression",
    "test_cli.py::test_ndjson_names_bad_lines",
]


def test_all_is_the_same_without_the_compiled_part(tmp_path: Path) -> None:
    pytest.importorskip("livejobs.tables._native")  # without it, every other test is this one
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    seen = "from livejobs.tables.compiled import native; print(native)"
    run = [sys.executable, "-c", seen]
    assert subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout == "None\n"
    tests = [str(Path(__file__).parent / name) for name in TESTS]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
