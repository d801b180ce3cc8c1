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


def review_for(seconds, person, server, claimed=1000):
    """Review a program of two lines within so many seconds of the server's clock; claimed: milliseconds a line."""
    task = person.next()
    server.now += seconds
    person.mark(task.lease_id, dict.fromkeys(task.to_review, 1), claimed)
    person.submit(task.lease_id)


def days(rows):
    return [(row["day"], row["name"], row["programs"], row["lines"], round(3600 * row["hours"])) for row in rows]


def test_hours_and_programs_are_counted_by_person_and_day(serve, database):
    server = serve(database=database, queue=PLAIN)
    server.publish([work(n) for n in range(6)])
    ann, bob = server.person("ann"), server.person("bob")
    server.now = MIDNIGHT - 60
    for person in (ann, ann, bob):
        review_for(2, person, server)
    server.now = MIDNIGHT + 60
    review_for(2, ann, server)
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
    for label, seconds in ((1, 30), (-1, 3600)):  # an hour for one mark: ten minutes count
        server.now += seconds
        ann.mark(task.lease_id, {0: label}, 1000 * seconds)
    ann.release(task.lease_id)
    task = ann.next()
    server.now += 6
    ann.mark(task.lease_id, {0: 1}, 6_000)
    assert days(server.lead.timesheet()) == [("2027-01-16", "ann", 0, 0, 30 + 600 + 6)]


def test_no_more_time_counts_than_the_server_saw_pass(serve, database):
    server = serve(database=database, queue=PLAIN)
    server.publish([work(n) for n in range(6)])
    ann = server.person("ann")
    server.now = MIDNIGHT
    review_for(7, ann, server, claimed=600_000)
    task = ann.next()
    for line, seconds in ((0, 5), (3, 0), (3, 4)):
        server.now += seconds
        ann.mark(task.lease_id, {line: 1}, 600_000)
    ann.submit(task.lease_id)
    assert days(server.lead.timesheet()) == [("2027-01-16", "ann", 2, 4, 7 + 5 + 0 + 4)]
    assert days(server.lead.timesheet(since="2027-01-17")) == []


def test_a_day_that_is_over_changes_no_more(server):
    ann = server.person("ann")
    server.now = MIDNIGHT - 10
    task = ann.next()
    server.now = MIDNIGHT - 5
    ann.mark(task.lease_id, {0: 1}, 5_000)
    before = server.lead.timesheet(until="2027-01-15")
    server.now = MIDNIGHT + 3
    ann.mark(task.lease_id, {3: 1}, 8_000)
    ann.submit(task.lease_id)
    assert days(server.lead.timesheet(until="2027-01-15")) == days(before) == [("2027-01-15", "ann", 0, 0, 5)]
    assert days(server.lead.timesheet(since="2027-01-16")) == [("2027-01-16", "ann", 1, 2, 8)]


def test_reviews_that_were_imported_are_no_work_here(server):
    review(server.person("ann"))
    exported = "worker,task,label,time,milliseconds\n"
    for name in ("i-0000000000000004", "i-0000000000000005"):
        exported += "".join(f"eve,{name}:{line},1,1800000000,5000\n" for line in (1, 4))
    server.lead.import_files([{"name": "elsewhere.csv", "text": exported}])
    assert [row["name"] for row in server.lead.timesheet()] == ["ann"]


def test_simulated_reviewers_are_on_no_time_sheet(server):
    review(server.lead.simulated("robot"))
    assert server.lead.timesheet() == []


def test_pay_is_told_where_the_lead_set_it(serve):
    for settings, pay in (({}, None), ({"hourly_pay": 3600.0}, 2.0)):
        server = serve(queue=PLAIN, **settings)
        server.publish([work(1)])
        review_for(2, server.person("ann"), server)
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
