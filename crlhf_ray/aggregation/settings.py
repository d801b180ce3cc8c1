"""Settings of the aggregation actor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from crlhf_ray.settings import Settings, refuse_unused


class AggregationSettings(Settings):
    """How marks become consensus probabilities."""

    estimator: str = "two_coin"
    """How votes teach reliabilities. `one_coin` is the paper's (Eq. 7 and 8); `two_coin` also sees through those who
    call every line correct; `majority` learns nothing of anybody. Your own, `package.module:Name`, makes rates of
    counts as ours do (crlhf_ray.aggregation.state.Coin)."""

    learn_from: Literal["all", "honeypots"] = "all"
    """Lines that teach reliabilities: all, each by its own posterior, or only those with known truth."""

    prior: Literal["learnt"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default_factory=lambda known: "learnt" if known.get("estimator") == "two_coin" else 0.5
    )
    """P(a line is correct) before any vote. `learnt`, the default of two_coin: the share of correct lines in the work,
    as lines without known truth show it, given what honeypots teach of the annotators. 0.5 is the paper's, and the
    default of the others; where most lines are correct, it takes good reviewers for bad ones."""

    strength: float | None = Field(default=None, gt=0)
    """two_coin: labels that the crowd's rate is worth beside an annotator's own; newcomers count as average people.
    None: learnt from how alike the annotators are."""

    decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on an annotator's old counts at each new label of theirs. 1 never forgets; 0.98 follows drifting skill."""

    use_confidence: bool = True
    """Weigh a vote by its confidence (0 to 1, 1 where not asked): on real code lines it lifts the AUC."""

    snapshot_events: int = Field(default=500_000, ge=1)
    """Events after which the state is written whole, so that recovery replays at most so many (1 to 2 s)."""

    @model_validator(mode="after")
    def _fits(self) -> AggregationSettings:
        if self.estimator != "two_coin":
            from crlhf_ray.aggregation.coins import COINS, coin_of  # the default needs no pandas

            coin_of(self)
            if self.estimator in COINS:
                refuse_unused(self, ["strength"], f"estimator={self.estimator}")
        if self.estimator == "majority" and self.prior == "learnt":
            raise ValueError("estimator: majority learns nothing, so prior: learnt has no effect; give a number")
        return self

    def meaning(self) -> dict[str, Any]:
        """All that answers depend on, by name, as JSON can hold it."""
        return self.model_dump(mode="json", exclude={"snapshot_events"})
