import pytest
import torch

from crlhf_ray.learner.loss import policy_loss, value_loss


def test_at_the_old_policy_the_gradient_is_the_advantage():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([0.5, -2.0])
    loss, clipped, divergence = policy_loss(logprobs, logprobs.detach(), advantages, clip=0.2)
    loss.backward()
    assert torch.allclose(logprobs.grad, -advantages)
    assert (clipped, divergence) == (0, 0)


@pytest.mark.parametrize(
    "log_ratio, advantage, moves",
    [(0.5, 1.0, False), (0.5, -1.0, True), (-0.5, 1.0, True), (-0.5, -1.0, False), (0.1, 1.0, True)],
)
def test_a_token_stops_moving_once_it_has_gone_far_enough_in_its_favoured_direction(log_ratio, advantage, moves):
    logprobs = torch.tensor([log_ratio], requires_grad=True)
    loss, clipped, _ = policy_loss(logprobs, torch.zeros(1), torch.tensor([advantage]), clip=0.2)
    loss.backward()
    assert bool(logprobs.grad.abs() > 0) is moves
    assert bool(clipped) is not moves


def test_the_divergence_estimate_is_never_negative():
    _, _, divergence = policy_loss(torch.randn(100), torch.randn(100), torch.randn(100), clip=0.2)
    assert divergence > 0


def test_the_value_loss_is_the_worse_of_clipped_and_unclipped():
    values, old, returns = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    # first: unclipped error 0, clipped to .2 has error .8; second: both .9
    assert value_loss(values, old, returns, clip=0.2) == pytest.approx(0.5 * (0.8**2 + 0.9**2))
