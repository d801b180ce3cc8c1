"""Rounds of feedback over the annotation server: simulated people, real ones (by the API), and both together."""

import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.aggregation.snapshots import go_back
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.source import WebFeedback
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool
from crlhf_ray.feedback.ledger import LOG, read_marks
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.settings import AnnotatorSettings, CrowdSettings, FeedbackSettings, WebFeedbackSettings
from tests.desk.conftest import review, serve

__all__ = ["serve"]
pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]

ONE = QueueSettings(qualification=0, labels_least=1, labels_most=1, honeypots_least=0, honeypots_most=0)
TWO = ONE.model_copy(update={"labels_least": 2, "labels_most": 2})


def item(name):
    return Item(name, "p", "def f():", ("", f"    x = {name!r}", "    return x"), (1, 2))


def items_of(round, count=4):
    """A round's items and their line truth."""
    items = [item(f"i-r{round}-{n}") for n in range(count)]
    return items, {i.item_id: np.array([1, 1, -1]) for i in items}


@pytest.fixture
def aggregator(tmp_path):
    log = AnnotationLog(tmp_path / LOG)
    actor = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation", None, log)
    yield actor
    ray.kill(actor)


@pytest.fixture
def start(tmp_path, aggregator):
    """``start(source, **web settings)`` makes the feedback of a run of three rounds."""
    made = []

    def begin(source="web", crowd=None, aggregator=aggregator, annotators=(), **web):
        settings = FeedbackSettings(
            source=source, crowd=crowd or CrowdSettings(), web=WebFeedbackSettings(**web), annotators=annotators
        )
        pool = HoneypotPool([Honeypot(item(f"i-honey{n}"), (1, 1 if n % 2 else -1, 1)) for n in range(12)])
        more = {"engine": Aggregator, "aggregation": AggregationSettings().meaning(), "seed": 1}
        made.append(WebFeedback(settings, pool, aggregator, tmp_path, rounds=3, wait_seconds=120, **more))
        return made[-1]

    yield begin
    for feedback in made:
        feedback.close()


def at(server, **more):
    """Settings of a run that uses this server."""
    return {"url": server.url, "token_file": Path(server.token_file), "poll_seconds": 0.1, **more}


def feedback_from(server):
    return FeedbackSettings(source="web", web=WebFeedbackSettings(**at(server)))


def known(aggregator, items):
    """How many marks the aggregation actor has of each line of the items."""
    return ray.get(aggregator.consensus.remote([i.item_id for i in items]))["labels"].to_pylist()


def test_the_simulated_crowd_reviews_a_round_over_http_at_the_runs_own_server(start, aggregator, tmp_path):
    feedback = start("simulated", queue=QueueSettings(qualification=1, labels_least=3, labels_most=5))
    items, truth = items_of(0)
    done = []
    table = feedback.collect(items, truth, 0, done.append)
    assert sum(done) == len(items)
    assert set(table["source"].to_pylist()) == {"simulated"}
    votes = table.group_by(["item_id", "line"]).aggregate([("annotator_id", "count_distinct")])
    assert set(votes["item_id"].to_pylist()) == truth.keys()
    assert all(3 <= count <= 5 for count in votes["annotator_id_count_distinct"].to_pylist())
    assert min(known(aggregator, items)) >= 1
    names = set(feedback.skills(0)["annotator_id"].to_pylist())
    assert len(names) == 10
    assert set(table["annotator_id"].to_pylist()) <= names
    everybody = ray.get(aggregator.reliability.remote())
    assert set(everybody["annotator_id"].to_pylist()) == names  # all have had honeypots
    assert table.num_rows < read_marks(tmp_path, FeedbackSettings(source="simulated")).num_rows  # with honeypots


def test_nobody_is_asked_about_a_program_that_equals_a_honeypot(start, aggregator):
    feedback = start("simulated", queue=ONE)
    (first, *items), truth = items_of(0)
    twin = replace(item("i-honey0"), item_id=first.item_id)
    table = feedback.collect([twin, *items], truth, 0)
    assert set(table["item_id"].to_pylist()) == {i.item_id for i in items}
    consensus = ray.get(aggregator.consensus.remote([first.item_id])).to_pylist()
    assert [(row["line"], row["p_correct"]) for row in consensus] == [(1, 0.0), (2, 1.0)]


def test_a_round_waits_for_people_and_takes_in_what_they_say_as_it_comes(serve, start, aggregator):
    server = serve(queue=TWO)
    server.now = time.time()
    feedback, (items, truth) = start(**at(server)), items_of(0)
    tables = []
    waiting = threading.Thread(target=lambda: tables.append(feedback.collect(items, truth, 0)))
    waiting.start()
    ann, bob = server.person("ann"), server.person("bob")
    for _ in items:
        while review(ann) is None:
            time.sleep(0.05)
    while 0 in (counts := known(aggregator, items)) or not counts:  # what ann said is there while bob is awaited
        time.sleep(0.1)
    assert waiting.is_alive()
    while review(bob, -1):
        pass
    waiting.join(60)
    assert tables[0].num_rows == 2 * 2 * len(items)
    assert set(tables[0]["source"].to_pylist()) == {"human"}
    stored = read_marks(Path("nothing is in the run's folder"), feedback_from(server))
    assert set(stored["event_id"].to_pylist()) == set(tables[0]["event_id"].to_pylist())


def test_what_the_lead_knows_teaches_a_run_too(serve, start, aggregator):
    server = serve(queue=TWO.model_copy(update={"qualification": 1}))
    server.now = time.time()
    known_one = {"program": "return 1\nreturn 2", "language": "python", "problem": "p", "wrong_lines": [2]}
    server.lead.import_files([{"name": "known.jsonl", "text": json.dumps(known_one)}])
    feedback, (items, _) = start(**at(server)), items_of(0, 1)
    feedback.pool = HoneypotPool([])  # of problems without tests the run itself has none
    feedback.publish(items, {}, 0)
    ann, bob = server.person("ann"), server.person("bob")
    for _ in range(2):
        review(ann), review(bob)
    server.desk.decide(items[0].item_id, 2, -1, "an expert")
    while not feedback.hear().reviewed:
        feedback.pause()
    learnt = ray.get(aggregator.reliability.remote()).to_pylist()
    assert [row["gold_labels"] for row in learnt] == [3, 3]  # two lines of the honeypot, one verdict
    told = ray.get(aggregator.consensus.remote([items[0].item_id])).to_pylist()
    assert [row["p_correct"] for row in told][1] == 0.0


def test_people_and_the_simulated_crowd_work_on_one_round(serve, start):
    server = serve(queue=TWO)
    server.now = time.time()
    expert = CrowdSettings(annotators=(AnnotatorSettings(kind="expert"),))
    feedback, (items, truth) = start(crowd=expert, **at(server, simulated_crowd=True)), items_of(0)
    tables = []
    waiting = threading.Thread(target=lambda: tables.append(feedback.collect(items, truth, 0)))
    waiting.start()
    ann = server.person("ann")
    for _ in items:
        while review(ann) is None:
            time.sleep(0.05)
    waiting.join(60)
    sources = tables[0].group_by("source").aggregate([("line", "count")]).to_pylist()
    assert {row["source"]: row["line_count"] for row in sources} == {"human": 8, "simulated": 8}


def test_after_the_deadline_a_round_goes_on_and_late_reviews_come_with_the_next(serve, start, aggregator):
    server = serve(queue=ONE)
    server.now = time.time()
    feedback, (items, truth) = start(**at(server, deadline_minutes=0.01, least_reviewed=0.1)), items_of(0)
    ann = server.person("ann")

    def later():
        while review(ann) is None:
            time.sleep(0.02)
        while ann.next() is None:
            time.sleep(0.02)
        server.now += 60

    thread = threading.Thread(target=later)
    thread.start()
    assert feedback.collect(items, truth, 0).num_rows == 2
    thread.join()
    late = review(ann)  # what was in somebody's hands may still be submitted
    more, truth = items_of(1)
    server.now = time.time()
    reviewing = threading.Thread(target=lambda: [time.sleep(0.3), [None for _ in more if review(ann)]])
    reviewing.start()
    table = feedback.collect(more, truth, 1)
    reviewing.join()
    assert late not in set(table["item_id"].to_pylist())
    assert known(aggregator, [i for i in items if i.item_id == late]) == [1, 1]


def test_a_deadline_before_enough_was_reviewed_is_put_off_and_said_so(serve, start):
    server = serve(queue=ONE)
    server.now = time.time()
    feedback, (items, truth) = start(**at(server, deadline_minutes=0.05)), items_of(0)
    ann = server.person("ann")
    alerts = []

    def later():
        while ann.next() is None:
            time.sleep(0.02)
        server.now = time.time() + 60 * 0.05  # past the first deadline, and not past the second
        while not feedback.alerts():
            time.sleep(0.02)
        alerts.extend(feedback.alerts())
        server.now = time.time()
        for _ in items:
            while review(ann) is None:
                time.sleep(0.02)

    thread = threading.Thread(target=later)
    thread.start()
    table = feedback.collect(items, truth, 0)
    thread.join()
    assert set(table["item_id"].to_pylist()) == {item.item_id for item in items}
    assert "0 of 4 programs of the round were reviewed by its deadline" in str(alerts)


def test_a_program_that_comes_again_is_not_reviewed_again(serve, start):
    feedback = start("simulated", queue=ONE)
    items, truth = items_of(0)
    assert feedback.collect(items, truth, 0).num_rows == 8
    more, more_truth = items_of(1, 1)
    assert feedback.collect([*items, *more], {**truth, **more_truth}, 1).num_rows == 2


def test_programs_that_people_reviewed_before_are_not_waited_for(serve, start):
    server = serve(queue=ONE)
    feedback, (items, truth) = start(**at(server)), items_of(0)
    ann = server.person("ann")
    server.lead.publish(items)
    while review(ann):
        pass
    assert feedback.collect(items[:2], truth, 0).num_rows == 4  # read from the server's store
    assert feedback.collect(items, truth, 1).num_rows == 0
    assert feedback.alerts() == []


def test_a_resumed_run_counts_nothing_twice(start, tmp_path):
    actor = ray.remote(Aggregator).options(num_cpus=0)
    first = actor.remote(tmp_path / "crowd")
    feedback = start("simulated", queue=ONE, aggregator=first)
    feedback.collect(*items_of(0), 0)
    saved, kept = feedback.state(), shutil.copyfile(ray.get(first.snapshot.remote()), tmp_path / "kept.npz")
    items, truth = items_of(1)
    feedback.collect(items, truth, 1)
    stats, counts = ray.get([first.stats.remote(), first.consensus.remote([i.item_id for i in items])])
    ray.kill(first)
    feedback.close()

    go_back(tmp_path / "crowd", kept)  # after a crash: the last checkpoint knows of round 0 only
    second = actor.remote(tmp_path / "crowd")
    again = start("simulated", queue=ONE, aggregator=second)
    again.restore(saved)
    assert again.collect(items, truth, 1).num_rows == 8  # read again from the server's store
    assert ray.get(second.stats.remote()) == stats
    assert known(second, items) == counts["labels"].to_pylist()
    ray.kill(second)


def test_an_actor_that_is_killed_during_a_round_gets_again_what_its_snapshot_lacks(start, tmp_path):
    settings = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
    actor = ray.remote(Aggregator).options(**settings).remote(tmp_path / "crowd")
    feedback = start("simulated", queue=ONE, aggregator=actor)
    feedback.collect(*items_of(0), 0)
    items, truth = items_of(1)
    work = feedback._crowd.work

    def and_then_it_dies(*args):
        done = work(*args)
        feedback._catch_up()
        ray.kill(actor, no_restart=False)
        return done

    feedback._crowd.work = and_then_it_dies
    marks = feedback.collect(items, truth, 1)
    assert marks.num_rows == 8
    ray.kill(actor, no_restart=False)  # nor does the consensus that a round is scored by depend on its process
    assert sum(known(actor, items)) == sum(label != 0 for label in marks["label"].to_pylist())
    ray.kill(actor)


def test_reviews_that_came_after_the_checkpoint_are_taken_in_again_and_count_once(serve, start, tmp_path):
    server = serve(queue=TWO)
    server.now = time.time()
    actor = ray.remote(Aggregator).options(num_cpus=0)
    first = actor.remote(tmp_path / "crowd")
    feedback, (items, truth) = start(**at(server), aggregator=first), items_of(0)

    def everybody_reviews(round_items, round_truth, round):
        waiting = threading.Thread(target=lambda: feedback.collect(round_items, round_truth, round))
        waiting.start()
        while waiting.is_alive():
            review(ann), review(bob, -1)
            time.sleep(0.05)

    ann, bob = server.person("ann"), server.person("bob")
    everybody_reviews(items, truth, 0)
    saved, kept = feedback.state(), shutil.copyfile(ray.get(first.snapshot.remote()), tmp_path / "kept.npz")
    later = items_of(1)
    everybody_reviews(*later, 1)
    before = known(first, [*items, *later[0]])
    ray.kill(first)

    go_back(tmp_path / "crowd", kept)
    again = actor.remote(tmp_path / "crowd")
    assert known(again, later[0]) == []
    resumed = start(**at(server), aggregator=again)
    resumed.restore(saved)
    resumed.collect(*later, 1)  # done at the server: nobody is asked anew
    assert known(again, [*items, *later[0]]) == before
    assert ray.get(again.stats.remote())["events"] == 2 * 2 * 2 * len(items)
    ray.kill(again)


def test_machines_mark_beside_people_and_the_server_does_not_count_them(start, aggregator):
    parts = [{"kind": "checks", "tool": "python"}, {"kind": "memory"}]
    experts = CrowdSettings(annotators=[AnnotatorSettings(kind="expert")] * 2)
    feedback = start("simulated", annotators=parts, queue=TWO, crowd=experts)
    feedback.collect(*items_of(0), 0)
    saved = json.loads(json.dumps(feedback.state()))
    items, truth = items_of(1)
    marks = feedback.collect(items, truth, 1)

    assert Counter(marks["source"].to_pylist()) == {
        "simulated": 2 * 8,
        "check": 8,
        "memory": 4,
    }  # people said nothing yet of `x = 'i-r1-0'`
    gold = {row["annotator_id"]: row["gold_labels"] for row in ray.get(aggregator.reliability.remote()).to_pylist()}
    assert gold["python"] == 2 * 12  # the pool has no more

    feedback.restore(saved)
    assert json.loads(json.dumps(feedback.state()))["machines"] == saved["machines"]
