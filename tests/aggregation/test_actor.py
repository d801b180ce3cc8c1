"""The actor's core, in one process: ingestion, supersession, gold, recovery."""

import numpy as np
import pytest

from crlhf_ray.aggregation.actor import AggregationSettings
from crlhf_ray.aggregation.marks import CONSENSUS_SCHEMA
from crlhf_ray.errors import ConfigError, DataError
from tests.aggregation.tables import annotations, gold, keeper


@pytest.fixture
def aggregator(tmp_path):
    aggregator = keeper(tmp_path, AggregationSettings())
    yield aggregator
    aggregator.close()


def p_correct(aggregator, item, line):
    return {row["line"]: row["p_correct"] for row in aggregator.consensus([item]).to_pylist()}[line]


def random_batch(rng, n, *, start=0, items=50, annotators=12):
    return annotations(
        [
            (
                f"item{rng.integers(items)}",
                int(rng.integers(8)),
                f"a{rng.integers(annotators)}",
                int(rng.integers(-1, 2)),
            )
            for _ in range(n)
        ],
        start=start,
    )


def test_consensus_has_the_agreed_schema_and_goes_by_item_as_asked_then_by_line(aggregator):
    aggregator.ingest(annotations([("a", 3, "x", 1), ("b", 0, "x", -1), ("a", 1, "x", 1)]))
    answer = aggregator.consensus(["b", "unknown", "a"])
    assert answer.schema == CONSENSUS_SCHEMA
    assert answer.select(["item_id", "line"]).to_pylist() == [
        {"item_id": "b", "line": 0},
        {"item_id": "a", "line": 1},
        {"item_id": "a", "line": 3},
    ]


def test_an_event_counts_once_however_often_it_comes(aggregator):
    table = annotations([("a", 0, "x", 1), ("a", 0, "y", -1), ("a", 1, "x", 1)])
    assert aggregator.ingest(table) == 3
    before = aggregator.digest()
    assert aggregator.ingest(table) == 0
    assert aggregator.ingest(table.slice(1)) == 0
    assert aggregator.digest() == before
    assert aggregator.stats()["duplicates"] == 5


def test_a_later_event_of_the_same_annotator_on_the_same_line_supersedes(aggregator):
    aggregator.ingest(annotations([("a", 0, "x", 1)], prefix="first", start=10))
    up = p_correct(aggregator, "a", 0)
    aggregator.ingest(annotations([("a", 0, "x", -1)], prefix="second", start=20))
    assert p_correct(aggregator, "a", 0) < 0.5 < up
    assert aggregator.stats()["labels"] == 1


def test_an_earlier_event_that_arrives_late_does_not_supersede(aggregator):
    aggregator.ingest(annotations([("a", 0, "x", -1)], prefix="second", start=20))
    aggregator.ingest(annotations([("a", 0, "x", 1)], prefix="first", start=10))
    assert p_correct(aggregator, "a", 0) < 0.5


def test_unsure_counts_as_no_label_and_takes_back_an_earlier_one(aggregator):
    aggregator.ingest(annotations([("a", 0, "x", 1)], prefix="first", start=10))
    aggregator.ingest(annotations([("a", 0, "x", 0)], prefix="second", start=20))
    assert aggregator.consensus(["a"]).to_pylist() == [
        {"item_id": "a", "line": 0, "p_correct": 0.5, "labels": 0, "evidence": 0.0}
    ]


def test_a_less_confident_vote_weighs_less(aggregator):
    aggregator.ingest(annotations([("sure", 0, "x", 1, 1.0), ("unsure", 0, "x", 1, 0.2), ("not asked", 0, "x", 1)]))
    sure, unsure, null = (p_correct(aggregator, item, 0) for item in ("sure", "unsure", "not asked"))
    assert 0.5 < unsure < sure == null


def test_late_gold_corrects_what_was_credited_before(tmp_path):
    rows = [(f"item{i}", 0, who, 1 if who != "liar" else -1) for i in range(20) for who in ("x", "y", "liar")]
    truth = [(f"item{i}", 0, -1) for i in range(10)]
    late, early = keeper(tmp_path / "late"), keeper(tmp_path / "early")
    late.ingest(annotations(rows))
    assert p_correct(late, "item15", 0) > 0.5
    assert late.add_gold(gold(truth)) == 10
    early.add_gold(gold(truth))
    early.ingest(annotations(rows))
    assert p_correct(late, "item15", 0) < 0.5
    assert p_correct(late, "item5", 0) == 0.0
    gold_labels = [row["gold_labels"] for row in late.reliability().to_pylist()]
    assert gold_labels == [10, 10, 10] == [row["gold_labels"] for row in early.reliability().to_pylist()]


def test_gold_that_contradicts_itself_is_refused_and_changes_nothing(aggregator):
    aggregator.add_gold(gold([("a", 0, 1), ("a", 0, 1)]))
    before = aggregator.digest()
    with pytest.raises(DataError, match="line 0 of item 'a' was given the other truth"):
        aggregator.add_gold(gold([("new", 5, 1), ("a", 0, -1)]))
    with pytest.raises(DataError, match="row 2, field 'truth'"):
        aggregator.add_gold(gold([("b", 0, 1), ("c", 0, 1), ("b", 0, -1)]))
    assert aggregator.digest() == before
    assert aggregator.add_gold(gold([("a", 0, 1)])) == 0


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("label", 2, "row 1, field 'label': 2 cannot be stored: use the integers"),
        ("line", -1, "row 1, field 'line': -1 cannot be stored: give the 0-based line number"),
        ("confidence", 1.5, "row 1, field 'confidence': 1.5 cannot be stored: use a number from 0 to 1"),
        ("source", "guess", "row 1, field 'source': guess cannot be stored: use one of human"),
        ("annotator_id", None, "row 1, field 'annotator_id': None cannot be stored: name the annotator"),
    ],
)
def test_an_unusable_row_is_named_and_nothing_of_its_batch_is_taken_in(aggregator, field, value, message):
    table = annotations([("a", 0, "x", 1), ("a", 1, "x", 1)])
    values = [*table[field].to_pylist()[:1], value]
    table = table.set_column(table.column_names.index(field), field, [values])
    with pytest.raises(DataError, match=message):
        aggregator.ingest(table)
    assert aggregator.stats()["events"] == 0


def test_a_missing_column_is_named(aggregator):
    with pytest.raises(DataError, match="'annotator_id'"):
        aggregator.ingest(annotations([("a", 0, "x", 1)]).drop_columns("annotator_id"))


def test_what_comes_back_from_disk_equals_what_was_there(tmp_path):
    rng = np.random.default_rng(0)
    settings = AggregationSettings(snapshot_events=300, decay=0.98)
    first = keeper(tmp_path, settings)
    for start in range(0, 1000, 100):
        first.ingest(random_batch(rng, 100, start=start))
        first.add_gold(gold([(f"item{start // 100}", 2, 1)]))
    digest, answer = first.digest(), first.consensus([f"item{i}" for i in range(50)])
    first.close()
    second = keeper(tmp_path, settings)
    assert second.digest() == digest
    assert second.consensus([f"item{i}" for i in range(50)]).equals(answer)
    batch = random_batch(rng, 100, start=1000)
    assert [second.ingest(batch), second.ingest(batch)] == [100, 0]
    second.close()


@pytest.mark.parametrize("label", [-128, -2, 2, 127])
def test_a_label_that_is_not_one_is_refused(aggregator, label):
    with pytest.raises(DataError, match=f"{label} cannot be stored"):
        aggregator.ingest(annotations([("a", 0, "x", label)]))


def test_a_folder_made_with_another_estimator_is_refused(tmp_path):
    keeper(tmp_path, AggregationSettings(estimator="one_coin")).close()
    with pytest.raises(ConfigError, match="made with other settings"):
        keeper(tmp_path, AggregationSettings(estimator="two_coin"))


def test_reliabilities_that_never_moved_are_reported_and_gold_clears_the_alert(tmp_path):
    aggregator = keeper(tmp_path, AggregationSettings(estimator="one_coin"))
    assert aggregator.alerts() == []
    aggregator.ingest(annotations([("a", i, who, 1) for i in range(30) for who in "xyz"]))
    (alert,) = aggregator.alerts()
    assert alert.kind == "frozen reliabilities"
    assert "add honeypots" in alert.remedy
    aggregator.add_gold(gold([("a", 0, 1)]))
    assert aggregator.alerts() == []
    aggregator.close()


def test_reliability_intervals_hold_the_rate_and_narrow_with_gold(aggregator):
    aggregator.add_gold(gold([("a", i, 1 if i % 2 else -1) for i in range(200)]))
    aggregator.ingest(annotations([("a", i, "much", 1 if i % 2 else -1) for i in range(200)]))
    aggregator.ingest(annotations([("a", i, "little", 1 if i % 2 else -1) for i in range(6)], prefix="l"))
    much, little = aggregator.reliability().to_pylist()
    for row in (much, little):
        assert row["sensitivity_low"] < row["sensitivity"] < row["sensitivity_high"]
    assert much["specificity_high"] - much["specificity_low"] < little["specificity_high"] - little["specificity_low"]
    assert (much["gold_labels"], little["labels"]) == (200, 6)
