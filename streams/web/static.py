"""The page's files: read into memory once, served with their digests as names of their versions."""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

import cramjam

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
COMPRESSED = frozenset({".css", ".html", ".js", ".json", ".map", ".svg", ".txt"})


class File(NamedTuple):
    """One file of the page."""

    kind: str
    data: bytes
    gzip: bytes | None
    etag: str


def files() -> dict[str, File]:
    """Path below `static` -> file."""
    found: dict[str, File] = {}
    folder = resources.files("livejobs.streams").joinpath("static")
    if folder.is_dir():
        _add(folder, "", found)
    return found


def _add(folder: Traversable, path: str, found: dict[str, File]) -> None:
    for entry in folder.iterdir():
        name = path + entry.name
        ending = name[name.rfind(".") :]
        if entry.is_dir():
            _add(entry, name + "/", found)
        elif ending in KINDS:
            data = entry.read_bytes()
            packed = bytes(cramjam.gzip.compress(data, level=9)) if ending in COMPRESSED else None
            found[name] = File(KINDS[ending], data, packed, etag_of(data))


def etag_of(data: bytes) -> str:
    """A strong validator of some bytes."""
    return f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
