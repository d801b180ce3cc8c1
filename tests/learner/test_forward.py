"""Packed prompt trees give what the plain model gives, and gradients likewise."""

import os
from copy import deepcopy
from dataclasses import replace

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
import torch
from batches import batch

from crlhf_ray.learner.batching import IDLE, plan
from crlhf_ray.learner.forward import ActorCritic
from crlhf_ray.policy.model import load_model
from crlhf_ray.policy.settings import LoraSettings, ModelSettings


def plain_logprobs(model, sample):
    ids = torch.tensor([sample.prompt_token_ids + sample.token_ids])
    logits = model(input_ids=ids, use_cache=False).logits[0] / sample.temperature
    start = len(sample.prompt_token_ids)
    return logits.log_softmax(-1)[range(start - 1, ids.shape[1] - 1), ids[0, start:]]


def perturbed(model):
    """Adapters that do something: they start as zeros."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def rows(samples, tokens=48):
    cut = plan(samples, minibatch_samples=100, ranks=1, micro_batch_tokens=tokens, seed=[0])
    return cut[0][0]


def assert_exact(name, lora, samples):
    settings = ModelSettings(name=name, lora=lora)
    plain, base = perturbed(load_model(settings)), load_model(ModelSettings(name=name))
    model = ActorCritic(perturbed(load_model(settings)), None if lora else load_model(settings), "separate")
    with torch.no_grad():
        for row in rows(samples):
            frozen = model(row, "frozen")
            scored = model(row, "policy", frozen)
            expected = torch.cat([plain_logprobs(plain, samples[i]) for i in row.samples])
            reference = torch.cat([plain_logprobs(base, samples[i]) for i in row.samples])
            assert (scored.logprobs - expected).abs().max() < 1e-4
            assert (frozen.logprobs - reference).abs().max() < 1e-4


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
def test_packed_logprobs_equal_the_plain_models(lora):
    assert_exact("tiny", lora, batch())


def test_packed_logprobs_are_taken_at_the_temperature_of_the_rollout():
    assert_exact("tiny", LoraSettings(r=4), [replace(sample, temperature=0.7) for sample in batch()])


@pytest.mark.engine
def test_packed_logprobs_equal_the_plain_models_on_smollm2():
    assert_exact("smollm2-135m", LoraSettings(r=8), batch(vocabulary=40_000))


def test_gradients_equal_those_of_the_plain_model():
    settings, samples = ModelSettings(name="tiny"), batch()
    plain = load_model(settings)
    weights = torch.randn(sum(len(s.token_ids) for s in samples), generator=torch.Generator().manual_seed(0))
    (torch.cat([plain_logprobs(plain, s) for s in samples]) * weights).sum().backward()

    packed = load_model(settings)
    model = ActorCritic(packed, load_model(settings).requires_grad_(False), "separate")
    starts = torch.tensor([0, *[len(s.token_ids) for s in samples]]).cumsum(0)
    for row in rows(samples):
        with torch.no_grad():
            frozen = model(row, "frozen")
        own = torch.cat([weights[starts[i] : starts[i + 1]] for i in row.samples])
        (model(row, "policy", frozen).logprobs * own).sum().backward()
    for (name, expected), found in zip(plain.named_parameters(), packed.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, atol=1e-4), name


def test_the_entropy_and_its_gradient_are_exact():
    settings, samples = ModelSettings(name="tiny"), batch()[:1]
    plain = load_model(settings)
    ids = torch.tensor([samples[0].prompt_token_ids + samples[0].token_ids])
    logprobs = (
        plain(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)[len(samples[0].prompt_token_ids) - 1 : -1]
    )
    expected = -(logprobs.exp() * logprobs).sum(-1)
    expected.sum().backward()

    packed = load_model(settings)
    model = ActorCritic(packed, load_model(settings).requires_grad_(False), "separate")
    (row,) = rows(samples)
    entropies = model(row, "policy").entropies
    entropies.sum().backward()
    assert torch.allclose(entropies, expected, atol=1e-5)
    for theirs, ours in zip(plain.parameters(), packed.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_frozen_layers_below_the_adapters_are_computed_once():
    settings, samples = ModelSettings(name="tiny", lora=LoraSettings(r=4)), batch()
    lm = perturbed(load_model(settings))
    for name, parameter in lm.named_parameters():
        if "layers.0." in name:
            parameter.requires_grad_(False)
            if "lora_B" in name:
                parameter.data.zero_()
    whole = deepcopy(lm)
    model = ActorCritic(lm, None, "separate")
    assert model.first_trained == 1
    calls = []
    model._inner(lm).base_model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for row in rows(samples):
            calls.clear()
            frozen = model(row, "frozen")
            scored = model(row, "policy", frozen)
            assert len(calls) == 1
            expected = torch.cat([plain_logprobs(whole, samples[i]) for i in row.samples])
            assert (scored.logprobs - expected).abs().max() < 1e-4


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_only_a_shared_value_head_reaches_the_policys_trunk(trunk):
    settings = ModelSettings(name="tiny")
    lm = load_model(settings)
    model = ActorCritic(lm, load_model(settings).requires_grad_(False), trunk)
    torch.nn.init.normal_(model.value_head.outer.weight)
    (row,) = rows(batch()[:1])
    with torch.no_grad():
        frozen = model(row, "frozen")
    model(row, "policy", frozen).values.sum().backward()
    assert model.value_head.outer.weight.grad is not None
    touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in lm.parameters())
    assert touched is (trunk == "shared")


def test_an_idle_row_gives_zero_gradients_rather_than_none():
    settings = ModelSettings(name="tiny")
    lm = load_model(settings)
    model = ActorCritic(lm, load_model(settings).requires_grad_(False), "shared")
    with torch.no_grad():
        frozen = model(IDLE, "frozen")
    scored = model(IDLE, "policy", frozen)
    (scored.logprobs.sum() + scored.values.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in lm.parameters())
