"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any, Self

import pytest
from harness import SECONDS
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from web import TOKEN, Web

TOP = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")

expect.set_options(timeout=SECONDS * 1000)


def chromium() -> str:
    """Where Chromium is. Where it is missing and we may, Debian's package is installed first; else the test fails."""
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    if os.geteuid() == 0 and (apt := shutil.which("apt-get")):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                [apt, "--quiet", *command], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"no Chromium, and apt-get {command[0]} failed:\n{done.stdout}{done.stderr}"
        return chromium()
    pytest.fail("no Chromium: the tests of the page need one (on Debian: apt-get install chromium)", pytrace=False)


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser; while it runs nothing else in this thread can use asyncio."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


def axe() -> str:
    """The source of axe-core, the accessibility checker, at the version that the page's lock pins."""
    place = TOP / "build" / "axe"
    spec = util.spec_from_file_location("build_backend", TOP / "deploy" / "build_backend.py")
    assert spec is not None
    assert spec.loader is not None
    backend = util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    lock = (backend.PACKAGES / "package-lock.json").read_bytes()
    copied = place / "package-lock.json"
    source = place / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file() or copied.read_bytes() != lock:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        backend.install(place)
    return source.read_text(encoding="utf-8")


class Visitor:
    """A browser's context: its windows, and all that went wrong in them."""

    def __init__(self, browser: Browser, web: Web, *, is_logged_in: bool = True, **options: Any) -> None:
        self.web = web
        self.context: BrowserContext = browser.new_context(
            base_url=web.url, **{"viewport": {"width": 1400, "height": 900}, **options}
        )
        self.errors: list[str] = []
        self.expected = r"a^"
        """What of it is expected: a pattern."""
        self.requests: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda error: self.errors.append(f"error: {error.error}"))
        self.context.on(
            "console",
            lambda message: message.type in {"error", "warning"} and self.errors.append(f"console: {message.text}"),
        )
        self.context.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        if is_logged_in:
            answer = self.context.request.post("/api/v1/session", data={"token": TOKEN}, headers={"X-Livejobs": "1"})
            assert answer.status == 204, answer.text()

    def open(self, path: str) -> Page:
        """A window with that page, when it shows something."""
        page = self.context.new_page()
        page.goto(path)
        return page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            unexpected = [error for error in self.errors if not re.search(self.expected, error)]
            assert unexpected == []
            foreign = [url for url in self.requests if not url.startswith(self.web.url) and not url.startswith("data:")]
            assert foreign == [], "requests left the page for another server"
