"""Settings of the machine annotators, one class a kind. Nothing heavy is imported here."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from crlhf_ray.parts import part
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


class OwnSettings(MachineSettings):
    """Your own: `kind` names a subclass of `crlhf_ray.Annotator` as package.module:Name."""

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
KINDS: dict[str, type[MachineSettings]] = {"checks": ChecksSettings, "memory": MemorySettings}


def _which(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in KINDS else "own"


#: One entry of `feedback.annotators`.
AnnotatorPart = Annotated[
    Annotated[ChecksSettings, Tag("checks")]
    | Annotated[MemorySettings, Tag("memory")]
    | Annotated[OwnSettings, Tag("own")],
    Discriminator(_which),
]
