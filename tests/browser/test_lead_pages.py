"""The lead's pages, and accessibility of every page (WCAG 2.2 AA, by axe-core), light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from crlhf_ray.feedback.queue import QueueSettings
from tests.web.conftest import judge, work

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
NAMED = {"/": "dashboard", "/programs": "programs", "/people": "people"}


@pytest.fixture
def server(serve):
    """A server on which three people have judged for a while."""
    server = serve(queue=QueueSettings(qualification=1))
    server.publish([work(n) for n in range(12)], honeypots=6)
    for name, label in (("ann", 1), ("bob", 1), ("cid", -1)):
        person = server.person(name)
        while judge(person, label):
            server.now += 40
    server.settled()
    return server


def violations(page):
    found = Axe().run(page, options=RULES).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(server, enter, scheme, picture):
    lead = enter(server, "boss", "lead", color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    paths = ["/lead", "/lead/programs", f"/lead/programs/{work(1).item_id}", "/lead/people", "/work", "/login"]
    for path in paths:
        lead.goto(path)
        lead.wait_for_timeout(700)
        picture(lead, f"{path.strip('/').split('/i-')[0].replace('/', '-')}-{scheme}")
        assert violations(lead) == [], path
    lead.goto("/work")
    lead.keyboard.press("?")
    assert violations(lead) == [], "keys"
    lead.keyboard.press("Escape")
    lead.keyboard.press("1")
    lead.keyboard.press("0")
    assert violations(lead) == [], "marked lines"


def test_the_dashboard_is_live(server, enter):
    page = enter(server, "boss", "lead")
    expect(page.locator("#live-state")).to_have_text("● Live")
    waiting = page.locator(".tile", has_text="Programs waiting").locator("b")
    before = int(waiting.inner_text())
    server.publish([work(100)])
    expect(waiting).to_have_text(str(before + 1))
    assert page.problems == []


def test_a_program_shows_every_vote_and_posterior(server, enter):
    page = enter(server, "boss", "lead")
    page.goto(f"/lead/programs/{work(1).item_id}")
    row = page.locator("#lines tr").first
    expect(row).to_contain_text("✓ ann")
    expect(row).to_contain_text("✗ cid")
    expect(row.locator("td").nth(2)).to_contain_text("0.")


def test_people_can_be_invited_and_suspended(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#link")).to_contain_text("/invite/")
    page.get_by_role("button", name="suspend cid").click()
    expect(page.locator("tr", has_text="cid").first).to_contain_text("suspended")
    page.get_by_role("button", name="ann", exact=True).click()
    expect(page.locator("#curve svg")).to_be_visible()
    assert page.problems == []
