"""One tree of typed settings: read from YAML, changed by ``--set``, strict about every key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.errors import ConfigError
from crlhf_ray.evaluation.limits import JudgeSettings, PoolSettings
from crlhf_ray.feedback.collect import FeedbackSettings
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.policy.model import ModelSettings
from crlhf_ray.policy.prompts import Template
from crlhf_ray.reward.credit import RewardSettings
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.settings import Settings


class RunSettings(Settings):
    """What one training run does, and where it is kept."""

    dir: Path = Path("runs/train")
    """Folder of the run: settings, annotations, metrics, checkpoints, logs and the report."""
    seed: int = 0
    """Every random choice derives from it: problems, sampling, honeypots, the simulated crowd."""
    rounds: int = 6
    """Rounds of Algorithm 1: sample, judge, aggregate, learn, sync."""
    problems_per_round: int = 8
    """Problems put to the policy in one round."""
    samples_per_problem: int = 4
    """Programs sampled for each of them. A round holds problems_per_round x samples_per_problem samples."""
    checkpoint_every: int = 1
    """Rounds between checkpoints. An interrupted run goes on from the last one."""
    checkpoints_kept: int = 2
    """Older ones are deleted; the last is always kept."""


class ProblemSettings(Settings):
    """What is asked."""

    source: str = "starter"
    """starter, humaneval, mbpp:PATH, or a JSONL file (docs/problems.md). Training uses its train split."""
    template: Template = "bare"
    """Prompt template: bare (signature and docstring) or chat."""


class EvaluationSettings(Settings):
    """How held-out skill is measured."""

    source: str = "starter"
    """Problems to measure on, as in problems.source; their held-out split is used."""
    every: int = 0
    """Rounds between evaluations. 0: only before the first round and after the last."""
    samples: int = 4
    """Samples a problem (n in pass@k)."""
    temperature: float = 0.8
    """Sampling temperature of evaluations; the paper's."""
    limit: int | None = None
    """Only the first so many problems. None: all."""


class RaySettings(Settings):
    """Which cluster to run on."""

    address: str | None = None
    """Address of a running cluster. None: the cluster of the submitted job, else one started here and ended with it."""
    wait_seconds: float = 600.0
    """Longest wait for any one actor's start or answer before the run ends with an error that names it."""


class Config(Settings):
    """All settings of a training run."""

    run: RunSettings = RunSettings()
    ray: RaySettings = RaySettings()
    problems: ProblemSettings = ProblemSettings()
    model: ModelSettings = ModelSettings()
    rollout: RolloutSettings = RolloutSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    aggregation: AggregationSettings = AggregationSettings()
    reward: RewardSettings = RewardSettings()
    learner: LearnerSettings = LearnerSettings()
    judge: JudgeSettings = JudgeSettings()
    judges: PoolSettings = PoolSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


SettingsType = TypeVar("SettingsType", bound=Settings)


def load_config(file: Path | None = None, changes: Sequence[str] = ()) -> Config:
    """The settings of a training run; see `read_settings`."""
    return read_settings(Config, file, changes)


def read_settings(kind: type[SettingsType], file: Path | None = None, changes: Sequence[str] = ()) -> SettingsType:
    """Read settings from YAML, then apply ``a.b=value`` changes (values are YAML too).

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown (names the nearest right one), or a value
            does not fit.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(Path(file).read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no settings file {file}; `ls jobs/*.yaml` shows the ones that come with the project"
            ) from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is not YAML: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{file} holds a {type(loaded).__name__}; settings are a mapping such as `run: {{...}}`")
        tree = loaded or {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {change!r}: write it as learner.lr=1e-5")
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {change!r}: {part} is a value, not a group of settings")
        node[last] = _value(value)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, item) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _value(text: str) -> Any:
    value = yaml.safe_load(text) if text.strip() else None
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {error['msg']} (got {error['input']!r})"
    group = model
    for part in path[:-1]:
        annotation = group.model_fields[part].annotation if part in group.model_fields else None
        options = [annotation, *get_args(annotation)]
        group = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), group)
    near = difflib.get_close_matches(path[-1], group.model_fields, n=1, cutoff=0.5)
    hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known: {', '.join(group.model_fields)}"
    return f"unknown setting {'.'.join(path)}; {hint}"
