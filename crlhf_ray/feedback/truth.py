"""What a simulated annotator takes for the truth about the lines of a program.

The tests say whether a program is right, not which of its lines are. The rule here, from cheap to dear:

1. it passes its tests: every line is correct;
2. it does not compile: the line of the syntax error and all code after it are wrong;
3. else it is aligned with the nearest program that passes (references and passing samples), and the lines outside the
   alignment are wrong. Lines are compared by their tokens and nesting, with local variables renamed consistently.
   Where every line aligns but something is missing, the line after which it is missing is wrong.

Where the end is asked about, what is missing after the last line makes the end wrong and not the line.

Limits. A right idea that no known passing program uses counts as wrong; two lines that are right in different solutions
may count as right together; a fault has one place here, though it could often be mended in another; statements that
could be swapped freely count as wrong when swapped. So these labels are a simulation's truth, good enough to give an
annotator something to be right or wrong about, and no measure of programs: that is what tests are for.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.lines import carries_code
from crlhf_ray.sandbox.verdict import Verdict

_TOKEN = re.compile(
    r"""[rbfuRBFU]{0,2}"(?:\\.|[^"\\])*"|[rbfuRBFU]{0,2}'(?:\\.|[^'\\])*'|\w+|\*\*=?|//=?|[<>=!:+\-*/%&|^@]=|<<|>>|->|\S"""
)


def line_truth(
    problem: Problem, text_lines: str | Sequence[str], verdict: Verdict, passing: Sequence[str], *, end: bool = False
) -> np.ndarray:
    """Truth for each line of a completion.

    text_lines: the completion, or its lines. passing: completions that pass, besides the problem's references.
    end: whether it is asked if something is missing at the end.
    Returns int8, shape (lines,) or with the end (lines + 1,): +1 correct, -1 wrong. A line without code gets +1; it is
    not reviewed. A program that fails and has code gets at least one wrong place.
    Raises ValueError for an `infra_error` verdict, which says nothing about the program.
    """
    lines = text_lines.split("\n") if isinstance(text_lines, str) else list(text_lines)
    if verdict.status == "infra_error":
        raise ValueError(
            f"{problem.problem_id}: the sandbox failed ({verdict.detail}), so no truth is known: check it again"
        )
    truth = np.ones(len(lines) + end, dtype=np.int8)
    code = [n for n, line in enumerate(lines) if carries_code(line)]
    if verdict.passed or not code:
        return truth
    broken = _syntax_error_line(problem.prompt, "\n".join(lines))
    if broken is not None:
        truth[[n for n in code if n >= min(broken, code[-1])]] = -1
        return truth
    program = outline(problem.prompt, "\n".join(lines))
    known = dict.fromkeys((*problem.references, *passing))
    if not known:
        raise ValueError(f"{problem.problem_id} has no reference and no passing sample to compare with")
    nearest = _nearest(program, [outline(problem.prompt, text) for text in known])
    truth[list(nearest.wrong)] = -1
    if end and nearest.unfinished:
        last = program.lines[-1].number
        truth[last] = 1  # it has a partner: only what is missing after it was charged to it
        truth[-1] = -1
    return truth


@dataclass(frozen=True)
class CodeLine:
    number: int
    depth: int
    text: str  # without indent
    tokens: tuple[str, ...]
    shape: tuple[str, ...]  # the tokens with "_" for each local name


@dataclass(frozen=True)
class Outline:
    lines: tuple[CodeLine, ...]
    local: frozenset[str]


@dataclass(frozen=True)
class _Comparison:
    distance: int  # lines of either program without a partner
    wrong: tuple[int, ...]  # numbers of lines
    unfinished: bool  # whether the reference goes on where the program ends


def _syntax_error_line(prompt: str, completion: str) -> int | None:
    """The completion line (0-based) where the program stops being Python; None if it is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning of the program is not our caller's business
            compile(prompt + completion, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return max(0, (error.lineno or 1) - 1 - prompt.count("\n"))
    except (ValueError, MemoryError, RecursionError):  # a NUL character, or nesting beyond the compiler
        return max(0, completion.partition("\0")[0].count("\n")) if "\0" in completion else 0
    return None


@lru_cache(maxsize=4096)
def outline(prompt: str, completion: str) -> Outline:
    local = _local_names(prompt, completion)
    lines: list[CodeLine] = []
    indents: list[int] = []
    for number, text in enumerate(completion.split("\n")):
        if not carries_code(text):
            continue
        expanded = text.expandtabs(8)
        indent = len(expanded) - len(expanded.lstrip())
        while indents and indents[-1] > indent:
            indents.pop()
        if not indents or indents[-1] < indent:
            indents.append(indent)
        tokens = tuple(_TOKEN.findall(text.split(" #")[0].split("\t#")[0]))
        shape = tuple("_" if token in local else token for token in tokens)
        lines.append(CodeLine(number, len(indents), text.strip(), tokens, shape))
    return Outline(tuple(lines), local)


def _local_names(prompt: str, completion: str) -> frozenset[str]:
    """Names of the completion's own variables, arguments and helpers. The prompt's arguments stay what they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(prompt + completion)
    last_prompt_line = prompt.count("\n") + 1
    own: set[str] = set()
    given: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            (own if node.lineno > last_prompt_line else given).add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.lineno > last_prompt_line:
            own.add(node.name or "_")
    return frozenset(own - given)


def _nearest(program: Outline, references: Sequence[Outline]) -> _Comparison:
    """The comparison of least distance; of equals, with the reference nearest in length, then the first."""
    best: _Comparison | None = None
    for gap, reference in sorted(
        ((abs(len(r.lines) - len(program.lines)), r) for r in references), key=lambda pair: pair[0]
    ):
        if best and gap >= best.distance:
            break  # the distance is at least the gap
        found = compare(program, reference)
        if best is None or found.distance < best.distance:
            best = found
    assert best is not None
    return best


def compare(program: Outline, reference: Outline) -> _Comparison:
    """Align two programs line by line; see the module's text."""
    pairs = align(program.lines, reference.lines)
    names = renaming(program, reference, pairs)
    pairs = [
        (a, b) for a, b in pairs if tuple(names.get(t, t) for t in program.lines[a].tokens) == reference.lines[b].tokens
    ]
    matched = {a for a, _ in pairs}
    met = {b for _, b in pairs}
    wrong = [line.number for at, line in enumerate(program.lines) if at not in matched]
    missing = [at for at in range(len(reference.lines)) if at not in met]
    unfinished = len(program.lines) - 1 in matched and len(reference.lines) - 1 in missing
    if not wrong:
        # Nothing that is there is wrong, so blame the line after which something is missing; the last if nothing is.
        before = [a for a, b in pairs if not missing or b < missing[0]]
        wrong = [program.lines[before[-1] if before else 0].number]
    distance = len(program.lines) - len(matched) + len(missing)
    return _Comparison(distance, tuple(wrong), unfinished)


def align(a: Sequence[CodeLine], b: Sequence[CodeLine]) -> list[tuple[int, int]]:
    """The common subsequence of most lines with equal shape and depth; of those, the one with most equal tokens."""
    score = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            score[i][j] = max(score[i + 1][j], score[i][j + 1])
            if a[i].shape == b[j].shape and a[i].depth == b[j].depth:
                score[i][j] = max(score[i][j], score[i + 1][j + 1] + 1 + 0.01 * (a[i].tokens == b[j].tokens))
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if score[i][j] == score[i + 1][j]:
            i += 1
        elif score[i][j] == score[i][j + 1]:
            j += 1
        else:
            pairs.append((i, j))
            i, j = i + 1, j + 1
    return pairs


def renaming(program: Outline, reference: Outline, pairs: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Which local name of the program stands for which of the reference: one to one, most frequent pairing first."""
    votes: Counter[tuple[str, str]] = Counter()
    for at, other in pairs:
        for mine, theirs in zip(program.lines[at].tokens, reference.lines[other].tokens, strict=True):
            if mine in program.local:
                votes[mine, theirs] += 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for (mine, theirs), _ in sorted(votes.items(), key=lambda vote: -vote[1]):
        if mine not in names and theirs not in taken:
            names[mine] = theirs
            taken.add(theirs)
    return names
