"""`Problem`: one programming task, its tests and its reference solutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crlhf_ray.problems.checkers import AssertChecker, Checker, Untested

__all__ = ["BODY_STOPS", "PROGRAM_STOPS", "AssertChecker", "Checker", "Problem", "docstring"]

#: A function body ends where the next top-level statement begins.
BODY_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n@", "\nassert", "\nimport ", "\nfrom ", "\n```")


#: A whole program ends where the model turns to prose, to its own tests or to a new task. Functions, classes, imports
#: and comments are part of it, so `BODY_STOPS` does not fit.
PROGRAM_STOPS = ("\nprint", "\nassert", "\nif __name__", '\n"""', "\n'''", "\n```")


def docstring(text: str) -> str:
    """A prompt that tells the task in words, as a module's docstring; the completion is a whole program."""
    return '"""\n' + text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') + '\n"""'


@dataclass(frozen=True)
class Problem:
    """One task. The full program is always ``prompt + completion``.

    prompt: ends right after the docstring's closing quotes, without the newline (a trailing newline makes small
        models emit a code fence).
    entry_point: what the tests call; empty where nothing does.
    references: completions (text that follows the prompt) that pass the tests.
    packages: third-party distributions that the program may import, such as ``numpy``.
    stops: a completion ends before the first of these.
    family: topic family; the train / held-out split never cuts through one.
    """

    problem_id: str
    prompt: str
    entry_point: str
    checker: Checker
    references: tuple[str, ...]
    language: Literal["python", "cvxpy"] = "python"
    split: Literal["train", "heldout"] = "train"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    family: str = ""
    stops: tuple[str, ...] = BODY_STOPS
    packages: tuple[str, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether tests say what is right; else people alone do."""
        return not isinstance(self.checker, Untested)

    def program(self, completion: str) -> str:
        """The source text to run for a completion."""
        return self.prompt + completion
