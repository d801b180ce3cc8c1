"""A run keeps its settings: what a resumed run or an evaluation may change, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from crlhf_ray.config import load_config, settings_file, settings_of_run
from crlhf_ray.errors import ConfigError
from crlhf_ray.evaluation.command import evaluate_policy
from crlhf_ray.pipeline.trainer import Run
from crlhf_ray.report.console import Display
from crlhf_ray.report.metrics import MetricsLog


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a run of the tiny model, as far as settings go."""
    config = load_config(changes=[f"run.dir={tmp_path}", "model.name=tiny", "model.lora.r=4", "learner.lr=1e-3"])
    settings_file(tmp_path).write_text(config.model_dump_json())
    (tmp_path / "evaluations.jsonl").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step-00000001")
    return tmp_path


def resume(run_dir: Path, *changes: str) -> Run:
    same = [f"run.dir={run_dir}", "model.name=tiny", "model.lora.r=4", "learner.lr=1e-3"]
    return Run(load_config(changes=[*same, *changes]), resume=True, display=Display(), metrics=MetricsLog)


def test_a_resumed_run_may_be_longer_elsewhere_and_measured_otherwise(trained: Path):
    resume(
        trained,
        "run.rounds=99",
        "run.checkpoint_every=5",
        "evaluation.samples=9",
        "rollout.stall_seconds=9",
        "learner.timeout_seconds=9",
        "feedback.web.deadline_minutes=5",
        "learner.cpus_per_rank=1",
        "learner.lr=1e-4",
    )


@pytest.mark.parametrize(
    "change, named",
    [
        ("run.seed=1", r"run\.seed was 0 and is 1 now"),
        ("learner.epochs=9", r"learner\.epochs was 4 and is 9 now"),
        ("model.lora=null", r"model\.lora\.r was 4 and is None now"),
        ("feedback.crowd.shared_difficulty=0.2", r"feedback\.crowd\.shared_difficulty was 0\.1"),
        ("sandbox.limits.cpu_seconds=9", r"sandbox\.limits\.cpu_seconds was 5"),
    ],
)
def test_a_resumed_run_with_another_setting_of_what_is_learnt_is_refused_by_its_name(trained: Path, change, named):
    before = settings_file(trained).read_text()
    with pytest.raises(ConfigError, match=named):
        resume(trained, change)
    assert settings_file(trained).read_text() == before


def test_a_run_that_ended_before_it_wrote_anything_down_may_be_started_with_other_settings(trained: Path):
    (trained / "evaluations.jsonl").unlink()
    resume(trained, "run.seed=1")


def test_settings_that_cannot_be_read_are_said_to_be_of_another_version(trained: Path):
    settings_file(trained).write_text('{"run": {"turns": 3}}')
    with pytest.raises(ConfigError, match=r"settings\.json is not of this version.*unknown setting run\.turns"):
        settings_of_run(trained)


@pytest.mark.parametrize("change", ["model.name=smollm2-135m", "model.lora.r=8", "problems.template=chat"])
def test_an_evaluation_of_a_run_refuses_another_model_adapter_or_template(trained: Path, change: str):
    with pytest.raises(ConfigError, match=rf"trained with other settings: {change.split('=')[0]} was"):
        evaluate_policy(load_config(changes=[change]), trained / "out.jsonl", trained, "heldout", Console())
