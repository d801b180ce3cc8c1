"""Supervised fine-tuning on Ray Train and DeepSpeed: it learns, its curve is the same on any number of ranks, and an
interrupted run ends where an uninterrupted one does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray
import torch
from pydantic import ValidationError

from crlhf_ray.errors import ConfigError, EngineError, ResourceError
from crlhf_ray.policy.model import load_model, load_tokenizer
from crlhf_ray.policy.settings import LoraSettings, ModelSettings, SftSettings
from crlhf_ray.policy.sft import read_metrics, run_sft

PROMPT = 'def f{n}(x):\n    """Add {n}."""'
COMPLETION = "\n    return x + {n}\n"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": PROMPT.format(n=n), "completion": COMPLETION.format(n=n)} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(pairs, directory, **changes):
    values = {
        "model": ModelSettings(name="tiny"),
        "data": f"pairs:{pairs}",
        "dir": directory,
        "epochs": 48,
        "minibatch_samples": 4,
        "micro_batch_samples": 2,
        "lr": 3e-3,
        "cpus_per_rank": 1,
        "checkpoint_every": 8,
    }
    return SftSettings(**(values | changes))


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def trained(cluster, pairs, tmp_path_factory):
    """An uninterrupted run of 96 steps on one rank."""
    chosen = settings(pairs, tmp_path_factory.mktemp("sft") / "run")
    run_sft(chosen)
    return chosen


def weights(directory):
    return load_model(ModelSettings(name=str(directory))).state_dict()


@pytest.mark.engine
def test_the_loss_falls_and_the_saved_model_writes_what_it_was_shown(trained):
    losses = [row["loss"] for row in read_metrics(trained.dir)]
    assert len(losses) == 96
    assert losses[-1] < 0.2 * losses[0]
    name = str(trained.dir / "model")
    tokenizer, model = load_tokenizer(name), load_model(ModelSettings(name=name))
    prompt = tokenizer(PROMPT.format(n=3), return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(ids).startswith("\n    return x + ")
    assert int(ids[-1]) == tokenizer.eos_token_id


@pytest.mark.engine
def test_two_ranks_at_zero_3_follow_the_curve_of_one(trained, pairs, tmp_path):
    run_sft(settings(pairs, tmp_path / "run", ranks=2, zero_stage=3))
    one, two = ([row["loss"] for row in read_metrics(directory)] for directory in (trained.dir, tmp_path / "run"))
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=1e-3, atol=1e-3)


@pytest.mark.engine
def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_weights(trained, pairs, tmp_path):
    chosen = settings(pairs, tmp_path / "run")
    code = "import sys; from crlhf_ray.policy import sft; sft.run_sft(sft.SftSettings.model_validate_json(sys.argv[1]))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    process = subprocess.Popen([sys.executable, "-c", code, chosen.model_dump_json()], env=environment)
    try:
        deadline = time.monotonic() + 300
        while not (done := read_metrics(chosen.dir)) or done[-1]["step"] < 9:
            assert process.poll() is None, "the run ended before it could be stopped"
            assert time.monotonic() < deadline, "no checkpoint within 300 s"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    assert not (chosen.dir / "model").exists()
    run_sft(chosen, resume=True)
    assert [row["step"] for row in read_metrics(chosen.dir)] == list(range(1, 97))
    before, after = weights(trained.dir / "model"), weights(chosen.dir / "model")
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


@pytest.mark.engine
def test_workers_of_an_earlier_run_end_once_another_has_the_folder(cluster, pairs, tmp_path):
    chosen = settings(pairs, tmp_path / "run", epochs=480)

    def take_over():
        while not read_metrics(chosen.dir):
            time.sleep(0.02)
        (chosen.dir / "owner").write_text("another")

    threading.Thread(target=take_over, daemon=True).start()
    with pytest.raises(EngineError, match="taken over by a later run"):
        run_sft(chosen)
    assert len(read_metrics(chosen.dir)) < 960


@pytest.mark.engine
def test_lora_is_merged_into_a_plain_model(cluster, pairs, tmp_path):
    chosen = settings(pairs, tmp_path / "run", epochs=2, model=ModelSettings(name="tiny", lora=LoraSettings(r=2)))
    run_sft(chosen)
    base, merged = weights("tiny"), weights(tmp_path / "run" / "model")
    assert base.keys() == merged.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.engine
def test_a_cluster_that_is_too_small_is_said(cluster, pairs, tmp_path):
    with pytest.raises(ResourceError, match="SFT wants 8 CPU"):
        run_sft(settings(pairs, tmp_path / "run", cpus_per_rank=8))


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path, pairs):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ConfigError, match="--resume"):
        run_sft(settings(pairs, tmp_path))


def test_resuming_with_other_settings_names_the_setting(tmp_path, pairs):
    (tmp_path / "settings.json").write_text(settings(pairs, tmp_path).model_dump_json())
    with pytest.raises(ConfigError, match=r"lr=0\.003, not 0\.1"):
        run_sft(settings(pairs, tmp_path, lr=0.1), resume=True)


def test_a_batch_that_does_not_divide_is_refused(tmp_path, pairs):
    with pytest.raises(ValidationError, match="multiple of ranks x micro_batch_samples = 3 x 2 = 6"):
        settings(pairs, tmp_path, ranks=3)


@pytest.mark.engine
def test_a_machine_without_a_compiler_can_train(tmp_path):
    code = (
        "from crlhf_ray.policy.model import ModelSettings\n"
        "from crlhf_ray.policy.sft import SftSettings, _engine\n"
        "_engine(SftSettings(model=ModelSettings(name='tiny')), steps=1)"
    )
    environment = os.environ | {
        "PATH": str(tmp_path),
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "DS_ACCELERATOR": "cpu",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
