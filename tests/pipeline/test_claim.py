"""A run's folder: one process at a time, and the inputs that it was begun with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError
from crlhf_ray.pipeline.claim import check_inputs, claimed, inputs
from crlhf_ray.problems.load import load_problems

HOLD = "import sys; from pathlib import Path; from crlhf_ray.pipeline.claim import claimed\n"
HOLD += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_folder_in_use_names_the_process_that_has_it(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"is in use by process {other.pid}"), claimed(tmp_path / "run"):
        pass
    other.communicate("", timeout=60)
    with claimed(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_written_to_is_an_error_and_no_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.dir=.* cannot be written to"), claimed(tmp_path / "file" / "run"):
        pass


def test_problems_whose_content_has_changed_are_refused_on_resume(tmp_path):
    config = load_config(changes=["model.name=tiny"])
    train = load_problems("starter", "train")
    named = {"problems.source": "starter"}
    check_inputs(tmp_path, inputs(config, train), named)
    check_inputs(tmp_path, inputs(config, train), named)
    with pytest.raises(ConfigError, match=r"problems\.source=starter holds something else than when"):
        check_inputs(tmp_path, inputs(config, train[:-1]), named)


def test_a_local_model_is_known_by_its_files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = load_config(changes=[f"model.name={tmp_path / 'model'}"])
    train = load_problems("starter", "train")
    before = inputs(config, train)["model.name"]
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert inputs(config, train)["model.name"] != before
