"""The page while the broker goes and comes back, and while a regression falls silent."""

import time
from collections.abc import Iterator

import pytest
from browser import Visitor, browsing
from harness import HOUR, SECONDS, SIGNATURE, SIGS, Site
from playwright.sync_api import expect
from web import Web, tokenfile

from livejobs.streams.kafka.broker import Broker, free_port

SILENCE_SECONDS = 4.0
PAUSE_MS = 200


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that may be ended."""
    with Broker(free_port(), tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def site(own_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    sigs = {**SIGS, "autotimeouthours": SILENCE_SECONDS / HOUR}
    with Site(own_broker.bootstrap, tmp_path_factory.mktemp("site"), sigs) as site:
        site.start().ready()
        yield site


@pytest.fixture(scope="module")
def visitor(site: Site) -> Iterator[Visitor]:
    with Web(site, tokenfile=tokenfile(site)).ready() as web, browsing() as browser, Visitor(browser, web) as visitor:
        yield visitor


def job(number: int) -> dict[str, str]:
    return {
        "uniqueid": f"job-{number}",
        "start_time": "2026-03-02T08:00:00Z",
        "config": f"test_{number}",
        "host": "farm1",
        "result": "live",
    }


def test_a_silent_regression_is_seen_to_time_out(site: Site, visitor: Visitor) -> None:
    name = "silent/1"
    site.send("regr-start", name)
    page = visitor.open(f"/regression?name={name}")
    rows, deadline = page.locator("section.listing tbody tr"), time.monotonic() + SECONDS
    while rows.count() != 3:  # it is not silent before they are seen
        assert time.monotonic() < deadline
        for number in range(3):
            site.send("job-live", name, job(number))
        page.wait_for_timeout(PAUSE_MS)
    expect(page.locator("h1 .badge")).to_have_text("ABORTED")
    expect(page.get_by_text("Nothing is running.")).to_be_visible()
    page.get_by_role("link", name=SIGNATURE).click()
    expect(page.locator("section.listing tbody .verdict")).to_have_text(["by timeout"] * 3)
    page.locator("section.listing .col-job a").first.click()
    expect(page.get_by_text("The system's verdict, not the job's own word")).to_be_visible()
    page.close()


def test_a_broker_that_goes_and_comes_back_is_seen(site: Site, own_broker: Broker, visitor: Visitor) -> None:
    name = "outage/1"
    site.send("regr-start", name)
    page = visitor.open("/?series=outage")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator(".freshness")).to_contain_text("Live")
    own_broker.kill()
    expect(page.locator(".stale-bar")).to_contain_text("The broker is away. Stale since")
    expect(page.locator(".freshness")).to_contain_text("Stale")
    expect(page.locator("tbody tr")).to_have_count(1)  # what was known is still shown
    own_broker.start()
    expect(page.locator(".stale-bar")).to_have_count(0)
    expect(page.locator(".freshness")).to_contain_text("Live")
    site.send("job-live", name, job(1))
    expect(page.locator("tbody .col-live")).to_have_text("1")
    page.close()
