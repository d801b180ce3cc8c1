"""WCAG 2.2 AA by axe-core in the real browser on every page and dialog, light, dark and on a phone; and what axe cannot
see: where the focus is, how large targets are, what is left without colours and without motion."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, PLAIN, current, line, violations
from tests.desk.conftest import work

LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", **PHONE},
    "phone-dark": {"color_scheme": "dark", **PHONE},
}


def check(page, what):
    assert violations(page) == [], what
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{what} is wider than the screen by {wide}"
    for box in [one.bounding_box() for one in page.locator("button:visible, input:visible, select:visible").all()]:
        assert min(box["width"], box["height"]) >= 24, what


@pytest.mark.parametrize("look", LOOKS)
def test_the_leads_pages_are_accessible(team, enter, look, picture):
    page = enter(team, f"Boss {look}", "lead", bypass_csp=True, **LOOKS[look])
    expect(page.locator("#people svg")).to_be_visible()
    check(page, "dashboard")
    picture(page, f"dashboard-{look}")
    page.goto("/lead/people")
    expect(page.locator("#curve svg")).to_be_visible()
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#link-box")).to_be_visible()
    check(page, "people")
    picture(page, f"people-{look}")
    page.get_by_role("button", name="suspend Emil").click()
    expect(page.locator("#ask")).to_be_visible()
    check(page, "question")
    picture(page, f"question-{look}")
    expect(page.locator("#pairs tr")).not_to_have_count(0)
    page.goto("/time")
    check(page, "time")
    page.goto("/lead/programs")
    page.get_by_label("State").select_option("done")
    expect(page.locator("#programs tr")).not_to_have_count(0)
    check(page, "programs")
    picture(page, f"programs-{look}")
    page.locator("#programs a").first.click()
    expect(page.locator("#lines tr")).not_to_have_count(0)
    check(page, "program")
    picture(page, f"program-{look}")


@pytest.mark.parametrize("look", LOOKS)
def test_the_annotators_pages_are_accessible(team, serve, enter, look, picture):
    page = enter(team, f"Jo {look}", bypass_csp=True, **LOOKS[look])
    check(page, "practice")
    page.keyboard.press("0")
    page.keyboard.press("i")
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_be_visible()
    check(page, "marked lines and a note")
    page.keyboard.press("Shift+ArrowDown")
    check(page, "range")
    page.keyboard.press("m")
    check(page, "comment box")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check(page, "keys")
    picture(page, f"keys-{look}")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    check(page, "confidence")
    picture(page, f"confidence-{look}")
    page.keyboard.press("1")
    expect(page.locator("#feedback")).to_be_visible()
    check(page, "answers")
    empty = enter(serve(queue=PLAIN), "ann", bypass_csp=True, **LOOKS[look])
    check(empty, "nothing to do")
    picture(empty, f"empty-{look}")
    empty.goto("/login")
    check(empty, "login")
    picture(empty, f"login-{look}")
    empty.get_by_label("Name").fill("ann")
    empty.get_by_label("Password").fill("not the password")
    empty.keyboard.press("Enter")
    expect(empty.get_by_role("alert")).to_be_visible()
    check(empty, "login refused")
    empty.goto("/invite/forged")
    check(empty, "invite")
    empty.goto("/password/forged")
    check(empty, "new password")
    empty.problems.clear()  # the browser reports the refused log-in


@pytest.mark.parametrize("look", ["light", "phone"])
def test_the_line_with_the_focus_is_in_sight_below_a_note_and_above_the_foot(serve, enter, look):
    server = serve(queue=PLAIN)
    server.publish([work(1, tuple(f"    y = {n}" for n in range(40)), range(40))])
    page = enter(server, "ann", bypass_csp=True, **LOOKS[look])
    for _ in range(25):
        page.keyboard.press("1")
    for _ in range(25):
        page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_be_visible()
    assert current(page) == 25
    expect(line(page, 25)).to_be_in_viewport(ratio=1)
    above, below, row = (page.locator(one).bounding_box() for one in ("#note", "#foot", ".row.at"))
    assert above["y"] + above["height"] <= row["y"]
    assert row["y"] + row["height"] <= below["y"]
    assert violations(page) == []


@pytest.fixture
def page(serve, enter):
    server = serve(queue=PLAIN)
    server.publish([work(n) for n in range(2)])
    return enter(server, "ann", forced_colors="none", reduced_motion="reduce")


def test_the_focus_is_never_lost(page):
    def focus():
        return page.evaluate(
            "(({ activeElement: one }) => one.closest('dialog, #comment-box, #empty')?.id || one.className)(document)"
        )

    def where_after(*keys):
        for key in keys:
            page.keyboard.press(key)
        return focus()

    assert where_after("1") == "row at"
    assert where_after("m") == "comment-box"
    assert where_after("Escape") == "row at"
    assert where_after("?") == "help"
    assert where_after("Escape") == "row at"
    assert where_after("a", "Enter") == "confidence"
    assert where_after("Escape") == "row correct at"
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    assert focus() == "row at"
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    expect(page.locator("#empty")).to_be_visible()
    assert focus() == "empty"


def test_the_focus_is_seen_and_the_first_tab_stop_skips_to_the_content(page):
    for stop in ("#main", ".skip"):
        page.locator(stop).focus()
    stops = 0
    while page.evaluate("document.activeElement !== document.body"):
        style = page.evaluate(
            "(({ outlineStyle: a, outlineWidth: b }) => [a, b])(getComputedStyle(document.activeElement))"
        )
        assert style[0] == "solid"
        assert float(style[1].removesuffix("px")) >= 2
        page.keyboard.press("Tab")
        stops += 1
    # skip, keys, time, log out, problem, two about the whole, line, its three marks, four buttons, but not every
    # line's marks
    assert stops == 15
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_screen_readers_hear_each_line_its_state_and_what_the_buttons_do(page):
    page.keyboard.press("0")
    expect(page.locator("#live")).to_have_text("Line 1 wrong")
    first = page.get_by_role("group", name="Line 1, wrong: y = x + x", exact=True)
    expect(first.get_by_role("button", name="Line 1 wrong", pressed=True)).to_be_visible()
    expect(page.get_by_role("group", name="Line 4, no mark: return y", exact=True)).to_be_visible()
    expect(line(page, 0).locator(".state")).to_have_text("wrong")  # a word and an icon, not colour alone
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("i")
    expect(page.locator("#live")).to_have_text("2 lines unsure")


def test_nothing_moves_where_motion_is_unwanted(page):
    moving = page.evaluate(
        """[...document.querySelectorAll("*")].filter((one) => {
          const style = getComputedStyle(one);
          return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0


def test_a_mark_is_seen_in_forced_colours(serve, enter, picture):
    server = serve(queue=PLAIN)
    server.publish([work(1)])
    page = enter(server, "ann", forced_colors="active")
    page.keyboard.press("0")
    pressed, other = (
        line(page, 0).get_by_role("button", name=name).evaluate("(one) => getComputedStyle(one).backgroundColor")
        for name in ("wrong", "correct")
    )
    assert pressed != other
    submit = page.get_by_role("button", name="Submit")
    colours = submit.evaluate("(one) => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]")
    assert colours[0] != colours[1]
    picture(page, "forced-colors")
