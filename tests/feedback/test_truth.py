"""What a simulated annotator takes for the truth about each line."""

import re

import numpy as np
import pytest

from crlhf_ray.feedback.truth import line_truth
from crlhf_ray.problems.problem import AssertChecker, Problem
from crlhf_ray.sandbox.verdict import Verdict

PROMPT = 'def total(numbers):\n    """Return the sum of the even numbers."""'
REFERENCE = "\n    total = 0\n    for n in numbers:\n        if n % 2 == 0:\n            total += n\n    return total"
PROBLEM = Problem("p", PROMPT, "total", AssertChecker(("assert total([1, 2, 4]) == 6",)), (REFERENCE,))
RENAMED = re.sub(r"\bn\b", "item", REFERENCE.replace("total", "acc"))
PASSED, WRONG = Verdict("passed", isolation="jailed"), Verdict("wrong", 0, isolation="jailed")


def wrong_lines(completion, verdict=WRONG, passing=()):
    truth = line_truth(PROBLEM, completion, verdict, passing)
    assert truth.dtype == np.int8
    assert len(truth) == completion.count("\n") + 1
    return np.flatnonzero(truth == -1).tolist()


def test_a_program_that_passes_is_correct_in_every_line():
    assert wrong_lines("\n    return sum(n for n in numbers if n % 2 == 0)", PASSED) == []


def test_the_line_that_differs_from_the_reference_is_wrong():
    assert wrong_lines(REFERENCE.replace("== 0", "== 1")) == [3]


def test_variables_may_have_other_names():
    assert wrong_lines(RENAMED.replace("acc = 0", "acc = 1")) == [1]


def test_a_variable_used_in_place_of_another_is_wrong():
    assert wrong_lines(RENAMED.replace("return acc", "return item")) == [5]


def test_spacing_and_comments_do_not_matter():
    spaced = REFERENCE.replace("n % 2 == 0", "n%2==0").replace("total = 0", "total=0  # start")
    assert wrong_lines(spaced.replace("return total", "return -total")) == [5]


def test_a_line_at_the_wrong_depth_is_wrong():
    assert wrong_lines(REFERENCE.replace("\n    return total", "\n        return total")) == [5]


def test_a_missing_line_is_charged_to_the_line_before_it():
    assert wrong_lines(REFERENCE.replace("\n    return total", "")) == [4]


def test_a_missing_first_line_is_charged_to_the_first_line():
    broken = "\n    for n in numbers:\n        if n % 2 == 0:\n            total += n\n    return total"
    assert wrong_lines(broken) == [1]


def test_lines_that_do_not_belong_are_wrong():
    assert wrong_lines(REFERENCE.replace("\n    return", "\n    total += 1\n    print(total)\n    return")) == [5, 6]


def test_a_syntax_error_makes_its_line_and_all_code_after_it_wrong():
    assert wrong_lines("\n    total = 0\n    for n in numbers\n        total += n\n\n    # done\n    return total") == [
        2,
        3,
        6,
    ]


def test_a_syntax_error_behind_the_last_code_line_is_charged_to_that_line():
    assert wrong_lines("\n    for n in numbers:\n\n") == [1]


@pytest.mark.parametrize("completion", ["\n    return '\0'", "\n    return " + "(" * 500 + "1" + ")" * 500])
def test_what_the_compiler_cannot_take_is_wrong(completion):
    assert wrong_lines(completion, Verdict("error", isolation="jailed")) == [1]


def test_the_nearest_passing_program_is_the_one_compared_with():
    passing = ["\n    return sum(n for n in numbers if n % 2 == 0)"]
    assert wrong_lines("\n    evens = []\n    return sum(n for n in numbers if n % 2 == 0)", passing=passing) == [1]


def test_a_failing_program_equal_to_a_passing_one_has_a_wrong_line_still():
    assert wrong_lines(REFERENCE, Verdict("timeout", isolation="jailed")) == [5]


def test_a_program_without_code_has_nothing_to_check():
    assert wrong_lines("\n    # to do\n") == []


def test_an_infrastructure_error_says_nothing():
    with pytest.raises(ValueError, match="check it again"):
        line_truth(PROBLEM, REFERENCE, Verdict("infra_error", detail="no slot", isolation="jailed"), [])


def wrong_places(completion, verdict=WRONG):
    truth = line_truth(PROBLEM, completion, verdict, (), end=True)
    assert len(truth) == completion.count("\n") + 2
    return np.flatnonzero(truth == -1).tolist()


def test_where_the_end_is_asked_about_what_is_missing_there_is_charged_to_it_and_to_no_line():
    assert wrong_places(REFERENCE.replace("\n    return total", "")) == [5]


def test_what_is_missing_between_lines_is_charged_to_the_line_before_it_all_the_same():
    assert wrong_places(REFERENCE.replace("\n    total = 0", "")) == [1]
    assert wrong_places(REFERENCE.replace("\n            total += n", "\n            pass")) == [4]


def test_a_program_that_ends_as_the_reference_does_lacks_nothing_at_its_end():
    assert wrong_places(REFERENCE, PASSED) == []
    assert wrong_places(REFERENCE.replace("== 0", "== 1")) == [3]


def test_a_faulty_program_that_stops_early_is_wrong_in_both_places():
    assert wrong_places(REFERENCE.replace("total = 0", "total = 1").replace("\n    return total", "")) == [1, 5]
