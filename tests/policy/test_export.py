"""From trained weights to a model that anybody loads."""

from __future__ import annotations

import json

import pytest
import torch

from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.policy.export import assemble, check_repository, load_saved, push, save, serve_command
from crlhf_ray.policy.model import load_model, load_tokenizer
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

FULL = ModelSettings(name="tiny")
LORA = ModelSettings(name="tiny", lora=LoraSettings(r=4))
TEXT = "def double(x):\n    return 2 * x\n"


def trained(settings):
    """Weights as after training: every trained one has moved."""
    torch.manual_seed(1)
    moved = {n: p.detach().clone() for n, p in load_model(settings).named_parameters() if p.requires_grad}
    return {name: weight + 0.05 * torch.randn_like(weight) for name, weight in moved.items()}


def logits(model):
    return model(load_tokenizer("tiny")(TEXT, return_tensors="pt").input_ids).logits.detach()


@pytest.mark.parametrize(
    "settings, form", [(FULL, "merged"), (LORA, "merged"), (LORA, "adapter")], ids=["full", "merged", "adapter"]
)
def test_what_is_saved_computes_what_was_trained(tmp_path, settings, form):
    model = assemble(settings, trained(settings))
    expected = logits(model)
    assert (expected - logits(load_model(settings))).abs().max() > 0.01, "the weights must have moved"
    save(model, settings, tmp_path, form=form)
    assert (logits(load_saved(tmp_path, settings, form, "float32")) - expected).abs().max() < 1e-4
    assert load_tokenizer(str(tmp_path) if form == "merged" else "tiny").decode([65]) is not None
    assert (tmp_path / "generation_config.json").exists()


def test_files_of_weights_are_no_larger_than_asked_for(tmp_path):
    save(assemble(FULL, trained(FULL)), FULL, tmp_path, shard_size="300KB")
    shards = list(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert max(path.stat().st_size for path in shards) < 320_000
    assert set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values()) == {
        path.name for path in shards
    }


def test_weights_are_written_in_the_type_that_was_asked_for(tmp_path):
    save(assemble(LORA, trained(LORA)), LORA, tmp_path, dtype="bfloat16")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.dtype for p in load_saved(tmp_path, LORA, "merged", "bfloat16").parameters()} == {torch.bfloat16}


def test_a_checkpoint_of_another_model_is_refused_by_the_first_weight_that_does_not_fit():
    weights = trained(LORA)
    with pytest.raises(EngineError, match=r"holds no model\.embed_tokens\.weight: it belongs to another model"):
        assemble(FULL, weights)
    with pytest.raises(EngineError, match=r"lora_A.*is \(4, 128\) in the checkpoint and \(8, 128\) in tiny"):
        assemble(ModelSettings(name="tiny", lora=LoraSettings(r=8)), weights)
    with pytest.raises(EngineError, match=r"tiny has no model\.layers\.9, which the checkpoint holds"):
        assemble(LORA, weights | {"model.layers.9": torch.zeros(1)})


def test_the_command_that_serves_an_adapter_makes_room_for_its_rank(tmp_path):
    line = serve_command(tmp_path, LORA, "adapter", "float32", "mine")
    assert f"--enable-lora --max-lora-rank 8 --lora-modules mine={tmp_path}" in line
    wide = ModelSettings(name="tiny", lora=LoraSettings(r=600))
    assert "export it merged" in serve_command(tmp_path, wide, "adapter", "float32", "mine")


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/white space"])
def test_a_repository_is_named_as_owner_and_name(name):
    with pytest.raises(ConfigError, match="--push"):
        check_repository(name)


def test_what_cannot_be_pushed_says_why_and_how_to_push_it_later(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"is whole but was not pushed to me/mine.*hf upload me/mine"):
        push(tmp_path, "me/mine")
