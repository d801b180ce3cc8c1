"""What a reviewer says of a program as a whole, where its code stands on the page, and two tabs of one person."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, PLAIN, line, saved, submitted
from tests.desk.conftest import work

LONG = ("\tif x:", "        return " + " + ".join(f"number_{n}" for n in range(40)), "    return 0")


@pytest.fixture
def server(serve):
    server = serve(queue=PLAIN)
    server.publish([work(n, LONG, (0, 1, 2, 3)) for n in range(2)])
    return server


def test_the_end_is_asked_about_in_words_and_marked_as_a_line_is(server, enter):
    page = enter(server, "ann")
    end = line(page, 3)
    expect(end).to_contain_text("Is anything missing after the last line?")
    end.get_by_role("button", name="The end something is missing").click()
    expect(end).to_have_attribute(
        "aria-label", "The end, something is missing: Is anything missing after the last line?"
    )
    for key in ("a", "Enter", "3"):
        page.keyboard.press(key)
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    assert submitted(server)[-1] == (3, -1, 3)


def test_a_comment_on_the_whole_program_and_a_skip_with_its_reason_reach_the_lead(server, enter):
    page = enter(server, "ann")
    item = page.evaluate("task.item_id")
    page.get_by_role("button", name="About the whole program").click()
    page.get_by_label("Comment on the whole program").fill("sorts twice")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#whole-said")).to_have_text("“sorts twice”")
    page.get_by_role("button", name="Skip it").click()
    page.get_by_label("In your words").fill("no tests")
    page.locator("#skip").get_by_role("button", name="Skip", exact=True).click()
    expect(page.locator("#whole-said")).to_be_empty()
    assert page.evaluate("task.item_id") != item
    said = [one["text"] for one in server.lead._call("GET", f"/items/{item}")["comments"]]
    assert said == ["sorts twice", "Skipped: The task is broken or cut off: no tests"]


def test_wrapped_code_hangs_below_its_beginning_and_the_buttons_stay_at_the_bottom(server, enter):
    page = enter(server, "ann")
    rects = page.evaluate(
        """() => {
        const range = document.createRange();
        range.selectNodeContents(document.querySelector('[data-line="1"] .source'));
        return [...range.getClientRects()].filter((r) => r.width > 1).map((r) => [r.left, r.top]); }"""
    )
    first = min(top for _, top in rects)
    box = page.locator('[data-line="1"] .source').bounding_box()
    below = [left for left, top in rects if top > first + 5]
    assert below
    assert min(below) > box["x"] + 80  # twelve characters
    foot = page.locator("#foot").bounding_box()
    assert abs(foot["y"] + foot["height"] - page.viewport_size["height"]) < 1


def test_a_phone_opens_a_program_at_its_beginning(server, enter):
    page = enter(server, "ann", **PHONE)
    assert page.evaluate("byId('main').scrollTop") == 0
    expect(page.locator("#problem-title")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_two_tabs_show_the_same_marks(server, enter):
    page = enter(server, "ann")
    other = page.context.new_page()
    other.goto("/work")
    saved(other)
    line(page, 1).get_by_role("button", name="wrong").click()
    expect(line(other, 1).locator(".state")).to_have_text("wrong")
    other.keyboard.press("a")
    expect(line(page, 0).locator(".state")).to_have_text("correct")
    saved(other)
    for key in ("Enter", "2"):
        other.keyboard.press(key)
    expect(page.locator('[aria-pressed="true"]')).to_have_count(0)  # the next program, there too
    assert page.evaluate("task.lease_id") == other.evaluate("task.lease_id")
