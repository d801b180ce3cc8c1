"""The policy, its frozen reference and the value head, computed over packed prompt trees (`batching.Packed`).

What is not computed: a prompt twice, logits of tokens that nobody scores, padding, weight gradients of frozen layers,
and, where LoRA starts at a higher layer, the layers below it more than once (policy, reference and all epochs share
their output).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

from crlhf_ray.learner.batching import Packed

#: Rows of logits normalised at a time: 32 x 49152 fp32 numbers are 6 MB, which a CPU's cache still holds.
ROWS = 32


def tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    trees: tuple[tuple[int, ...], ...],
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row: prompts are causal, each answer sees its prompt and itself, nothing else.

    query, key, value: [1, heads, N, head_dim]; key and value may have fewer heads. Returns [1, N, heads, head_dim].
    """
    grouped = query.shape[1] != key.shape[1]
    lengths = [length for tree in trees for length in tree if length]
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    outputs = []
    for tree in trees:
        q, prompt_key, prompt_value = next(parts)
        outputs.append(
            F.scaled_dot_product_attention(
                q, prompt_key, prompt_value, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        )
        for length in tree[1:]:
            if not length:
                continue
            q, k, v = next(parts)
            visible = torch.ones(length, tree[0] + length, dtype=torch.bool, device=q.device).tril(tree[0])
            outputs.append(
                F.scaled_dot_product_attention(
                    q,
                    torch.cat((prompt_key, k), 2),
                    torch.cat((prompt_value, v), 2),
                    attn_mask=visible,
                    scale=scaling,
                    enable_gqa=grouped,
                )
            )
    return torch.cat(outputs, 2).transpose(1, 2), None


AttentionInterface.register("crlhf_tree", tree_attention)


class _TokenLogprobs(torch.autograd.Function):
    """Log-probs of given tokens and entropies. Overwrites the logits, first with probabilities, then with gradients:
    plain autograd would hold three more arrays of M x vocabulary."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, entropies_wanted: bool) -> Any:
        logprobs, entropies = [], []
        for rows, tokens in zip(logits.split(ROWS), targets.split(ROWS), strict=True):
            normalised = torch.log_softmax(rows, -1)
            logprobs.append(normalised.gather(1, tokens[:, None])[:, 0])
            torch.exp(normalised, out=rows)
            if entropies_wanted:
                entropies.append(-torch.linalg.vecdot(rows, normalised.clamp_(min=-1e4)))
        ctx.probabilities, ctx.targets = logits, targets
        joined = torch.cat(logprobs)
        ctx.entropies = torch.cat(entropies) if entropies_wanted else torch.zeros_like(joined)
        return joined, ctx.entropies

    @staticmethod
    def backward(ctx: Any, by_logprob: torch.Tensor, by_entropy: torch.Tensor) -> Any:
        gradient, ctx.probabilities = ctx.probabilities, None
        bonus = bool(by_entropy.any())
        for start in range(0, len(gradient), ROWS):
            rows, span = gradient[start : start + ROWS], slice(start, start + ROWS)
            if bonus:  # dH/dlogit = -p (log p + H)
                extra = by_entropy[span, None] * (torch.special.entr(rows) - rows * ctx.entropies[span, None])
            rows.mul_(-by_logprob[span, None])
            rows.scatter_add_(1, ctx.targets[span, None], by_logprob[span, None])
            if bonus:
                rows.add_(extra)
        return gradient, None, None


class ValueHead(nn.Module):
    """Two layers over a hidden state; starts at value 0."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.outer = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden] to [M]."""
        normed = self.norm(hidden.float()).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(normed)))[:, 0].float()


@dataclass
class Frozen:
    """What does not change within an update.

    below: [1, N, hidden] input of the first trainable layer; None where that is the first layer.
    logprobs: [M] of the reference. features: [M, hidden] last hidden states of the reference, for the value head.
    """

    below: torch.Tensor | None
    logprobs: torch.Tensor
    features: torch.Tensor


@dataclass
class Scored:
    """Of each generated token, [M]: log-prob under the policy, entropy of its distribution, value of the state."""

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor


class ActorCritic(nn.Module):
    """One module, so that DeepSpeed's hooks see every use of every parameter.

    Args:
        policy: a Hugging Face causal LM, or a peft model around one.
        reference: a frozen copy of the policy as it was at the start; None under LoRA, whose base is that copy.
        value_trunk: "separate" (values from the reference's hidden states) or "shared" (from the policy's).
    """

    def __init__(self, policy: nn.Module, reference: nn.Module | None, value_trunk: Literal["separate", "shared"]):
        super().__init__()
        self.policy, self.reference, self.value_trunk = policy, reference, value_trunk
        self.adapted = hasattr(policy, "peft_config")
        if (reference is None) != self.adapted:
            raise ValueError("a reference copy is for full fine-tuning, and only for it")
        config: Any = policy.config
        for model in (self._inner(policy), reference):
            if model is not None:
                model.set_attn_implementation("crlhf_tree")  # type: ignore[operator]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # all ranks start from the same head
            self.value_head = ValueHead(config.hidden_size)
        self.first_trained = self._first_trained_layer()
        self.eval()  # dropout would make log-probs differ from those of the rollouts

    def _inner(self, model: nn.Module) -> Any:
        return model.get_base_model() if model is self.policy and self.adapted else model  # type: ignore[operator]

    def _first_trained_layer(self) -> int:
        trunk = self._inner(self.policy).base_model
        layers = getattr(trunk, "layers", None)
        if not self.adapted or layers is None:
            return 0
        trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
        outside = any(p.requires_grad for name, p in trunk.named_parameters() if not name.startswith("layers."))
        return 0 if outside or not any(trained) else trained.index(True)

    def forward(
        self,
        row: Packed,
        part: Literal["frozen", "values", "policy"] = "policy",
        frozen: Frozen | None = None,
        entropy: bool = True,
    ) -> Any:
        """`Frozen` of a row, its values [M] (both under no_grad), or its `Scored` under the policy."""
        if part == "values" and self.value_trunk == "separate" and frozen is not None:
            return self.value_head(frozen.features)
        device = self.value_head.outer.weight.device
        ids = torch.from_numpy(row.input_ids).to(device)[None]
        positions = torch.from_numpy(row.position_ids).to(device)[None]
        predictors = torch.from_numpy(row.predictors).to(device)
        if part == "frozen":
            model = self.reference if self.reference is not None else self.policy
            unadapted = self.policy.disable_adapter() if self.adapted else nullcontext()  # type: ignore[operator]
            with unadapted, self._capture(model) as captured:
                features = self._hidden(model, row, positions, ids=ids)[predictors]
                logprobs, _ = self._logprobs(model, features, row, entropy=False)
            return Frozen(captured[0] if captured else None, logprobs, features)
        below = frozen.below if frozen is not None else None
        hidden = self._hidden(self.policy, row, positions, ids=ids, below=below)[predictors]
        if part == "values":
            return self.value_head(hidden)
        logprobs, entropies = self._logprobs(self.policy, hidden, row, entropy)
        seen = hidden if self.value_trunk == "shared" else frozen.features if frozen is not None else hidden.detach()
        return Scored(logprobs, entropies, self.value_head(seen))

    def _hidden(
        self,
        model: nn.Module,
        row: Packed,
        positions: torch.Tensor,
        *,
        ids: torch.Tensor,
        below: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, hidden] after the last norm. With ``below`` only the layers from the first trained one on are run."""
        trunk = self._inner(model).base_model
        if below is None:
            return trunk(input_ids=ids, position_ids=positions, use_cache=False, trees=row.trees).last_hidden_state[0]
        layers = trunk.layers
        trunk.layers = layers[self.first_trained :]
        try:
            out = trunk(inputs_embeds=below, position_ids=positions, use_cache=False, trees=row.trees)
        finally:
            trunk.layers = layers
        return out.last_hidden_state[0]

    @contextmanager
    def _capture(self, model: nn.Module) -> Iterator[list[torch.Tensor]]:
        """Collects the input of the first trained layer, where layers below it are frozen."""
        captured: list[torch.Tensor] = []
        if not self.first_trained:
            yield captured
            return
        layer = self._inner(model).base_model.layers[self.first_trained]
        hook = layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        try:
            yield captured
        finally:
            hook.remove()

    def _logprobs(
        self, model: nn.Module, hidden: torch.Tensor, row: Packed, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        head = self._inner(model).get_output_embeddings()
        targets = torch.from_numpy(row.targets).to(hidden.device)
        logits = head(hidden).float()
        if (scaling := getattr(model.config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / scaling
        if (row.temperatures != 1.0).any():
            logits = logits / torch.from_numpy(row.temperatures).to(hidden.device)[:, None]
        logprobs, entropies = _TokenLogprobs.apply(logits, targets, entropy)
        return logprobs, entropies
