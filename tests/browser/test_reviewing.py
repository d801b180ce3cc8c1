"""An annotator's day in a real browser: by keyboard, by mouse, on a phone."""

import pytest
from playwright.sync_api import expect

from crlhf_ray.feedback.desk.keys import key_table
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.browser.conftest import PHONE, PLAIN, current, line, marks, saved, submitted
from tests.desk.conftest import PASSWORD, work

LINES = ("    total = 0", "", "    # add them up", "    for x in xs:", "        total += x", "    return total + 1")
TO_REVIEW = (0, 3, 4, 5)


@pytest.fixture
def server(serve):
    server = serve(queue=PLAIN)
    server.publish([work(n, LINES, TO_REVIEW) for n in range(2)])
    return server


def test_a_whole_session_by_keyboard_alone(serve, enter):
    """From the log-in through practice with answers and work to the last program; the mouse is never touched."""
    server = serve(queue=QueueSettings(qualification=1, honeypots_least=0, honeypots_most=0))
    server.publish([work(n, LINES, TO_REVIEW) for n in range(2)], honeypots=1)
    page = enter(server, "ann")
    # Practice: the second line of the honeypot is wrong.
    expect(page.locator("#progress")).to_contain_text("Practice: 1 to go")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    expect(page.locator("#feedback")).to_contain_text("You have 1 of 2 lines")
    expect(page.locator("#feedback li").last).to_contain_text("Line 2 is wrong; you said correct.")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback")).to_be_hidden()
    expect(page.locator("#progress")).to_contain_text("1 reviewed · 1 today")
    expect(page.locator("#progress")).to_contain_text("practice: 1 of 2 lines right")
    # Work. Blank and comment lines are passed over.
    assert current(page) == 0
    page.keyboard.press("1")
    assert current(page) == 3
    page.keyboard.press("Shift+J")
    page.keyboard.press("0")  # a range: lines 3 and 4
    assert current(page) == 5
    page.keyboard.press("u")
    expect(page.locator(".row.wrong")).to_have_count(0)
    assert current(page) == 3
    page.keyboard.press("i")
    page.keyboard.press("m")
    page.keyboard.type("what if xs is empty?")
    page.keyboard.press("Control+Enter")
    expect(line(page, 4).locator(".said")).to_have_text("“what if xs is empty?”")
    assert current(page) == 4
    # Lines are unmarked, which is not correct: no dialog, and the first of them is current.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_have_text("2 lines have no mark yet.")
    assert page.locator("#confidence").is_hidden()
    assert current(page) == 4
    page.keyboard.press("a")
    saved(page)
    page.keyboard.press("Enter")
    expect(page.locator("#confidence")).to_be_visible()
    page.keyboard.press("Enter")  # an Enter too many decides nothing
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.keyboard.press("3")
    expect(page.locator("#progress")).to_contain_text("2 reviewed · 2 today")
    assert submitted(server)[2:] == [(0, 1, 3), (3, 0, 0), (4, 1, 3), (5, 1, 3)]
    # The next program is there, with the focus on its first line; then there is none, and the focus is not lost.
    assert current(page) == 0
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#desk")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "empty"
    expect(page.locator("#progress")).to_contain_text("3 reviewed · 3 today")
    # Out, and in again.
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.get_by_label("Name").focus()
    page.keyboard.type("ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()


def test_a_whole_session_by_mouse(server, enter):
    page = enter(server, "ann")
    for number, name in zip(TO_REVIEW, ("correct", "wrong", "unsure", "correct"), strict=True):
        line(page, number).get_by_role("button", name=name).click()
        expect(line(page, number).locator(".state")).to_have_text(name)
    page.get_by_role("button", name="Undo").click()
    expect(line(page, 5).locator(".state")).to_have_text("")
    page.get_by_role("button", name="Comment").click()
    page.get_by_label("Comment on line 6").fill("one too many")
    page.get_by_role("button", name="Save the comment").click()
    expect(line(page, 5).locator(".said")).to_have_text("“one too many”")
    page.get_by_role("button", name="Rest is correct").click()
    saved(page)
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="Fairly sure").click()
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    assert submitted(server) == [(0, 1, 2), (3, -1, 2), (4, 0, 0), (5, 1, 2)]


def test_a_whole_session_on_a_phone(server, enter):
    page = enter(server, "ann", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    line(page, 0).get_by_role("button", name="correct").tap()
    for box in [one.bounding_box() for one in page.locator(".marks button, .foot button").all()]:
        assert min(box["width"], box["height"]) >= 44  # a finger's width
    page.get_by_role("button", name="Rest is correct").tap()
    saved(page)
    page.get_by_role("button", name="Submit").tap()
    page.get_by_role("button", name="Sure", exact=True).tap()
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    assert submitted(server) == [(n, 1, 3) for n in TO_REVIEW]


def test_nothing_is_marked_at_the_start(server, enter):
    page = enter(server, "ann")
    expect(page.locator('[aria-pressed="false"]')).to_have_count(3 * len(TO_REVIEW))
    expect(page.locator("#empty")).to_be_hidden()


def test_shift_and_the_arrows_extend_a_range_both_ways(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("End")  # no key of ours: does nothing here
    for key in ("ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowUp", "Shift+ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    expect(page.locator(".in-range")).to_have_count(3)
    page.keyboard.press("0")
    saved(page)
    assert marks(server) == [(0, -1, False), (3, -1, False), (4, -1, False)]
    assert current(page) == 5


def test_shift_and_a_click_extend_a_range_which_a_button_marks(server, enter):
    page = enter(server, "ann")
    line(page, 3).locator(".source").click()
    line(page, 5).locator(".source").click(modifiers=["Shift"])
    expect(page.locator(".in-range")).to_have_count(3)
    assert page.evaluate("getSelection().toString()") == ""
    line(page, 4).get_by_role("button", name="wrong").click()
    saved(page)
    assert marks(server) == [(3, -1, False), (4, -1, False), (5, -1, False)]


def test_the_rest_is_correct_is_recorded_as_such_and_undone_as_one(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("1")
    page.keyboard.press("a")
    page.keyboard.press("u")
    saved(page)
    rest = [(3, 1, True), (4, 1, True), (5, 1, True)]
    assert marks(server) == [(0, 1, False), *rest, *((n, None, False) for n, _, _ in rest)]  # history stays
    expect(page.locator(".row.correct")).to_have_count(1)


def test_undo_brings_back_the_mark_before(server, enter):
    page = enter(server, "ann")
    for key in ("0", "k", "1", "u"):
        page.keyboard.press(key)
    expect(line(page, 0).locator(".state")).to_have_text("wrong")
    page.keyboard.press("u")
    expect(line(page, 0).locator(".state")).to_have_text("")
    page.keyboard.press("u")
    expect(page.locator("#live")).to_have_text("Nothing to undo")


def test_a_comment_that_was_begun_stays_through_a_reload_and_belongs_to_its_line(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("m")
    page.keyboard.type("half a th")
    line(page, 3).locator(".source").click()
    page.reload()
    expect(page.get_by_label("Comment on line 1")).to_have_value("half a th")
    page.keyboard.type("ought")
    page.keyboard.press("Control+Enter")
    expect(line(page, 0).locator(".said")).to_have_text("“half a thought”")
    page.reload()
    expect(line(page, 0).locator(".said")).to_have_text("“half a thought”")
    expect(page.locator("#comment")).to_be_hidden()


def test_the_help_shows_the_keys_that_drive_the_page(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("?")
    shown = [
        (row.locator("input").input_value().split(), row.locator("td").last.inner_text())
        for row in page.locator("#keys tr").all()
    ]
    assert shown == [(row["keys"], row["text"]) for row in key_table({})]
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_hidden()
    assert current(page) == 0


def test_keys_are_changed_and_switched_off_and_stay_so(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("?")
    page.get_by_label("Keys for: Mark the line or range wrong").fill("x")
    page.get_by_label("Keys for: Undo the last mark").fill("")
    page.get_by_label("Keys for: When submitting: a guess").fill("g")
    page.keyboard.press("Enter")
    expect(page.locator("#help")).to_be_hidden()
    for _ in range(2):
        page.keyboard.press("0")
        expect(page.locator(".row.wrong")).to_have_count(0)
        page.keyboard.press("x")
        page.keyboard.press("u")
        expect(page.locator(".row.wrong")).to_have_count(1)
        assert page.get_by_role("button", name="Undo").locator("kbd").count() == 0
        page.get_by_role("button", name="Undo").click()
        saved(page)
        page.reload()
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    page.keyboard.press("?")
    page.get_by_role("button", name="Defaults").click()
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("0")
    expect(page.locator(".row.wrong")).to_have_count(1)


def test_one_key_for_two_things_is_refused_with_the_reason(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("?")
    page.get_by_label("Keys for: Undo the last mark").fill("J")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#keys-problem")).to_contain_text("given to both 'down' and 'undo'")
    page.problems.clear()  # the browser reports the refusal


def test_an_empty_page_fills_by_itself(serve, enter):
    server = serve(queue=PLAIN)
    page = enter(server, "ann")
    expect(page.locator("#empty")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "empty"
    server.publish([work(1)])
    expect(page.locator("#desk")).to_be_visible()
    assert current(page) == 0


@pytest.mark.parametrize("keys", ["a", "jjja", "0kju0ua"])
def test_the_pace_is_shown_and_counts_the_time_of_reading_and_of_second_thoughts(server, enter, keys):
    page = enter(server, "ann")
    page.clock.install()
    page.reload()
    expect(page.locator(".row.at")).to_be_visible()  # time counts from when the program is shown
    for key in keys:
        page.clock.fast_forward(620_000 // len(keys))
        server.now += 620 / len(keys)
        page.keyboard.press(key)
        saved(page)  # or the server's clock would be ahead when the mark comes
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    expect(page.locator("#progress")).to_contain_text("1 reviewed · 1 today · ")
    shown = page.locator("#progress").inner_text()
    assert shown.split(" · ")[2] == "6 an hour"
    assert "right" not in shown  # accuracy is told in the qualification round only


def test_two_people_review_one_program_without_seeing_each_other(server, enter):
    a, b = enter(server, "ann"), enter(server, "bob")
    assert a.locator("#lines").inner_text() == b.locator("#lines").inner_text()
    for key in ("0", "m"):
        a.keyboard.press(key)
    a.keyboard.type("secret")
    a.keyboard.press("Control+Enter")
    expect(a.locator(".said")).to_be_visible()
    b.reload()
    expect(b.locator('[aria-pressed="true"]')).to_have_count(0)
    expect(b.locator(".said")).to_have_count(0)
    for page, key in ((a, "a"), (b, "a")):
        for one in (key, "Enter", "3"):
            page.keyboard.press(one)
        expect(page.locator("#progress")).to_contain_text("1 reviewed")
    assert submitted(server) == [(0, -1, 3), (3, 1, 3), (4, 1, 3), (5, 1, 3), *((n, 1, 3) for n in TO_REVIEW)]


def test_a_program_of_300_lines_answers_a_key_in_no_time(serve, enter):
    server = serve(queue=PLAIN)
    server.publish([work(1, tuple(f"    x{n} = {n}" for n in range(300)), tuple(range(300)))])
    page = enter(server, "ann")
    changed = page.evaluate(
        """async () => {
          const seen = new Set();
          const note = (list) => list.forEach((one) => seen.add(one.target.closest(".row")?.dataset.line));
          new MutationObserver(note).observe(byId("lines"), { subtree: true, attributes: true, childList: true });
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "1", bubbles: true }));
          await new Promise(requestAnimationFrame);
          return [...seen].sort();
        }"""
    )
    assert changed == ["0", "1"]  # only the lines concerned are drawn again
    for _ in range(40):
        page.keyboard.press("j")
    assert current(page) == 41
    box, foot = line(page, 41).bounding_box(), page.locator(".foot").bounding_box()
    assert box["y"] + box["height"] <= foot["y"]  # not hidden behind the bar of buttons
