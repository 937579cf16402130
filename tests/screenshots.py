"""Makes the pictures of the page that the README shows, over a simulated farm: `make screenshots`."""

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from browser import TOP, Visitor, browsing
from harness import HOUR, SIGS, Site
from playwright.sync_api import Page, expect
from web import Web, tokenfile

from livejobs.streams.config import Config
from livejobs.streams.demo import farm
from livejobs.streams.kafka.broker import Broker, free_port
from livejobs.streams.publisher.publish import Publisher

FOLDER = TOP / "deploy" / "screenshots"
PAST_SECONDS = 150
"""So much of the farm's life is sent at once."""
SILENCE_SECONDS = 15
SEED = 7
DESK = {"width": 1280, "height": 720}


def events() -> Iterator[farm.Event]:
    """The farm's messages, as if it had begun a while ago."""
    start = datetime.now(UTC) - timedelta(seconds=PAST_SECONDS)
    for event in farm.events(SEED, jobs_a_second=25, start=start):
        yield event._replace(at_ms=event.at_ms - PAST_SECONDS * 1000)


async def publish(config: Config) -> None:
    """Publish for ever."""
    async with Publisher(config.kafka) as publisher:
        await farm.publish(publisher, events())


def subjects(page: Page) -> dict[str, str]:
    """File name -> path of the page that it shows."""
    page.goto("/?status=LIVE&sort=-fail")
    name = page.locator("tbody .name").first.inner_text()
    page.goto(f"/regression?name={quote(name)}&result=fail")
    page.locator("section.listing .col-job a").first.click()
    expect(page.locator("pre.raw")).to_be_visible()
    job = page.url.removeprefix(page.evaluate("location.origin"))
    return {
        "regressions": "/?hidden=true",
        "regression": f"/regression?name={quote(name)}",
        "job": job,
        "search": "/search",
        "hosts": "/hosts",
    }


def take(visitor: Visitor, paths: dict[str, str], ending: str) -> None:
    """One picture a page."""
    page = visitor.open("/")
    for name, path in paths.items():
        page.goto(path)
        expect(page.locator("tbody tr, pre.raw").first).to_be_visible()
        if name == "regression":
            expect(page.locator(".charts canvas")).to_have_count(3)
        page.screenshot(path=FOLDER / f"{name}-{ending}.png")


def main() -> None:
    """Make them all anew."""
    FOLDER.mkdir(exist_ok=True)
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(Broker(free_port(), folder / "broker"))
        site = stack.enter_context(Site(broker.bootstrap, folder / "site", sigs))
        web = stack.enter_context(Web(site, tokenfile=tokenfile(site)).ready())
        site.start().ready()
        farming = site.background.start(publish(site.config))
        stack.callback(farming.future.cancel)
        browser = stack.enter_context(browsing())
        with Visitor(browser, web) as visitor:
            page = visitor.open("/?status=ABORTED")
            expect(page.locator("tbody tr").first).to_be_visible(timeout=60_000)
            paths = subjects(page)
        for scheme in ("light", "dark"):
            with Visitor(browser, web, color_scheme=scheme, viewport=DESK) as visitor:
                take(visitor, paths, scheme)


if __name__ == "__main__":
    main()
