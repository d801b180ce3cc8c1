"""Linear layers by oneDNN. On a CPU torch gives fp32 matrix products to MKL, which leaves AVX-512 unused on AMD's
processors; oneDNN, which torch carries too, does not, and is nowhere slower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def use_onednn(model: nn.Module) -> None:
    """Have all linear layers of a model on the CPU compute by oneDNN. Weights and names stay, results to rounding."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear


class OneDnnLinear(nn.Linear):
    """A linear layer whose three products (output, gradient of the input, gradient of the weight) are oneDNN's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _Linear.apply(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, by_output: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_x = _product(by_output, weight.t(), None) if ctx.needs_input_grad[0] else None
        rows = by_output.reshape(-1, by_output.shape[-1])
        by_weight = by_bias = None
        if ctx.needs_input_grad[1]:
            by_weight = _product(rows.t().contiguous(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            by_bias = rows.sum(0)
        return by_x, by_weight, by_bias


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x weight^T + bias``; x: [..., K], weight: [N, K], any strides."""
    if not x.numel() or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
