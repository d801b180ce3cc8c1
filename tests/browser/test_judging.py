"""An annotator's day in a real browser: by keyboard, by mouse, on a phone, without a connection."""

import pytest
from playwright.sync_api import expect

from crlhf_ray.feedback.queue import QueueSettings
from tests.browser.conftest import PHONE
from tests.web.conftest import work

LINES = ("    total = 0", "", "    # add them up", "    for x in xs:", "        total += x", "    return total + 1")
JUDGED = (0, 3, 4, 5)


@pytest.fixture
def server(serve):
    queue = QueueSettings(qualification=0, labels_least=2, honeypots_least=0, honeypots_most=0)
    server = serve(queue=queue)
    server.publish([work(n, LINES, JUDGED) for n in range(2)])
    return server


def votes(server):
    """(line, label) of everything submitted, in order."""
    table, _ = server.lead.annotations(0)
    return [(row["line"], row["label"]) for row in table.to_pylist()]


def saved(page):
    expect(page.locator("#saved")).to_have_text("✓ Saved")


def current(page):
    """The number, from 0, of the line that the keys act on."""
    return int(page.locator(".row.at").get_attribute("data-line"))


def test_a_whole_session_by_keyboard_alone(server, enter, picture):
    page = enter(server, "ann")
    assert current(page) == 0
    page.keyboard.press("1")
    assert current(page) == 3  # blank and comment lines are passed over
    page.keyboard.press("Shift+J")
    page.keyboard.press("0")  # lines 3 and 4
    assert current(page) == 5
    page.keyboard.press("u")
    assert page.locator(".row.wrong").count() == 0
    page.keyboard.press("i")
    page.keyboard.press("m")
    page.keyboard.type("what if xs is empty?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".said")).to_have_text("“what if xs is empty?”")
    page.keyboard.press("Enter")  # lines have no mark: no dialog, and the first of them is current
    expect(page.locator("#note")).to_contain_text("no mark yet")
    assert page.locator("#confidence").is_hidden()
    picture(page, "judge")
    page.keyboard.press("a")
    saved(page)
    page.keyboard.press("Enter")
    page.keyboard.press("3")
    expect(page.locator("#progress")).to_contain_text("1 judged")
    assert [label for _, label in votes(server)].count(0) == 1
    assert len(votes(server)) == 4
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    expect(page.locator("#empty")).to_be_visible()
    assert page.problems == []


def test_a_whole_session_by_mouse(server, enter):
    page = enter(server, "ann")
    for line, name in zip(JUDGED, ("correct", "wrong", "unsure", "correct"), strict=True):
        page.locator(f'.row[data-line="{line}"]').get_by_role("button", name=name).click()
    saved(page)
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="Fairly sure").click()
    expect(page.locator("#progress")).to_contain_text("1 judged")
    assert votes(server) == [(0, 1), (3, -1), (4, 0), (5, 1)]


def test_a_session_on_a_phone(server, enter, picture):
    page = enter(server, "ann", **PHONE)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    page.locator('.row[data-line="0"]').get_by_role("button", name="correct").tap()
    box = page.locator('.row[data-line="0"] button').first.bounding_box()
    assert min(box["width"], box["height"]) >= 44
    page.get_by_role("button", name="Rest is correct").tap()
    picture(page, "phone")
    saved(page)
    page.get_by_role("button", name="Submit").tap()
    page.get_by_role("button", name="Sure", exact=False).last.tap()
    expect(page.locator("#progress")).to_contain_text("1 judged")
    assert [label for _, label in votes(server)] == [1, 1, 1, 1]


def test_nothing_is_marked_at_the_start(server, enter):
    page = enter(server, "ann")
    assert page.locator('[aria-pressed="true"]').count() == 0


def test_a_reload_loses_nothing(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("0")
    saved(page)
    page.reload()
    expect(page.locator('.row[data-line="0"]')).to_have_class("row wrong")


def test_marks_made_without_a_connection_are_kept_through_a_closed_page_and_sent_later(server, enter):
    page = enter(server, "ann")
    context = page.context
    context.route("**/api/v1/**", lambda route: route.abort())
    page.keyboard.press("0")
    expect(page.locator("#saved")).to_contain_text("not sent yet")
    page.close()
    context.unroute("**/api/v1/**")
    again = context.new_page()
    again.goto("/work")
    expect(again.locator('.row[data-line="0"]')).to_have_class("row wrong")
    saved(again)
    (lease,) = [server.lead._call("GET", f"/items/{work(0).item_id}")["lines"][0]["votes"]]
    assert lease == [{"name": "ann", "label": -1}]


def test_two_people_judge_one_program_without_seeing_each_other(server, enter):
    a, b = enter(server, "ann"), enter(server, "bob")
    assert a.locator("#problem").inner_text() == b.locator("#problem").inner_text()
    a.keyboard.press("0")
    saved(a)
    b.reload()
    assert b.locator('[aria-pressed="true"]').count() == 0


def test_the_help_shows_the_keys_that_work_and_changes_them(server, enter, picture):
    page = enter(server, "ann")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    picture(page, "keys")
    page.get_by_label("Keys for: Mark the line or range wrong").fill("x")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("0")
    assert page.locator(".row.wrong").count() == 0
    page.keyboard.press("x")
    expect(page.locator(".row.wrong")).to_have_count(1)


def test_the_qualification_round_shows_the_answers(serve, enter, picture):
    server = serve(queue=QueueSettings(qualification=1))
    server.publish(honeypots=1)
    page = enter(server, "ann")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    expect(page.locator("#feedback")).to_contain_text("1 of 2 lines")
    picture(page, "qualification")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback")).to_be_hidden()


def test_an_empty_page_fills_by_itself(serve, enter):
    server = serve(queue=QueueSettings(qualification=0))
    page = enter(server, "ann")
    expect(page.locator("#empty")).to_be_visible()
    server.publish([work(1)])
    expect(page.locator("#desk")).to_be_visible()


def test_logging_out_ends_the_session(server, enter):
    page = enter(server, "ann")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto("/work")
    page.wait_for_url("**/login")
