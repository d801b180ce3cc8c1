"""Settings: read strictly, changed by path, wrong keys answered with the nearest right one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from crlhf_ray.config import load_config, with_changes
from crlhf_ray.errors import ConfigError


def test_defaults_need_no_file():
    assert load_config().run.rounds > 0


def test_a_change_overrides_the_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("run: {rounds: 3}\nmodel: {name: tiny}\n")
    config = load_config(file, ["run.rounds=5"])
    assert (config.run.rounds, config.model.name) == (5, "tiny")


def test_scientific_notation_is_a_number():
    assert load_config(changes=["learner.lr=1e-5"]).learner.lr == 1e-5


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("run: {round: 3}\n")
    with pytest.raises(ConfigError, match=r"unknown setting run\.round; did you mean run\.rounds\?"):
        load_config(file)


def test_an_unknown_key_without_a_near_one_lists_what_is_known():
    with pytest.raises(ConfigError, match=r"unknown setting run\.zzz; known: dir, seed"):
        load_config(changes=["run.zzz=1"])


def test_a_value_of_the_wrong_type_is_shown():
    with pytest.raises(ConfigError, match=r"run\.rounds: .*'many'"):
        load_config(changes=["run.rounds=many"])


def test_a_missing_file_says_where_to_look():
    with pytest.raises(ConfigError, match="ls jobs"):
        load_config(Path("no-such.yaml"))


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(file)


def test_a_change_without_a_value_shows_the_form():
    with pytest.raises(ConfigError, match="write it as"):
        load_config(changes=["learner.lr"])


@pytest.mark.parametrize(
    "change, right",
    [
        ("run.rounds=0", "greater than or equal to 1"),
        ("run.rounds=-1", "greater than or equal to 1"),
        ("run.seed=-1", "greater than or equal to 0"),
        ("run.problems_per_round=0", "greater than or equal to 1"),
        ("run.samples_per_problem=0", "greater than or equal to 1"),
        ("run.checkpoint_every=0", "greater than or equal to 1"),
        ("run.checkpoints_kept=0", "greater than or equal to 1"),
        ("evaluation.samples=0", "greater than or equal to 1"),
        ("evaluation.every=-1", "greater than or equal to 0"),
        ("evaluation.temperature=-0.1", "greater than or equal to 0"),
        ("evaluation.temperature=.inf", "finite number"),
        ("evaluation.limit=0", "greater than or equal to 1"),
        ("ray.wait_seconds=0", "greater than 0"),
        ("feedback.labels_per_item=0", "greater than or equal to 1"),
        ("feedback.first_honeypots=-1", "greater than or equal to 0"),
        ("feedback.honeypots_per_round=-1", "greater than or equal to 0"),
        ("feedback.honeypots_per_problem=-1", "greater than or equal to 0"),
        ("sandbox.slots=0", "greater than or equal to 1"),
        ("sandbox.attempts=0", "greater than or equal to 1"),
        ("sandbox.limits.cpu_seconds=0", "greater than 0"),
        ("sandbox.limits.memory_mb=0", "greater than or equal to 1"),
        ("sandbox.limits.processes=0", "greater than or equal to 1"),
    ],
)
def test_a_value_out_of_its_bounds_is_named_with_the_bound(change: str, right: str):
    with pytest.raises(ConfigError, match=rf"^{re.escape(change.split('=')[0])}: .*{right}"):
        load_config(changes=[change])


@pytest.mark.parametrize(
    "changes, message",
    [
        (["feedback.labels_per_item=11"], r"^feedback\.labels_per_item=11 is above the 10 annotators.*use 1 to 10"),
        (["rollout.max_tokens=64", "rollout.context=64"], r"^rollout\.max_tokens=64 leaves no room for a prompt"),
        (["learner.algorithm=rloo", "learner.value_trunk=shared"], r"^learner: value_trunk=shared has no effect"),
        (["learner.algorithm=rloo", "learner.gamma=0.9"], r"^learner: gamma=0\.9 has no effect with algorithm=rloo"),
        (["learner.algorithm=reinforce_pp", "learner.whiten=false"], r"^learner: algorithm=reinforce_pp .*whiten on"),
        (
            ["learner.algorithm=grpo", "run.samples_per_problem=1"],
            r"^run\.samples_per_problem=1 leaves .*algorithm=grpo",
        ),
        (["learner.lr_schedule=cosine"], r"^learner: lr_schedule=cosine needs lr_updates above lr_warmup=0"),
        (["learner.lr_updates=9"], r"^learner: lr_updates=9 has no effect with lr_schedule=constant"),
        (["learner.kl.controller=fixed", "learner.kl.target=1"], r"^learner\.kl: target=1.* has no effect"),
        (["reward.form=mean", "reward.prior_right=0.5"], r"^reward: prior_right=0\.5 has no effect with form=mean"),
        (["reward.softmin_temperature=1"], r"^reward: softmin_temperature=1.* has no effect with form=right"),
        (["reward.source=tests", "reward.credit=blame"], r"^reward: credit=blame has no effect with source=tests"),
        (["reward.source=tests", "reward.verified=0.1"], r"^reward: verified=0\.1 has no effect with source=tests"),
        (["reward.prior_right=1"], r"^reward: prior_right=1 is not above 0 and below 1"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(changes=changes)


@pytest.mark.parametrize("temperature", ["0", "0.001"])
def test_training_refuses_greedy_sampling_and_says_what_would_be_right(temperature: str):
    with pytest.raises(ConfigError, match=r"^rollout\.temperature=.*use 0\.01 or more"):
        load_config(changes=[f"rollout.temperature={temperature}"])


@pytest.mark.parametrize("file", sorted(Path("jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_settings_that_come_with_the_project_are_valid(file: Path):
    load_config(file)


@pytest.mark.parametrize("path", sorted(Path("jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_bundled_settings_file_is_valid(path):
    assert load_config(path).run.dir.parts[0] == "runs"


def test_a_value_that_is_no_yaml_is_named():
    with pytest.raises(ConfigError, match=r"--set 'model\.name=\[tiny': the value is not YAML"):
        load_config(changes=["model.name=[tiny"])


def test_two_trees_of_settings_are_merged_leaf_by_leaf():
    base = load_config(changes=["model.lora.r=4", "rollout.max_tokens=24", "run.rounds=9"])
    merged = with_changes(base, load_config(changes=["run.rounds=3", "model.lora.alpha=32"]))
    assert (merged.model.lora.r, merged.model.lora.alpha) == (4, 32)
    assert (merged.rollout.max_tokens, merged.run.rounds) == (24, 3)


def test_a_wrong_setting_is_refused_before_anything_heavy_is_loaded():
    code = (
        "import sys\n"
        "from crlhf_ray.cli import main\n"
        "sys.argv = ['crlhf', 'plan', '--set', 'learner.lrr=1']\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 1\n"
        "print([name for name in ('torch', 'transformers', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did you mean learner.lr?" in done.stderr
    assert done.stdout.strip() == "[]"


def test_a_disk_that_takes_no_more_is_an_error_without_a_traceback(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("task,worker,label\n" + "".join(f"t{i},w{i % 3},{i % 2}\n" for i in range(2000)))
    code = (
        "import resource, signal, sys\n"
        "from crlhf_ray.cli import main\n"
        f"sys.argv = ['crlhf', 'aggregate', {str(labels)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_group_with_nothing_in_it_is_left_at_its_defaults(tmp_path):
    (tmp_path / "own.yaml").write_text("run:\nlearner:\n")
    assert load_config(tmp_path / "own.yaml", ["run.rounds=3"]).run.rounds == 3


@pytest.mark.parametrize("changes, coef", [([], 0.2), (["learner.kl.coef=0.1"], 0.1), (["learner.lr=1e-5"], 0.2)])
def test_a_group_within_a_group_may_be_empty_too(tmp_path, changes, coef):
    (tmp_path / "own.yaml").write_text("learner:\n  kl:\n")
    assert load_config(tmp_path / "own.yaml", changes).learner.kl.coef == coef


def test_what_is_switched_off_in_the_file_can_be_set(tmp_path):
    (tmp_path / "own.yaml").write_text("model:\n  lora: null\n")
    assert load_config(tmp_path / "own.yaml").model.lora is None
    assert load_config(tmp_path / "own.yaml", ["model.lora.r=4"]).model.lora.r == 4


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_is_not_a_settings_file_is_refused_by_its_name(tmp_path, content):
    file = tmp_path / "own.yaml"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.yaml (cannot be read as a settings file|is not YAML)"):
        load_config(file)


def test_how_an_update_treats_what_is_being_drawn_is_refused_where_nothing_is():
    with pytest.raises(ConfigError, match=r"on_update=keep has no effect with pipeline\.max_staleness=0"):
        load_config(changes=["rollout.on_update=keep"])
    assert load_config(changes=["rollout.on_update=keep", "pipeline.max_staleness=1"]).rollout.on_update == "keep"


@pytest.mark.parametrize("every, why", [(0, "every=0"), (10, "run.rounds=10")])
def test_a_target_that_is_measured_at_the_end_alone_is_refused(every, why):
    with pytest.raises(ConfigError, match=rf"target=0\.5 has no effect with .*{why}"):
        load_config(changes=["evaluation.target=0.5", f"evaluation.every={every}", "run.rounds=10"])
