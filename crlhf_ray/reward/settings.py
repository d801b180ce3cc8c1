"""Settings of the reward. "[paper]" marks what the paper says, "[ours]" what was added here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from crlhf_ray.reward.forms import form_named
from crlhf_ray.settings import Settings, refuse_unused

CreditName = Literal["sequence", "to_go", "blame", "first_fault"]
#: The settings that only one form reads.
_OWN: dict[str, tuple[str, ...]] = {
    "right": ("prior_right", "fault_growth"),
    "softmin": ("softmin_temperature",),
}


class RewardSettings(Settings):
    """What a reviewed program is worth, and which of its tokens get the credit."""

    source: Literal["crowd", "tests"] = "crowd"
    """`crowd`: the consensus of the annotators (the method). `tests`: 1 for a program that passes its tests and else 0,
    to compare with; the crowd is still asked, and its reliabilities still learnt."""
    form: str = "right"
    """How lines become a program's worth. `right` [ours]: the probability that the program is right. `mean` [paper]:
    the share of correct lines (Eq. 9, soft), which pays for idle lines around a fault; `hard` [paper]: the same with
    rounded posteriors. `min`, `softmin` (PURE, arXiv 2504.15275), `product`: the weakest line, smoothly, and all lines
    together. docs/method.md compares them. Your own, `package.module:function`, takes what ours take."""
    prior_right: float | Literal["learnt"] = Field(default=0.7)
    """right: P(a program of six lines is right) before any mark, above 0 and below 1; `learnt`: estimated for each
    problem and round from the marks alone. The bounds on gaming are tested at 0.7."""
    fault_growth: float = Field(default=0.25, ge=0, le=1)
    """right: how the odds of a fault grow with the number of lines m, as m to this power. 0: not at all, which leaves
    some gain in padding. 1: a constant rate of faults a line, which rewards writing less."""
    softmin_temperature: float = Field(default=0.1, gt=0)
    """softmin: in probability; towards 0 it is `min`. 0.1 as in PURE."""
    credit: CreditName = "sequence"
    """`sequence` [paper]: the whole score counts for every token. `to_go`: a token earns the score of its line and
    those after it (with `min`: PURE's). `blame` [ours]: where a program does worse than its baseline, lines are charged
    in proportion to the probability that they hold the fault; a better one pays all tokens. `first_fault` (VPPO, arXiv
    2601.18984): only the first wrong line is charged, and what follows it counts for nothing."""
    verified: float = Field(default=0.0, ge=0, le=1)
    """crowd: share of the programs, drawn by run.seed, whose score is what their tests say instead. 0.1 helped PURE
    most."""
    overlong: Literal["score", "mask", "zero"] = "score"
    """A program cut at rollout.max_tokens is scored as any other, left out of the update, or scored 0."""

    @field_validator("form")
    @classmethod
    def _found(cls, name: str) -> str:
        form_named(name)
        return name

    @model_validator(mode="after")
    def _fits(self) -> RewardSettings:
        if self.prior_right != "learnt" and not 0 < self.prior_right < 1:
            raise ValueError(f"prior_right={self.prior_right:g} is not above 0 and below 1, nor 'learnt'")
        if self.source == "tests":
            names = ("form", *_OWN["right"], *_OWN["softmin"], "credit", "verified")
            refuse_unused(self, names, "source=tests, which scores a program as a whole")
        for form, names in _OWN.items():
            if form != self.form:
                refuse_unused(self, names, f"form={self.form}")
        return self
