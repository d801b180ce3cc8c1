"""The correction rate (Eq. 9) and how its credit lands on tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlhf_ray.errors import DataError
from crlhf_ray.reward import correction_rate, token_rewards
from crlhf_ray.rollout.sample import Line, Sample


def sample_of(*spans: tuple[str, int]) -> Sample:
    """A sample from (line text, number of its tokens); a line carries code unless it is blank or a comment."""
    lines, start = [], 0
    for number, (text, tokens) in enumerate(spans):
        code = bool(text.strip()) and not text.strip().startswith("#")
        lines.append(Line(number, text, start, start + tokens, code))
        start += tokens
    text = "\n".join(line.text for line in lines)
    return Sample("s0", "p0", (1,), tuple(range(start)), np.zeros(start), text, tuple(lines), 0, "stop", "r0")


def test_soft_is_the_mean_posterior():
    assert correction_rate([0.9, 0.5, 0.1]) == pytest.approx(0.5)


def test_hard_counts_lines_at_or_above_one_half():
    assert correction_rate([0.9, 0.5, 0.1], "hard") == pytest.approx(2 / 3)


def test_a_program_without_code_scores_zero():
    assert correction_rate([]) == 0.0
    assert not token_rewards(sample_of(("", 1), ("    # nothing", 3)), {}).any()
    assert token_rewards(sample_of(), {}).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match=r"p_correct\[1\]"):
        correction_rate([0.5, bad])
    with pytest.raises(DataError, match="sample s0"):
        token_rewards(sample_of(("a", 1), ("b", 1)), {0: 0.5, 1: bad})


def test_sequence_credit_puts_the_whole_score_on_the_last_token():
    rewards = token_rewards(sample_of(("a = 1", 3), ("b = 2", 2)), {0: 1.0, 1: 0.5}, credit="sequence")
    assert rewards.tolist() == [0, 0, 0, 0, 0.75]
    assert rewards.dtype == np.float32


def test_line_credit_puts_each_share_on_the_lines_last_token():
    rewards = token_rewards(sample_of(("", 1), ("a = 1", 3), ("b = 2", 2)), {1: 1.0, 2: 0.5}, credit="line")
    assert rewards.tolist() == [0, 0, 0, 0.5, 0, 0.25]


def test_a_line_without_tokens_hands_its_share_to_the_token_before():
    rewards = token_rewards(sample_of(("a", 2), ("b", 0), ("c", 1)), {0: 1.0, 1: 1.0, 2: 1.0})
    assert rewards == pytest.approx([0, 2 / 3, 1 / 3])


def test_lines_and_posteriors_must_match():
    sample = sample_of(("a = 1", 3), ("# note", 2))
    with pytest.raises(DataError, match=r"no posterior for lines \[0\].*posteriors for lines \[1\]"):
        token_rewards(sample, {1: 0.5})


def test_padding_lifts_the_mean_but_not_the_weakest_line():
    wrong = sample_of(("return 0", 2))
    padded = sample_of(("pass", 1), ("pass", 1), ("return 0", 2))
    before, after = {0: 0.1}, {0: 1.0, 1: 1.0, 2: 0.1}
    assert token_rewards(padded, after).sum() > token_rewards(wrong, before).sum() + 0.5
    same = token_rewards(wrong, before, weakest=1.0).sum()
    assert token_rewards(padded, after, weakest=1.0).sum() == pytest.approx(same)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=12),
    st.sampled_from(["soft", "hard"]),
)
def test_both_credits_sum_to_the_correction_rate(rows, form):
    rows[0] = (rows[0][0], rows[0][1] + 1, rows[0][2])
    sample = sample_of(*[("x" if code else "", tokens) for code, tokens, _ in rows])
    p = {i: row[2] for i, row in enumerate(rows) if row[0]}
    rate = correction_rate(list(p.values()), form)
    for credit in ("sequence", "line"):
        assert token_rewards(sample, p, form, credit).sum() == pytest.approx(rate, abs=1e-5)
