"""Line truth by repair: a line is wrong if changing it towards a passing program is needed for the tests to pass.

`feedback.truth` blames every line outside the alignment with the nearest passing program. Many of those differences are
harmless. Here they are tried. First, lines that have a similar line in a passing program are replaced by it, one at a
time: where that is enough, that line alone is wrong. Otherwise the program is repaired by all differences, which must
make it pass, and then each one that is not needed is taken back, until none can be spared. So repairing the wrong lines
makes the program pass, and repairing fewer of them does not.

Limits. The repair found is one of possibly several, and another line could be to blame as well. A program that no known
passing program can be turned into line by line, and one that is not Python, keep the truth of the alignment.
"""

from __future__ import annotations

import keyword
import re
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Protocol

import numpy as np

from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.feedback.truth import CodeLine, Outline, align, compare, line_truth, outline, renaming
from crlhf_ray.problems.problem import Problem

NEAREST = 3  # passing programs that a repair is tried from
SINGLE = 6  # replacements of one line that are tried first, the most alike before others
ALIKE = 0.5  # how much of two lines must be the same for one to be tried in the other's place
PASSES = 4  # how often each change may be tried to be spared: a bound on the checks, hardly ever met
ATTEMPTS = 3  # checks of a program where the judge itself fails

_NAME = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\.\s*\w+)|\b([A-Za-z_]\w*)\b""")


class Judges(Protocol):
    """A `Judge` or a `JudgePool`."""

    def check(self, jobs: Sequence[tuple[Problem, str]]) -> list[Verdict]: ...


@dataclass(frozen=True)
class Judged:
    """A program with its verdict, and passing programs, besides the problem's references, to compare it with."""

    problem: Problem
    text: str
    verdict: Verdict
    passing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """Lines ``[start, end)`` of the outline give way to ``lines``; an insertion where start equals end."""

    start: int
    end: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Repair:
    """truth: int8, shape (lines,), as `line_truth`. consistent: whether repairing the wrong lines makes it pass."""

    truth: np.ndarray
    consistent: bool
    repaired: str | None


def changes(program: Outline, reference: Outline) -> list[Change]:
    """What turns the program into the reference, in the program's own names, in order and as small as can be told."""
    same, back = _common(program, reference)
    for name in reference.local - set(back):
        if name in program.local:
            back[name] = f"{name}_new"  # another thing of the same name
    partners: list[tuple[int, int]] = []
    at = other = 0
    for a, b in [*same, (len(program.lines), len(reference.lines))]:
        replaced = _partners(program.lines[at:a], reference.lines[other:b])
        partners += [*((at + i, other + k) for i, k in replaced), (a, b)]
        at, other = a + 1, b + 1
    found: list[Change] = []
    at = other = 0
    for a, b in partners:
        found += [Change(i, i + 1, ()) for i in range(at, a)]
        new = tuple(_rewritten(line, line.depth, back) for line in reference.lines[other : b + 1])
        if b > other:
            found.append(Change(a, a, new[: b - other]))
        if a < len(program.lines) and (a, b) not in same:
            found.append(Change(a, a + 1, new[-1:]))
        at, other = a + 1, b + 1
    return found


def _common(program: Outline, reference: Outline) -> tuple[list[tuple[int, int]], dict[str, str]]:
    """Pairs of lines that are the same, and the program's names for those of the reference."""
    pairs = align(program.lines, reference.lines)
    names = renaming(program, reference, pairs)
    same = [
        (a, b) for a, b in pairs if tuple(names.get(t, t) for t in program.lines[a].tokens) == reference.lines[b].tokens
    ]
    return same, {theirs: mine for mine, theirs in names.items()}


def _partners(mine: Sequence[CodeLine], theirs: Sequence[CodeLine]) -> list[tuple[int, int]]:
    """Which line gives way to which, in order and such that they are as much alike as can be."""
    alike = [
        [
            SequenceMatcher(None, a.shape, b.shape, autojunk=False).ratio()
            + (a.depth == b.depth)
            + (_statement(a) == _statement(b))
            for b in theirs
        ]
        for a in mine
    ]
    best = [[0.0] * (len(theirs) + 1) for _ in range(len(mine) + 1)]
    for i in range(len(mine) - 1, -1, -1):
        for k in range(len(theirs) - 1, -1, -1):
            best[i][k] = max(best[i + 1][k], best[i][k + 1], best[i + 1][k + 1] + alike[i][k])
    found, i, k = [], 0, 0
    while i < len(mine) and k < len(theirs):
        if best[i][k] == best[i + 1][k + 1] + alike[i][k]:
            found.append((i, k))
            i, k = i + 1, k + 1
        elif best[i][k] == best[i + 1][k]:
            i += 1
        else:
            k += 1
    return found


def _statement(line: CodeLine) -> str:
    """The keyword that a line begins with, or nothing."""
    return line.tokens[0] if line.tokens and keyword.iskeyword(line.tokens[0]) else ""


def _replacements(program: Outline, references: Sequence[Outline]) -> list[Change]:
    """Replacements of one line by a reference's line that resembles it, wherever that stands; the most alike first.

    Only a statement of the same kind will do: a `return` early in the program would hide its faults, not mend them.
    """
    found: dict[Change, float] = {}
    for reference in references:
        _, back = _common(program, reference)
        for theirs in reference.lines:
            tokens = tuple(back.get(token, token) for token in theirs.tokens)
            matcher = SequenceMatcher(None, (), tokens, autojunk=False)
            for at, mine in enumerate(program.lines):
                if _statement(mine) != _statement(theirs) or mine.tokens == tokens:
                    continue
                change = Change(at, at + 1, (_rewritten(theirs, mine.depth, back),))
                if change not in found:
                    matcher.set_seq1(mine.tokens)
                    found[change] = matcher.ratio() if matcher.real_quick_ratio() >= ALIKE else 0.0
    return sorted((change for change, alike in found.items() if alike >= ALIKE), key=lambda change: -found[change])


def _rewritten(line: CodeLine, depth: int, names: dict[str, str]) -> str:
    """The line at a depth, as text with a marker for the indent, and with names replaced outside strings."""
    text = _NAME.sub(lambda match: match[1] or names.get(match[2], match[2]), line.text)
    return f"{depth}\0{text}"


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


def repair(programs: Sequence[Judged], judge: Judges) -> list[Repair]:
    """Truth for each program. The next trials of all programs share a batch of checks."""
    found: dict[int, Repair] = {}
    searches = [_search(judged) for judged in programs]
    answers: dict[int, list[bool | None] | None] = dict.fromkeys(range(len(programs)))
    while answers:
        asked: dict[int, list[str]] = {}
        for at, answer in answers.items():
            try:
                asked[at] = next(searches[at]) if answer is None else searches[at].send(answer)
            except StopIteration as end:
                found[at] = end.value
        passed = iter(_passed(judge, [(programs[at].problem, text) for at, texts in asked.items() for text in texts]))
        answers = {at: [next(passed) for _ in texts] for at, texts in asked.items()}
    return [found[at] for at in range(len(programs))]


def _passed(judge: Judges, jobs: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """Whether each passes; None where the judge fails again and again, which says nothing about the program."""
    passed: list[bool | None] = [None] * len(jobs)
    for _ in range(ATTEMPTS):
        if left := [n for n, known in enumerate(passed) if known is None]:
            for n, verdict in zip(left, judge.check([jobs[n] for n in left]), strict=True):
                if verdict.status != "infra_error":
                    passed[n] = verdict.passed
    return passed


def _search(judged: Judged) -> Generator[list[str], list[bool | None], Repair]:
    """Yields programs to be checked, none twice and none that is not Python, and takes whether they pass."""
    base = line_truth(judged.problem, judged.text, judged.verdict, judged.passing)
    aligned = Repair(base, False, None)
    if judged.verdict.passed:
        return Repair(base, True, judged.text)
    try:
        program = outline(judged.problem.prompt, judged.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return aligned  # not Python: the alignment's rule for that stands
    if not program.lines:
        return aligned  # no code: nothing in it is judged
    known = [
        outline(judged.problem.prompt, text) for text in dict.fromkeys((*judged.problem.references, *judged.passing))
    ]
    known = sorted(known, key=lambda reference: compare(program, reference).distance)[:NEAREST]
    mending = _mend(program, known)
    passes = {judged.text: False}
    try:
        trials = next(mending)
        while True:
            texts = [apply(judged.text, program, trial) for trial in trials]
            passes |= {text: False for text in texts if text not in passes and not _is_python(judged, text)}
            if new := [text for text in dict.fromkeys(texts) if text not in passes]:
                answers = yield new
                for text, passed in zip(new, answers, strict=True):
                    if passed is None:
                        return aligned
                    passes[text] = passed
            trials = mending.send([passes[text] for text in texts])
    except StopIteration as end:
        kept: list[Change] | None = end.value
    if kept is None:
        return aligned
    truth = np.ones_like(base)
    truth[[program.lines[at].number for at in _blamed(kept)]] = -1
    return Repair(truth, True, apply(judged.text, program, kept))


def _is_python(judged: Judged, text: str) -> bool:
    """Asked here because half of the trials are not, such as those without the line that opens a block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(judged.problem.prompt + text, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _mend(
    program: Outline, references: Sequence[Outline]
) -> Generator[list[list[Change]], list[bool], list[Change] | None]:
    """Yields sets of changes to be tried and takes whether each makes the program pass; returns the one found."""
    single = [[change] for change in _replacements(program, references)[:SINGLE]]
    for trial, passed in zip(single, (yield single), strict=True):
        if passed:
            return trial
    for trial in sorted((changes(program, reference) for reference in references), key=len):
        (passed,) = yield [trial]
        if passed:
            return (yield from _spared(trial))
    return None


def _spared(trial: list[Change]) -> Generator[list[list[Change]], list[bool], list[Change]]:
    """The changes without those that can be spared; once one is, those that were needed before are tried again."""
    kept = deque(trial)
    needed = 0
    for _ in range(PASSES * len(trial)):
        if needed == len(kept):
            break
        change = kept.popleft()
        (passed,) = yield [list(kept)]
        needed = 0 if passed else needed + 1
        if not passed:
            kept.append(change)
    return list(kept)


def _blamed(kept: Sequence[Change]) -> set[int]:
    """The lines of the outline that the changes replace or remove.

    What is inserted next to one of those goes with it. Where something is missing elsewhere, the line after which it is
    missing is to blame.
    """
    changed = {at for change in kept for at in range(change.start, change.end)}
    missing = {change.start for change in kept if change.start == change.end}
    return changed | {max(0, at - 1) for at in missing if not {at - 1, at} & changed}
