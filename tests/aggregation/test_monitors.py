"""Each monitor stays silent on a sound crowd, and speaks, with a remedy, on the fault that it is for."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from crlhf_ray.aggregation.adversaries import simulate
from crlhf_ray.aggregation.monitors import (
    annotator_collapse,
    collusion,
    excess_agreement,
    frozen_reliabilities,
    honeypot_exposure,
    honeypot_shortage,
    label_shortage,
    score_stagnation,
    spammer_score,
    spammers,
)
from tests.aggregation.tables import annotations, gold, keeper

NAMES = ["a", "b", "c"]


def test_score_stagnation_is_a_spread_below_a_tenth_of_a_line():
    assert score_stagnation(np.array([0.5, 0.6, 0.7])) == []
    (alert,) = score_stagnation(np.array([0.8, 0.801, 0.8]))
    assert alert.kind == "score stagnation"
    assert "temperature" in alert.remedy


def test_annotator_collapse_is_a_swing_that_uncertainty_does_not_explain():
    before, sd = np.full((3, 2), 0.9), np.full((3, 2), 0.03)
    now = before.copy()
    now[1, 0] = 0.4
    assert annotator_collapse(NAMES, before, before + 0.02, sd) == []
    assert annotator_collapse(NAMES, before, now, np.full((3, 2), 0.3)) == []
    (alert,) = annotator_collapse(NAMES, before, now, sd)
    assert alert.subjects == ("b",)
    assert "decay" in alert.remedy


def test_the_spammer_score_is_nought_for_whoever_says_one_thing_always():
    assert spammer_score(np.array([1.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])).tolist() == [0, 0, 1]


def test_spammers_and_adversaries_are_told_apart_and_the_unknown_are_left_alone():
    rates = np.array([[0.99, 0.02], [0.2, 0.2], [0.7, 0.3]])
    sd = np.array([[0.01, 0.01], [0.03, 0.03], [0.25, 0.25]])
    idle, hostile = spammers(NAMES, rates, sd)
    assert (idle.kind, idle.subjects) == ("spammers", ("a",))
    assert (hostile.kind, hostile.subjects) == ("adversaries", ("b",))
    assert spammers(NAMES, np.full((3, 2), 0.8), np.full((3, 2), 0.05)) == []


def committee(rng, tasks, people, copy):
    """Votes of independent people at .75, and their means; person 1 copies person 0 where told so."""
    truth = rng.choice([-1, 1], tasks)
    votes = np.where(rng.random((tasks, people)) < 0.75, truth[:, None], -truth[:, None]).astype(float)
    if copy:
        votes[:, 1] = votes[:, 0]
    return csr_array(votes), csr_array(np.tile(0.5 * truth[:, None], (1, people)).astype(float))


def test_excess_agreement_of_independent_people_is_a_standard_normal_score():
    votes, expected = committee(np.random.default_rng(0), 400, 40, False)
    _, score = excess_agreement(votes, expected)
    assert len(score) == 40 * 39 / 2
    assert abs(score.mean()) < 0.15
    assert score.std() == pytest.approx(1, abs=0.1)


def test_collusion_names_those_who_copy():
    rng = np.random.default_rng(0)
    assert collusion([str(i) for i in range(20)], *committee(rng, 300, 20, False)) == []
    (alert,) = collusion([str(i) for i in range(20)], *committee(rng, 300, 20, True))
    assert set(alert.subjects) == {"0", "1"}


def test_honeypot_exposure_is_being_better_where_it_is_checked():
    right, labels = np.array([95.0, 80.0, 3.0]), np.array([100, 100, 3])
    other_right, other = np.array([200.0, 310.0, 1.0]), np.array([400, 400, 2])
    (alert,) = honeypot_exposure(NAMES, right, labels, other_right, other)
    assert alert.subjects == ("a",)
    assert "rotate" in alert.remedy


def test_label_shortage_is_too_many_lines_with_too_few_marks():
    assert label_shortage(np.array([3, 4, 5, 3])) == []
    (alert,) = label_shortage(np.array([3, 1, 5, 0]))
    assert "50%" in alert.message


def test_honeypot_shortage_names_those_who_have_seen_nearly_all():
    assert honeypot_shortage({"a": 2, "b": 40}, wanted=2) == []
    (alert,) = honeypot_shortage({"a": 1, "b": 40}, wanted=2)
    assert alert.subjects == ("a",)
    assert "honeypots_per_problem" in alert.remedy


def test_frozen_reliabilities_are_cleared_by_any_movement():
    start = np.array([0.5, 0.5])
    assert len(frozen_reliabilities(np.full((3, 2), 0.5), start, np.array([5, 5, 5]))) == 1
    assert frozen_reliabilities(np.array([[0.5, 0.5], [0.6, 0.6]]), start, np.array([5, 5])) == []
    assert frozen_reliabilities(np.full((3, 2), 0.5), start, np.zeros(3)) == []


def test_the_actor_raises_them_from_its_own_state(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.choice([-1, 1], 300)
    aggregator = keeper(tmp_path)
    rows = []
    for line, z in enumerate(truth):
        rows += [("item", line, f"good{i}", int(z if rng.random() < 0.85 else -z)) for i in range(5)]
        rows += [("item", line, "lazy", 1), ("item", line, "twin", rows[-1][3]), ("item", line, "hostile", int(-z))]
    aggregator.add_gold(gold([("item", line, int(z)) for line, z in enumerate(truth[:60])]))
    aggregator.ingest(annotations(rows))
    alerts = {alert.kind: alert for alert in aggregator.alerts()}
    assert alerts["spammers"].subjects == ("lazy",)
    assert alerts["adversaries"].subjects == ("hostile",)
    assert {"twin", "good4"} <= set(alerts["collusion"].subjects)
    aggregator.close()


def crowd_of(kind, share, seed, folder, **form):
    """The actor's alerts on a simulated crowd, and who is bad in it."""
    scenario = simulate(kind, share, seed, **form)
    aggregator = keeper(folder)
    aggregator.add_gold(gold([(f"i{task}", 0, 2 * int(z) - 1) for task, z in scenario.gold.items()]))
    votes = scenario.votes
    aggregator.ingest(
        annotations([(f"i{t}", 0, w, 2 * int(z) - 1) for t, w, z in votes[["task", "worker", "label"]].to_numpy()])
    )
    alerts = {alert.kind: alert for alert in aggregator.alerts()}
    aggregator.close()
    return alerts, set(scenario.bad)


@pytest.mark.parametrize("seed", range(2))
def test_a_group_so_large_that_it_shapes_the_consensus_is_found_by_the_honeypots(seed, tmp_path):
    alerts, bad = crowd_of("copycats", 0.4, seed, tmp_path)
    assert len(bad) == 12
    assert set(alerts["collusion"].subjects) <= bad
    assert len(alerts["collusion"].subjects) >= 8


@pytest.mark.parametrize("form", [{}, {"gold": 0.02}, {"gold": 0.3, "positive": 0.9}, {"per_task": 15}], ids=str)
def test_an_honest_crowd_raises_nothing(form, tmp_path):
    alerts, _ = crowd_of("honest", 0, 1, tmp_path, **form)  # in the crowd of seed 0, one answers as a coin would
    assert alerts == {}
