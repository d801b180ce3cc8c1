"""What two real ranks at stage 3 hold when they hand their model to DeepSpeed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.worker import LearnerWorker
from crlhf_ray.policy.model import load_model, resolve
from crlhf_ray.policy.settings import LoraSettings, ModelSettings

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

MODELS = {
    "full": ModelSettings(name="tiny"),
    "lora": ModelSettings(name="tiny", lora=LoraSettings(r=4), dtype="bfloat16"),
}


def one_rank(rank: int, port: int, folder: str) -> None:
    """Start a learner of each model in one process group, and write down what its module held before DeepSpeed."""
    settings, found = LearnerSettings(ranks=2, zero_stage=3, threads_per_rank=1), {}
    for name, model in MODELS.items():
        worker = LearnerWorker(settings, model, rank)
        found[name] = started(worker, port)
    worker.close()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def started(worker: LearnerWorker, port: int) -> dict[str, object]:
    import deepspeed

    seen: dict[str, object] = {}
    initialize = deepspeed.initialize

    def watched(*, model, **options):
        memory.stop()
        changes = [event.nbytes() for event in memory.profiler.kineto_results.events() if event.name() == "[memory]"]
        seen["peak"] = int(np.cumsum(changes).max())
        seen.update(described(model, worker.model_settings))
        return initialize(model=model, **options)

    memory = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    deepspeed.initialize = watched
    memory.start()
    try:
        worker.start(("127.0.0.1", port))
    finally:
        deepspeed.initialize = initialize
    return seen


def described(module, settings: ModelSettings) -> dict[str, object]:
    """Bytes of a whole copy and of this rank's parts, and which weights and buffers are not the file's."""
    from deepspeed import zero

    plain = load_model(settings)
    copies = [module.policy] if module.reference is None else [module.policy, module.reference]
    wrong = []
    for copy in copies:
        for name, weight in plain.named_parameters():
            with zero.GatheredParameters([part := copy.get_parameter(name)]):
                if part.dtype != getattr(torch, settings.dtype) or not torch.equal(part, weight.to(part.dtype)):
                    wrong.append(name)
        kept = dict(copy.named_buffers())
        wrong += [name for name, one in plain.named_buffers() if not torch.equal(kept[name], one)]
    loaded = [weight for name, weight in plain.named_parameters() if ".lora_" not in name]
    base = [part for copy in copies for name, part in copy.named_parameters() if ".lora_" not in name]
    return {
        "whole": sum(weight.numel() * weight.element_size() for weight in loaded),
        "parts": sum(part.ds_tensor.numel() * part.ds_tensor.element_size() for part in base),
        "copies": len(copies),
        "wrong": wrong,
        "undivided": sum(part.numel() for part in base),
    }


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """By model: what rank 0 and rank 1 held."""
    folder = tmp_path_factory.mktemp("held")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (port, str(folder)), nprocs=2)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_divided_before_deepspeed_has_the_model(held, name):
    for rank in held[name]:
        assert rank["undivided"] == 0
        assert rank["parts"] == pytest.approx(rank["whole"] * rank["copies"] / 2, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loaded_in_parts_has_the_files_weights_and_buffers(held, name):
    assert [rank["wrong"] for rank in held[name]] == [[], []]


def test_beside_the_mapped_file_no_rank_ever_holds_a_whole_copy(held):
    mapped = Path(resolve("tiny"), "model.safetensors").stat().st_size  # the profiler counts it as memory
    for rank in held["full"]:
        assert rank["peak"] - mapped < 0.9 * rank["whole"] * rank["copies"], rank
