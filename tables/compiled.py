"""The compiled part, `tables._native`: None where it could not be built, and then all goes the slower way."""

import contextlib
import importlib
from typing import Any

native: Any = None
with contextlib.suppress(ImportError):
    native = importlib.import_module("livejobs.tables._native")
