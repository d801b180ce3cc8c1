"""A real Chromium (Debian's). Screenshots go to the folder that CRLHF_SCREENSHOTS names."""

import os
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.browser.team import Team
from tests.desk.conftest import PASSWORD, absent, serve

__all__ = ["serve"]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LAPTOP = {"viewport": {"width": 1280, "height": 800}}
#: Straight to work: no qualification, no honeypots.
PLAIN = QueueSettings(qualification=0, labels_least=2, honeypots_least=0, honeypots_most=0)
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        absent("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def team(tmp_path_factory):
    """A server at which people have been working for a while; for looking at."""
    server = Team(tmp_path_factory.mktemp("team"))
    yield server
    server.close()


@pytest.fixture
def enter(chromium):
    """``enter(server, name, role)`` makes an account by an invite link, by keyboard alone, and returns its page.

    At the end nothing may be left in the page's list of problems: errors in its console, uncaught ones, refused loads.
    """
    pages = []

    def start(server, name, role="annotator", **options):
        context = chromium.new_context(
            base_url=server.url,
            **({} if "viewport" in options else LAPTOP),
            permissions=["clipboard-read", "clipboard-write"],
            **options,
        )
        # Chromium begins to intercept some time after it is told so: with a route from the start, no later one is late.
        context.route("**/a-page-that-is-not", lambda route: route.abort())
        page = watched(context)
        pages.append(page)
        page.goto(f"/invite/{server.lead.invite(role)}")
        for text in (name, PASSWORD):
            page.keyboard.press("Tab")
            while page.evaluate("document.activeElement.tagName") != "INPUT":
                page.keyboard.press("Tab")
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_url("**/work" if role == "annotator" else "**/lead")
        if role == "annotator":
            saved(page)  # what the page says last once its scripts have run: now it takes keys
        return page

    yield start
    for page in pages:
        page.context.close()
    assert [problem for page in pages for problem in page.problems] == []


def watched(context):
    """A new page of the context that keeps what went wrong in ``problems``."""
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return page


@pytest.fixture
def picture():
    """``picture(page, name)`` keeps a screenshot where they are wanted."""
    folder = os.environ.get("CRLHF_SCREENSHOTS")

    def take(page, name):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"web-{name}.png", scale="css")

    return take


def violations(page):
    """What axe-core finds against WCAG 2.2 AA. The page needs a context with ``bypass_csp``."""
    found = Axe().run(page, options=WCAG).response["violations"]
    return [
        (one["id"], [f"{node['html'][:120]} {node['failureSummary']}" for node in one["nodes"][:3]]) for one in found
    ]


def saved(page):
    expect(page.locator("#saved")).to_have_text("✓ Saved")


def current(page):
    """The number, from 0, of the line that the keys act on. It has the focus, too."""
    line = page.locator(".row.at").get_attribute("data-line")
    assert page.evaluate("document.activeElement.closest('.row')?.dataset.line") == line
    return int(line)


def line(page, number):
    return page.locator(f'.row[data-line="{number}"]')


def marks(server):
    """Every mark event that is stored: (line, label, rest), in order."""
    import sqlalchemy as sa

    from crlhf_ray.feedback.desk.store.models import Mark

    with server.desk.database.read() as session:
        found = session.scalars(sa.select(Mark).order_by(Mark.seq)).all()
        return [(mark.line, mark.label, mark.rest) for mark in found]


def submitted(server):
    """(line, label, confidence) of everything submitted, in order; confidence as 1 to 3."""
    table, _ = server.lead.annotations(0)
    return [(row["line"], row["label"], round(3 * (row["confidence"] or 0))) for row in table.to_pylist()]
