"""Each page as people will see it, with data as real as it gets; the pictures in docs/images are these."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, saved


def test_pictures_for_the_lead(team, enter, picture):
    page = enter(team, "Lea", "lead")
    expect(page.locator("#rounds circle")).not_to_have_count(0)
    picture(page, "dashboard")
    page.goto("/lead/people")
    page.get_by_role("button", name="Dora: show over time").click()
    expect(page.locator("#curve-title")).to_have_text("Dora over time")
    page.evaluate("scrollTo(0, 0)")
    picture(page, "people")
    page.goto("/lead/programs")
    page.get_by_label("State").select_option("done")
    page.get_by_label("Round").fill("1")
    expect(page.locator("#programs tr td:nth-child(3)").first).to_have_text("1")
    picture(page, "programs")
    wrong = next(item for item in team.lead._call("GET", "/items?state=done&round=1") if team.wrong[item["item_id"]])
    page.goto(f"/lead/programs/{wrong['item_id']}")
    expect(page.locator("#lines tr")).not_to_have_count(0)
    picture(page, "program")


def slowly(page, *keys):
    """As people do: some seconds for each line."""
    for key in keys:
        page.clock.fast_forward(6500)
        page.keyboard.press(key)


def truth(team, page):
    """The right key for each line of the program on the page."""
    item_id, lines = page.evaluate("[task.item_id, toReview]")
    return ["0" if line in team.wrong[item_id] else "1" for line in lines]


def practise(team, page, picture=None):
    """Through the qualification round, with one mistake in each program."""
    page.clock.install()
    page.reload()
    for number in range(2):
        right = truth(team, page)
        slowly(page, *right[:-1], "1" if right[-1] == "0" else "i", "Enter", "2")
        expect(page.locator("#feedback")).to_be_visible()
        if picture:
            picture(page, "qualification")
        page.keyboard.press("Enter")
        expect(page.locator("#progress")).to_contain_text(f"{number + 1} reviewed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_a_newcomers_first_hour(team, enter, picture, scheme):
    light = scheme == "light"
    page = enter(team, "Gina" if light else "Ivo", color_scheme=scheme)
    practise(team, page, picture if light else None)
    expect(page.locator("#progress")).to_contain_text("practice:")
    slowly(page, *truth(team, page)[:-2], "i", "k", "m")
    page.keyboard.type("I would have to try this one.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".said")).to_be_visible()
    saved(page)
    picture(page, "review" if light else "review-dark")
    if light:
        page.keyboard.press("?")
        picture(page, "keys")


def test_pictures_on_a_phone(team, enter, picture):
    page = enter(team, "Hugo", **PHONE)
    practise(team, page)
    page.locator(".row .m-correct").first.tap()
    page.locator(".row .m-wrong").nth(1).tap()
    saved(page)
    picture(page, "phone")
