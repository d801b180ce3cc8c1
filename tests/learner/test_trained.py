"""Checkpoints of real DeepSpeed ranks, read and exported without them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import batch, sampled_by
from rich.console import Console

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError, DataError, EngineError
from crlhf_ray.export import export_model
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.trained import read_trained
from crlhf_ray.learner.worker import LearnerWorker
from crlhf_ray.policy.checkpoints import LATEST, named_tag, publish
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SMALL = {"lr": 1e-2, "epochs": 1, "minibatch_samples": 4, "micro_batch_tokens": 64, "threads_per_rank": 1}


def one_rank(rank: int, settings: LearnerSettings, model: ModelSettings, folder: str, port: int) -> None:
    """Start, learn once, save."""
    worker = LearnerWorker(settings, model, rank, f"{folder}/rank{rank}.log")
    worker.start(("127.0.0.1", port))
    worker.update(sampled_by(worker.logprobs(batch()), batch()))
    step = worker.save(folder, {"round": 1})
    torch.distributed.barrier()
    if rank == 0:
        publish(Path(folder), step, {"ranks": settings.ranks, "zero_stage": settings.zero_stage})
    worker.close()


def write_run(folder: Path, model: ModelSettings, **learner: object) -> Path:
    """A run's folder with its settings and one checkpoint."""
    settings = LearnerSettings(**SMALL, **learner)  # type: ignore[arg-type]
    (folder / "checkpoints").mkdir(parents=True)
    config = load_config(changes=[f"run.dir={folder}"]).model_copy(update={"model": model, "learner": settings})
    (folder / "settings.json").write_text(config.model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (settings, model, str(folder / "checkpoints"), port), nprocs=settings.ranks)
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """LoRA on two ranks at stage 3."""
    model = ModelSettings(name="tiny", lora=LoraSettings(r=4))
    return write_run(tmp_path_factory.mktemp("runs") / "adapted", model, ranks=2, zero_stage=3)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All weights on one rank."""
    return write_run(tmp_path_factory.mktemp("runs") / "full", ModelSettings(name="tiny"))


def export(run, to, **options):
    return export_model(run, to=to, console=Console(quiet=True), **options)


def gap(folder):
    return json.loads((folder / "export.json").read_text())["largest_logprob_gap"]


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_adapters_sharded_over_ranks_leave_as_a_model_with_the_learners_log_probs(adapted, tmp_path, form):
    assert gap(export(adapted, tmp_path / "out", form=form)) < 1e-5


def test_full_fine_tuning_leaves_as_a_model_and_has_no_adapter(full, tmp_path):
    assert gap(export(full, tmp_path / "out")) < 1e-5
    with pytest.raises(ConfigError, match="there is no adapter; use --merged"):
        export(full, tmp_path / "adapter", form="adapter")


def test_vllm_loads_the_export_and_gives_the_learners_log_probs(adapted, tmp_path):
    from crlhf_ray.learner.forward_check import probe
    from crlhf_ray.rollout.engine import Engine, EngineOptions

    folder = export(adapted, tmp_path / "out")
    expected = read_trained(adapted / "checkpoints" / named_tag(adapted / "checkpoints", LATEST)).probe
    engine = Engine(str(folder), EngineOptions(context=128, kv_cache_bytes=2**24, max_num_seqs=2))
    asked = probe(259)[0]
    found = prompt_logprobs(engine, [*asked.prompt_token_ids, *asked.token_ids])[len(asked.prompt_token_ids) :]
    assert np.abs(np.array(found) - expected).max() < 1e-3


def prompt_logprobs(engine, ids):
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, prompt_logprobs=1, temperature=1.0)
    (output,) = engine.llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
    return [None if at is None else at[token].logprob for at, token in zip(output.prompt_logprobs, ids, strict=True)]


def test_a_lora_checkpoint_holds_adapters_and_nothing_frozen(adapted):
    weights = read_trained(adapted / "checkpoints" / "step-00000001").weights
    assert weights
    assert all(".lora_" in name for name in weights)


def test_a_base_model_that_changed_since_training_is_not_exported(adapted, tmp_path, monkeypatch):
    from crlhf_ray import export as command

    def other(settings, weights):
        """As if the base model's files had been replaced."""
        model = assemble(settings, weights)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.5)
        return model

    assemble = command.assemble
    monkeypatch.setattr(command, "assemble", other)
    with pytest.raises(EngineError, match="has the base model changed since training"):
        export(adapted, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(full, tmp_path):
    export(full, tmp_path / "out")
    export(full, tmp_path / "out", dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("x")
    with pytest.raises(ConfigError, match="already contains something else"):
        export(full, tmp_path / "thesis")


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(full, tmp_path):
    for name in ("best", "step-00000009"):
        with pytest.raises(DataError, match=rf"called '{name}'; kept are: step-00000001"):
            export(full, tmp_path / "out", checkpoint=name)


def test_a_damaged_checkpoint_is_refused(full, tmp_path):
    (tmp_path / "step-00000001").mkdir()
    with pytest.raises(DataError, match="not a whole checkpoint"):
        read_trained(tmp_path / "step-00000001")
