"""The build: setuptools, and before it the libraries of the web page, from npm.

`streams/static/vendor` is made here and not in git. npm checks each package against the sha512 of
`deploy/page/package-lock.json` and runs none of their scripts. Optional, as the compiled part is: without npm all
but the page works, and the page says what is missing. Called by itself (`python deploy/build_backend.py`) it only
fetches; as a build backend it must import nothing of ours.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  the hooks of a build backend that need no libraries
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

TOP = Path(__file__).resolve().parent.parent
PACKAGES = TOP / "deploy" / "page"
VENDOR = TOP / "streams" / "static" / "vendor"
NPM_SECONDS_MAX = 300


class Library(NamedTuple):
    """A file of a package, and its name under `vendor`."""

    source: str
    name: str


LIBRARIES = (
    Library("preact/dist/preact.mjs", "preact.js"),
    Library("preact/hooks/dist/hooks.mjs", "hooks.js"),
    Library("preact/LICENSE", "preact.LICENSE"),
    Library("htm/dist/htm.mjs", "htm.js"),
    Library("htm/LICENSE", "htm.LICENSE"),
    Library("uplot/dist/uPlot.esm.js", "uPlot.js"),
    Library("uplot/dist/uPlot.min.css", "uPlot.css"),
    Library("uplot/LICENSE", "uPlot.LICENSE"),
)


class LibrariesError(RuntimeError):
    """The libraries could not be had; the message says why, and what to do."""


def fetch() -> None:
    """Make `vendor` what the lock says, unless it is. Raises LibrariesError."""
    want = _fingerprint()
    stamp = VENDOR / "made-from"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == want:
        return
    with tempfile.TemporaryDirectory(prefix="livejobs-page-") as folder:
        modules = install(Path(folder), "--omit=dev")
        made = Path(folder) / "vendor"
        made.mkdir()
        for library in LIBRARIES:
            text = (modules / library.source).read_text(encoding="utf-8")
            (made / library.name).write_text(_as_module(text), encoding="utf-8")
        (made / stamp.name).write_text(want, encoding="utf-8")
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(made, VENDOR)


def install(folder: Path, *flags: str) -> Path:
    """Install the locked packages in `folder`; where they are then. Raises LibrariesError."""
    npm = shutil.which("npm")
    if npm is None:
        raise LibrariesError("no npm: install Node.js 18 or newer with npm, and run `make` again")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGES / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *flags]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise LibrariesError(f"`npm ci` did not end within {NPM_SECONDS_MAX} s") from None
    if done.returncode != 0:
        raise LibrariesError(f"`npm ci` failed:\n{done.stderr.strip()}")
    return folder / "node_modules"


def _fingerprint() -> str:
    recipe = Path(__file__).read_bytes() + (PACKAGES / "package-lock.json").read_bytes()
    return hashlib.sha256(recipe).hexdigest()


def _as_module(text: str) -> str:
    """The file as browsers take it without a bundler: imports by path, and no address of a map that we don't ship."""
    lines = (line for line in text.splitlines(keepends=True) if not line.startswith("//# sourceMappingURL="))
    return "".join(lines).replace('from"preact"', 'from"./preact.js"')


def _try_to_fetch() -> None:
    try:
        fetch()
    except LibrariesError as error:
        sys.stderr.write(f"livejobs works, but its web page will not: {error}\n")


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """As PEP 517 says."""
    _try_to_fetch()
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    return name


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """As PEP 660 says."""
    _try_to_fetch()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """As PEP 517 says."""
    _try_to_fetch()
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    return name


if __name__ == "__main__":
    _try_to_fetch()
