"""What a sample still tells of a policy that has learnt since it was drawn. Pure numpy.

With mu the weights that drew a sample and pi the policy as the update begins, a token counts with the truncated
importance weight ``min(pi / mu, cap)`` (Ionides 2008, doi 10.1198/106186008X320456), apart from PPO's clip, which is
measured from pi (decoupled PPO: Hilton et al. 2021, arXiv 2110.00641). A sample whose tokens have moved too far on
average is left out whole, since truncation would no longer leave much of its gradient's direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from crlhf_ray.settings import Settings


class CorrectionSettings(Settings):
    """How samples are learnt from that older weights drew (pipeline.max_staleness above 0)."""

    token_cap: float | None = Field(default=2.0, ge=1)
    """Largest importance weight of a token. None: tokens count alike, whatever has been learnt since."""
    sample_drift: float | None = Field(default=0.5, gt=0)
    """Nats a token, mean over a sample, by which the policy may have moved since; a sample beyond it teaches nothing.
    None: all teach."""


@dataclass(frozen=True)
class Correction:
    """weights: [T] for each sample, 0 for those left out.

    effective_share: effective sample size over the number of tokens, (sum w)^2 / (n sum w^2) of the weights before
    truncation. truncated: share of tokens above the cap. left_out: share of samples.
    """

    weights: list[np.ndarray]
    effective_share: float
    truncated: float
    left_out: float

    def metrics(self, ages: Sequence[int]) -> dict[str, float]:
        """What it shows of samples whose weights are that many updates old."""
        shown = {name: float(getattr(self, name)) for name in ("effective_share", "truncated", "left_out")}
        return {"age_mean": float(np.mean(ages)), "age_max": float(max(ages))} | shown


def correct(current: Sequence[np.ndarray], behaviour: Sequence[np.ndarray], settings: CorrectionSettings) -> Correction:
    """current, behaviour: [T] log-probs in nats of each sample's tokens, under pi and under mu."""
    ratios = [np.exp(np.clip(now - then, -20.0, 20.0)) for now, then in zip(current, behaviour, strict=True)]
    drifts = np.array([np.abs(now - then).mean() for now, then in zip(current, behaviour, strict=True)])
    kept = np.ones(len(ratios), dtype=bool) if settings.sample_drift is None else drifts <= settings.sample_drift
    cap = settings.token_cap
    weights = [
        (np.ones_like(ratio) if cap is None else np.minimum(ratio, cap)) * float(one)
        for ratio, one in zip(ratios, kept, strict=True)
    ]
    flat = np.concatenate(ratios)
    return Correction(
        weights=weights,
        effective_share=float(flat.sum() ** 2 / (len(flat) * (flat**2).sum())),
        truncated=0.0 if cap is None else float((flat > cap).mean()),
        left_out=float(1.0 - kept.mean()),
    )
