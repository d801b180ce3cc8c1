import pytest

from crlhf_ray.learner.kl import KLController
from crlhf_ray.learner.settings import KLSettings


def test_a_fixed_coefficient_stays():
    controller = KLController(KLSettings(controller="fixed", coef=0.3))
    controller.update(100.0, 1000)
    assert controller.coef == 0.3


@pytest.mark.parametrize("kl, factor", [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98)])
def test_the_adaptive_coefficient_follows_the_clipped_error(kl, factor):
    controller = KLController(KLSettings(controller="adaptive", coef=0.2, target=6, horizon=1000))
    controller.update(kl, samples=100)
    assert controller.coef == pytest.approx(0.2 * factor)


def test_the_adaptive_controller_steers_to_its_target():
    controller = KLController(KLSettings(controller="adaptive", coef=0.2, target=6, horizon=1000))
    for _ in range(2000):
        controller.update(3.0 / controller.coef, samples=32)  # a policy whose KL falls as its price rises
    assert 3.0 / controller.coef == pytest.approx(6.0, rel=0.02)
