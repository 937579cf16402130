"""The page in a real browser, over a real broker, worker and web view: what a person sees and does."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from browser import Visitor, axe, browsing
from harness import SIGNATURE, Site
from playwright.sync_api import Browser, Page, expect
from web import TOKEN, Web, tokenfile

from livejobs.streams.kafka.broker import Broker

FLOW = "myregr/2"
CROWD = "crowd/1"
CROWD_JOBS = 10_000
EVIL = "<img src=x onerror=\"document.title='owned'\">"


def job(number: int, *, result: str = "live", seconds_ago: float = 65.0, **fields: Any) -> dict[str, Any]:
    """A job; finished ones with numbers."""
    start = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    body = {
        "start_time": start.isoformat(timespec="milliseconds"),
        "uniqueid": f"job-{number}",
        "category": "sim",
        "jobdir": f"/runs/{number}",
        "config": f"test_{number} +seed={number}",
        "seed": str(number),
        "host": f"farm{number % 7:03d}",
        "username": "ada",
        "testgroup": "group",
        "build": "mybuild",
        "result": result,
    }
    if result != "live":
        body |= {"runtime_ms": 1000 + number, "compute_ms": 900, "cycles": 5000, "exit_code": 0, "fail_message": ""}
    return body | fields


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(broker.bootstrap, tmp_path_factory.mktemp("site")) as site:
        site.start().ready()
        yield site


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[Web]:
    with Web(site, tokenfile=tokenfile(site)).ready() as web:
        yield web


@pytest.fixture(scope="module")
def browser(web: Web) -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, web: Web) -> Iterator[Visitor]:
    with Visitor(browser, web) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def crowd(site: Site) -> str:
    """A regression with 10,000 live jobs, each a second older than the next."""
    jobs = [job(number, seconds_ago=60.0 + CROWD_JOBS - number) for number in range(CROWD_JOBS)]
    site.load([("job-live", CROWD, json.dumps(one).encode()) for one in jobs], rate=50_000).result()
    site.status(CROWD, "LIVE", live=CROWD_JOBS)
    return CROWD


def rows(page: Page) -> list[str]:
    """The first cells of the table's rows."""
    found: list[str] = page.locator("section.listing tbody td:first-child").all_inner_texts()
    return found


def regression_url(name: str, **query: str) -> str:
    return f"/regression?name={name}" + "".join(f"&{key}={value}" for key, value in query.items())


def job_url(*key: str) -> str:
    return "/job?key=" + json.dumps(key, separators=(",", ":"))


def test_a_token_opens_the_page(browser: Browser, web: Web) -> None:
    with Visitor(browser, web, is_logged_in=False) as visitor:
        visitor.expected = "status of 403"
        page = visitor.open("/")
        page.get_by_label("Token").fill("not this one, certainly")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert").filter(has_text="This token is not right.")).to_be_visible()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Regressions")).to_be_visible()
        expect(page.locator(".freshness")).to_contain_text("Live")


def test_the_smallest_flow_is_seen_from_its_start_to_its_end(site: Site, visitor: Visitor) -> None:
    page = visitor.open("/?series=myregr")
    expect(page.get_by_text("No regression is like that.")).to_be_visible()
    site.send("regr-start", FLOW, {"project": "soc7", "username": "ada", "submitted": 5})
    row = page.locator("tbody tr")
    expect(row.locator(".badge").first).to_have_text("LIVE")
    jobs = [job(number) for number in range(5)]
    for one in jobs:
        site.send("job-live", FLOW, one)
    expect(row.locator(".col-live")).to_have_text("5")
    expect(row.get_by_role("img")).to_have_attribute("aria-label", "5 live")
    for number, one in enumerate(jobs):
        result = (
            {"result": "fail", "fail_message": "it broke"} if number == 0 else {"result": "pass", "fail_message": ""}
        )
        site.send("job-finish", FLOW, {**one, **result, "runtime_ms": 5000, "cycles": 10_000})
    expect(row.locator(".col-pass")).to_have_text("4")
    expect(row.locator(".col-fail")).to_have_text("1")
    expect(row.locator(".col-rate")).to_have_text("80.0 %")
    site.send("regr-finish", FLOW)
    expect(row.locator(".badge").first).to_have_text("COMPLETE")
    row.get_by_role("link", name=FLOW).click()
    expect(page.get_by_role("heading", name=FLOW)).to_be_focused()
    page.get_by_role("link", name="it broke").click()
    expect(page.locator("section.listing tbody tr")).to_have_count(1)
    expect(page.get_by_role("img", name=re.compile("Finishes over time: 4 pass, 1 fail, 0 skip"))).to_be_visible()


def test_a_job_appears_ticks_and_finishes(site: Site, visitor: Visitor) -> None:
    name = "ticking/1"
    site.send("regr-start", name, {"submitted": 1})
    page = visitor.open("/regression?name=ticking/$")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.get_by_text("Nothing is running.")).to_be_visible()
    one = job(1, seconds_ago=3600)
    site.send("job-live", name, one)
    elapsed = page.locator("tbody tr .col-elapsed")
    expect(elapsed).to_have_text("1 h 00 m")
    page.locator("tbody tr .col-job a").click()
    running = page.locator(".tile").filter(has_text="Running for").locator("time")
    first = running.inner_text()
    page.go_back()
    ago = page.locator(".tile").filter(has_text="Last heard of").locator("time")
    before = ago.inner_text()
    expect(ago).not_to_have_text(before)  # it ticks, and nothing was sent
    assert first == "1 h 00 m"
    page.mouse.move(2, 2)  # rows keep their places while it is over them
    site.send("job-finish", name, {**one, "result": "pass", "runtime_ms": 61_000, "cycles": 1})
    expect(page.get_by_text("Nothing is running.")).to_be_visible()
    page.get_by_role("link", name=re.compile("^pass")).click()
    expect(page.locator("tbody tr .col-runtime")).to_have_text("1 m 01 s")
    page.locator("tbody tr .col-job a").click()
    expect(page.locator("h1 .badge")).to_have_text("pass")
    expect(page.get_by_text("1 update before the present one")).to_be_visible()


def test_tank_asks_first_and_untank_takes_it_back(site: Site, visitor: Visitor) -> None:
    name = "tanking/1"
    site.send("job-live", name, job(1))
    page = visitor.open(regression_url(name))
    page.get_by_role("button", name="Tank…").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1 .badge")).to_have_text("LIVE")
    page.get_by_role("button", name="Tank…").click()
    page.get_by_label("Reason (optional)").fill("wrong branch")
    page.get_by_role("button", name="Tank", exact=True).click()
    expect(page.locator("h1 .badge")).to_have_text("TANKED")
    page.get_by_role("link", name=SIGNATURE).click()
    expect(page.locator("tbody tr .verdict").first).to_have_text("by tank")
    site.reader.read_to_the_end(site.reader.events)
    (tank,) = [
        event for event in site.reader.events.records if event.kind == "regr-tank" and event.key == name.encode()
    ]
    assert json.loads(tank.value or b"") == {"tank": True, "reason": "wrong branch"}
    page.goto("/?q=tanking")
    expect(page.get_by_text("No regression is like that.")).to_be_visible()
    page.get_by_label("Show tanked").check()
    page.get_by_role("link", name=name).click()
    page.get_by_role("button", name="Untank…").click()
    page.get_by_role("button", name="Untank", exact=True).click()
    expect(page.locator("h1 .badge")).to_have_text("LIVE")


def test_ten_thousand_live_jobs(crowd: str, visitor: Visitor) -> None:
    page = visitor.open(regression_url(crowd))
    expect(page.locator(".total")).to_have_text("1 to 200 of 10,000 live jobs")
    assert rows(page)[0] == "test_0"  # the longest running
    assert page.locator("section.listing tbody tr").count() == 200
    for number in (2, 3):
        page.get_by_role("link", name="Next").click()
        expect(page.locator("section.listing tbody tr").first).to_contain_text(f"test_{(number - 1) * 200}")
        expect(page.get_by_text(f"Page {number} of 50")).to_be_visible()
    page.reload()
    expect(page.locator(".total")).to_have_text("401 to 600 of 10,000 live jobs")
    page.get_by_role("link", name="Previous").click()
    expect(page.locator(".total")).to_have_text("201 to 400 of 10,000 live jobs")
    frames = page.evaluate(SCROLL)
    assert len(frames) > 20
    print(f"scrolling 200 of 10,000 rows: {sum(ms > 50 for ms in frames)} of {len(frames)} frames took over 50 ms")  # noqa: T201
    page.get_by_label("Search these jobs").fill("test_77 ")
    expect(page.locator(".total")).to_have_text(re.compile(r"^\d+ live jobs$"))
    page.get_by_role("link", name="Elapsed").click()
    expect(page.get_by_role("columnheader", name="Elapsed")).to_have_attribute("aria-sort", "descending")
    page.reload()
    expect(page.get_by_label("Search these jobs")).to_have_value("test_77")
    assert rows(page)[0] == "test_7799"


SCROLL = """() => new Promise((done) => {
    const frames = []; let last = performance.now();
    const step = (now) => {
        frames.push(now - last); last = now; scrollBy(0, 120);
        if (scrollY + innerHeight >= document.documentElement.scrollHeight - 1) done(frames); else requestAnimationFrame(step);
    };
    scrollTo(0, 0); requestAnimationFrame(step);
})"""


def test_rows_keep_their_places_while_somebody_reads(site: Site, visitor: Visitor) -> None:
    name = "reading/1"
    jobs = [job(number, seconds_ago=1000 - number) for number in range(6)]
    site.send("batch-job-finish", name, [])
    for one in jobs:
        site.send("job-live", name, one)
    page = visitor.open(regression_url(name))
    expect(page.locator("section.listing tbody tr")).to_have_count(6)
    page.locator("section.listing tbody tr").nth(2).hover()
    place = page.locator("section.listing tbody tr").nth(2).bounding_box()
    site.send("job-finish", name, {**jobs[0], "result": "pass"})
    site.send("job-live", name, job(9, seconds_ago=5000))
    expect(page.locator(".held")).to_contain_text("Held while you read: 1 new, 1 gone")
    assert [one.split()[0] for one in rows(page)] == [f"test_{number}" for number in range(6)]
    assert page.locator("section.listing tbody tr").nth(2).bounding_box() == place
    expect(page.locator("section.listing tbody tr").first).to_contain_text("no longer in this list")
    expect(page.locator(".legend li").first).to_have_text("6 live")  # what moves nothing is not held
    page.mouse.move(2, 2)
    expect(page.locator("section.listing tbody tr").first).to_contain_text("test_9")
    expect(page.locator(".held")).to_be_empty()
    page.locator("tbody a").nth(2).focus()
    site.send("job-finish", name, {**jobs[1], "result": "pass"})
    expect(page.locator(".held")).to_contain_text("1 gone")
    page.get_by_role("button", name="Show now").click()
    expect(page.locator("section.listing tbody tr")).to_have_count(5)


def test_the_stream_is_closed_while_the_tab_is_hidden_and_goes_on(site: Site, visitor: Visitor) -> None:
    name = "hiding/1"
    site.send("job-live", name, job(1))
    page = visitor.open(regression_url(name))
    expect(page.locator("section.listing tbody tr")).to_have_count(1)
    with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
        page.evaluate(HIDE, True)
    site.send("job-live", name, job(2))
    site.status(name, "LIVE", live=2)
    assert page.locator("section.listing tbody tr").count() == 1
    with page.expect_request(re.compile(r"/events\?.*&last=")):
        page.evaluate(HIDE, False)
    expect(page.locator("section.listing tbody tr")).to_have_count(2)


HIDE = """(isHidden) => {
    Object.defineProperty(document, "hidden", {configurable: true, get: () => isHidden});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_where_is_my_build(crowd: str, site: Site, visitor: Visitor) -> None:
    site.send("job-live", "builds/1", job(1, build="chip_a", host="farm900", seed="424242"))
    page = visitor.open("/search")
    expect(page.locator(".total")).to_contain_text("of")
    page.get_by_label("Build").fill("chip_a")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody .col-host")).to_have_text("farm900")
    assert page.url.endswith("/search?build=chip_a")
    page.get_by_label("Search", exact=True).fill("424242 farm9")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="farm900").click()
    expect(page.get_by_role("heading", name="farm900")).to_be_visible()
    expect(page.get_by_role("region", name="Live jobs on farm900").locator("tbody tr")).to_have_count(1)
    page.goto("/hosts?q=farm90")
    expect(page.locator("tbody tr .col-live")).to_have_text("1")


def test_what_was_published_is_text_whatever_it_is(site: Site, visitor: Visitor) -> None:
    name = f"evil/{EVIL}"
    fields = {"config": EVIL, "host": EVIL, "jobdir": "javascript:alert(1)", "testgroup": EVIL, "username": EVIL}
    site.send("regr-start", name, {"project": EVIL, "dir": "javascript:alert(2)", "command": EVIL})
    site.send("job-live", name, job(1, **fields, metadata=[[EVIL, EVIL]], strange={EVIL: EVIL}))
    site.send(
        "job-finish", name, job(2, result="fail", fail_message=EVIL, bucket=EVIL, jobdir="https://files.example/2")
    )
    page = visitor.open("/?q=evil")
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    page.locator(".signatures a").click()
    page.get_by_role("link", name="test_2").click()
    expect(page.get_by_role("link", name="https://files.example/2")).to_have_attribute("rel", "noopener noreferrer")
    page.goto(f"/search?host={EVIL}")
    page.locator("section.listing .col-job a").click()
    expect(page.get_by_text("javascript:alert(1)", exact=True)).to_be_visible()
    for path in ("/hosts", "/search", "/", page.url):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        assert page.locator("a[href^='javascript' i], main img").count() == 0
        assert page.title() != "owned"


def test_the_keyboard_is_enough(site: Site, visitor: Visitor) -> None:
    name = "keyboard/1"
    for number in range(3):
        site.send("job-live", name, job(number, seconds_ago=100 - number))
    page = visitor.open("/?series=keyboard")
    expect(page.locator("tbody tr")).to_have_count(1)
    press, focused = page.keyboard.press, page.locator(":focus")
    press("Tab")
    expect(focused).to_have_text("Skip to the content")
    press("Enter")
    for _ in range(30):
        press("Tab")
        if focused.inner_text() == name:
            break
    press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_focused()
    expect(page.locator("section.listing tbody tr")).to_have_count(3)
    press("Tab")
    expect(focused).to_have_text("Tank…")
    press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("button", name="Tank…")).to_be_focused()
    page.locator("section.listing tbody a").first.focus()
    press("ArrowDown")
    press("ArrowDown")
    expect(focused).to_have_text("test_2")
    press("Home")
    expect(focused).to_have_text("test_0")
    assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    press("Enter")
    expect(page.get_by_role("heading", name="test_0")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, web: Web, site: Site, scheme: str) -> None:
    name = "axe/1"
    site.send("regr-start", name, {"project": "soc7", "username": "ada", "submitted": 9, "dir": "/runs/axe"})
    site.send("job-live", name, job(1, host="farm-axe"))
    for number, result in enumerate(("pass", "fail", "skip"), 2):
        site.send("job-finish", name, job(number, result=result, fail_message="it broke" if result == "fail" else ""))
    site.send("regr-tank", "axe/2")
    site.status("axe/2", "TANKED")
    source = axe()
    pages = {
        "/?hidden=true": "tbody tr",
        regression_url(name): ".charts canvas",
        regression_url(name, result="fail"): "section.listing tbody tr",
        "/search?host=farm-axe": "tbody tr",
        "/hosts?q=axe": "tbody tr",
        "/hosts?host=farm-axe": "tbody tr",
        "/regression?name=nothing": ".absent b",
        job_url(name, "job-3"): "pre.raw",
    }
    for device in ({}, {"viewport": {"width": 390, "height": 844}}):
        with Visitor(browser, web, color_scheme=scheme, **device) as visitor:
            page = visitor.open("/")
            for path, sign in pages.items():
                page.goto(path)
                expect(page.locator(sign).first).to_be_visible()
                assert violations(page, source) == [], f"{path} ({scheme})"
            page.goto(regression_url(name))
            page.get_by_role("button", name="Tank…").click()
            expect(page.get_by_role("dialog")).to_be_visible()
            assert violations(page, source) == [], f"the dialog ({scheme})"


def violations(page: Page, source: str) -> list[str]:
    """What axe finds, one line each. It is run apart from the page, whose policy allows no script from us."""
    page.evaluate(source)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


def test_a_narrow_window_needs_no_scrolling_sideways(browser: Browser, web: Web, crowd: str) -> None:
    with Visitor(browser, web, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as visitor:
        page = visitor.open("/")
        for path in ("/", regression_url(crowd), "/search", "/hosts", job_url(crowd, "job-7")):
            page.goto(path)
            expect(page.locator("h1")).to_be_visible()
            expect(page.locator("tbody tr, pre.raw").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_without_permission_nothing_can_be_changed(
    site: Site, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.send("job-live", "readonly/1", job(1))
    with Web(site, "open").ready() as web, Visitor(browser, web, is_logged_in=False) as visitor:
        page = visitor.open(regression_url("readonly/1"))
        expect(page.locator("section.listing tbody tr")).to_have_count(1)
        assert page.get_by_role("button", name="Tank…").count() == 0


def test_the_server_goes_and_comes_back(site: Site, browser: Browser) -> None:
    name = "restart/1"
    site.send("job-live", name, job(1))
    with Web(site, "restarted", tokenfile=tokenfile(site)).ready() as web, Visitor(browser, web) as visitor:
        visitor.expected = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_EMPTY|ERR_CONNECTION_RESET|status of 503"
        page = visitor.open(regression_url(name))
        expect(page.locator("section.listing tbody tr")).to_have_count(1)
        web.stop()
        expect(page.locator(".stale-bar")).to_contain_text("No connection to the server. Stale since")
        site.send("job-live", name, job(2))
        web.start()
        web.ready()
        expect(page.locator("section.listing tbody tr")).to_have_count(2)
        expect(page.locator(".stale-bar")).to_have_count(0)
