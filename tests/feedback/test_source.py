"""A round of simulated feedback through the real path: crowd, log, Ray Dataset, aggregation actor."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import ray

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.aggregation.journal import go_back
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool
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


def start(folder, aggregator):
    settings = FeedbackSettings(first_honeypots=3, honeypots_per_round=1)
    return SimulatedFeedback(settings, pool(), aggregator, folder / "log", seed=1, rounds=3, wait_seconds=120)


def test_a_round_interrupted_and_played_again_changes_nothing(tmp_path):
    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation")
    feedback = start(tmp_path, aggregator)
    first = feedback.collect(*work(0), 0)
    saved = feedback.state()
    second = feedback.collect(*work(1), 1)
    digest = ray.get(aggregator.digest.remote())
    events = len(feedback.log)

    again = start(tmp_path, aggregator)  # after a crash: the last checkpoint knows of round 0 only
    again.restore(saved)
    assert again.collect(*work(1), 1).equals(second)
    assert len(again.log) == events == first.num_rows + second.num_rows + 10 * 2 * (3 + 1)
    assert ray.get(aggregator.digest.remote()) == digest
    assert again.state() == feedback.state()
    ray.kill(aggregator)


def test_rounds_played_again_from_an_older_checkpoint_come_out_as_if_nothing_had_been_interrupted(tmp_path):
    def play(feedback, rounds, *, another_program=False):
        for round in rounds:
            items, truth = work(round)
            if another_program:  # an engine may round otherwise the second time, and another program come out
                items = [replace(i, item_id=f"{i.item_id}-b", lines=("", "    return x"), judged=(1,)) for i in items]
                truth = {i.item_id: np.array([1, -1]) for i in items}
            feedback.collect(items, truth, round)

    actor = ray.remote(Aggregator).options(num_cpus=0)
    whole = actor.remote(tmp_path / "whole" / "aggregation")
    undisturbed = start(tmp_path / "whole", whole)
    play(undisturbed, range(4))

    cut = actor.remote(tmp_path / "cut" / "aggregation")
    feedback = start(tmp_path / "cut", cut)
    play(feedback, range(2))
    saved, kept = feedback.state(), tmp_path / "kept.npz"
    shutil.copyfile(ray.get(cut.snapshot.remote()), kept)
    play(feedback, [2], another_program=True)
    ray.kill(cut)

    go_back(tmp_path / "cut" / "aggregation", kept)
    again = actor.remote(tmp_path / "cut" / "aggregation")
    resumed = start(tmp_path / "cut", again)
    resumed.restore(saved)
    play(resumed, range(2, 4))
    assert ray.get(again.digest.remote()) == ray.get(whole.digest.remote())
    assert resumed.log.read().equals(undisturbed.log.read())
    ray.kill(whole)
    ray.kill(again)


def test_a_crash_between_the_log_and_the_actor_loses_no_event(tmp_path):
    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation")
    feedback = start(tmp_path, aggregator)
    items, truth = work(0)
    feedback.log.append(feedback.crowd.annotate(items, truth, now=_round_zero(), progress=0.0))  # and here it crashed
    again = start(tmp_path, aggregator)
    again.collect(items, truth, 0)
    consensus = ray.get(aggregator.consensus.remote([i.item_id for i in items]))
    assert consensus.num_rows == 8
    assert min(consensus["labels"].to_pylist()) > 0
    ray.kill(aggregator)


def test_machines_mark_beside_the_crowd_and_a_round_played_again_changes_nothing(tmp_path):
    settings = FeedbackSettings(
        first_honeypots=3,
        honeypots_per_round=1,
        annotators=[{"kind": "checks", "tool": "python"}, {"kind": "memory"}],
    )

    def begin(aggregator):
        return SimulatedFeedback(settings, pool(), aggregator, tmp_path / "log", seed=1, rounds=3, wait_seconds=120)

    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation")
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
    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation")
    feedback = SimulatedFeedback(settings, pool(), aggregator, tmp_path / "log", seed=1, rounds=3, wait_seconds=120)
    marks = feedback.collect(*work(0), 0)
    asked = {row["item_id"] for row in marks.to_pylist() if row["source"] == "simulated"}
    assert len(asked) == 2
    assert {row["item_id"] for row in marks.to_pylist() if row["source"] == "check"} == {f"i-r0-{n}" for n in range(4)}
    ray.kill(aggregator)


def test_what_the_aggregation_actor_raises_at_its_start_comes_back_as_it_was_raised(tmp_path):
    Aggregator(tmp_path / "aggregation").close()
    other = AggregationSettings(prior=0.6)
    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation", other)
    with pytest.raises(ConfigError, match="was made with other settings") as caught:
        start(tmp_path, aggregator).collect(*work(0), 0)
    assert "Traceback" not in str(caught.value)


def test_what_the_aggregation_actor_raises_later_comes_back_as_it_was_raised(tmp_path):
    aggregator = ray.remote(Aggregator).options(num_cpus=0).remote(tmp_path / "aggregation")
    feedback = start(tmp_path, aggregator)
    gold = pool().gold()
    feedback.add_gold(gold)
    with pytest.raises(DataError, match="was given the other truth before") as caught:
        feedback.add_gold(gold.set_column(2, gold.schema.field(2), pc.negate(gold["truth"])))
    assert "Traceback" not in str(caught.value)
    ray.kill(aggregator)


def _round_zero():
    from crlhf_ray.feedback import source

    return source._START
