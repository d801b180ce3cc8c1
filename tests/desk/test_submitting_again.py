"""An answer to a submission may be lost: whoever submits again gets it."""

import pytest

from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import work


def submit(person, task, confidence):
    return person._call("POST", f"/leases/{task.lease_id}/submit", {"confidence": confidence})


def held_and_marked(person):
    task = person.next()
    person.mark(task.lease_id, dict.fromkeys(task.to_review, 1))
    return task


def test_submitting_again_tells_the_same_and_counts_once(serve, database):
    server = serve(database=database, queue=QueueSettings(qualification=1))
    server.publish([work(1)], honeypots=1)
    person = server.person("ann")
    task = held_and_marked(person)
    first, again = submit(person, task, 3), submit(person, task, 1)
    assert first["feedback"] == [{"line": 0, "truth": 1, "label": 1}, {"line": 1, "truth": -1, "label": 1}]
    assert (again["feedback"], again["next"]["lease_id"]) == (first["feedback"], first["next"]["lease_id"])
    assert person.me()["progress"]["done"] == 1
    table, _ = server.lead.annotations(0)
    assert table["confidence"].to_pylist() == [1.0, 1.0]


def test_submitting_work_again_tells_no_truth(serve):
    server = serve(queue=QueueSettings(qualification=0, honeypots_least=1, honeypots_most=1))
    server.publish([work(1), work(2)], honeypots=1)
    person = server.person("ann")
    for _ in range(3):
        task = held_and_marked(person)
        assert submit(person, task, 2)["feedback"] is submit(person, task, 2)["feedback"] is None


def test_what_another_person_submitted_is_nobody_elses_to_submit_again(serve):
    server = serve(queue=QueueSettings(qualification=1))
    server.publish(honeypots=1)
    ann, bob = server.person("ann"), server.person("bob")
    task = held_and_marked(ann)
    submit(ann, task, 2)
    with pytest.raises(ServerError, match="no longer assigned to you"):
        submit(bob, task, 2)
