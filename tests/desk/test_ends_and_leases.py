"""The place after a program's last line, and how long a program stays with whoever reads it."""

import pytest

from crlhf_ray.feedback.desk.bring import read_file
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.highlight import highlighted
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.visible import visible
from tests.desk.conftest import review, work

PLAIN = QueueSettings(qualification=0, labels_least=1, honeypots_least=0, honeypots_most=0)


def test_the_end_of_a_program_is_asked_about_and_its_mark_comes_out(serve):
    server = serve(queue=PLAIN)
    server.publish([work(1, ("x = 1", "y = 2"), (0, 1, 2))])
    person = server.person("ann")
    task = person._call("POST", "/next", {})
    assert [(one["number"], one["end"]) for one in task["lines"]] == [(0, False), (1, False), (2, True)]
    person.mark(task["lease_id"], {0: 1, 1: 1, 2: -1})
    person.submit(task["lease_id"])
    assert [(row["line"], row["label"]) for row in server.lead.annotations(0)[0].to_pylist()] == [
        (0, 1),
        (1, 1),
        (2, -1),
    ]


def test_practice_tells_the_truth_of_the_end(serve):
    server = serve(queue=QueueSettings(qualification=1))
    trap = work(1, ("x = 1",), (0, 1))
    server.lead.publish([trap], gold={trap.item_id: [1, -1]})
    person = server.person("ann")
    task = person.next()
    person.mark(task.lease_id, {0: 1, 1: -1})
    answer = person._call("POST", f"/leases/{task.lease_id}/submit", {"confidence": 2})
    assert answer["feedback"] == [{"line": 0, "truth": 1, "label": 1}, {"line": 1, "truth": -1, "label": -1}]


def test_a_honeypot_without_a_truth_for_its_end_is_refused(serve):
    with pytest.raises(ServerError, match="give one truth for each of 2 lines and ends"):
        serve().lead.publish([work(1, ("x = 1",), (0, 1))], gold={work(1).item_id: [1]})


def test_imported_programs_are_asked_about_their_end_where_that_is_wanted():
    row = '{"program": "x = 1\\n", "language": "python", "wrong_lines": [2]}'
    (program,), _ = read_file("p.jsonl", row, ask_end=True)
    assert (program.asked, program.truth) == ((0, 1), (1, -1))


def test_whoever_is_still_reading_keeps_the_program(serve):
    server = serve(queue=PLAIN.model_copy(update={"lease_seconds": 100}))
    server.publish([work(1)])
    ann, bob = server.person("ann"), server.person("bob")
    task = ann.next()
    for _ in range(3):
        server.now += 80
        assert ann._call("POST", f"/leases/{task.lease_id}/alive") == {"seconds": 100}
        assert bob.next() is None
    server.now += 101
    assert bob.next().item_id == task.item_id
    with pytest.raises(ServerError, match="left alone for too long"):
        ann._call("POST", f"/leases/{task.lease_id}/alive")


def test_reading_on_without_a_mark_has_an_end(serve):
    server = serve(queue=PLAIN.model_copy(update={"lease_seconds": 100}))
    server.publish([work(1)])
    ann, bob = server.person("ann"), server.person("bob")
    task = ann.next()
    left = []
    for _ in range(5):
        server.now += 70
        left.append(ann._call("POST", f"/leases/{task.lease_id}/alive")["seconds"])
    assert left == [100, 100, 100, 100, 50]
    ann.mark(task.lease_id, {0: 1})
    assert ann._call("POST", f"/leases/{task.lease_id}/alive") == {"seconds": 100}
    server.now += 101
    assert bob.next().item_id == task.item_id


def test_reading_an_old_page_takes_no_program_out_of_its_owners_hands(serve):
    server = serve(queue=PLAIN.model_copy(update={"lease_seconds": 100, "labels_least": 3}))
    server.publish([work(n) for n in (1, 2)])
    ann = server.person("ann")
    lapsed = ann.next()
    server.now += 101
    review(server.person("bob")), review(server.person("cid"))  # somebody asks, which takes it back
    ann._call("POST", f"/leases/{lapsed.lease_id}/release", {"reason": "later"})
    held = ann.next()
    with pytest.raises(ServerError, match="409"):
        ann._call("POST", f"/leases/{lapsed.lease_id}/alive")
    assert ann.next().lease_id == held.lease_id


def test_marks_of_a_lapsed_lease_are_there_when_their_owner_comes_back(serve):
    server = serve(queue=PLAIN.model_copy(update={"lease_seconds": 100, "labels_least": 2}))
    server.publish([work(1)])
    ann = server.person("ann")
    ann.mark(ann.next().lease_id, {0: -1})
    server.now += 101
    assert review(server.person("bob")) is not None  # somebody asks, which takes it back
    assert ann.next().marked == {0: -1}


def test_no_pace_is_told_of_a_few_minutes(serve):
    server = serve(queue=PLAIN)
    server.publish([work(n) for n in range(2)])
    person = server.person("ann")
    for milliseconds in (1000, 300_000):
        task = person.next()
        server.now += 600
        person.mark(task.lease_id, dict.fromkeys(task.to_review, 1), milliseconds)
        person.submit(task.lease_id)
        assert person.me()["progress"]["per_hour"] == (None if milliseconds == 1000 else 12)


@pytest.mark.parametrize("emoji", ["\U0001f469\u200d\U0001f4bb", "\u2764\ufe0f\u200d\U0001f525"])
def test_joined_pictures_stay_whole(emoji):
    assert visible(emoji) == emoji


@pytest.mark.parametrize("text", ["a\u200db", "\u200d", "\U0001f469\u200dx", "x\u200d\U0001f469"])
def test_a_joiner_elsewhere_is_shown(text):
    assert "\\u200d" in visible(text)


def test_tabs_are_told_from_spaces():
    assert highlighted("", "\tx")[1][0].startswith('<span class="tab">\t</span>')
