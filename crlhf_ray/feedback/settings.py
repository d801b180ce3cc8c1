"""Settings of the feedback: who reviews. Nothing heavy is imported here, so that a wrong setting is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from crlhf_ray.feedback.annotators.settings import AnnotatorPart, TestsSettings
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.parts import part
from crlhf_ray.settings import Settings, refuse_unused

#: The sources of reviews that are ours.
SOURCES = ("in_process", "simulated", "web")

Kind = Literal["expert", "average", "careless", "always_correct", "random", "adversary", "drifting"]


class AnnotatorSettings(Settings):
    """One simulated annotator. What is left at None comes from the kind."""

    kind: Kind
    """expert; average; careless (quick, lets faults pass); always_correct (marks nearly everything correct, the lazy
    spammer); random; adversary (wrong on purpose, mostly); drifting (good at first, careless at the end)."""
    sensitivity: float | None = Field(default=None, ge=0, le=1)
    """P(says correct | line correct), among answers that are not "unsure"."""
    specificity: float | None = Field(default=None, ge=0, le=1)
    """P(says wrong | line wrong), among answers that are not "unsure"."""
    unsure: float | None = Field(default=None, ge=0, le=1)
    """P(answers "unsure"), on any line."""
    style: float = Field(default=0.0, ge=0, le=1)
    """P(marks a line wrong, for its style), for each line of a program in which nothing is wrong."""
    overlooks: float = Field(default=0.0, ge=0, le=1)
    """P(takes a wrong line for correct) where an earlier line of the program is wrong: content with one fault."""


_DEFAULT_CROWD = (
    AnnotatorSettings(kind="expert", sensitivity=0.94, specificity=0.86),
    AnnotatorSettings(kind="expert", sensitivity=0.90, specificity=0.78),
    AnnotatorSettings(kind="average", sensitivity=0.88, specificity=0.62),
    AnnotatorSettings(kind="average", sensitivity=0.84, specificity=0.58),
    AnnotatorSettings(kind="average", sensitivity=0.80, specificity=0.54),
    AnnotatorSettings(kind="careless"),
    AnnotatorSettings(kind="always_correct"),
    AnnotatorSettings(kind="random"),
    AnnotatorSettings(kind="adversary"),
    AnnotatorSettings(kind="drifting"),
)


class CrowdSettings(Settings):
    """Who is in the simulated crowd, and what its members share."""

    annotators: tuple[AnnotatorSettings, ...] = _DEFAULT_CROWD
    """The members. The default ten are as noisy as programmers in the faultloc data, spammer and adversary included."""
    truth: Literal["repair", "fault_only"] = "repair"
    """What they are right or wrong about. repair: all lines that must change on the way to a passing program.
    fault_only: the fewest lines whose replacement by a line of like kind makes the tests pass; about 200 checks for a
    program that has no such line (docs/feedback.md)."""
    shared_difficulty: float = Field(default=0.1, ge=0, lt=1)
    """Correlation, 0 to below 1, of the annotators' errors on one line (one-factor Gaussian copula): some lines are
    hard for everybody. Each annotator's own sensitivity and specificity stay as set. Faultloc shows .1."""

    @model_validator(mode="after")
    def _someone(self) -> CrowdSettings:
        if not self.annotators:
            raise ValueError("annotators is empty: a crowd needs at least one member")
        return self


class WebFeedbackSettings(Settings):
    """The annotation server that people work at."""

    url: str = "http://127.0.0.1:8000"
    """Where `crlhf serve` listens."""
    token_file: Path = Path("annotation/token")
    """The file with its API token; `crlhf serve` names it."""
    deadline_minutes: float = Field(default=120.0, gt=0)
    """How long a round waits for people. Programs that nobody was sure about by then count by what is known."""
    least_reviewed: float = Field(default=0.5, gt=0, le=1)
    """Share of a round's programs that must have been reviewed for it to go on at its deadline. With fewer, the
    deadline is put off by as much again, and an alert says so."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """Between two looks at what came in."""
    simulated_crowd: bool = False
    """web: have the simulated crowd (feedback.crowd) work beside the people. Each member takes one review of each
    program, so leave people room by the server's queue.labels_least."""
    queue: QueueSettings = QueueSettings()
    """simulated: how the run's own server hands programs out."""


class FeedbackSettings(Settings):
    """Who reviews, and how often their reliability is checked."""

    source: str = "in_process"
    """web: whoever works at the annotation server. simulated: the crowd below, over HTTP, at a server that the run
    starts for itself. in_process: the same crowd without a server: quicker, and a run repeats to the last bit. Or your
    own, as package.module:Name: a class derived from `crlhf_ray.Feedback` (docs/api.md)."""
    web: WebFeedbackSettings = WebFeedbackSettings()
    crowd: CrowdSettings = CrowdSettings()
    """The simulated annotators."""
    labels_per_item: int | None = Field(default=None, ge=1)
    """in_process: how many annotators review each program. None: all of them. A server decides for itself."""
    first_honeypots: int = Field(default=12, ge=0)
    """Honeypot programs put to each annotator before the first round: in_process to all, else to machines alone."""
    honeypots_per_problem: int = Field(default=6, ge=0)
    """Honeypots made of each training problem. Nobody sees one twice, so this bounds how long a run can go on."""
    honeypots_per_round: int = Field(default=2, ge=0)
    """Honeypot programs mixed into each later round, for the same."""

    annotators: tuple[AnnotatorPart, ...] = ()
    """Machines that mark lines beside the people, each under its own name and with honeypots of its own
    (docs/annotators.md). Each entry has a `kind`: checks, memory, llm, tests, or your own as package.module:Name."""

    human_share: float = Field(default=1.0, gt=0, le=1)
    """in_process: share of a round's programs that the crowd reviews. The others have machines' marks alone."""
    human_choice: Literal["random", "doubtful"] = "random"
    """in_process: which ones. random; doubtful: human_floor of all at random, so that what machines miss is still seen,
    and then those with the line about which machines' marks leave most doubt."""
    human_floor: float = Field(default=0.05, gt=0, le=1)
    """in_process: share of a round's programs that people must have reviewed, where machines review too: without
    people, nothing says whether a machine still sees what it saw on honeypots. Below it the run ends."""

    @property
    def tests(self) -> Callable[[bool], float] | None:
        """What a verdict of the sandbox says of a whole program, in nats; None without an annotator of kind tests."""
        return next((one.evidence for one in self.annotators if isinstance(one, TestsSettings)), None)

    @field_validator("source")
    @classmethod
    def _found(cls, name: str) -> str:
        source_named(name)
        return name

    @model_validator(mode="after")
    def _people_stay(self) -> FeedbackSettings:
        if not self.annotators:
            refuse_unused(self, ["human_share", "human_choice", "human_floor"], "no annotators beside the people")
        elif self.source != "in_process":
            names = ["human_share", "human_choice", "human_floor"]
            keeps = (
                "where feedback.web.least_reviewed keeps people"
                if self.source in SOURCES
                else "which chooses its own reviewers"
            )
            refuse_unused(self, names, f"source={self.source}, {keeps}")
        if self.human_share == 1:
            refuse_unused(self, ["human_choice"], "human_share=1, where people review everything")
        if self.annotators and self.human_share < self.human_floor:
            raise ValueError(
                f"human_share={self.human_share:g} is below human_floor={self.human_floor:g}, the least share of "
                "programs that people must review: raise the first, or lower the second"
            )
        if sum(isinstance(one, TestsSettings) for one in self.annotators) > 1:
            raise ValueError("annotators names tests twice: a program's tests are run once")
        return self


def source_named(name: str) -> Any:
    """The class of a source of somebody's own; None for ours. Raises ValueError where there is none of that name."""
    found = part(dict.fromkeys(SOURCES), name)
    if found is None:
        return None
    from inspect import isabstract

    from crlhf_ray.feedback.source import Feedback  # loads Ray

    if not (isinstance(found, type) and issubclass(found, Feedback)):
        raise ValueError(f"{name!r} is not a source of reviews: give a class derived from crlhf_ray.Feedback")
    if isabstract(found):
        raise ValueError(f"{name!r} lacks {' and '.join(sorted(found.__abstractmethods__))}")
    return found
