import pytest

from crlhf_ray.learner.schedule import lr_factor


def factors(count=6, **settings):
    settings = {"warmup": 0, "schedule": "constant", "updates": None, **settings}
    return [lr_factor(update, **settings) for update in range(count)]


def test_without_warm_up_and_schedule_the_rate_stays():
    assert factors() == [1.0] * 6


def test_it_warms_up_in_equal_steps_and_then_stays():
    assert factors(warmup=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_it_falls_in_a_line_to_zero_and_stays_there():
    assert factors(warmup=1, schedule="linear", updates=5) == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0])


def test_a_cosine_is_half_way_down_in_the_middle():
    assert factors(schedule="cosine", updates=4) == pytest.approx([1, 0.853553, 0.5, 0.146447, 0, 0], abs=1e-6)
