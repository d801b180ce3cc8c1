"""`Problem`: one programming task, its tests and its reference solutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: A function body ends where the next top-level statement begins.
BODY_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n@", "\nassert", "\nimport ", "\nfrom ", "\n```")


@dataclass(frozen=True)
class AssertChecker:
    """Test snippets that run after the program, in its namespace, each by itself.

    setup: code that runs once before the first test (helpers, imports).
    tests: Python snippets; a test passes when it raises nothing.
    """

    tests: tuple[str, ...]
    setup: str = ""
    kind: str = "asserts"


@dataclass(frozen=True)
class Problem:
    """One task. The full program is always ``prompt + completion``.

    prompt: ends right after the docstring's closing quotes, without the newline (a trailing newline makes small
        models emit a code fence).
    references: completions (text that follows the prompt) that pass the tests.
    stops: a completion ends before the first of these.
    family: topic family; the train / held-out split never cuts through one.
    """

    problem_id: str
    prompt: str
    entry_point: str
    checker: AssertChecker
    references: tuple[str, ...]
    language: Literal["python", "cvxpy"] = "python"
    split: Literal["train", "heldout"] = "train"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    family: str = ""
    stops: tuple[str, ...] = BODY_STOPS

    def program(self, completion: str) -> str:
        """The source text to run for a completion."""
        return self.prompt + completion
