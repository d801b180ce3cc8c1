"""oneDNN's linear layers give what torch's own give."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from crlhf_ray.learner.linear import OneDnnLinear, use_onednn


@pytest.mark.parametrize("shape", [(7, 24), (1, 5, 24), (1, 24), (0, 24)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_output_and_gradients_equal_those_of_torchs_layer(shape, bias, trained):
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).requires_grad_(trained)
    fast = deepcopy(plain)
    use_onednn(fast)
    assert type(fast) is OneDnnLinear
    results = []
    for layer in (plain, fast):
        x = torch.linspace(-1, 1, 24 * max(1, shape[-2])).expand(*shape[:-2], -1).reshape(-1, 24)
        x = x[: shape[-2]].reshape(shape).clone().requires_grad_()
        y = layer(x)
        (y * torch.arange(40)).sum().backward()
        results.append([y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for expected, found in zip(*results, strict=True):
        assert (expected is None and found is None) or torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_names_weights_and_ties_of_a_model_stay():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    before = dict(model.named_parameters())
    use_onednn(model)
    assert all(model.get_parameter(name) is parameter for name, parameter in before.items())
    assert model[2].weight is model[0].weight


def test_other_types_than_float32_go_torchs_way():
    layer = nn.Linear(4, 4).to(torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = layer(x)
    use_onednn(layer)
    assert torch.equal(layer(x), expected)
