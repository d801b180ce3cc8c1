"""What a run asks of its policy: the problems, read and checked against the settings before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.prompts import check_fit
from crlhf_ray.policy.support import check_supported
from crlhf_ray.problems.load import load_splits, with_tests
from crlhf_ray.problems.problem import Problem


def questions(
    config: Config, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None] = lambda text: None
) -> tuple[list[Problem], list[Problem]]:
    """The training problems and the held-out ones that are measured on. say: is told how data sets were understood, and
    what is left out of measuring.

    Raises DataError as `load_splits`, and ConfigError for a model that cannot be trained here, where a round wants more
    problems than there are, a prompt leaves too little room for a completion, or settings need tests that there are
    not.
    """
    check_supported(config.model, context=config.rollout.context, shards=config.rollout.tensor_parallel)
    data_sets = config.problems.data_set, config.heldout_data_set()
    train, every = load_splits(config.problems.source, config.evaluation.source, data_sets, say)
    heldout = with_tests(every, config.evaluation.source, say)[: config.evaluation.limit]
    if config.run.problems_per_round > len(train):
        raise ConfigError(
            f"run.problems_per_round={config.run.problems_per_round}, and {config.problems.source} has {len(train)} "
            f"training problems; use 1 to {len(train)}"
        )
    check_tests(config, train)
    check_fit(
        [*train, *heldout],
        config.problems.template,
        tokenizer,
        context=config.rollout.context,
        max_tokens=config.rollout.max_tokens,
    )
    return train, heldout


def check_tests(config: Config, train: Sequence[Problem]) -> None:
    """Raise ConfigError for a setting that needs tests, where training problems have none. Pure.

    What can do with the tests of some problems is refused only where none has any.
    """
    without = [problem.problem_id for problem in train if not problem.tested]
    if not without:
        return
    feedback, reward = config.feedback, config.reward
    some = f"{len(without)} of {len(train)} training problems of {config.problems.source} ({without[0]!r} first)"
    if feedback.source in ("in_process", "simulated"):
        raise ConfigError(
            f"feedback.source={feedback.source}: a simulated crowd is right or wrong about what tests show, and {some} "
            "have no tests; use feedback.source=web, where people review them"
        )
    if reward.source == "tests":
        raise ConfigError(f"reward.source=tests: {some} have no tests; use reward.source=crowd")
    if len(without) < len(train):
        return
    unused = {
        "feedback.web.simulated_crowd": feedback.web.simulated_crowd,
        "feedback.annotators of kind tests": feedback.tests is not None,
        "reward.verified": reward.verified > 0,
    }
    for name in (name for name, given in unused.items() if given):
        raise ConfigError(f"{name} has no effect: no training problem of {config.problems.source} has tests")
