"""Line truth by repair: a line is wrong if changing it towards a passing program is needed for the tests to pass.

`feedback.truth` blames every line outside the alignment with the nearest passing program. Many of those differences are
harmless. Here each difference is tried: the program is repaired by all of them, which must make it pass, and then each
one in turn is taken back if the program passes without it. The lines of the changes that are left are wrong.

Limits. The set found is one of possibly several, and not always a smallest: each change is tried once, and one that was
needed may be spared after a later one is gone. A program that no known passing program can be turned into line by line,
one that is not Python, and one about which the sandbox keeps failing, keep the truth of the alignment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crlhf_ray.feedback.truth import CodeLine, Outline, align, compare, line_truth, outline, renaming
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.samples import AnySandbox
from crlhf_ray.sandbox.verdict import Verdict

NEAREST = 3  # passing programs that a repair is tried from
ATTEMPTS = 3  # checks of a program where the sandbox itself fails

_NAME = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\.\s*\w+)|\b([A-Za-z_]\w*)\b""")


@dataclass(frozen=True)
class Checked:
    """A program with its verdict, and passing programs, besides the problem's references, to compare it with.

    end: whether it is asked if something is missing at the end; what has to be added there then makes no line wrong.
    """

    problem: Problem
    text: str
    verdict: Verdict
    passing: tuple[str, ...] = ()
    end: bool = False


@dataclass(frozen=True)
class Change:
    """Lines ``[start, end)`` of the outline give way to ``lines``; an insertion where start equals end."""

    start: int
    end: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Repair:
    """truth: int8, shape (places,), as `line_truth`. consistent: whether repairing the wrong lines makes it pass."""

    truth: np.ndarray
    consistent: bool
    repaired: str | None


def changes(program: Outline, reference: Outline) -> list[Change]:
    """What turns the program into the reference, in the program's own names, in order and as small as can be told."""
    pairs = align(program.lines, reference.lines)
    names = renaming(program, reference, pairs)
    same = [
        (a, b) for a, b in pairs if tuple(names.get(t, t) for t in program.lines[a].tokens) == reference.lines[b].tokens
    ]
    back = {theirs: mine for mine, theirs in names.items()}
    for name in reference.local - set(back):
        if name in program.local:
            back[name] = f"{name}_new"  # another thing of the same name
    found: list[Change] = []
    at = other = 0
    for a, b in [*same, (len(program.lines), len(reference.lines))]:
        new = [_rewritten(line, back) for line in reference.lines[other:b]]
        if a - at == len(new):
            found += [Change(at + i, at + i + 1, (line,)) for i, line in enumerate(new)]
        else:
            found += [Change(i, i + 1, ()) for i in range(at, a)]
            found += [Change(a, a, tuple(new))] if new else []
        at, other = a + 1, b + 1
    return found


def _rewritten(line: CodeLine, names: dict[str, str]) -> str:
    """The line at its depth, as text with a marker for the indent, and with names replaced outside strings."""
    text = _NAME.sub(lambda match: match[1] or names.get(match[2], match[2]), line.text)
    return f"{line.depth}\0{text}"


def apply(text: str, program: Outline, chosen: Sequence[Change]) -> str:
    """The program with the changes made; comments and blank lines stay where they are."""
    lines = text.split("\n")
    indents: dict[int, str] = {}
    for line in program.lines:
        raw = lines[line.number]
        indents.setdefault(line.depth, raw[: len(raw) - len(raw.lstrip())])
    out: list[str] = []
    begun = 0
    for change in sorted(chosen, key=lambda change: (change.start, change.end)):
        first = program.lines[change.start].number if change.start < len(program.lines) else len(lines)
        out += lines[begun:first]
        for new in change.lines:
            depth, _, code = new.partition("\0")
            out.append(_indent(indents, int(depth)) + code)
        begun = first if change.start == change.end else program.lines[change.end - 1].number + 1
        out += [lines[n] for n in range(first, begun) if not any(n == line.number for line in program.lines)]
    return "\n".join(out + lines[begun:])


def _indent(indents: dict[int, str], depth: int) -> str:
    if depth not in indents:
        indents[depth] = _indent(indents, depth - 1) + "    " if depth > 1 else "    "
    return indents[depth]


def repair(programs: Sequence[Checked], sandbox: AnySandbox) -> list[Repair]:
    """Truth for each program, with as many rounds of checks as the longest list of changes; batches share a round."""
    works = [_Work(checked) for checked in programs]
    while jobs := [(work, text) for work in works if (text := work.next_trial()) is not None]:
        answers = trial_verdicts(sandbox, [(work.checked.problem, text) for work, text in jobs])
        for (work, _), passed in zip(jobs, answers, strict=True):
            work.hear(passed)
    return [work.result() for work in works]


def trial_verdicts(sandbox: AnySandbox, jobs: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """Whether each passes; None where the sandbox fails again and again, which says nothing about the program."""
    passed: list[bool | None] = [None] * len(jobs)
    for _ in range(ATTEMPTS):
        if left := [n for n, known in enumerate(passed) if known is None]:
            for n, verdict in zip(left, sandbox.check([jobs[n] for n in left]), strict=True):
                if verdict.status != "infra_error":
                    passed[n] = verdict.passed
    return passed


class _Work:
    """The search for one program: first a passing program that repairs it, then which changes can be spared."""

    def __init__(self, checked: Checked):
        self.checked = checked
        self.base = line_truth(checked.problem, checked.text, checked.verdict, checked.passing, end=checked.end)
        self.kept: list[Change] | None = None
        self.candidates: list[list[Change]] = []
        self.spare = 0
        self.outline: Outline | None = None
        if checked.verdict.passed:
            return
        try:
            self.outline = outline(checked.problem.prompt, checked.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # not Python: the alignment's rule for that stands
        if not self.outline.lines:
            self.outline = None  # no code: nothing in it is checked
            return
        known = dict.fromkeys((*checked.problem.references, *checked.passing))
        outlines = [outline(checked.problem.prompt, text) for text in known]
        outlines.sort(key=lambda reference: compare(self.outline, reference).distance)  # type: ignore[arg-type]
        self.candidates = [found for each in outlines[:NEAREST] if (found := changes(self.outline, each))]

    def next_trial(self) -> str | None:
        """The next program to check; None when done."""
        if self.outline is None:
            return None
        if self.kept is None:
            return apply(self.checked.text, self.outline, self.candidates[0]) if self.candidates else None
        if self.spare >= len(self.kept) or len(self.kept) == 1:
            return None
        return apply(self.checked.text, self.outline, self._without())

    def _without(self) -> list[Change]:
        assert self.kept is not None
        return self.kept[: self.spare] + self.kept[self.spare + 1 :]

    def hear(self, passed: bool | None) -> None:
        """None: the sandbox could not tell, and the alignment's truth stands."""
        if passed is None:
            self.outline = None
        elif self.kept is None:
            candidate = self.candidates.pop(0)
            if passed:
                self.kept = candidate
        elif passed:
            self.kept = self._without()
        else:
            self.spare += 1

    def result(self) -> Repair:
        if self.checked.verdict.passed:
            return Repair(self.base, True, self.checked.text)
        if self.kept is None or self.outline is None:
            return Repair(self.base, False, None)
        truth = np.ones_like(self.base)
        for change in self.kept:
            if self.checked.end and change.start == change.end == len(self.outline.lines):
                truth[-1] = -1
                continue
            # Where something is missing, the line after which it is missing is to blame.
            blamed = range(change.start, change.end) or [max(0, change.start - 1)]
            truth[[self.outline.lines[at].number for at in blamed if at < len(self.outline.lines)]] = -1
        return Repair(truth, True, apply(self.checked.text, self.outline, self.kept))
