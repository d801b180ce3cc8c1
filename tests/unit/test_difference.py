"""`crlhf plan --diff RUN`: what differs from a run's settings, and what of it a resumed run would refuse."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.config import FREE_ON_RESUME, check_unchanged, load_config, settings_file
from crlhf_ray.errors import ConfigError

KEPT = ("run.rounds=4", "learner.clip=0.2")


@pytest.fixture
def run(tmp_path):
    settings_file(tmp_path).write_text(load_config(None, [*KEPT, f"run.dir={tmp_path}"]).model_dump_json())
    return tmp_path


def plan(run, *changes):
    options = [part for change in (f"run.dir={run}", *changes) for part in ("--set", change)]
    return CliRunner().invoke(app, ["plan", "--diff", str(run), *options, "--json"])


def test_each_setting_that_differs_is_told_with_what_resume_makes_of_it(run):
    assert json.loads(plan(run, "run.rounds=9", "learner.clip=0.3").stdout) == [
        {"setting": "run.rounds", "run": 4, "now": 9, "resume": "may change"},
        {"setting": "learner.clip", "run": 0.2, "now": 0.3, "resume": "refused"},
    ]
    before, now = load_config(None, [*KEPT, f"run.dir={run}"]), load_config(None, ["learner.clip=0.3"])
    with pytest.raises(ConfigError, match=r"learner\.clip was 0\.2 and is 0\.3 now"):
        check_unchanged(before, now, run, free=FREE_ON_RESUME)


def test_the_table_ends_with_how_many_resume_would_refuse(run):
    command = ["plan", "--diff", str(run), "--set", "learner.clip=0.3", "--set", f"run.dir={run}"]
    shown = CliRunner().invoke(app, command).stdout
    assert "learner.clip" in shown
    assert "--resume would refuse 1 of them" in shown


def test_the_same_settings_have_no_differences(run):
    assert json.loads(plan(run, *KEPT).stdout) == []


def test_a_folder_that_is_not_a_run_is_refused_by_name(tmp_path):
    assert f"there is no {settings_file(tmp_path)}" in str(plan(tmp_path).exception)


def test_json_without_a_run_to_compare_with_is_refused():
    assert CliRunner().invoke(app, ["plan", "--json"]).exit_code == 2
