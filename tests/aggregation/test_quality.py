"""How good an answer is: what majority vote would have said, to compare with."""

import pytest

from crlhf_ray.aggregation.quality import majority_consensus
from tests.aggregation.tables import annotations


def test_majority_is_the_share_of_correct_among_those_who_were_sure():
    table = annotations([("a", 0, "x", 1), ("a", 0, "y", -1), ("a", 0, "z", 0), ("b", 2, "x", -1), ("b", 3, "x", 0)])
    assert majority_consensus(table) == {"a": {0: pytest.approx(0.5)}, "b": {2: 0.0}}
