"""Credit: which tokens a program's score goes to."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import sample_of

from crlhf_ray.errors import DataError
from crlhf_ray.reward import RewardSettings, evidence_of, program_score, score_program, score_round

THREE = sample_of(("a = 1", 3), ("b = 2", 2), ("", 1), ("return a", 2))


def scored(sample, p, **more):
    settings = RewardSettings(**more)
    return score_program(sample, evidence_of(p, 0.5), settings, prior=0.5)


def round_of(samples, posteriors, passed=None, seed=0, **more):
    passed = [None] * len(samples) if passed is None else passed
    return score_round(samples, posteriors, RewardSettings(**more), prior=0.5, passed=passed, seed=seed)


def to_go(found) -> np.ndarray:
    return found.rewards[::-1].cumsum()[::-1]


def test_sequence_puts_the_whole_score_on_the_last_token_and_weighs_all_tokens_alike():
    found = scored(THREE, [1.0, 0.5, 0.75], form="mean")
    assert found.rewards == pytest.approx([0] * 7 + [0.75])
    assert found.value == pytest.approx(0.75)
    assert found.praise.tolist() == found.blame.tolist() == [1.0] * 8


def test_to_go_with_min_gives_each_token_the_weakest_of_its_line_and_those_after_it():
    assert to_go(scored(THREE, [0.2, 0.6, 0.9], form="min", credit="to_go")) == pytest.approx(
        [0.2] * 3 + [0.6] * 2 + [0.9] * 3
    )


def test_to_go_leaves_the_tokens_up_to_a_fault_with_the_fault_and_those_after_it_without():
    assert to_go(scored(THREE, [0.9, 0.1, 0.9], form="min", credit="to_go")) == pytest.approx([0.1] * 5 + [0.9] * 3)


def test_blame_is_in_proportion_to_the_probability_that_the_line_holds_the_fault():
    found = scored(THREE, [0.9, 0.2, 0.6], credit="blame")
    fault = np.array([1 / 9, 4.0, 4 / 6])  # odds of being wrong
    assert found.blame == pytest.approx([fault[0] / 4] * 3 + [1.0] * 2 + [0.0] + [fault[2] / 4] * 2)
    assert found.praise.tolist() == [1.0] * 8


def test_first_fault_charges_the_first_wrong_line_and_masks_what_follows():
    found = scored(THREE, [0.9, 0.2, 0.1], credit="first_fault")
    assert found.blame.tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert found.praise.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_first_fault_charges_the_least_sure_line_where_none_is_wrong():
    found = scored(THREE, [0.9, 0.8, 0.7], credit="first_fault")
    assert found.blame.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert found.praise.tolist() == [1.0] * 8


def test_a_tie_charges_the_first_line():
    assert scored(THREE, [0.4, 0.4, 0.4], credit="first_fault").blame.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert scored(THREE, [0.5, 0.5, 0.5], credit="blame").blame.tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


def test_a_line_without_tokens_hands_its_share_to_the_token_before():
    sample = sample_of(("a", 2), ("b", 0), ("c", 1))
    assert scored(sample, [0.9, 0.1, 0.9], credit="first_fault").blame.tolist() == [0, 1, 0]
    assert to_go(scored(sample, [0.9, 0.1, 0.9], form="min", credit="to_go")) == pytest.approx([0.1, 0.1, 0.9])


@pytest.mark.parametrize("credit", ["sequence", "to_go", "blame", "first_fault"])
def test_a_program_without_code_scores_zero_and_all_its_tokens_are_charged(credit):
    for sample in (sample_of(("", 1), ("    # nothing", 3)), sample_of()):
        found = scored(sample, [], credit=credit)
        assert found.value == found.rewards.sum() == 0.0
        assert found.blame.tolist() == [1.0] * len(sample.token_ids)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=12),
    st.sampled_from(["right", "min", "softmin", "product", "mean", "hard"]),
    st.sampled_from(["sequence", "to_go", "blame", "first_fault"]),
)
def test_rewards_sum_to_the_score_and_weights_are_from_0_to_1(rows, form, credit):
    rows[0] = (rows[0][0], rows[0][1] + 1, rows[0][2])
    sample = sample_of(*[("x" if code else "", tokens) for code, tokens, _ in rows])
    p = [row[2] for row in rows if row[0]]
    found = scored(sample, p, form=form, credit=credit)
    assert found.rewards.sum() == pytest.approx(found.value, abs=1e-9)
    assert found.value == pytest.approx(program_score(evidence_of(p, 0.5), 0.5, RewardSettings(form=form)))
    for weights in (found.praise, found.blame):
        assert weights.shape == found.rewards.shape
        assert ((weights >= 0) & (weights <= 1)).all()


def test_lines_and_posteriors_must_match():
    sample = sample_of(("a = 1", 3), ("# note", 2))
    with pytest.raises(DataError, match=r"no posterior for lines \[0\].*posteriors for lines \[1\]"):
        round_of([sample], [{1: 0.5}])
    with pytest.raises(DataError, match=r"sample s0: p_correct\[0\]"):
        round_of([sample], [{0: 1.5}])


def test_the_tests_as_source_score_a_program_as_a_whole():
    found = round_of([THREE] * 2, [{}, {}], passed=[True, False], source="tests")
    assert [one.value for one in found] == [1.0, 0.0]


def test_verified_programs_are_drawn_by_seed_and_score_what_their_tests_say():
    samples = [sample_of(("a", 1), name=f"s{i}") for i in range(400)]
    posteriors, passed = [{0: 0.9}] * 400, [False] * 400
    found = [
        [one.value == 0 for one in round_of(samples, posteriors, passed, seed=seed, verified=0.1)] for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    assert 20 < sum(found[0]) < 60
    assert not any(one.value == 0 for one in round_of(samples, posteriors, [None] * 400, verified=1.0))


def test_a_program_that_fails_its_tests_is_charged_by_what_the_crowd_says_of_its_lines():
    (found,) = round_of([THREE], [{0: 0.9, 1: 0.2, 3: 0.6}], [False], verified=1.0, credit="first_fault")
    assert found.value == 0
    assert found.blame.tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("overlong, value, masked", [("score", 0.9, False), ("zero", 0.0, False), ("mask", 0.0, True)])
def test_a_program_cut_at_the_limit_is_scored_or_masked_by_a_setting(overlong, value, masked):
    (found,) = round_of([sample_of(("a", 1), finish="length")], [{0: 0.9}], form="mean", overlong=overlong)
    assert (found.value, found.masked) == (pytest.approx(value), masked)
    (whole,) = round_of([sample_of(("a", 1))], [{0: 0.9}], form="mean", overlong=overlong)
    assert (whole.value, whole.masked) == (pytest.approx(0.9), False)


def test_a_learnt_prior_of_right_programs_orders_a_problem_s_programs_as_before():
    samples = [sample_of(("a", 1), name=f"s{i}") for i in range(4)]
    values = [one.value for one in round_of(samples, [{0: p} for p in (0.1, 0.4, 0.6, 0.9)], prior_right="learnt")]
    assert all(a < b for a, b in pairwise(values))


def test_the_end_is_a_place_of_its_own_whose_token_is_the_one_that_stopped():
    posteriors = {0: 0.9, 1: 0.9, 3: 0.9, 4: 0.1}  # 4 lines, so 4 is the end
    (found,) = round_of([THREE], [posteriors], credit="first_fault")
    assert found.blame.tolist() == [0] * 7 + [1]
    (found,) = round_of([THREE], [posteriors], credit="blame")
    assert found.blame[-1] == 1.0
    assert found.blame[:-1].max() < 0.02
    (found,) = round_of([THREE], [posteriors], form="min", credit="to_go")
    assert to_go(found) == pytest.approx([0.1] * 8)


def test_something_missing_at_the_end_lowers_a_program_as_a_wrong_line_does():
    good, unfinished = round_of([THREE] * 2, [{0: 0.9, 1: 0.9, 3: 0.9, 4: p} for p in (0.9, 0.1)])
    assert good.value > unfinished.value + 0.3
