"""The forms: from the lines' evidence to a program's worth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from crlhf_ray.feedback.annotators.settings import TestsSettings
from crlhf_ray.reward import FORMS, RewardSettings, evidence_of, learnt_log_odds, program_score, score_round
from crlhf_ray.rollout.sample import Line, Sample

LINES = st.lists(st.floats(-20, 20), min_size=1, max_size=200).map(np.array)


def settings(form: str, **more) -> RewardSettings:
    return RewardSettings(form=form, **more)


def test_mean_is_the_correction_rate_and_hard_counts_lines_at_or_above_one_half():
    evidence = evidence_of([0.9, 0.5, 0.1], 0.5)
    assert program_score(evidence, 0.5, settings("mean")) == pytest.approx(0.5)
    assert program_score(evidence, 0.5, settings("hard")) == pytest.approx(2 / 3)


def test_min_product_and_softmin_by_hand():
    evidence = evidence_of([0.9, 0.5, 0.1], 0.5)
    assert program_score(evidence, 0.5, settings("min")) == pytest.approx(0.1)
    assert program_score(evidence, 0.5, settings("product")) == pytest.approx(0.045)
    weights = np.exp([-9.0, -5.0, -1.0])
    assert program_score(evidence, 0.5, settings("softmin")) == pytest.approx(weights @ [0.9, 0.5, 0.1] / weights.sum())


def test_softmin_at_a_low_temperature_is_min():
    evidence = np.array([2.0, -1.0, 0.5])
    cold = settings("softmin", softmin_temperature=1e-3)
    assert program_score(evidence, 0.5, cold) == pytest.approx(program_score(evidence, 0.5, settings("min")))


def test_right_is_bayes_rule_for_one_fault_that_is_as_likely_on_each_line():
    evidence = np.array([1.5, -2.0, 0.3, 0.0])
    found = program_score(evidence, 0.5, settings("right", prior_right=0.6, fault_growth=0.0))
    # P(marks | correct line) = sigmoid(l), P(marks | wrong line) = sigmoid(-l), up to a common factor of the line
    intact = np.prod(expit(evidence))
    broken = np.mean([intact * expit(-one) / expit(one) for one in evidence])
    assert found == pytest.approx(0.6 * intact / (0.6 * intact + 0.4 * broken))


def test_a_growth_of_one_makes_the_mean_a_sum():
    evidence = np.array([1.0, -1.0, 2.0])
    found = program_score(evidence, 0.5, settings("right", prior_right=0.5, fault_growth=1.0))
    assert found == pytest.approx(1 / (1 + np.exp(-evidence).sum() / 6))


def test_right_does_not_depend_on_the_prior_of_a_line_and_the_mean_does():
    evidence = np.array([1.0, 2.0])
    assert FORMS["right"](evidence, 0.5, settings("right")) == FORMS["right"](evidence, 0.9, settings("right"))
    assert FORMS["mean"](evidence, 0.5, settings("mean")) < FORMS["mean"](evidence, 0.9, settings("mean"))


@pytest.mark.parametrize("prior, temperature", [(0.5, 1.0), (0.9, 1.0), (0.9, 2.5)])
def test_evidence_is_what_the_marks_add_to_the_prior_over_the_temperature(prior, temperature):
    evidence = np.array([1.2, -0.7])
    p = expit((logit(prior) + evidence) / temperature)
    assert evidence_of(p, prior, temperature) == pytest.approx(evidence / temperature)


def test_lines_that_nobody_was_sure_about_leave_the_program_at_its_prior():
    for lines in (1, 6, 200):
        assert program_score(np.zeros(lines), 0.5, settings("right", fault_growth=0.0)) == pytest.approx(0.7)


def test_a_line_known_to_be_wrong_makes_the_program_wrong_and_known_right_ones_make_it_right():
    assert program_score(evidence_of([1.0, 0.0, 1.0], 0.5), 0.5, settings("right")) < 1e-6
    assert program_score(evidence_of([1.0, 1.0, 1.0], 0.5), 0.5, settings("right")) > 1 - 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_a_program_without_code_scores_zero(form):
    assert program_score(np.zeros(0), 0.5, settings(form)) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match=r"p_correct\[1\]"):
        evidence_of([0.5, bad], 0.5)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "softmin"])
@given(evidence=LINES, shift=st.floats(0, 5), prior=st.sampled_from([0.1, 0.5, 0.9]))
def test_a_score_is_a_probability_and_better_marks_never_lower_it(form, evidence, shift, prior):
    one, better = (program_score(lines, prior, settings(form)) for lines in (evidence, evidence + shift))
    assert 0 <= one <= better + 1e-12 <= 1 + 1e-11


@given(evidence=LINES, prior=st.sampled_from([0.1, 0.5, 0.9]))
def test_softmin_lies_between_the_weakest_line_and_the_mean(evidence, prior):
    low, score, high = (program_score(evidence, prior, settings(form)) for form in ("min", "softmin", "mean"))
    assert low - 1e-12 <= score <= high + 1e-12


@pytest.mark.parametrize("form", FORMS)
@given(evidence=LINES, seed=st.integers(0, 9))
def test_the_order_of_lines_does_not_matter(form, evidence, seed):
    other = np.random.default_rng(seed).permutation(evidence)
    assert program_score(other, 0.5, settings(form)) == pytest.approx(program_score(evidence, 0.5, settings(form)))


def marks(rng, programs: int, lines: int, share: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Evidence of ten people who find .77 of the correct and .51 of the wrong lines, and which programs are right."""
    right = rng.random(programs) < share
    found = []
    for ok in right:
        said = np.where(np.arange(lines) == (rng.integers(lines) if not ok else -1), 0.49, 0.77)
        correct = rng.binomial(10, said)
        found.append(correct * np.log(0.77 / 0.49) + (10 - correct) * np.log(0.23 / 0.51))
    return found, right


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_right_programs_is_learnt_from_marks_alone(share):
    evidence, right = marks(np.random.default_rng(3), 600, 4, share)
    learnt = learnt_log_odds(evidence, ["p"] * 600, 0.0)
    assert expit(learnt["p"]) == pytest.approx(right.mean(), abs=0.06)


def test_a_problem_with_few_programs_is_drawn_to_the_round():
    rng = np.random.default_rng(5)
    hard, _ = marks(rng, 300, 4, 0.05)
    one, _ = marks(rng, 1, 4, 1.0)
    learnt = learnt_log_odds([*hard, *one], ["hard"] * 300 + ["easy"], 0.0)
    assert learnt["hard"] < learnt["easy"] < 1.0


# -- tests as a mark on the whole program -----------------------------------------------------------------------------


def scored(passed, tests, **settings):
    """The reward of a program of three lines, the last of them doubtful."""
    text = "\n".join(["", "    a = x", "    b = a", "    return b"])
    lines = tuple(Line(n, part, n, n + 1, bool(part)) for n, part in enumerate(text.split("\n")))
    sample = Sample("s", "p", (1,), (7,) * 4, np.zeros(4), text, lines, 0, "eos", "a")
    posteriors = [{1: 0.9, 2: 0.8, 3: 0.4}]
    (score,) = score_round(
        [sample], posteriors, RewardSettings(**settings), prior=0.5, passed=[passed], seed=0, tests=tests
    )
    return score.value


@pytest.mark.parametrize("prior_right", [0.7, 0.3])
@pytest.mark.parametrize("passed, likelier", [(True, 0.99 / 0.1), (False, 0.01 / 0.9)])
def test_a_verdict_moves_the_odds_that_the_program_is_right_by_its_likelihood_ratio(passed, likelier, prior_right):
    verdict = TestsSettings(sensitivity=0.99, specificity=0.9)
    without = scored(passed, None, prior_right=prior_right)
    value = scored(passed, verdict.evidence, prior_right=prior_right)
    assert value / (1 - value) == pytest.approx(likelier * without / (1 - without))


def test_tests_that_catch_nothing_say_nothing():
    assert scored(True, TestsSettings(sensitivity=0.7, specificity=0.3).evidence) == pytest.approx(scored(True, None))


def test_a_program_without_a_verdict_is_scored_by_its_lines():
    assert scored(None, TestsSettings().evidence) == scored(None, None)


def test_the_learnt_share_of_right_programs_counts_the_verdicts_too():
    verdict = TestsSettings()
    assert scored(False, verdict.evidence, prior_right="learnt") < scored(None, None, prior_right="learnt")
    assert scored(True, verdict.evidence, prior_right="learnt") > scored(None, None, prior_right="learnt")
