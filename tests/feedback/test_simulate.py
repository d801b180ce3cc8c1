"""The simulated crowd: its noise, its determinism, and what its events look like."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.settings import AnnotatorSettings, CrowdSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.feedback.validation import validate

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def work(items=500, lines=6, wrong=0.4, seed=3):
    rng = np.random.default_rng(seed)
    made = [
        Item(f"item-{i}", "p", "def f():", ("", *(f"x{i} = {j}" for j in range(lines))), tuple(range(1, lines + 1)))
        for i in range(items)
    ]
    return made, {item.item_id: np.where(rng.random(lines + 1) < wrong, -1, 1) for item in made}


def answers(table, truth):
    """(annotator, label, truth) arrays of a crowd's answers."""
    z = np.array(
        [truth[i][line] for i, line in zip(table["item_id"].to_pylist(), table["line"].to_pylist(), strict=True)]
    )
    return np.array(table["annotator_id"].to_pylist()), table["label"].to_numpy(), z


def measured(table, truth, annotator=None):
    who, label, z = answers(table, truth)
    keep = (label != 0) & ((who == annotator) if annotator else True)
    return (label[keep & (z > 0)] > 0).mean(), (label[keep & (z < 0)] < 0).mean()


def test_the_default_ten_are_as_noisy_as_faultloc_by_construction():
    skills = Crowd().skills()
    assert skills.num_rows == 10
    assert np.mean(skills["sensitivity"]) == pytest.approx(0.77)
    assert np.mean(skills["specificity"]) == pytest.approx(0.51)
    assert set(skills["kind"].to_pylist()) == {
        "expert", "average", "careless", "always_correct", "random", "adversary", "drifting",
    }  # fmt: skip


def test_the_default_ten_are_as_noisy_as_faultloc_in_their_answers():
    items, truth = work()
    crowd = Crowd(seed=1)
    table = crowd.annotate(items, truth, now=NOW)
    each = np.array([measured(table, truth, name) for name in crowd.annotator_ids])
    assert each.mean(axis=0) == pytest.approx([0.77, 0.51], abs=0.015)
    assert (table["label"].to_numpy() == 0).mean() == pytest.approx(0.12, abs=0.01)


def test_each_annotator_answers_with_their_own_skill():
    items, truth = work()
    crowd = Crowd(seed=2)
    table = crowd.annotate(items, truth, now=NOW)
    for row in crowd.skills().to_pylist():
        assert measured(table, truth, row["annotator_id"]) == pytest.approx(
            (row["sensitivity"], row["specificity"]), abs=0.05
        )


def test_errors_on_one_line_are_correlated_as_set_and_the_skill_stays():
    items, truth = work(items=3000, lines=1, wrong=0.0)
    pair = tuple(AnnotatorSettings(kind="average", sensitivity=0.8, unsure=0.0) for _ in range(2))
    crowd = Crowd(CrowdSettings(annotators=pair, shared_difficulty=0.5))
    table = crowd.annotate(items, truth, now=NOW)
    right = table["label"].to_numpy().reshape(-1, 2) > 0
    assert right.mean() == pytest.approx(0.8, abs=0.02)
    assert np.corrcoef(right.T)[0, 1] > 0.2


def test_the_same_seed_gives_the_same_events_in_any_order_and_split():
    items, truth = work(items=20)
    whole = Crowd(seed=5).annotate(items, truth, now=NOW).to_pylist()
    parts = [Crowd(seed=5).annotate([i], truth, now=NOW, annotators=[a]).to_pylist()
             for i in reversed(items) for a in ("sim-03", "sim-07")]  # fmt: skip
    expected = {e["event_id"]: e for e in whole}
    assert all(expected[e["event_id"]] == e for part in parts for e in part)
    assert len(expected) == len(whole) == 20 * 6 * 10


def test_another_seed_gives_other_answers_and_event_ids():
    items, truth = work(items=20)
    one, two = (Crowd(seed=s).annotate(items, truth, now=NOW) for s in (1, 2))
    assert not set(one["event_id"].to_pylist()) & set(two["event_id"].to_pylist())
    assert (one["label"].to_numpy() != two["label"].to_numpy()).mean() > 0.2


def test_events_pass_validation_and_carry_the_schema():
    items, truth = work(items=5)
    table = Crowd().annotate(items, truth, now=NOW)
    assert table.schema.equals(ANNOTATION_SCHEMA)
    good, rejected = validate(table)
    assert (good.num_rows, rejected.num_rows) == (table.num_rows, 0)


def test_only_the_lines_to_review_are_marked():
    items, truth = work(items=3)
    assert 0 not in Crowd().annotate(items, truth, now=NOW)["line"].to_pylist()


def test_confidence_is_higher_where_right_and_empty_where_unsure():
    items, truth = work()
    table = Crowd().annotate(items, truth, now=NOW)
    _, label, z = answers(table, truth)
    confidence = table["confidence"].to_numpy()
    assert np.isnan(confidence[label == 0]).all()
    assert not np.isnan(confidence[label != 0]).any()
    assert np.nanmean(confidence[label == z]) > np.nanmean(confidence[label == -z])


def test_labels_per_item_draws_that_many_annotators_evenly():
    items, truth = work()
    table = Crowd().annotate(items, truth, now=NOW, labels_per_item=3)
    who, _, _ = answers(table, truth)
    pairs = set(zip(table["item_id"].to_pylist(), who.tolist(), strict=True))
    assert len(pairs) == 3 * len(items)
    counts = np.unique([a for _, a in pairs], return_counts=True)[1]
    assert len(counts) == 10
    assert counts.min() > 100  # 150 each on average


def test_the_drifting_annotator_gets_worse_and_nobody_else_does():
    start, end = Crowd().skills(0.0), Crowd().skills(1.0)
    change = np.array(start["specificity"]) - np.array(end["specificity"])
    kinds = np.array(start["kind"].to_pylist())
    assert change[kinds == "drifting"] == pytest.approx([0.3])
    assert not change[kinds != "drifting"].any()


def test_a_truth_that_is_missing_or_has_the_wrong_length_is_refused():
    items, truth = work(items=1)
    with pytest.raises(DataError, match="'item-0' has no truth"):
        Crowd().annotate(items, {}, now=NOW)
    with pytest.raises(DataError, match="each of its 7 lines"):
        Crowd().annotate(items, {"item-0": truth["item-0"][:3]}, now=NOW)


def test_unknown_annotators_and_impossible_counts_are_refused():
    items, truth = work(items=1)
    with pytest.raises(ValueError, match=r"'bob'.*sim-00"):
        Crowd().annotate(items, truth, now=NOW, annotators=["bob"])
    with pytest.raises(ValueError, match="use 1 to 10"):
        Crowd().annotate(items, truth, now=NOW, labels_per_item=11)


def test_the_end_is_marked_like_a_line_where_it_is_asked_about():
    items = [Item(f"item-{i}", "p", "def f():", ("x = 1", f"y = {i}"), (0, 1, 2)) for i in range(2000)]
    truth = {item.item_id: np.array([1, 1, -1]) for item in items}
    table = Crowd(seed=4).annotate(items, truth, now=NOW)
    at_the_end = table.filter(pa.array(table["line"].to_numpy() == 2))
    assert measured(table, truth)[1] == pytest.approx(0.51, abs=0.02)
    assert at_the_end.num_rows == 2000 * 10
    with pytest.raises(DataError, match=r"each of its 3 lines \(its end is the last\)"):
        Crowd().annotate(items[:1], {"item-0": np.array([1, 1])}, now=NOW)
