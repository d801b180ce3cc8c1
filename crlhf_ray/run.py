"""What one training run owns: its folder, its Ray cluster, its actors, and the state that a resumed run goes on from."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import ray

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.evaluation.judge import Judge
from crlhf_ray.feedback.collect import SimulatedFeedback
from crlhf_ray.feedback.honeypots import build_honeypots
from crlhf_ray.learner.group import LearnerGroup
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.policy.prompts import encode
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.report.console import Display
from crlhf_ray.report.metrics import MetricsLog
from crlhf_ray.rollout.fleet import Fleet, Request
from crlhf_ray.rollout.sample import Sample


class Run:
    """Starts everything that a run needs, restores its state, and ends everything on the way out."""

    def __init__(self, config: Config, *, resume: bool = False, display: Display | None = None):
        self.config = config
        self.dir = config.run.dir.absolute()
        self.display = display or Display()
        self.round = 0
        if (self.dir / "settings.json").exists() and not resume:
            raise ConfigError(f"{self.dir} holds a run already: go on with it by --resume, or name another run.dir")
        self.dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
