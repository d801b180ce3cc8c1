"""Settings of the machine annotators, one class a kind. Nothing heavy is imported here."""

from __future__ import annotations

import inspect
import re
from math import log
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from crlhf_ray.feedback.annotators.prompts import PROMPTS
from crlhf_ray.parts import part
from crlhf_ray.policy.settings import SftSettings
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.settings import Settings, refuse_unused


class BudgetSettings(Settings):
    """What an annotator may use up in the whole run; it abstains from then on. None: no limit."""

    money: float | None = Field(default=None, ge=0)
    """In the currency of the prices."""
    minutes: float | None = Field(default=None, ge=0)
    """Of its own work."""
    marks: int | None = Field(default=None, ge=0)
    """Lines marked, honeypots included."""


class MachineSettings(Settings):
    """What all machine annotators have."""

    kind: str
    """Which annotator."""
    budget: BudgetSettings = BudgetSettings()
    """Limits of each annotator that this entry makes."""


class ChecksSettings(MachineSettings):
    """Static checks by line: a finding marks its line wrong, a line without one is marked correct.

    How little a clean line says, and how much a finding does, is learnt from honeypots.
    """

    kind: Literal["checks"] = "checks"
    tool: Literal["python", "ruff", "mypy", "command"] = "ruff"
    """python: does it compile. ruff, mypy: must be installed where the run is started. command: any linter."""
    rules: tuple[str, ...] = ("F", "B", "PLE", "PLW")
    """ruff: groups of rules, by prefix; each is an annotator of its own."""
    command: tuple[str, ...] = ()
    """command: the program and its arguments, one of which is {file}; it is run without a shell."""
    pattern: str = r":(?P<line>\d+):"
    """command: a regular expression for a finding in its output, with a group `line` (from 1)."""
    exit_codes: tuple[int, ...] = (0, 1)
    """command: exit statuses with which it has read the program; with any other it abstains."""
    suffix: str = ".py"
    """command: ending of the file's name."""
    languages: tuple[str, ...] = ("python", "cvxpy")
    """Problems' languages that it reads; it abstains from others."""
    seconds: float = Field(default=60.0, gt=0)
    """Longest run over a batch of programs (command: over one), in CPU and in wall-clock time."""
    memory_mb: int = Field(default=2048, ge=64)
    """Address space of a run, in MiB."""

    @model_validator(mode="after")
    def _fits(self) -> ChecksSettings:
        if self.tool != "ruff":
            refuse_unused(self, ["rules"], f"tool={self.tool}")
        if self.tool != "command":
            refuse_unused(self, ["command", "pattern", "exit_codes", "suffix"], f"tool={self.tool}")
            for rule in self.rules:
                if not re.fullmatch(r"[A-Z]+[0-9]*", rule):
                    raise ValueError(f"rules has {rule!r}: a prefix of ruff's rules such as F, B or PLE1 is needed")
            if not self.rules:
                raise ValueError("rules is empty: name at least one group, such as F")
            return self
        if not any("{file}" in argument for argument in self.command):
            raise ValueError(f"command={list(self.command)} has no argument with {{file}}, the program's file")
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None
        if "line" not in groups:
            raise ValueError(f"pattern {self.pattern!r} has no group (?P<line>...)")
        return self


class MemorySettings(MachineSettings):
    """What people said of the same line, blanks and comments aside, in other programs for the same problem."""

    kind: Literal["memory"] = "memory"
    half_life: float = Field(default=10.0, gt=0)
    """Rounds after which a mark counts half."""
    least: float = Field(default=1.5, gt=0)
    """Marks, so decayed, that it wants before it says anything."""


class LlmSettings(MachineSettings):
    """Language models that judge, at any OpenAI-compatible endpoint, `vllm serve` among them."""

    kind: Literal["llm"] = "llm"
    model: str
    """As the endpoint calls it."""
    base_url: str = "http://127.0.0.1:8000/v1"
    """The endpoint, up to and with its /v1."""
    key_variable: str | None = None
    """Environment variable that holds the API key. The key itself is in no setting, file or log."""
    prompts: tuple[str, ...] = ("review",)
    """Each is an annotator of its own: review, faults, lines (which `crlhf judge-train` teaches), or your own text as
    package.module:NAME."""
    votes: int = Field(default=2, ge=1)
    """Answers a program, lines first to last and last to first in turn. Their agreement is the confidence."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of the answers."""
    max_tokens: int = Field(default=1024, ge=16)
    """Longest answer."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the endpoint is held to the form of an answer; json_schema is enforced by guided decoding."""
    canary: bool = True
    """Put a line that is known to be wrong among the others; a program whose canary is missed gets no marks."""
    seconds: float = Field(default=120.0, gt=0)
    """Longest wait for one answer."""
    attempts: int = Field(default=4, ge=1)
    """Requests for one answer, where the endpoint is busy, fails, or answers in another form."""
    longest_wait: float = Field(default=30.0, ge=0)
    """Between two of these, in seconds; shorter at first, and as the endpoint asks for."""
    requests_a_minute: float | None = Field(default=None, gt=0)
    """The endpoint's rate limit."""
    at_once: int = Field(default=4, ge=1)
    """Programs asked about at the same time."""
    price_in: float = Field(default=0.0, ge=0)
    """Price of a million tokens that are sent."""
    price_out: float = Field(default=0.0, ge=0)
    """Price of a million tokens that are answered."""

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        found = urlsplit(url)
        if found.username or found.password:
            raise ValueError("base_url holds a user name or password: put the key into key_variable's environment")
        if found.scheme not in ("http", "https") or not found.netloc:
            raise ValueError(f"base_url {url!r} is not an address such as http://127.0.0.1:8000/v1")
        return url

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # it may be the key itself: not shown
            raise ValueError("key_variable is not the name of an environment variable, such as OPENAI_API_KEY")
        return name

    @field_validator("prompts")
    @classmethod
    def _texts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) < len(names):
            raise ValueError("prompts names one twice, or none: each is an annotator of its own")
        for name in names:
            if not isinstance(part(PROMPTS, name), str):
                raise ValueError(f"prompts: {name!r} is not a text")
        return names


class TestsSettings(MachineSettings):
    """What the sandbox found, as one mark on the whole program: it moves the log-odds that the program is right.

    Needs reward.form: right. The two rates are given, not learnt: honeypots are made so that tests tell them apart.
    """

    __test__ = False
    kind: Literal["tests"] = "tests"
    sensitivity: float = Field(default=0.99, gt=0, lt=1)
    """P(a right program passes)."""
    specificity: float = Field(default=0.9, gt=0, lt=1)
    """P(a wrong program fails): what share of small mistakes the tests catch, as `crlhf problems check` measures."""

    def evidence(self, passed: bool) -> float:
        """``log P(verdict | right) / P(verdict | wrong)``, nats."""
        if passed:
            return log(self.sensitivity / (1 - self.specificity))
        return log((1 - self.sensitivity) / self.specificity)


class OwnSettings(MachineSettings):
    """Your own: `kind` names a subclass of `crlhf_ray.Annotator` as package.module:Name."""

    kind: str = Field(json_schema_extra={"pattern": ":"})
    """Where it is, as package.module:Name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Its arguments, by name."""

    @field_validator("kind")
    @classmethod
    def _found(cls, kind: str) -> str:
        found = part(KINDS, kind)
        if not callable(getattr(found, "review", None)):
            raise ValueError(f"{kind!r} is not an annotator: it has no method review(items)")
        return kind

    @model_validator(mode="after")
    def _takes_them(self) -> OwnSettings:
        try:
            inspect.signature(part(KINDS, self.kind)).bind(**self.settings)
        except TypeError as error:
            raise ValueError(f"settings={self.settings} do not fit {self.kind}: {error}") from None
        return self


#: Ours, by kind.
KINDS: dict[str, type[MachineSettings]] = {
    "checks": ChecksSettings,
    "memory": MemorySettings,
    "llm": LlmSettings,
    "tests": TestsSettings,
}


def _which(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in KINDS else "own"


#: One entry of `feedback.annotators`.
AnnotatorPart = Annotated[
    Annotated[ChecksSettings, Tag("checks")]
    | Annotated[MemorySettings, Tag("memory")]
    | Annotated[LlmSettings, Tag("llm")]
    | Annotated[TestsSettings, Tag("tests")]
    | Annotated[OwnSettings, Tag("own")],
    Discriminator(_which),
]


class JudgeTrainSettings(Settings):
    """What a judge is trained on, and how."""

    problems: str = "starter"
    """Problems whose training split gives the lessons, as problems.source of a run."""
    per_problem: int = Field(default=12, ge=2)
    """Lessons of each problem: a third of them right programs, the rest with one planted fault."""
    prompt: str = "lines"
    """The prompt that it learns to answer, and that `feedback.annotators` must name."""
    sandbox: SandboxSettings = SandboxSettings()
    """Where planted faults are shown to be faults."""
    sft: SftSettings = SftSettings(dir=Path("runs/judge"), epochs=3.0)
    """The training itself. Its `data` is made here."""

    @field_validator("sft")
    @classmethod
    def _no_data(cls, sft: SftSettings) -> SftSettings:
        if sft.data != SftSettings.model_fields["data"].default:
            raise ValueError(f"data={sft.data} has no effect: a judge learns from the lines of `problems`")
        return sft
