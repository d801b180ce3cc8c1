"""A round of simulated feedback through the real path: crowd, Ray Dataset, aggregation actor with its log."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.aggregation.snapshots import go_back
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool
from crlhf_ray.feedback.ingest import read_annotations
from crlhf_ray.feedback.ledger import LOG
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.feedback.source import SimulatedFeedback

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]


def item(name):
    return Item(name, "p", "def f():", ("", "    x = 1", "    return x"), (1, 2))


def pool():
    return HoneypotPool([Honeypot(item(f"i-honey{n}"), (1, 1 if n % 2 else -1, 1)) for n in range(12)])


def work(round):
    items = [item(f"i-r{round}-{n}") for n in range(4)]
    return items, {i.item_id: np.array([1, 1, -1]) for i in items}


def actor(folder, settings=None):
    return (
        ray.remote(Aggregator).options(num_cpus=0).remote(folder / "aggregation", settings, AnnotationLog(folder / LOG))
    )


def start(folder, aggregator):
    settings = FeedbackSettings(first_honeypots=3, honeypots_per_round=1)
    return SimulatedFeedback(settings, pool(), aggregator, folder, seed=1, rounds=3, wait_seconds=120)


def play(feedback, rounds, *, another_program=False):
    for round in rounds:
        items, truth = work(round)
        if another_program:  # an engine may round otherwise the second time, and another program come out
            items = [replace(i, item_id=f"{i.item_id}-b", lines=("", "    return x"), to_review=(1,)) for i in items]
            truth = {i.item_id: np.array([1, -1]) for i in items}
        feedback.collect(items, truth, round)


def test_a_round_interrupted_and_played_again_changes_nothing(tmp_path):
    aggregator = actor(tmp_path)
    feedback = start(tmp_path, aggregator)
    first = feedback.collect(*work(0), 0)
    saved = feedback.state()
    second = feedback.collect(*work(1), 1)
    digest = ray.get(aggregator.digest.remote())

    again = start(tmp_path, aggregator)  # the driver knows of round 0 only
    again.restore(saved)
    assert again.collect(*work(1), 1).equals(second)
    assert len(AnnotationLog(tmp_path / LOG)) == first.num_rows + second.num_rows + 10 * 2 * (3 + 1)
    assert ray.get(aggregator.digest.remote()) == digest
    assert again.state() == feedback.state()
    ray.kill(aggregator)


def test_rounds_played_again_from_an_older_checkpoint_come_out_as_if_nothing_had_been_interrupted(tmp_path):
    whole = actor(tmp_path / "whole")
    play(start(tmp_path / "whole", whole), range(4))

    cut = actor(tmp_path / "cut")
    feedback = start(tmp_path / "cut", cut)
    play(feedback, range(2))
    saved, kept = feedback.state(), tmp_path / "kept.npz"
    shutil.copyfile(ray.get(cut.snapshot.remote()), kept)
    play(feedback, [2], another_program=True)
    ray.kill(cut)

    AnnotationLog(tmp_path / "cut" / LOG).cut(go_back(tmp_path / "cut" / "aggregation", kept))
    again = actor(tmp_path / "cut")
    resumed = start(tmp_path / "cut", again)
    resumed.restore(saved)
    play(resumed, range(2, 4))
    assert ray.get(again.digest.remote()) == ray.get(whole.digest.remote())
    logs = [AnnotationLog(tmp_path / name / LOG).read() for name in ("cut", "whole")]
    assert logs[0].equals(logs[1])
    ray.kill(whole)
    ray.kill(again)


def test_marks_from_anywhere_come_in_as_a_ray_dataset(tmp_path):
    aggregator = actor(tmp_path)
    feedback = start(tmp_path, aggregator)
    given = feedback.crowd.annotate(*work(0), now=datetime(2026, 1, 1, tzinfo=UTC), progress=0.0)
    pq.write_table(given, tmp_path / "given.parquet")
    marks, report = read_annotations(tmp_path / "given.parquet", num_cpus=0.5)
    feedback.hand_in(marks)
    assert report.count == 0
    assert AnnotationLog(tmp_path / LOG).read().equals(given)
    assert ray.get(aggregator.stats.remote())["events"] == given.num_rows
    ray.kill(aggregator)


def test_machines_mark_beside_the_crowd_and_a_round_played_again_changes_nothing(tmp_path):
    settings = FeedbackSettings(
        first_honeypots=3,
        honeypots_per_round=1,
        annotators=[{"kind": "checks", "tool": "python"}, {"kind": "memory"}],
    )

    def begin(aggregator):
        return SimulatedFeedback(settings, pool(), aggregator, tmp_path, seed=1, rounds=3, wait_seconds=120)

    aggregator = actor(tmp_path)
    feedback = begin(aggregator)
    feedback.collect(*work(0), 0)
    saved = json.loads(json.dumps(feedback.state()))
    marks = feedback.collect(*work(1), 1).drop_columns(["milliseconds"])
    digest = ray.get(aggregator.digest.remote())
    assert {"simulated", "check", "memory"} == set(marks["source"].to_pylist())
    known = ray.get(aggregator.reliability.remote()).to_pylist()
    assert {row["annotator_id"]: row["gold_labels"] for row in known}["python"] == 2 * (3 + 1)

    again = begin(aggregator)
    again.restore(saved)
    assert again.collect(*work(1), 1).drop_columns(["milliseconds"]).equals(marks)
    assert ray.get(aggregator.digest.remote()) == digest
    ray.kill(aggregator)


def test_people_are_asked_about_the_programs_that_machines_leave_in_doubt(tmp_path):
    settings = FeedbackSettings(
        first_honeypots=12,
        human_share=0.5,
        human_choice="doubtful",
        human_floor=0.1,
        annotators=[{"kind": "checks", "tool": "python"}],
    )
    aggregator = actor(tmp_path)
    feedback = SimulatedFeedback(settings, pool(), aggregator, tmp_path, seed=1, rounds=3, wait_seconds=120)
    marks = feedback.collect(*work(0), 0)
    asked = {row["item_id"] for row in marks.to_pylist() if row["source"] == "simulated"}
    assert len(asked) == 2
    assert {row["item_id"] for row in marks.to_pylist() if row["source"] == "check"} == {f"i-r0-{n}" for n in range(4)}
    ray.kill(aggregator)


def test_what_the_aggregation_actor_raises_at_its_start_comes_back_as_it_was_raised(tmp_path):
    Aggregator(tmp_path / "aggregation").close()
    other = AggregationSettings(prior=0.6)
    with pytest.raises(ConfigError, match="was made with other settings") as caught:
        start(tmp_path, actor(tmp_path, other)).collect(*work(0), 0)
    assert "Traceback" not in str(caught.value)


def test_what_the_aggregation_actor_raises_later_comes_back_as_it_was_raised(tmp_path):
    aggregator = actor(tmp_path)
    feedback = start(tmp_path, aggregator)
    gold = pool().gold()
    feedback.add_gold(gold)
    with pytest.raises(DataError, match="was given the other truth before") as caught:
        feedback.add_gold(gold.set_column(2, gold.schema.field(2), pc.negate(gold["truth"])))
    assert "Traceback" not in str(caught.value)
    ray.kill(aggregator)
