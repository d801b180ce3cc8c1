"""Line truth by the least fault: the smallest set of lines whose replacement makes the tests pass [ours].

A replacement is a line of like kind: an edit of that line (an operator, a number, a name, a call put around or taken
away), or a line of a known solution that begins with the same keyword, in the program's own names; never a whole other
solution. Single lines are tried before pairs, small edits before larger ones, and the first that passes decides. What
needs more than two lines, or is not found among so many tries, has the truth of `repair`.

Limits. Where edits of different lines make a program pass, the one that is tried first is taken. The edits hold the
inverse of each of `mutations`, so on planted faults this truth is measured on its own ground.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import combinations, zip_longest

import numpy as np

from crlhf_ray.feedback.mutations import mutations
from crlhf_ray.feedback.repair import NEAREST, Checked, Repair, changes, repair, trial_verdicts
from crlhf_ray.feedback.truth import CodeLine, Outline, compare, outline
from crlhf_ray.sandbox.samples import AnySandbox

SINGLES = 160  # tries of one line
PAIRS = 40  # tries of two
AT_ONCE = 12  # tries of one program in a batch

_TOKENS = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_]\w*|\d+|\*\*=?|//=?|[<>=!+\-*/%]=|\s+|.)""")
#: Beside those of `mutations`, so that each of them can be taken back.
_MORE = {"+": ("*",), "*": ("**",), "//": ("%",), "%": ("*",), "=": ("+=", "-="), "continue": ("break",), "-=": ("=",)}
_AROUND = ("sorted", "set", "list", "abs", "reversed", "len", "str", "int")

Replacement = tuple[int, str]  # number of the line, and its new text


def fault_only(programs: Sequence[Checked], sandbox: AnySandbox) -> list[Repair]:
    """Truth for each program, as `repair` gives it; checks of all programs share batches."""
    tries = [_tries(checked) for checked in programs]
    found: dict[int, tuple[tuple[Replacement, ...], str]] = {}
    live = [n for n, one in enumerate(tries) if one is not None]
    while live:
        batch: list[tuple[int, tuple[Replacement, ...], str]] = []
        for n in live:
            one = tries[n]
            assert one is not None
            for _, chosen in zip(range(AT_ONCE), one, strict=False):
                batch.append((n, chosen, _replaced(programs[n].text, chosen)))
        answers = trial_verdicts(sandbox, [(programs[n].problem, text) for n, _, text in batch])
        for (n, chosen, text), passed in zip(batch, answers, strict=True):
            if passed and n not in found:
                found[n] = chosen, text
        live = [n for n in dict.fromkeys(n for n, _, _ in batch) if n not in found]
    others = [n for n in range(len(programs)) if n not in found]
    rest = dict(zip(others, repair([programs[n] for n in others], sandbox), strict=True))
    return [rest[n] if n in rest else _truth(programs[n], *found[n]) for n in range(len(programs))]


def _truth(checked: Checked, chosen: tuple[Replacement, ...], text: str) -> Repair:
    truth = np.ones(checked.text.count("\n") + 1 + checked.end, dtype=np.int8)
    truth[[number for number, _ in chosen]] = -1
    return Repair(truth, True, text)


def _replaced(text: str, chosen: Sequence[Replacement]) -> str:
    lines = text.split("\n")
    for number, line in chosen:
        lines[number] = line
    return "\n".join(lines)


def _tries(checked: Checked) -> Iterator[tuple[Replacement, ...]] | None:
    """Sets of replacements in the order in which they are tried; None for what is right, or is not Python."""
    if checked.verdict.passed:
        return None
    try:
        program = outline(checked.problem.prompt, checked.text)
        small = mutations(checked.problem.prompt, checked.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not program.lines:
        return None
    known = _known_lines(checked, program)
    edits: dict[int, list[str]] = {line.number: [] for line in program.lines}
    for mutation in small:
        if mutation.line in edits:
            edits[mutation.line].append(mutation.completion.split("\n")[mutation.line])
    names = sorted(program.local | _arguments(checked.problem.prompt))
    for line in program.lines:
        text = checked.text.split("\n")[line.number]
        edits[line.number] += _edits(text, names)
    return _ordered(checked, known, edits)


def _ordered(
    checked: Checked, known: dict[int, list[str]], edits: dict[int, list[str]]
) -> Iterator[tuple[Replacement, ...]]:
    """Aligned lines first, then edits of all lines in turn, then two lines of known solutions."""
    seen = {checked.text}
    tried = 0
    in_turn = [(n, text) for n, texts in known.items() for text in texts]
    for texts in zip_longest(*edits.values()):
        in_turn += [(n, text) for n, text in zip(edits, texts, strict=True) if text is not None]
    pairs = [
        (one, other)
        for one, other in combinations([(n, t) for n, ts in known.items() for t in ts], 2)
        if one[0] != other[0]
    ]
    for most, sets in ((SINGLES, [(one,) for one in in_turn]), (SINGLES + PAIRS, pairs)):
        for chosen in sets:
            text = _replaced(checked.text, chosen)
            if tried < most and text not in seen and _is_python(checked.problem.prompt + text):
                seen.add(text)
                tried += 1
                yield chosen


def _is_python(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _arguments(prompt: str) -> set[str]:
    functions = [node for node in ast.walk(ast.parse(prompt)) if isinstance(node, ast.FunctionDef)]
    return {argument.arg for argument in functions[-1].args.args} if functions else set()


def _known_lines(checked: Checked, program: Outline) -> dict[int, list[str]]:
    """By number of a line: what the nearest passing programs have in its place, if it is of like kind."""
    found: dict[int, list[str]] = {}
    others = [outline(checked.problem.prompt, text) for text in (*checked.problem.references, *checked.passing)]
    for reference in sorted(others, key=lambda other: compare(program, other).distance)[:NEAREST]:
        turned = changes(program, reference)
        new = [line.split("\0")[1] for change in turned for line in change.lines]
        for change in turned:
            for line in program.lines[change.start : change.end]:
                own = set(line.tokens) & program.local
                like = [text for text in (*(t.split("\0")[1] for t in change.lines), *new) if _like(text, line, own)]
                raw = checked.text.split("\n")[line.number]
                indent = raw[: len(raw) - len(raw.lstrip())]
                found.setdefault(line.number, []).extend(indent + text for text in dict.fromkeys(like))
    return found


def _like(text: str, line: CodeLine, own: set[str]) -> bool:
    """Whether both begin with the same keyword, or both with none and the same kind of statement.

    own: the program's variables in the line; one of them must stay, or a whole solution could stand in the last line.
    """
    if own and not own & set(_TOKENS.findall(text)):
        return False
    words = ("return", "if", "elif", "else", "for", "while", "def", "break", "continue", "pass", "import", "from")
    first, other = (re.match(r"\w*", one) for one in (text, line.text))
    mine, theirs = (found[0] if found and found[0] in words else "" for found in (first, other))
    return mine == theirs and (bool(mine) or ("=" in text) == ("=" in line.text))


def _edits(line: str, names: Sequence[str]) -> list[str]:
    """Other lines by one change of a token, or of a call around one."""
    tokens = _TOKENS.findall(line)
    found = []
    for at, token in enumerate(tokens):
        others: list[str] = list(_MORE.get(token, ()))
        if token in names:
            others += [name for name in names if name != token]
        elif token in ("None",):
            others += names
        around = [f"{call}({token})" for call in _AROUND] if token in names else []
        found += ["".join((*tokens[:at], other, *tokens[at + 1 :])) for other in (*others, *around)]
    for inner in re.finditer(r"range\(\d+, ", line):
        found.append(line[: inner.start()] + "range(" + line[inner.end() :])
    return found
