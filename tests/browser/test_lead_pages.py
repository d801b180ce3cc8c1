"""What a lead sees and does, in a real browser."""

import csv
from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect

from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import PASSWORD, review, work


@pytest.fixture
def server(serve):
    """A server on which three people have reviewed for a while; cid against everybody else."""
    server = serve(queue=QueueSettings(qualification=1, labels_least=3))
    server.publish([work(n) for n in range(12)], honeypots=6)
    for name, label in (("ann", 1), ("bob", 1), ("cid", -1)):
        person = server.person(name)
        while review(person, label):
            server.now += 40
    server.settled()
    return server


def test_the_dashboard_is_live_and_leaves_the_focus_alone(server, enter):
    page = enter(server, "boss", "lead")
    expect(page.locator("#live-state")).to_have_text("● Live")
    waiting = page.locator(".tile", has_text="Programs waiting").locator("b")
    before = int(waiting.inner_text())
    link = page.locator("#alerts a").first
    link.focus()
    server.publish([work(100)])
    expect(waiting).to_have_text(str(before + 1))
    expect(link).to_be_focused()


def test_the_numbers_are_explained(server, enter):
    page = enter(server, "boss", "lead")
    tile = page.locator(".tile", has_text="Krippendorff")
    expect(tile.locator("b")).to_contain_text("-0.")
    expect(tile).to_have_attribute("title", "below 0: less than by chance, somebody answers the wrong way round")
    expect(page.locator(".tile", has_text="Cost")).to_contain_text("line")
    expect(page.locator(".tile", has_text="waiting")).to_contain_text("the oldest for")


def test_an_alert_names_the_people_concerned_and_leads_to_them(server, enter):
    page = enter(server, "boss", "lead")
    alert = page.locator("#alerts li").first
    expect(alert.locator("a")).not_to_have_count(0)
    names = alert.locator("a").all_inner_texts()
    alert.locator("a").first.click()
    expect(page.locator("#curve-title")).to_have_text(f"{names[0]} over time")
    row = page.locator("#people tr", has_text=names[0])
    expect(row).to_contain_text("⚠")
    expect(row.get_by_role("button", pressed=True)).to_be_focused()


def test_plots_have_axes_units_legends_and_numbers_under_the_pointer(team, enter):
    page = enter(team, "Otto", "lead")
    pace, rounds, people = (page.locator(f"#{name} svg") for name in ("pace", "rounds", "people"))
    expect(pace).to_contain_text("−60")
    expect(pace).to_contain_text("now")
    expect(pace).to_contain_text("minutes")
    expect(pace.locator("title").last).to_contain_text("minutes ago")
    expect(rounds).to_contain_text("100%")
    expect(rounds.locator("title").nth(1)).to_contain_text("Round 0: ")
    expect(rounds.locator(".dot1")).to_have_count(1 + 5)  # the legend's, and one a round
    for name in ("sensitivity", "specificity", "Amara", "Femi", "100%"):
        expect(people).to_contain_text(name)
    assert "Amara: sensitivity 9" in people.get_attribute("aria-label")


def test_each_annotators_rates_are_shown_over_time_with_intervals(team, enter):
    page = enter(team, "Paula", "lead")
    page.goto("/lead/people")
    page.get_by_role("button", name="Bela: show over time").click()
    expect(page.locator("#curve-title")).to_have_text("Bela over time")
    plot = page.locator("#curve svg")
    expect(plot.locator("polygon")).to_have_count(2)
    assert plot.locator(".dot1").count() > 10
    expect(plot.locator("title").last).to_contain_text("specificity")
    # The intervals narrow as more becomes known.
    first, last = plot.locator(".band1").evaluate(
        """(one) => { const p = [...one.points], n = p.length;
          return [Math.abs(p[0].y - p[n - 1].y), Math.abs(p[n / 2 - 1].y - p[n / 2].y)]; }"""
    )
    assert last < first


def test_a_program_shows_every_vote_and_posterior(server, enter):
    page = enter(server, "boss", "lead")
    page.goto(f"/lead/programs/{work(1).item_id}")
    row = page.locator("#lines tr").first
    expect(row).to_contain_text("✓ ann correct")
    expect(row).to_contain_text("✗ cid wrong")
    expect(row.get_by_role("meter", name="P(correct)")).to_be_visible()
    expect(row.locator("td").nth(2)).to_contain_text("0.")


def test_programs_are_filtered_by_round_state_and_kind_and_lead_to_their_page(team, enter):
    page = enter(team, "Quinn", "lead")
    page.goto("/lead/programs")
    expect(page.locator("#programs tr")).not_to_have_count(0)
    page.get_by_label("State").select_option("done")
    page.get_by_label("Round").fill("2")
    expect(page.locator("#programs tr td:nth-child(3)").first).to_have_text("2")
    assert set(page.locator("#programs tr td:nth-child(3)").all_inner_texts()) == {"2"}
    page.get_by_label("Round").fill("77")
    expect(page.locator("#none")).to_be_visible()
    page.get_by_label("Round").fill("")
    page.get_by_label("State").select_option("open")
    page.get_by_label("Kind").select_option("honeypots")
    expect(page.locator("#programs button").first).to_have_text("Retire")
    page.locator("#programs a").first.click()
    expect(page.locator("#about")).to_contain_text("honeypot")


def test_one_more_person_is_asked_about_a_program_that_is_done(server, enter):
    server.person("dan")  # who has not had them yet
    over = [work(n) for n in (50, 51)]
    server.lead.publish(over, deadline=datetime.fromtimestamp(server.now + 1, UTC))
    server.now += 2
    assert server.lead.status([work(50).item_id]) == {work(50).item_id: "done"}
    page = enter(server, "boss", "lead")
    page.goto("/lead/programs")
    page.get_by_label("State").select_option("done")
    page.get_by_role("button", name=f"Ask one more: {work(50).item_id}").click()
    expect(page.locator("#note")).to_have_text(f"One more person will be asked about {work(50).item_id}.")
    assert server.lead.status([work(50).item_id]) == {work(50).item_id: "open"}
    page.goto(f"/lead/programs/{work(51).item_id}")
    page.get_by_role("button", name="Ask one more").click()
    expect(page.locator("#note")).to_contain_text("One more person")


def test_a_line_that_people_disagree_on_is_decided_after_a_question(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/disagreements")
    lines = page.locator("#disputed tr")
    expect(lines).to_have_count(24)
    expect(lines.first).to_contain_text("ann: correct, bob: correct, cid: wrong")
    lines.first.get_by_role("button").first.click()
    page.get_by_role("button", name="Cancel").click()
    expect(lines).to_have_count(24)
    lines.first.get_by_role("button").first.click()
    page.locator("#ask-yes").click()
    expect(page.locator("#note")).to_have_text("Your verdict is kept.")
    expect(lines).to_have_count(23)


def test_a_honeypot_is_retired_after_a_question(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/programs")
    page.get_by_label("Kind").select_option("honeypots")
    expect(page.locator("#programs tr")).to_have_count(6)
    page.locator("#programs").get_by_role("button", name="Retire").first.click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#programs tr")).to_have_count(6)
    page.locator("#programs").get_by_role("button", name="Retire").first.click()
    page.locator("#ask").get_by_role("button", name="Retire").click()
    expect(page.locator("#programs tr")).to_have_count(5)
    expect(page.locator("#note")).to_contain_text("is retired")


def test_an_invite_link_is_made_copied_and_works(server, enter, chromium):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#note")).to_contain_text("A link for one annotator")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#note")).to_have_text("The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    other = chromium.new_context().new_page()
    other.goto(link)
    other.get_by_label("Name").fill("dan")
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Join").click()
    other.wait_for_url("**/work")
    other.context.close()
    page.reload()
    expect(page.locator("#people tr", has_text="dan")).to_contain_text("qualifying")


def test_who_forgot_the_password_gets_a_link_to_choose_a_new_one(server, enter, chromium):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    page.get_by_role("button", name="new password for ann").click()
    expect(page.locator("#note")).to_contain_text("ann chooses a new password")
    other = chromium.new_context().new_page()
    other.goto(page.locator("#link").input_value())
    other.get_by_label("password", exact=False).first.fill("quite another one")
    other.keyboard.press("Enter")
    other.wait_for_url("**/work")
    other.context.close()


def test_somebody_is_suspended_after_a_question_and_reinstated(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    row = page.locator("#people tr", has_text="cid")
    page.get_by_role("button", name="suspend cid").click()
    page.get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("at work")
    expect(page.get_by_role("button", name="suspend cid")).to_be_focused()
    page.get_by_role("button", name="suspend cid").click()
    page.locator("#ask").get_by_role("button", name="suspend").click()
    expect(row).to_contain_text("suspended")
    expect(page.get_by_role("button", name="reinstate cid")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).to_contain_text("at work")
    page.get_by_role("button", name="requalify cid").click()
    page.locator("#ask").get_by_role("button", name="requalify").click()
    expect(row).to_contain_text("qualifying")
    expect(page.locator("#audit")).to_contain_text("requalify")


def test_marks_are_exported(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    for kind in ("CSV", "JSONL", "Parquet"):
        with page.expect_download() as download:
            page.get_by_role("link", name=kind, exact=True).click()
        assert download.value.suggested_filename == f"reviews.{kind.lower()}"
        if kind == "CSV":
            with open(download.value.path()) as file:
                assert {"task", "worker", "label"} <= set(next(csv.DictReader(file)))


def test_a_session_that_ended_is_said_to_have_ended(server, enter):
    page = enter(server, "boss", "lead")
    page.goto("/lead/people")
    expect(page.locator("#people tr")).to_have_count(3)
    page.context.clear_cookies()
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#note").get_by_role("link", name="Log in again")).to_be_visible()
    page.problems.clear()
