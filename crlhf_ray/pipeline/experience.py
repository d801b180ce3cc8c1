"""From scored samples to what the learner takes."""

from __future__ import annotations

from collections.abc import Sequence

from crlhf_ray.learner.group import Experience
from crlhf_ray.reward.credit import Score
from crlhf_ray.rollout.sample import Sample


def experiences(
    samples: Sequence[Sample], scores: Sequence[Score], temperature: float, version: int
) -> list[Experience]:
    """What the learner learns from; a sample that stopped before its first token, or is masked, teaches nothing.

    temperature: what the samples were drawn at, because their log-probs are those of that distribution. version: of
    the weights that learn.
    """
    return [
        Experience(
            sample_id=sample.sample_id,
            group=sample.problem_id,
            prompt_token_ids=sample.prompt_token_ids,
            token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            token_rewards=score.rewards,
            temperature=temperature,
            praise=score.praise,
            blame=score.blame,
            age=version - sample.weight_version,
        )
        for sample, score in zip(samples, scores, strict=True)
        if sample.token_ids and not score.masked
    ]
