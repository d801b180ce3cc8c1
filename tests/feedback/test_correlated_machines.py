"""Machines that err together count as fewer, people stay, and the report says who carried what."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.correlation import (
    carried,
    discounts,
    error_correlation,
    expected_correlation,
)
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.annotators.settings import OwnSettings
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool
from crlhf_ray.feedback.source import check_floor, drawn

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LINES = 4000


def crowd(copies, seed=0, right=0.8):
    """Labels of two annotators of the same skill on lines of which three quarters are correct; the second says what
    the first says in a share of the lines."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(LINES) < 0.75, 1, -1)
    first, second = (np.where(rng.random(LINES) < right, truth, -truth) for _ in range(2))
    second = np.where(rng.random(LINES) < copies, first, second)
    return np.stack([first, second], axis=1), truth


@pytest.mark.parametrize("copies", [0.0, 0.3, 0.8, 1.0])
def test_the_correlation_of_errors_is_found(copies):
    labels, truth = crowd(copies)
    found = error_correlation(labels, truth, np.eye(2))
    assert found[0, 1] == pytest.approx(copies, abs=0.04)
    assert found[0, 0] == 1.0


def test_missing_faults_more_often_than_accusing_correct_lines_is_no_correlation():
    rng = np.random.default_rng(1)
    truth = np.where(rng.random(LINES) < 0.75, 1, -1)
    skill = np.where(truth == 1, 0.97, 0.2)
    labels = np.stack([np.where(rng.random(LINES) < skill, truth, -truth) for _ in range(2)], axis=1)
    assert abs(error_correlation(labels, truth, np.eye(2))[0, 1]) < 0.05


def test_abstentions_say_nothing_and_few_lines_little():
    labels, truth = crowd(1.0)
    labels[10:, 1] = 0
    expected = expected_correlation(["a", "b"])
    assert error_correlation(labels, truth, expected)[0, 1] < 0.6
    assert error_correlation(labels[:0], truth[:0], expected) == pytest.approx(expected)


def test_annotators_of_one_family_are_expected_to_err_together():
    assert expected_correlation(["m", "m", "n"]).tolist() == [[1, 0.5, 0.1], [0.5, 1, 0.1], [0.1, 0.1, 1]]


@pytest.mark.parametrize(
    "number, correlation, together", [(10, 1.0, 1.0), (2, 0.8, 1.11), (5, 0.0, 5.0), (1, 0.5, 1.0)]
)
def test_ten_copies_count_as_one_two_prompts_of_one_model_as_one_and_a_bit(number, correlation, together):
    matrix = np.full((number, number), correlation)
    np.fill_diagonal(matrix, 1.0)
    assert discounts(matrix).sum() == pytest.approx(together, abs=0.005)


class Same(Annotator):
    family = "same"

    def __init__(self, name):
        self.annotator_id = name

    def review(self, items):
        return [
            Review({n: -1 if "z" in i.lines[n] else 1 for n in i.to_review}, dict.fromkeys(i.to_review, 0.8))
            for i in items
        ]


def program(name, text):
    return Item(name, "p", "def f(x):\n", (text,), (0,))


def test_copies_of_one_machine_sway_a_line_no_more_than_one_does():
    names = [f"copy-{n}" for n in range(4)]
    machines = Machines([OwnSettings(kind=f"{__name__}:Same", settings={"name": name}) for name in names], 1)
    truth = [1 if n % 4 else -1 for n in range(400)]
    texts = ["    return x" if n % 5 else "    return z" for n in range(400)]
    made = [Honeypot(program(f"i-{n}", text), (z,)) for n, (text, z) in enumerate(zip(texts, truth, strict=True))]
    marks, _ = machines.collect([program("i-work", "    return z")], HoneypotPool(made), 400, NOW)
    work = [row for row in marks.to_pylist() if row["item_id"] == "i-work"]
    assert sum(row["confidence"] for row in work) == pytest.approx(0.8, abs=0.06)
    again = Machines([OwnSettings(kind=f"{__name__}:Same", settings={"name": name}) for name in names], 1)
    again.restore(machines.state())
    assert again.counts(again.annotators) == machines.counts(machines.annotators)


# -- people stay -----------------------------------------------------------------------------------------------------


def marked(*rows):
    return pa.Table.from_pylist(
        [
            {
                "event_id": f"e{n}",
                "item_id": item_id,
                "line": 0,
                "annotator_id": who,
                "label": label,
                "confidence": confidence,
                "milliseconds": None,
                "created_at": NOW,
                "source": source,
            }
            for n, (item_id, who, label, confidence, source) in enumerate(rows)
        ],
        schema=ANNOTATION_SCHEMA,
    )


def test_a_round_that_people_hardly_looked_at_ends_the_run():
    items = [program(f"i-{n}", "    return x") for n in range(10)]
    marks = marked(*((i.item_id, "llm:m", 1, None, "llm") for i in items), ("i-3", "ann", 1, None, "human"))
    check_floor(items, marks, 0.1)
    with pytest.raises(DataError, match=r"people reviewed 1 of 10 programs.*feedback\.human_floor=0\.2"):
        check_floor(items, marks, 0.2)


def test_the_programs_that_people_review_are_drawn_at_random_and_the_same_each_time():
    items = [program(f"i-{n}", "    return x") for n in range(400)]
    some = drawn(items, 0.1)
    assert len(some) == 40
    assert some == drawn(items, 0.1)
    assert 60 < np.mean([int(i.item_id[2:]) for i in some]) < 340
    assert drawn(items, 1.0) == items


def test_people_are_asked_where_machines_leave_most_doubt_and_about_a_floor_at_random():
    items = [program(f"i-{n}", "    return x") for n in range(100)]
    doubt = {f"i-{n}": n / 1000 for n in range(100)}
    some = {int(i.item_id[2:]) for i in drawn(items, 0.3, doubt, 0.1)}
    chance = {int(i.item_id[2:]) for i in drawn(items, 0.1)}
    assert len(some) == 30
    assert chance < some
    assert some - chance == set(sorted(set(range(100)) - chance)[-20:])


def test_who_carried_what_is_by_what_each_mark_adds_to_its_line():
    reliability = pa.table({"annotator_id": ["ann", "llm:m"], "sensitivity": [0.9, 0.5], "specificity": [0.9, 0.5]})
    marks = marked(("i", "ann", 1, None, "human"), ("i", "llm:m", -1, None, "llm"))
    assert carried(marks, reliability) == {"human": 1.0, "llm": 0.0}
    equal = pa.table({"annotator_id": ["ann", "llm:m"], "sensitivity": [0.9, 0.9], "specificity": [0.9, 0.9]})
    halved = marked(("i", "ann", 1, None, "human"), ("i", "llm:m", -1, 0.5, "llm"), ("i", "new", 1, None, "check"))
    shares = carried(halved, equal)
    assert shares == {"check": 0.0, "human": pytest.approx(2 / 3), "llm": pytest.approx(1 / 3)}
    assert carried(marked(), equal) == {}


def test_an_annotator_who_was_never_wrong_does_not_carry_everything():
    perfect = pa.table({"annotator_id": ["ann", "llm:m"], "sensitivity": [1.0, 0.9], "specificity": [1.0, 0.9]})
    shares = carried(marked(("i", "ann", 1, None, "human"), ("i", "llm:m", 1, None, "llm")), perfect)
    assert 0.2 < shares["llm"] < shares["human"] < 0.8


@pytest.mark.parametrize(
    "changes, message",
    [
        (["feedback.human_share=0.5"], "human_share=0.5 has no effect with no annotators"),
        (["feedback.annotators=[{kind: memory}]", "feedback.human_choice=doubtful"], "human_share=1, where people"),
        (["feedback.annotators=[{kind: memory}]", "feedback.human_share=0.01"], "is below human_floor=0.05"),
        (["feedback.annotators=[{kind: memory}]", "aggregation.use_confidence=false"], "without effect"),
        (["feedback.annotators=[{kind: tests}]", "reward.form=mean"], "tests mark whole programs"),
        (["feedback.annotators=[{kind: tests}, {kind: tests}]"], "names tests twice"),
    ],
)
def test_what_has_no_effect_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changes=changes)
