import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crlhf_ray.feedback.desk.queue import QueueSettings, expected_gain, honeypot_share, labels_wanted, rank

PROBABILITY = st.floats(0, 1)
LINES = st.lists(PROBABILITY, min_size=1, max_size=20).map(np.array)
SETTINGS = QueueSettings(labels_least=2, labels_most=6)


@given(LINES, PROBABILITY, PROBABILITY)
def test_a_vote_tells_between_nothing_and_what_is_left_to_know(p, sensitivity, specificity):
    gain = expected_gain(p, sensitivity, specificity)
    left = -(p * np.log2(np.clip(p, 1e-12, 1)) + (1 - p) * np.log2(np.clip(1 - p, 1e-12, 1)))
    assert (gain >= 0).all()
    assert (gain <= left + 1e-6).all()


def test_a_perfect_vote_on_an_even_line_tells_one_bit():
    assert expected_gain(np.array([0.5]), 1.0, 1.0) == pytest.approx(1.0)


def test_a_vote_of_somebody_who_guesses_tells_nothing():
    assert expected_gain(np.array([0.2, 0.5]), 0.5, 0.5) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(0, 10), LINES)
def test_a_program_never_has_fewer_labels_than_the_least_nor_more_than_the_most(labels, gain):
    wanted = labels_wanted(labels, gain, SETTINGS)
    assert wanted >= SETTINGS.labels_least
    assert wanted <= max(labels, SETTINGS.labels_most)


def test_a_sure_program_is_done_and_an_open_question_gets_one_more():
    assert labels_wanted(2, np.array([0.01, 0.02]), SETTINGS) == 2
    assert labels_wanted(2, np.array([0.01, 0.30]), SETTINGS) == 3


@given(st.floats(0, 1e6), LINES, LINES)
def test_nothing_waits_longer_than_the_boost_behind_its_turn(came, gain, other):
    assert rank(came, gain, SETTINGS) <= rank(came + SETTINGS.boost_seconds + 1e-3, np.minimum(other, 1), SETTINGS)


@given(PROBABILITY, PROBABILITY)
def test_who_is_known_less_gets_more_honeypots(a, b):
    assert honeypot_share(max(a, b), SETTINGS) >= honeypot_share(min(a, b), SETTINGS)
    assert SETTINGS.honeypots_least <= honeypot_share(a, SETTINGS) <= SETTINGS.honeypots_most


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="labels_least=5 is above labels_most=3"):
        QueueSettings(labels_least=5, labels_most=3)
