"""What training and evaluating both own: learner, rollout fleet and sandbox.

All three are asked for before any is waited for, so that they load side by side, and an autoscaler sees the whole
demand at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import PreTrainedTokenizerBase

from crlhf_ray.config import Config
from crlhf_ray.learner.group import LearnerGroup
from crlhf_ray.policy.prompts import encode
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.fleet import Fleet, Request
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.rollout.tasks import Task
from crlhf_ray.sandbox.pool import SandboxPool
from crlhf_ray.sandbox.samples import AnySandbox, checked_ones
from crlhf_ray.sandbox.verdict import Verdict

log = logging.getLogger(__name__)


def checked(
    samples: Sequence[Sample], problems: Mapping[str, Problem], sandbox: AnySandbox, **part: Any
) -> tuple[list[Sample], list[Verdict]]:
    """The samples that the sandbox could check, with its verdicts; ``part`` and EngineError as of `checked_ones`."""
    jobs = [(problems[sample.problem_id], sample.text) for sample in samples]
    return checked_ones(samples, sandbox.check(jobs), **part)


class Engines:
    """Asked for on entry, ended on exit; Ray must be initialised. `ready` waits until they have loaded.

    Args:
        logs: folder (it exists) of the engines' logs.
        learner: False leaves the learner out; what is sampled then is the model as it is loaded.
        say: told of what changes in the fleet while it works.

    Raises ResourceError on entry where the cluster has too little room, and no autoscaler to add nodes.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        logs: Path,
        *,
        learner: bool = True,
        say: Callable[[str], None] = log.warning,
    ):
        self.config, self.tokenizer = config, tokenizer
        self.learner = LearnerGroup(config.learner, config.model, log_dir=logs)
        self.fleet = Fleet(config.rollout, config.model, log_dir=logs, say=say)
        self._learns = learner
        self._exit = ExitStack()

    def __enter__(self) -> Engines:
        with ExitStack() as stack:
            stack.callback(self.learner.close)
            if self._learns:
                self.learner.launch()
            stack.callback(self.fleet.close)
            self.fleet.launch()
            self.sandbox = stack.enter_context(SandboxPool(self.config.sandbox_pool, self.config.sandbox))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def ready(self) -> None:
        """Wait until learner and fleet have loaded. Raises as their ``ready`` do."""
        self.fleet.ready()
        if self._learns:
            self.learner.ready()

    def generate(
        self,
        problems: Sequence[Problem],
        *,
        n: int,
        tag: str,
        temperature: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """n samples of each problem, in order. Arguments and errors as `Fleet.generate`."""
        requests = self._requests(problems, n)
        return self.fleet.generate(
            requests, temperature=temperature, seed=self.config.run.seed, tag=tag, progress=progress
        )

    def tasks(self, problems: Sequence[Problem], *, n: int, tag: str) -> list[Task]:
        """What to submit to the fleet for n samples of each problem."""
        return self.fleet.tasks(self._requests(problems, n), seed=self.config.run.seed, tag=tag)

    def _requests(self, problems: Sequence[Problem], n: int) -> list[Request]:
        template = self.config.problems.template
        return [
            Request(problem.problem_id, tuple(encode(problem, template, self.tokenizer)), problem.stops, n)
            for problem in problems
        ]
