"""Time sheets: what people worked, by person and day, for their lead and for themselves."""

import csv
import io

import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import review, work

PLAIN = QueueSettings(qualification=0, labels_least=2, honeypots_least=0, honeypots_most=0)
MIDNIGHT = 1_800_057_600.0  # 2027-01-16, UTC


@pytest.fixture
def server(serve):
    server = serve(queue=PLAIN)
    server.publish([work(n) for n in range(6)])
    return server


def days(rows):
    return [(row["day"], row["name"], row["programs"], row["lines"], round(3600 * row["hours"])) for row in rows]


def test_hours_and_programs_are_counted_by_person_and_day(serve, database):
    server = serve(database=database, queue=PLAIN)
    server.publish([work(n) for n in range(6)])
    ann, bob = server.person("ann"), server.person("bob")
    server.now = MIDNIGHT - 60
    review(ann), review(ann), review(bob)
    server.now = MIDNIGHT + 60
    review(ann)
    found = server.lead.timesheet()
    assert days(found) == [
        ("2027-01-16", "ann", 1, 2, 2), ("2027-01-15", "ann", 2, 4, 4), ("2027-01-15", "bob", 1, 2, 2),
    ]  # fmt: skip
    assert days(server.lead.timesheet(since="2027-01-16")) == days(found)[:1]
    assert days(server.lead.timesheet(until="2027-01-15", person="bob")) == days(found)[2:]
    assert days(ann._call("GET", "/me/timesheet")) == days(found)[:2]


def test_a_program_that_was_skipped_or_is_in_hand_counts_by_its_marks(server):
    ann = server.person("ann")
    server.now = MIDNIGHT
    task = ann.next()
    ann.mark(task.lease_id, {0: 1}, 30_000)
    ann.mark(task.lease_id, {0: -1}, 3_600_000)  # an hour for one mark: ten minutes count
    ann.release(task.lease_id)
    ann.mark(ann.next().lease_id, {0: 1}, 6_000)
    assert days(server.lead.timesheet()) == [("2027-01-16", "ann", 0, 0, 30 + 600 + 6)]


def test_simulated_reviewers_are_on_no_time_sheet(server):
    review(server.lead.simulated("robot"))
    assert server.lead.timesheet() == []


def test_pay_is_told_where_the_lead_set_it(serve):
    for settings, pay in (({}, None), ({"hourly_pay": 3600.0}, 2.0)):
        server = serve(queue=PLAIN, **settings)
        server.publish([work(1)])
        review(server.person("ann"))
        assert [row["pay"] for row in server.lead.timesheet()] == [pay]


def test_the_command_line_prints_it_or_writes_csv(server, tmp_path):
    review(server.person("=ann"))
    where = ["--url", server.url, "--token-file", str(server.token_file)]
    shown = CliRunner().invoke(app, ["review", "timesheet", *where])
    assert (shown.exit_code, "=ann" in shown.output) == (0, True), shown.output
    out = tmp_path / "sheet.csv"
    written = CliRunner().invoke(app, ["review", "timesheet", str(out), *where])
    assert written.exit_code == 0, written.output
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert (row["name"], row["programs"], row["pay"]) == ("'=ann", "1", "")
    refused = CliRunner().invoke(app, ["review", "timesheet", str(tmp_path / "sheet.xls"), *where])
    assert "ends in .csv" in str(refused.output) + str(refused.exception)


def test_the_page_shows_a_reviewer_their_own_days_and_a_lead_everybodys(server):
    ann = server.browser("ann")
    review(server.person("bob"))
    assert "Nothing is reviewed yet" in ann.get("/time").text
    page = server.browser("boss", "lead").get("/time").text
    assert "bob" in page
    assert 'href="/time"' in ann.get("/work").text


def test_each_two_reviewers_are_told_how_far_they_agree_beyond_chance(server):
    for name, labels in (("ann", (1, -1)), ("bob", (1, -1)), ("cid", (-1, 1))):
        person = server.person(name)
        while (task := person.next()) is not None:
            person.mark(task.lease_id, dict(zip(task.to_review, labels, strict=True)))
            person.submit(task.lease_id)
    server.settled()
    rows = server.lead._call("GET", "/agreement")
    found = {frozenset((row["first_name"], row["second_name"])): (row["agreement"], row["kappa"]) for row in rows}
    assert found[frozenset(("ann", "bob"))] == (1.0, 1.0)
    assert all(row["lines"] % 2 == 0 and row["lines"] > 0 for row in rows)
    assert [row["kappa"] for row in rows] == sorted(row["kappa"] for row in rows)
