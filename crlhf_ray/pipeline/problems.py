"""What a run asks of its policy: the problems, read and checked against the settings before anything starts."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.policy.prompts import check_fit
from crlhf_ray.policy.support import check_supported
from crlhf_ray.problems.load import load_splits
from crlhf_ray.problems.problem import Problem


def questions(
    config: Config, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None] = lambda text: None
) -> tuple[list[Problem], list[Problem]]:
    """The training problems and the held-out ones that are measured on. say: is told how data sets were understood.

    Raises DataError as `load_splits`, and ConfigError for a model that cannot be trained here, and where a round wants
    more problems than there are, or a prompt leaves too little room for a completion.
    """
    check_supported(config.model, context=config.rollout.context, shards=config.rollout.tensor_parallel)
    data_sets = config.problems.data_set, config.heldout_data_set()
    train, heldout = load_splits(config.problems.source, config.evaluation.source, data_sets, say)
    heldout = heldout[: config.evaluation.limit]
    if config.run.problems_per_round > len(train):
        raise ConfigError(
            f"run.problems_per_round={config.run.problems_per_round}, and {config.problems.source} has {len(train)} "
            f"training problems; use 1 to {len(train)}"
        )
    check_fit(
        [*train, *heldout],
        config.problems.template,
        tokenizer,
        context=config.rollout.context,
        max_tokens=config.rollout.max_tokens,
    )
    return train, heldout
