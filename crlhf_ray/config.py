"""The settings of a training run, one tree of the groups that stand beside their components."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.learner.advantage import algorithm_named
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.parts import name_of, part
from crlhf_ray.policy.settings import Form, ModelSettings, Template
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings, refuse_data_set
from crlhf_ray.reward.settings import RewardSettings
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.sandbox.limits import SandboxPoolSettings, SandboxSettings
from crlhf_ray.settings import Settings, flat, read_settings, refuse_unused, validated

#: vLLM samples at this temperature where a lower one above 0 is asked for.
LEAST_TEMPERATURE = 0.01
#: Those of `crlhf_ray.report.trackers`.
TRACKERS = ("tensorboard", "wandb", "mlflow", "prometheus")


class RunSettings(Settings):
    """What one training run does, and where it is kept."""

    dir: Path = Path("runs/train")
    """Folder of the run: settings, annotations, metrics, checkpoints, logs and the report."""
    seed: int = Field(0, ge=0)
    """Every random choice derives from it: problems, sampling, honeypots, the simulated crowd."""
    rounds: int = Field(6, ge=1)
    """Rounds of Algorithm 1: sample, review, aggregate, learn, sync. A run that was resumed with fewer than it has
    played already plays no more."""
    problems_per_round: int = Field(8, ge=1)
    """Problems put to the policy in one round."""
    samples_per_problem: int = Field(4, ge=1)
    """Programs sampled for each of them. A round holds problems_per_round x samples_per_problem samples."""
    checkpoint_every: int = Field(1, ge=1)
    """Rounds between checkpoints. An interrupted run is resumed from the last one."""
    checkpoints_kept: int = Field(2, ge=1)
    """Older ones are deleted; the last is always kept."""
    keep_best: bool = False
    """Keep the checkpoint with the best held-out score too, whatever its age; `crlhf export --checkpoint best` takes
    it. Scores are known where evaluation.every says."""
    export: Form | None = "merged"
    """What the run leaves in model/ at its end: the whole model (merged), the LoRA adapter (adapter), or nothing."""
    tracking: tuple[str, ...] = ("tensorboard",)
    """Who else is told the numbers of metrics.jsonl: tensorboard, wandb, mlflow, prometheus (docs/report.md), or your
    own as package.module:Name."""

    @field_validator("tracking")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            part(dict.fromkeys(TRACKERS), name)
        if len(set(names)) < len(names):
            raise ValueError("tracking names one twice")
        return names


class ProblemSettings(Settings):
    """What is asked."""

    source: str = "starter"
    """starter, humaneval, hub:OWNER/NAME, data:PATH, a JSONL file, package.module:function and others
    (docs/problems.md). Training uses its train split."""
    data_set: DataSetSettings = DataSetSettings()
    """How a source of the kinds hub: and data: is read."""
    template: Template = "bare"
    """Prompt template: bare (signature and docstring) or chat."""

    @model_validator(mode="after")
    def _fits(self) -> ProblemSettings:
        refuse_data_set(self, "source")
        return self


class EvaluationSettings(Settings):
    """How held-out skill is measured."""

    source: str = "starter"
    """Problems to measure on, as in problems.source; their held-out split is used."""
    data_set: DataSetSettings | None = None
    """How a source of the kinds hub: and data: is read. None: as problems.data_set where both sources are the same,
    else by the names of its columns."""
    every: int = Field(0, ge=0)
    """Rounds between evaluations. 0: only before the first round and after the last."""
    target: float | None = Field(None, gt=0, le=1)
    """Held-out pass@1 at which training ends, whatever rounds are left. None: it plays all."""
    samples: int = Field(4, ge=1)
    """Samples a problem (n in pass@k)."""
    temperature: float = Field(0.8, ge=0)
    """Sampling temperature of evaluations; the paper's."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many problems. None: all."""

    @model_validator(mode="after")
    def _fits(self) -> EvaluationSettings:
        refuse_data_set(self, "source")
        return self


#: What happens to programs that are not reviewed in time: the learner waits for them, or they are dropped.
Above = Literal["wait", "drop"]


class PipelineSettings(Settings):
    """Who waits for whom."""

    max_staleness: int = Field(default=0, ge=0)
    """Updates that may lie between the weights that draw a program and the update that learns from it. 0: sampling,
    reviews and learning take turns, as in the paper. Above: programs are drawn while others are under review, and the
    learner takes those that are reviewed first."""
    above: Above = "wait"
    """What becomes of programs that are not reviewed when they would grow older than that: the learner waits for them,
    or they are dropped, counted and told of."""

    @model_validator(mode="after")
    def _fits(self) -> PipelineSettings:
        if not self.max_staleness:
            refuse_unused(self, ("above",), "max_staleness=0, where every update waits for its programs")
        return self


class ServerConfig(WebSettings):
    """All settings of `crlhf serve`."""

    aggregation: AggregationSettings = AggregationSettings()
    """How the server learns whom to trust. A run that uses the server must have the same."""


class RaySettings(Settings):
    """Which cluster to run on."""

    address: str | None = None
    """Address of a running cluster. None: the cluster of the submitted job, else one started here and ended with it."""
    wait_seconds: float = Field(600.0, gt=0)
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
    pipeline: PipelineSettings = PipelineSettings()
    sandbox: SandboxSettings = SandboxSettings()
    sandbox_pool: SandboxPoolSettings = SandboxPoolSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def heldout_data_set(self) -> DataSetSettings:
        """How evaluation.source is read."""
        if self.evaluation.data_set is not None:
            return self.evaluation.data_set
        return self.problems.data_set if self.evaluation.source == self.problems.source else DEFAULTS

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.rollout.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"rollout.temperature={self.rollout.temperature:g}: training needs the log-probs of what was sampled, "
                f"and greedy sampling has none; use {LEAST_TEMPERATURE:g} or more (evaluation.temperature may be 0)"
            )
        if algorithm_named(self.learner.algorithm).needs_groups and self.run.samples_per_problem < 2:
            raise ValueError(
                f"run.samples_per_problem={self.run.samples_per_problem} leaves learner.algorithm="
                f"{self.learner.algorithm} nothing to compare a program with; use 2 or more, or algorithm gae"
            )
        if not self.pipeline.max_staleness:
            refuse_unused(
                self.learner, ("correction",), "pipeline.max_staleness=0, where no sample is of older weights"
            )
            refuse_unused(self.rollout, ("on_update",), "pipeline.max_staleness=0, where nothing is drawn meanwhile")
        if self.feedback.annotators and not self.aggregation.use_confidence:
            raise ValueError(
                "aggregation.use_confidence=False leaves feedback.annotators without effect: what machines that err "
                "together count is in their marks' confidence"
            )
        if self.feedback.tests is not None and (self.reward.source != "crowd" or self.reward.form != "right"):
            raise ValueError(
                f"feedback.annotators: tests mark whole programs, and reward.source={self.reward.source} with "
                f"reward.form={self.reward.form} has no place for that; use crowd and right, or leave tests out"
            )
        people = len(self.feedback.crowd.annotators)
        if self.feedback.labels_per_item is not None and self.feedback.labels_per_item > people:
            raise ValueError(
                f"feedback.labels_per_item={self.feedback.labels_per_item} is above the {people} annotators of "
                f"feedback.crowd.annotators; use 1 to {people}, or null for all"
            )
        every, rounds = self.evaluation.every, self.run.rounds
        if self.evaluation.target is not None and not 0 < every < rounds:
            raise ValueError(
                f"evaluation.target={self.evaluation.target} has no effect with evaluation.every={every} and "
                f"run.rounds={rounds}: nothing is measured before the last round"
            )
        if self.run.export == "adapter" and self.model.lora is None:
            raise ValueError("run.export=adapter, but model.lora is not set: use merged, or null for no export")
        if self.rollout.max_tokens >= self.rollout.context:
            raise ValueError(
                f"rollout.max_tokens={self.rollout.max_tokens} leaves no room for a prompt within "
                f"rollout.context={self.rollout.context}; lower the first or raise the second"
            )
        return self


#: What may change when a run goes on: how long and where it runs, with how much of the machine, and what is measured.
#: Anything else is part of what has been learnt.
FREE_ON_RESUME = (
    "run.dir",
    "run.rounds",
    "run.checkpoint*",
    "run.keep_best",
    "run.export",
    "run.tracking",
    "ray.*",
    "sandbox_pool.*",
    "sandbox.slots",
    "sandbox.attempts",
    "evaluation.*",
    "aggregation.snapshot_events",
    "feedback.annotators",
    "feedback.web.url",
    "feedback.web.token_file",
    "feedback.web.deadline_minutes",
    "feedback.web.poll_seconds",
    "rollout.replicas",
    "rollout.autoscale*",
    "rollout.recoveries",
    "rollout.max_num_seqs",
    "rollout.kv_cache_gib",
    "rollout.threads",
    "rollout.resources*",
    "rollout.*_per_replica",
    "rollout.*_seconds",
    "learner.lr",
    "learner.value_lr",
    "learner.max_logprob_gap",
    "learner.micro_batch_tokens",
    "learner.checkpoint_activations",
    "learner.resources*",
    "learner.*_per_rank",
    "learner.*_seconds",
)
#: What `crlhf evaluate` must share with the run: the model, how it is asked, and how its checkpoint was written.
FIXED_TO_EVALUATE = (
    "model.*",
    "problems.template",
    "learner.algorithm",
    "learner.value_trunk",
    "learner.ranks",
    "learner.zero_stage",
)


def settings_file(run_dir: Path) -> Path:
    """Where a run keeps its settings."""
    return run_dir / "settings.json"


def settings_of_run(run_dir: Path) -> Config:
    """The settings of a run. Raises ConfigError where there are none, or those of another version."""
    file = settings_file(run_dir)
    try:
        return validated(Config, json.loads(file.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no {file}; name the run.dir of a training run") from None
    except (json.JSONDecodeError, ConfigError) as error:
        raise ConfigError(f"{file} is not of this version or was damaged: {error}") from error


def differences(before: Settings, now: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by path: what each was and is, None where there is none."""
    old, new = flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json"))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def fits(key: str, patterns: Sequence[str]) -> bool:
    """Whether a setting's path is among those that patterns such as FREE_ON_RESUME name."""
    return any(fnmatch(key, pattern) for pattern in patterns)


def check_unchanged(
    before: Config, now: Config, run_dir: Path, *, fixed: Sequence[str] = ("*",), free: Sequence[str] = ()
) -> None:
    """Raises ConfigError where settings differ in a key that fits a pattern of ``fixed`` and none of ``free``."""
    changed = [
        f"{key} was {was!r} and is {new!r} now"
        for key, (was, new) in differences(before, now).items()
        if fits(key, fixed) and not fits(key, free)
    ]
    if changed:
        raise ConfigError(
            f"{run_dir} was trained with other settings: {'; '.join(changed)}. Give those of {settings_file(run_dir)}, "
            "or start a new run in another run.dir"
        )


def with_changes(base: Config, changes: Config) -> Config:
    """``base`` with every setting that was given, and not left at its default, in ``changes``."""
    return validated(Config, _merged(base.model_dump(), changes.model_dump(exclude_unset=True)))


def with_parts(
    config: Config, *, reward: Any = None, advantage: Any = None, estimator: Any = None, feedback: Any = None
) -> Config:
    """``config`` with parts that are given as objects, or by name, in place of those that it names.

    Raises ConfigError for a part that does not fit, or that the run's processes could not find.
    """
    given = {
        "reward": ("form", reward),
        "learner": ("algorithm", advantage),
        "aggregation": ("estimator", estimator),
        "feedback": ("source", feedback),
    }
    changes = {group: {name: name_of(one)} for group, (name, one) in given.items() if one is not None}
    return validated(Config, _merged(config.model_dump(), changes))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value) if isinstance(base.get(key), Mapping) and isinstance(value, Mapping) else value
        for key, value in over.items()
    }
    return {**base, **both}


def load_config(file: Path | None = None, changes: Sequence[str] = ()) -> Config:
    """The settings of a training run; see `read_settings`."""
    return read_settings(Config, file, changes)
