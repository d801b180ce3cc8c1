"""Whatever is the default reward cannot be gamed by more than the stated bounds.

Expected scores over simulated marks of ten people whose skill is known and whose errors are independent, on programs
with one fault, whose end is asked about. What is idle is a correct line, as careful reviewers mark it. The draws are
common to the programs that are compared; standard errors of differences are below .002.
"""

from functools import cache

import numpy as np
import pytest

from crlhf_ray.aggregation.quality import auc
from crlhf_ray.reward import FORMS, RewardSettings, program_score
from crlhf_ray.rollout.lines import carries_code

CROWDS = {"good": (0.9, 0.7), "faultloc": (0.77, 0.51)}  # sensitivity and specificity
BASES = (1, 3, 6, 12)  # lines of code
DEFAULT = RewardSettings()
PEOPLE, DRAWS = 10, 20_000
IDLE = {
    "pass": ["    pass"],
    "x = x": ["    x = x"],
    "an unused assignment": ["    unused = 0"],
    "a comment, twice": ["    # note", "    # note"],
    "half of a line that was split": ["    )"],
    "a docstring": ['    """Done."""'],
}

by_crowd = pytest.mark.parametrize("crowd", CROWDS)
by_base = pytest.mark.parametrize("lines", BASES)


@cache
def marks(crowd: str, wrong: int) -> np.ndarray:
    """Evidence [draws, 31] of the marks on 31 places, of which the first so many are wrong."""
    sensitivity, specificity = CROWDS[crowd]
    said_correct = np.where(np.arange(31) < wrong, 1 - specificity, sensitivity)
    correct = np.random.default_rng(1).binomial(PEOPLE, said_correct, (DRAWS, 31))
    weight = np.log(sensitivity / (1 - specificity)), np.log((1 - sensitivity) / specificity)
    return correct * weight[0] + (PEOPLE - correct) * weight[1]


def scores(crowd: str, lines: int, wrong: int, settings=DEFAULT, end=True) -> np.ndarray:
    """What programs of so many lines of code are worth, of whose places so many are wrong."""
    return FORMS[settings.form](marks(crowd, wrong)[:, : lines + end], 0.5, settings)


def expected(*program, **more) -> float:
    return float(scores(*program, **more).mean())


@by_crowd
@by_base
@pytest.mark.parametrize("edit", IDLE)
def test_an_idle_insertion_lifts_no_wrong_program_and_lowers_no_right_one_by_more_than_3_points(crowd, lines, edit):
    longer = lines + sum(map(carries_code, IDLE[edit]))
    assert expected(crowd, longer, 1) - expected(crowd, lines, 1) <= 0.03
    assert expected(crowd, lines, 0) - expected(crowd, longer, 0) <= 0.03


@by_crowd
@by_base
def test_splitting_the_faulty_line_into_two_does_not_pay_either(crowd, lines):
    for wrong in (1, 2):  # one half is faulty, or both are
        assert expected(crowd, lines + 1, wrong) - expected(crowd, lines, 1) <= 0.03


@by_crowd
@by_base
def test_18_idle_lines_lift_a_wrong_program_by_at_most_8_points(crowd, lines):
    assert expected(crowd, lines + 18, 1) - expected(crowd, lines, 1) <= 0.08


@by_crowd
@by_base
def test_and_by_at_most_3_points_more_than_a_fault_that_is_harder_to_find_explains(crowd, lines):
    bayes = RewardSettings(fault_growth=0.0)  # exact where right programs are as frequent at every length
    explained = expected(crowd, lines + 18, 1, settings=bayes) - expected(crowd, lines, 1, settings=bayes)
    assert expected(crowd, lines + 18, 1) - expected(crowd, lines, 1) <= explained + 0.03


@by_crowd
def test_right_programs_of_1_and_12_lines_differ_by_at_most_15_points(crowd):
    assert abs(expected(crowd, 1, 0) - expected(crowd, 12, 0)) <= 0.15


@by_crowd
@by_base
def test_dropping_the_tail_does_not_pay(crowd, lines):
    for left in (left for left in BASES if left < lines):
        for faults in (1, 2):  # the fault went with the tail and the end is wrong, or both are there
            assert expected(crowd, left, faults) - expected(crowd, lines, 1) <= 0.03
        assert expected(crowd, left, 1) < expected(crowd, lines, 0)


@by_crowd
def test_without_a_mark_for_what_is_missing_dropping_the_tail_does_pay(crowd):
    with_the_fault = expected(crowd, 6, 1, end=False)
    without_it = expected(crowd, 3, 0, end=False)
    assert without_it - with_the_fault > 0.3


def test_stopping_at_once_and_an_empty_program_are_worth_nothing():
    assert program_score(np.zeros(0), 0.5, DEFAULT) == 0.0


@by_crowd
def test_padded_wrong_programs_are_told_from_right_ones_better_than_by_the_mean(crowd):
    def separated(settings):
        right, wrong = scores(crowd, 6, 0, settings), scores(crowd, 24, 1, settings)
        return auc(np.repeat([True, False], DRAWS), np.concatenate([right, wrong]))

    assert separated(DEFAULT) > separated(RewardSettings(form="mean")) + 0.05
    assert separated(DEFAULT) > 0.8


@by_crowd
def test_the_mean_breaks_these_bounds(crowd):
    mean = RewardSettings(form="mean")
    assert expected(crowd, 19, 1, settings=mean) - expected(crowd, 1, 1, settings=mean) > 0.2
    assert expected(crowd, 2, 1, settings=mean) - expected(crowd, 1, 1, settings=mean) > 0.05


def test_a_program_of_200_lines_is_scored_like_any_other():
    evidence = np.full(200, 3.0)
    assert 0.5 < program_score(evidence, 0.5, DEFAULT) < program_score(evidence[:12], 0.5, DEFAULT)
    evidence[117] = -20.0
    assert program_score(evidence, 0.5, DEFAULT) < 0.01
