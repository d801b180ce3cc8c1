"""What `crlhf plan` predicts of a rank is what its tensors take: sizes and architectures that nothing was fitted to."""

from __future__ import annotations

import gc
import os
from copy import deepcopy

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import pytest
import torch
from batches import problem
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from crlhf_ray.config import load_config
from crlhf_ray.learner.batching import plan
from crlhf_ray.learner.forward import ActorCritic
from crlhf_ray.learner.linear import use_onednn
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.zero import checkpoint_layers
from crlhf_ray.memory import Row, expected_row, rank_items, shape_of, total
from crlhf_ray.policy.model import adapt
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

#: Three sizes of three families, all unlike the presets.
SIZES = {  # hidden, inner, layers, heads, heads of keys
    "llama": (160, 420, 5, 10, 2),
    "qwen2": (96, 512, 9, 6, 6),
    "starcoder2": (256, 640, 3, 8, 4),
}
FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
CASES = [(name, lora, name == "qwen2") for name in SIZES for lora in (None, LoraSettings(r=4))]
CASES.append(("llama", None, True))


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on a busy machine wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(name):
    sizes = dict(zip(FIELDS, SIZES[name], strict=True))
    return AutoConfig.for_model(
        name,
        vocab_size=700,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        **sizes,
    )


def measured(config, lora, learner):
    """Bytes of all tensors at the highest point of a step whose minibatch has two rows, and one of the rows.

    What the CPU's allocator gives and takes back is summed as it happens; the optimizer's moments are there.
    """
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config)
    reference = deepcopy(policy).requires_grad_(False) if lora is None else None
    module = ActorCritic(policy if lora is None else adapt(policy, lora), reference, "separate")
    use_onednn(module)
    if learner.checkpoint_activations:
        checkpoint_layers(module)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    samples = problem("a", 40, [50, 60, 30], vocabulary=700) + problem("b", 25, [40, 45], vocabulary=700)
    (row,) = plan(samples, minibatch_samples=9, ranks=1, micro_batch_tokens=400, seed=[0])[0][0]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    resident = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *moments])
    gc.collect()  # what earlier tests left would be given back while this one is measured
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with torch.no_grad():
            states = [module(row, "frozen") for _ in range(2)]
        for frozen in states:
            scored = module(row, "policy", frozen)
            (scored.logprobs.sum() + scored.values.sum()).backward()
        optimizer.step()
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return resident, int(np.cumsum(changes).max()), row


@pytest.mark.parametrize(("name", "lora", "again"), CASES)
def test_a_ranks_memory_is_predicted_within_a_fifth(name, lora, again):
    config, learner = config_of(name), LearnerSettings(checkpoint_activations=again)
    resident, passing, row = measured(config, lora, learner)
    scored = len(row.targets)
    items = rank_items(shape_of(config, lora), Row.of(row.trees, scored), ModelSettings(lora=lora), learner, 2 * scored)
    staying = [item for item in items if item.name in ("weights", "reference", "optimizer")]
    assert total(staying) == pytest.approx(resident, rel=0.001)
    assert total(items) - total(staying) == pytest.approx(passing, rel=0.2), "gradients and activations"
    assert total(items) == pytest.approx(resident + passing, rel=0.2)


def rows_of(batch, minibatch, ranks, tokens, order):
    cut = plan(batch, minibatch_samples=minibatch, ranks=ranks, micro_batch_tokens=tokens, seed=[order])
    return [row for step in cut for rows in step for row in rows]


@pytest.mark.parametrize(
    ("problems", "samples", "minibatch"), [(8, 6, 16), (3, 4, 16), (5, 8, 8), (4, 10, 8), (2, 24, 16)]
)
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("tokens", [200, 700, 4096])
def test_the_largest_row_is_as_long_as_the_longest_that_the_learner_packs(problems, samples, minibatch, ranks, tokens):
    length = 96
    changes = {
        "run.problems_per_round": problems,
        "run.samples_per_problem": samples,
        "learner.minibatch_samples": minibatch,
        "learner.ranks": ranks,
        "learner.micro_batch_tokens": tokens,
        "rollout.max_tokens": length,
    }
    expected = expected_row(load_config(None, [f"{key}={value}" for key, value in changes.items()]))
    batch = [one for number in range(problems) for one in problem(str(number), length, [length] * samples)]
    packed = max(len(row.input_ids) for order in range(40) for row in rows_of(batch, minibatch, ranks, tokens, order))
    assert expected.tokens == (packed if samples <= minibatch else pytest.approx(packed, rel=0.01))


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
def test_layers_that_are_computed_again_have_the_same_gradients(lora):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(config_of("llama"))
        module = ActorCritic(
            policy if lora is None else adapt(policy, lora),
            deepcopy(policy).requires_grad_(False) if lora is None else None,
            "separate",
        )
        if again:
            checkpoint_layers(module)
        (row,) = plan(problem("a", 9, [5, 6]), minibatch_samples=9, ranks=1, micro_batch_tokens=99, seed=[0])[0][0]
        module(row, "policy").logprobs.sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    plain, again = found
    assert plain.keys() == again.keys()
    assert any(gradient.any() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)
