"""The algorithm's own steps, without engines."""

from __future__ import annotations

import numpy as np

from crlhf_ray.loop import experiences
from crlhf_ray.rollout.sample import Sample


def sample(number: int, tokens: int) -> Sample:
    return Sample(f"r0-p-{number}", "p", (5, 6), (7,) * tokens, np.zeros(tokens), "", (), 0, "eos", "a")


def test_the_learner_is_told_at_what_temperature_its_samples_were_drawn():
    (experience,) = experiences([sample(0, 2)], [np.zeros(2)], 0.7)
    assert experience.temperature == 0.7


def test_a_sample_that_stopped_before_its_first_token_teaches_nothing():
    assert [e.sample_id for e in experiences([sample(0, 0), sample(1, 2)], [np.zeros(0), np.zeros(2)], 1.0)] == [
        "r0-p-1"
    ]
