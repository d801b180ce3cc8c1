"""Handing out and taking in, over HTTP, on both databases."""

import csv
import io
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from benchmarks.postgres import free_port
from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.desk.client import AnnotationClient, ServerError
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.serve import BackgroundServer, service_token
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.desk.store.models import Account, Lease, Program, Submission
from tests.desk.conftest import honeypot, review, work

NO_CHECKS = QueueSettings(qualification=0, labels_least=2, labels_most=3, honeypots_least=0, honeypots_most=0)


@pytest.fixture
def server(serve, database):
    return serve(database=database, queue=NO_CHECKS)


def test_publishing_again_changes_nothing(server):
    assert server.lead.publish([work(1), work(2)]) == 2
    assert server.lead.publish([work(1), work(2), work(3)]) == 1


def test_another_text_under_a_known_id_is_refused(server):
    server.publish([work(1)])
    with pytest.raises(ServerError, match="published with other lines"):
        server.lead.publish([work(1, ("    return 0",), (0,))])


def test_whatever_characters_a_model_writes_are_stored_as_they_are(server):
    strange = ("    x = '\x00\x0f\r\u2028\u202e' # " + "y" * 5000, "", "    \U0001f40d = 1")
    server.publish([work(1, strange, (0, 2))])
    task = server.person("ann")._call("POST", "/next", {})
    assert len(task["lines"]) == 3
    with server.desk.database.read() as session:
        assert tuple(session.scalars(sa.select(Program.lines)).one()) == strange


def test_nobody_gets_a_program_twice(server):
    server.publish([work(1), work(2)])
    person = server.person("ann")
    seen = [review(person) for _ in range(3)]
    assert sorted(seen[:2]) == [work(1).item_id, work(2).item_id]
    assert seen[2] is None


def test_asking_again_gives_the_same_program_with_its_marks(server):
    server.publish([work(1), work(2)])
    person = server.person("ann")
    task = person.next()
    person.mark(task.lease_id, {0: -1})
    again = person.next()
    assert (again.lease_id, again.marked) == (task.lease_id, {0: -1})


def test_a_program_is_handed_to_no_more_people_than_are_wanted(server):
    server.publish([work(1)])
    people = [server.person(name) for name in "abc"]
    assert [person.next() is not None for person in people] == [True, True, False]


def test_a_program_left_alone_goes_to_somebody_else_and_back_only_if_it_is_free(server):
    server.publish([work(1)])
    a, b, c = (server.person(name) for name in "abc")
    task = a.next()
    b.next()
    server.now += NO_CHECKS.lease_seconds + 1
    assert c.next() is not None
    a.mark(task.lease_id, {0: 1})  # one place is free: it is theirs again
    with pytest.raises(ServerError, match="no longer assigned to you"):
        b.mark(2, {0: 1})


def test_a_program_left_alone_for_too_long_comes_again_with_its_marks_before_other_work(server):
    for number in (1, 2):
        server.publish([work(number)])
        server.now += 1  # they come in this order
    person = server.person("ann")
    task = person.next()
    person.mark(task.lease_id, {0: -1})
    server.now += NO_CHECKS.lease_seconds + 1
    for _ in range(2):
        again = person.next()
        assert (again.lease_id, again.marked) == (task.lease_id, {0: -1})
        server.now += NO_CHECKS.lease_seconds - 1  # it is theirs for as long again
        server.person(f"p{server.now}").next()


def test_of_two_programs_left_alone_that_with_marks_comes_first(serve, database):
    server = serve(database=database, queue=NO_CHECKS.model_copy(update={"labels_least": 1}))
    for number in (1, 2):
        server.publish([work(number)])
        server.now += 1  # they come in this order
    a, b = server.person("a"), server.person("b")
    task = a.next()
    a.mark(task.lease_id, {0: -1})
    server.now += NO_CHECKS.lease_seconds + 1
    taken = b.next()
    assert taken.item_id == task.item_id
    other = a.next()
    server.now += NO_CHECKS.lease_seconds + 1
    server.person("c")  # nobody asks for work: both are free
    assert other.item_id != task.item_id
    assert a.next().lease_id == task.lease_id


def test_a_program_given_back_does_not_come_again(server):
    server.publish([work(1)])
    a = server.person("a")
    task = a.next()
    a.release(task.lease_id)
    assert a.next() is None
    with pytest.raises(ServerError, match="no longer assigned to you"):
        a.mark(task.lease_id, {0: 1})


@pytest.mark.parametrize("begun", [False, True])
def test_nobody_holds_two_programs_also_when_one_left_alone_is_taken_up_late(server, begun):
    """The other one is given back where nothing was said of it; else the late one is refused."""
    for number in (1, 2):
        server.publish([work(number)])
        server.now += 1  # they come in this order
    a, b, c = (server.person(name) for name in "abc")
    late = a.next()
    server.now += NO_CHECKS.lease_seconds + 1
    taken = [one.next() for one in (b, c)]  # both places of the program
    other = a.next()
    b.release(taken[0].lease_id)
    if begun:
        a.mark(other.lease_id, {0: 1})
        with pytest.raises(ServerError, match="begun another one"):
            a.mark(late.lease_id, {0: 1, 3: 1})
    else:
        a.mark(late.lease_id, {0: 1, 3: 1})
        assert a.next().lease_id == late.lease_id
        a.submit(late.lease_id)
        assert a.next().lease_id == other.lease_id
    with server.desk.database.read() as session:
        mine = sa.select(Lease).join(Account).where(Account.name == "a", Lease.state == "open")
        assert len(session.scalars(mine).all()) == 1


def test_the_database_itself_refuses_a_second_program_in_one_hand(server):
    server.publish([work(1), work(2)])
    ann = server.person("ann")
    review(ann)
    ann.next()
    with pytest.raises(sa.exc.IntegrityError), server.desk.database.write() as session:
        session.execute(sa.update(Lease).values(state="open"))


def test_a_mark_sent_twice_is_stored_once_and_a_correction_stands(server):
    server.publish([work(1)])
    person = server.person("ann")
    task = person.next()
    mark = {"event_id": "event-0001", "line": 0, "label": 1}
    for _ in range(2):
        person._call("POST", f"/leases/{task.lease_id}/marks", {"marks": [mark]})
    person.mark(task.lease_id, {0: -1, 3: 0})
    person.submit(task.lease_id)
    table, _ = server.lead.annotations(0)
    assert table.select(["line", "label"]).to_pylist() == [{"line": 0, "label": -1}, {"line": 3, "label": 0}]


def test_an_event_id_with_another_content_is_refused(server):
    server.publish([work(1)])
    person = server.person("ann")
    task = person.next()
    mark = {"event_id": "event-0001", "line": 0, "label": 1}
    person._call("POST", f"/leases/{task.lease_id}/marks", {"marks": [mark]})
    with pytest.raises(ServerError, match="stored with another content"):
        person._call("POST", f"/leases/{task.lease_id}/marks", {"marks": [mark | {"label": -1}]})


def test_time_counts_for_every_mark_made_but_not_when_nobody_was_there(server):
    server.publish([work(1)])
    person = server.person("ann")
    task = person.next()
    for label, milliseconds in ((1, 60_000), (None, 30_000), (-1, 30_000)):
        server.now += milliseconds / 1000
        person.mark(task.lease_id, {0: label}, milliseconds)
    server.now += 900
    person.mark(task.lease_id, {3: 1}, 8 * 3_600_000)
    person.submit(task.lease_id)
    with server.desk.database.read() as session:
        assert session.scalar(sa.select(Submission.milliseconds)) == 120_000 + 600_000


def test_a_comment_sent_twice_is_stored_once(server):
    server.publish([work(1)])
    person = server.person("ann")
    lease = person.next().lease_id
    for line, text in [(0, "why?"), (0, "why?"), (None, "why?"), (None, "why?"), (0, "how?")]:
        person._call("POST", f"/leases/{lease}/comments", {"line": line, "text": text})
    said = server.lead._call("GET", f"/items/{work(1).item_id}")["comments"]
    assert [(one["line"], one["text"]) for one in said] == [(0, "why?"), (None, "why?"), (0, "how?")]


def test_unmarked_lines_and_marks_taken_back_cannot_be_submitted(server):
    server.publish([work(1)])
    person = server.person("ann")
    task = person.next()
    person.mark(task.lease_id, {0: 1, 3: 1})
    person.mark(task.lease_id, {3: None})
    with pytest.raises(ServerError, match="lines 3 have no mark yet"):
        person.submit(task.lease_id)


def test_lines_without_code_take_no_mark(server):
    server.publish([work(1)])
    person = server.person("ann")
    with pytest.raises(ServerError, match=r"lines \[1\] of this program are not to be reviewed"):
        person.mark(person.next().lease_id, {1: 1})


def test_somebody_elses_program_takes_no_mark(server):
    server.publish([work(1)])
    a, b = server.person("a"), server.person("b")
    with pytest.raises(ServerError, match="no longer assigned to you"):
        b.mark(a.next().lease_id, {0: 1})


def test_people_who_disagree_bring_a_third_opinion_and_then_it_is_done(server):
    server.publish([work(1)])
    a, b, c = (server.person(name) for name in "abc")
    review(a)
    review(b, -1)
    server.settled()
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "open"}
    review(c)
    server.settled()
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}


def test_a_program_in_dispute_waits_for_who_is_at_work_and_for_nobody_else(server):
    server.publish([work(1)])
    item = work(1).item_id
    people = [server.person(name) for name in "abc"]
    for person, label in zip(people[:2], (1, -1), strict=True):
        review(person, label)
    server.settled()
    assert server.lead.status([item]) == {item: "open"}  # c joined just now, and may say
    server.now += NO_CHECKS.present_seconds + 1
    assert server.lead.status([item]) == {item: "done"}


def test_a_program_past_its_deadline_is_closed(server):
    server.lead.publish([work(1)], deadline=datetime.fromtimestamp(server.now + 60, UTC))
    server.now += 61
    assert server.person("ann").next() is None
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}


def test_the_lead_is_told_of_programs_that_ended_with_too_few_reviews_and_of_no_others(server):
    def alerts():
        server.now += 1000
        server.desk.crowd.view()
        server.desk.crowd._viewing.result()
        return {alert["kind"]: alert["message"] for alert in server.desk.crowd.view().alerts}

    server.lead.publish([work(1), work(2)], deadline=datetime.fromtimestamp(server.now + 1500, UTC))
    person = server.person("ann")
    review(person)
    server.settled()
    assert "label shortage" not in alerts()
    server.now += 1000
    person.next()
    assert alerts()["label shortage"] == "100% of 2 programs have fewer than 2 reviews"


def test_a_program_that_a_deadline_closed_unreviewed_opens_again_with_a_later_one(server):
    for seconds in (60, 600):
        server.lead.publish([work(1)], deadline=datetime.fromtimestamp(1_800_000_000 + seconds, UTC))
        assert server.lead.status([work(1).item_id]) == {work(1).item_id: "open"}
        server.now += 100
    assert review(server.person("ann")) == work(1).item_id


def test_a_reopened_program_goes_to_one_more(server):
    server.publish([work(1)])
    for name in "ab":
        review(server.person(name))
    server.lead._call("POST", f"/items/{work(1).item_id}/reopen")
    assert review(server.person("c")) == work(1).item_id


def test_a_program_reopened_after_its_deadline_stays_open(server):
    server.lead.publish([work(1)], deadline=datetime.fromtimestamp(server.now + 60, UTC))
    server.now += 61
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}
    server.lead._call("POST", f"/items/{work(1).item_id}/reopen")
    server.now += 5
    assert review(server.person("ann")) == work(1).item_id


def test_a_review_after_the_deadline_does_not_open_the_program_again(server):
    server.lead.publish([work(1)], deadline=datetime.fromtimestamp(server.now + 60, UTC))
    person = server.person("ann")
    person.next()
    server.now += 61
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}
    assert review(person) == work(1).item_id
    server.settled()
    with server.desk.database.read() as session:
        assert session.scalar(sa.select(Program.state)) == "done"


def again(number, item):
    """The same text under another id."""
    return replace(work(number), prompt=item.prompt, lines=item.lines, to_review=item.to_review)


def test_nobody_gets_the_same_text_twice_under_two_ids(server):
    server.publish([work(1), again(2, work(1)), work(3)])
    same = {work(1).item_id, work(2).item_id}
    a, b = server.person("a"), server.person("b")
    seen = {review(a), review(a)}
    assert len(seen & same) == 1
    assert work(3).item_id in seen
    assert review(a) is None
    lease = b.next()
    while lease is not None:
        same.discard(lease.item_id)
        b.release(lease.lease_id)  # to have seen it is enough
        lease = b.next()
    assert len(same) == 1


def test_a_program_with_the_text_of_a_honeypot_is_not_for_who_had_that_in_practice(serve, database):
    server = serve(database=database, queue=NO_CHECKS.model_copy(update={"qualification": 1}))
    known, gold = honeypot(1)
    server.lead.publish([known], gold=gold)
    server.lead.publish([again(1, known), work(2)])
    person = server.person("ann")
    assert [review(person) for _ in range(3)] == [known.item_id, work(2).item_id, None]


def test_a_text_that_everybody_at_work_had_under_another_id_waits_for_nobody(server):
    server.publish([work(1), work(2)])
    a = server.person("a")
    while review(a):
        pass
    server.lead.publish([again(3, work(1))])
    ids = [work(2).item_id, work(3).item_id]
    assert server.lead.status(ids) == {ids[0]: "open", ids[1]: "done"}
    server.lead.publish([again(4, work(1))])
    b = server.person("b")
    assert server.lead.status([work(4).item_id]) == {work(4).item_id: "open"}
    assert review(b) is not None


def test_what_was_learnt_survives_a_restart(serve, database):
    server = serve(database=database, queue=NO_CHECKS)
    server.publish([work(n) for n in range(4)], honeypots=2)
    person = server.person("ann")
    while review(person):
        pass
    server.settled()
    before = server.desk.crowd.engine.digest()
    server.close()
    fresh = Desk(server.desk.settings, Aggregator)
    assert fresh.crowd.engine.digest() == before
    fresh.close()


def test_the_whole_is_exported_in_the_long_form(server):
    server.publish([work(1)])
    review(server.person("ann"), -1, confidence=3)
    export = server.lead._http.get("/export?format=csv").text
    rows = list(csv.DictReader(io.StringIO(export)))
    assert [(row["task"], row["label"], row["weight"]) for row in rows] == [
        (f"{work(1).item_id}:1", "-1", "1.0"),
        (f"{work(1).item_id}:4", "-1", "1.0"),
    ]
    table = pq.read_table(io.BytesIO(server.lead._http.get("/export?format=parquet").content))
    assert table["task"].to_pylist() == [row["task"] for row in rows]
    assert len(server.lead._http.get("/export?format=jsonl").text.splitlines()) == 2


def test_a_client_with_patience_waits_for_a_server_that_is_being_restarted(tmp_path):
    port = free_port()
    desk = Desk(WebSettings(dir=tmp_path), Aggregator)
    started = []
    threading.Timer(0.8, lambda: started.append(BackgroundServer(desk, port))).start()
    with AnnotationClient.from_file(f"http://127.0.0.1:{port}", service_token(desk), patience=20) as client:
        assert client.me()["role"] == "admin"
    started[0].close()
