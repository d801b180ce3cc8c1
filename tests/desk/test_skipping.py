"""Skipping programs neither lists honeypots nor ends practice, and the lead sees who does it."""

import pytest

from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.skips import skip_alerts
from tests.desk.conftest import honeypot, review, work


def skip(person, lease, reason=None):
    return person._call("POST", f"/leases/{lease}/release", {"reason": reason} if reason else None)


def test_practice_programs_cannot_be_skipped(serve):
    server = serve(queue=QueueSettings(qualification=2))
    server.publish([work(1)], honeypots=4)
    person = server.person("ann")
    task = person.next()
    with pytest.raises(ServerError, match="practice programs cannot be skipped"):
        skip(person, task.lease_id)
    assert person.next().item_id == task.item_id
    assert person.me()["qualification"]["left"] == 2


def test_so_many_programs_a_day_can_be_skipped_and_the_lead_reads_why(serve):
    server = serve(queue=QueueSettings(qualification=0, honeypots_most=0, honeypots_least=0, skips_a_day=1))
    server.publish([work(1), work(2)])
    person = server.person("ann")
    task = person.next()
    skip(person, task.lease_id, "the task is cut off")
    other = person.next()
    assert other.item_id != task.item_id
    with pytest.raises(ServerError, match="skipped 1 programs in the last 24 hours"):
        skip(person, other.lease_id)
    said = server.lead._call("GET", f"/items/{task.item_id}")["comments"]
    assert [one["text"] for one in said] == ["Skipped: the task is cut off"]
    assert server.lead._call("GET", "/audit")[0] == {
        "at": server.now, "who": "ann", "action": "skip", "subject": f"{task.item_id}: the task is cut off"
    }  # fmt: skip
    server.now += 86401
    skip(person, person.next().lease_id)


def test_a_silent_honeypot_is_of_a_problem_that_is_worked_on(serve):
    queue = QueueSettings(qualification=0, honeypots_least=1, honeypots_most=1)
    server = serve(queue=queue)
    trap, gold = honeypot(1)
    server.lead.publish([trap], gold=gold)
    elsewhere = work(1)
    elsewhere = type(elsewhere)(
        elsewhere.item_id, "other/problem", elsewhere.prompt, elsewhere.lines, elsewhere.to_review
    )
    server.lead.publish([elsewhere], round=0)
    person = server.person("ann")
    assert review(person) == elsewhere.item_id
    server.lead.publish([work(2), work(3)], round=1)
    assert review(person) == trap.item_id


def test_who_is_suspended_holds_no_program_any_more(serve):
    queue = QueueSettings(qualification=0, labels_least=1, honeypots_most=0, honeypots_least=0)
    server = serve(queue=queue)
    server.publish([work(1)])
    ann, bob = server.person("ann"), server.person("bob")
    task = ann.next()
    assert bob.next() is None
    server.lead._call("POST", f"/annotators/{ann.me()['annotator_id']}/suspend")
    assert bob.next().item_id == task.item_id


def test_a_name_that_looks_like_anothers_makes_no_account(serve):
    server = serve()
    server.person("boss")
    with pytest.raises(ServerError, match="looks like 'boss', which is taken"):
        server.person("B0SS")


FAIR = [(f"p{n}", number % 10 == 0, 10 + number % 7) for n in range(5) for number in range(100)]


def test_those_who_skip_as_often_as_others_raise_no_alert():
    assert skip_alerts(FAIR) == []


def test_who_skips_much_more_than_others_is_named():
    often = [("often", number % 2 == 0, 10 + number % 7) for number in range(100)]
    assert [(alert.kind, alert.subjects) for alert in skip_alerts(FAIR + often)] == [("many skips", ("often",))]


def test_who_skips_the_long_ones_is_named():
    picky = [("picky", number % 10 == 0, 40 if number % 10 == 0 else 10) for number in range(200)]
    assert [(alert.kind, alert.subjects) for alert in skip_alerts(FAIR + picky)] == [("cherry-picking", ("picky",))]
