"""Validation: what an annotation may hold, and what is said of one that does not."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.validation import REJECTION_SCHEMA, validate

ROW = {
    "event_id": "e1",
    "item_id": "i1",
    "line": 2,
    "annotator_id": "a1",
    "label": -1,
    "confidence": 0.5,
    "milliseconds": 1200,
    "created_at": "2026-01-31T12:00:00Z",
    "source": "human",
}


def check(**changes):
    """(good, rejected) of one row with these changes."""
    return validate(pa.Table.from_pylist([{**ROW, **changes}]))


def test_a_right_row_comes_out_in_the_schema():
    good, rejected = check()
    assert good.to_pylist() == [{**ROW, "created_at": datetime(2026, 1, 31, 12, tzinfo=UTC)}]
    assert good.schema.equals(ANNOTATION_SCHEMA)
    assert rejected.equals(REJECTION_SCHEMA.empty_table())


@pytest.mark.parametrize(
    "field, value",
    [
        ("event_id", None),
        ("event_id", " "),
        ("item_id", ""),
        ("annotator_id", 7),
        ("line", -1),
        ("line", 1.5),
        ("line", None),
        ("label", 2),
        ("label", "1"),
        ("label", True),
        ("label", 300),
        ("confidence", 1.01),
        ("confidence", -0.1),
        ("confidence", float("nan")),
        ("confidence", "high"),
        ("milliseconds", -5),
        ("created_at", "2026-01-31T12:00:00"),
        ("created_at", "yesterday"),
        ("created_at", datetime(2026, 1, 31, 12)),
        ("created_at", 1769860800),
        ("source", "robot"),
        ("source", None),
    ],
)
def test_a_wrong_value_is_rejected_with_its_field_and_a_remedy(field, value):
    good, rejected = check(**{field: value})
    assert good.num_rows == 0
    (record,) = rejected.to_pylist()
    assert (record["row"], record["field"], record["first"]) == (0, field, True)
    assert record["value"] == (value if isinstance(value, str) else repr(value))
    assert record["remedy"]


@pytest.mark.parametrize(
    "field, value",
    [
        ("confidence", None),
        ("milliseconds", None),
        ("confidence", 1),
        ("label", 1.0),
        ("created_at", datetime(2026, 1, 31, tzinfo=UTC)),
        ("created_at", "2026-01-31T14:00:00+02:00"),
    ],
)
def test_what_means_the_same_is_accepted(field, value):
    good, rejected = check(**{field: value})
    assert (good.num_rows, rejected.num_rows) == (1, 0)


def test_optional_columns_may_be_missing():
    row = {name: value for name, value in ROW.items() if name not in ("confidence", "milliseconds")}
    good, _ = validate(pa.Table.from_pylist([row]))
    assert good["confidence"].to_pylist() == [None]


def test_a_missing_required_column_is_an_error():
    with pytest.raises(DataError, match=r"votes\.parquet, field 'label'.*missing"):
        validate(pa.table({name: [value] for name, value in ROW.items() if name != "label"}), "votes.parquet")


def test_an_unknown_column_is_an_error_that_names_the_nearest():
    with pytest.raises(DataError, match=r"'confidense'.*did you mean 'confidence'"):
        validate(pa.table({**{name: [value] for name, value in ROW.items()}, "confidense": [1]}))


def test_one_row_may_have_several_problems_and_the_others_stay():
    rows = [ROW, {**ROW, "event_id": "e2", "label": 5, "source": "robot"}, {**ROW, "event_id": "e3"}]
    good, rejected = validate(pa.Table.from_pylist(rows), "f")
    assert good["event_id"].to_pylist() == ["e1", "e3"]
    assert rejected.select(["row", "event_id", "field", "first"]).to_pylist() == [
        {"row": 1, "event_id": "e2", "field": "label", "first": True},
        {"row": 1, "event_id": "e2", "field": "source", "first": False},
    ]


def test_a_long_value_is_cut_in_the_report():
    _, rejected = check(source="x" * 1000)
    assert len(rejected["value"][0].as_py()) == 200
