"""Faults for honeypots: small changes of one line, such as programmers make by mistake.

A mutation replaces a span of source within one line, so the number of lines stays. Whether it breaks anything is for
the tests to say; here it is only made sure that the program is still Python and really another one.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

#: Token for token; which of them apply depends on the place (see `_token_edits`).
_SWAPS: dict[str, tuple[str, ...]] = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("//",),
    "//": ("/",),
    "%": ("//",),
    "**": ("*",),
    "<": ("<=", ">", ">="),
    "<=": ("<", ">=", ">"),
    ">": (">=", "<", "<="),
    ">=": (">", "<=", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "+=": ("-=", "="),
    "-=": ("+=",),
    "*=": ("+=",),
    "//=": ("/=",),
    "and": ("or",),
    "or": ("and",),
    "True": ("False",),
    "False": ("True",),
    "min": ("max",),
    "max": ("min",),
    "any": ("all",),
    "all": ("any",),
    "lower": ("upper",),
    "upper": ("lower",),
    "startswith": ("endswith",),
    "endswith": ("startswith",),
    "break": ("continue",),
}
_ARITHMETIC = {"+", "-", "*", "/", "//", "%", "**"}
_ENDS_AN_OPERAND = {tokenize.NAME, tokenize.NUMBER, tokenize.STRING}
_KEYWORDS = {"return", "in", "and", "or", "not", "if", "else", "is", "lambda", "yield", "print"}


@dataclass(frozen=True)
class Mutation:
    """completion: the changed text; line: number of the changed line in it; operator: what kind of change, in words."""

    completion: str
    line: int
    operator: str


@dataclass(frozen=True)
class _Edit:
    row: int  # 1-based line of the program
    start: int  # columns in characters
    end: int
    text: str
    operator: str


def mutations(prompt: str, completion: str) -> list[Mutation]:
    """All single-line mutations of a completion, in the order of their places, without repetition.

    Raises SyntaxError if ``prompt + completion`` is not Python.
    """
    program = prompt + completion
    tree = ast.parse(program)
    lines = program.split("\n")
    first = prompt.count("\n") + 1
    found: dict[str, Mutation] = {}
    for edit in sorted(
        {*_token_edits(program), *_tree_edits(tree, lines)}, key=lambda e: (e.row, e.start, e.end, e.text)
    ):
        if edit.row < first or (
            edit.row == first and edit.start < len(lines[first - 1]) - len(completion.split("\n")[0])
        ):
            continue  # inside the prompt
        line = lines[edit.row - 1]
        changed = line[: edit.start] + edit.text + line[edit.end :]
        mutant = "\n".join([*lines[: edit.row - 1], changed, *lines[edit.row :]])
        if _differs(tree, mutant):
            text = mutant[len(prompt) :]
            found.setdefault(text, Mutation(text, edit.row - first, edit.operator))
    return list(found.values())


def _differs(tree: ast.Module, mutant: str) -> bool:
    """Whether the mutant is Python, and another program."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(mutant)) != ast.dump(tree)
    except SyntaxError:
        return False


def _token_edits(program: str) -> Iterator[_Edit]:
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(program).readline) if t.type != tokenize.COMMENT]
    for at, token in enumerate(tokens):
        row, start = token.start
        end = token.end[1]
        before = tokens[at - 1] if at else token
        if token.type == tokenize.OP and token.string in _SWAPS:
            binary = before.string in (")", "]", "}") or (
                before.type in _ENDS_AN_OPERAND and before.string not in _KEYWORDS
            )
            if binary or token.string not in _ARITHMETIC:
                yield from (_Edit(row, start, end, other, "operator") for other in _SWAPS[token.string])
        elif token.type == tokenize.NAME and token.string in _SWAPS:
            yield from (_Edit(row, start, end, other, "name") for other in _SWAPS[token.string])
        elif token.string == "in" and before.string != "not" and not _in_for(tokens, at):
            yield _Edit(row, start, end, "not in", "condition negated")
        elif token.string == "not" and before.string != "is":
            following = tokens[at + 1]
            if following.start[0] == row:
                yield _Edit(row, start, following.start[1], "", "negation dropped")
        elif token.type == tokenize.NUMBER and token.string.isdigit():
            value = int(token.string)
            for other in (value + 1, value - 1):
                if other >= 0:
                    yield _Edit(row, start, end, str(other), "constant")
        elif token.type == tokenize.STRING and token.start[0] == token.end[0] and token.string in ("''", '""'):
            quote = token.string[0]
            yield _Edit(row, start, end, f"{quote} {quote}", "constant")


def _in_for(tokens: list[tokenize.TokenInfo], at: int) -> bool:
    """Whether the `in` at this place belongs to a `for`, whose targets are names, commas, stars and brackets."""
    while at and (tokens[at - 1].string in (",", "*", "(", ")", "[", "]") or tokens[at - 1].string.isidentifier()):
        at -= 1
        if tokens[at].string == "for":
            return True
    return False


def _tree_edits(tree: ast.Module, lines: list[str]) -> Iterator[_Edit]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            if isinstance(node.test, ast.Name | ast.Call | ast.Attribute | ast.Subscript):
                yield from _replace(node.test, lines, "not {}", "condition negated")
        elif isinstance(node, ast.Return) and node.value is not None:
            if isinstance(node.value, ast.Name):
                yield from _replace(node.value, lines, "{} + 1", "wrong return")
            elif not isinstance(node.value, ast.Constant):
                yield from _replace(node.value, lines, "None", "wrong return")
        elif isinstance(node, ast.BinOp):
            yield from _replace_by(node, node.left, lines, "operand dropped")
            if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow):
                yield from _exchange(node.left, node.right, lines, "operands exchanged")
        elif isinstance(node, ast.Call):
            plain = [a for a in node.args if not isinstance(a, ast.Starred)]
            for left, right in pairwise(plain):
                yield from _exchange(left, right, lines, "arguments exchanged")
            if isinstance(node.func, ast.Name) and node.func.id == "range" and len(node.args) == 1:
                yield from _replace(node.args[0], lines, "{} - 1", "off by one")
                yield from _replace(node.args[0], lines, "1, {}", "off by one")
            elif (
                isinstance(node.func, ast.Name)
                and node.func.id in ("sorted", "set", "list", "abs", "reversed")
                and plain
            ):
                yield from _replace_by(node, plain[0], lines, "call dropped")
        elif (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and not isinstance(node.slice, ast.Slice | ast.Tuple | ast.Constant)  # constants change as tokens
        ):
            yield from _replace(node.slice, lines, "{} - 1", "off by one")


def _span(node: ast.AST, lines: list[str]) -> tuple[int, int, int] | None:
    """(row, start, end) of a node in characters; None if it does not lie within one line."""
    row, end_row = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    if row is None or row != end_row:
        return None
    raw = lines[row - 1].encode()  # the tree counts bytes
    return row, len(raw[: node.col_offset].decode()), len(raw[: node.end_col_offset].decode())  # type: ignore[attr-defined]


def _replace(node: ast.AST, lines: list[str], pattern: str, operator: str) -> Iterator[_Edit]:
    if span := _span(node, lines):
        row, start, end = span
        yield _Edit(row, start, end, pattern.format(lines[row - 1][start:end]), operator)


def _replace_by(node: ast.AST, part: ast.AST, lines: list[str], operator: str) -> Iterator[_Edit]:
    whole, inner = _span(node, lines), _span(part, lines)
    if whole and inner:
        yield _Edit(*whole, lines[whole[0] - 1][inner[1] : inner[2]], operator)


def _exchange(left: ast.AST, right: ast.AST, lines: list[str], operator: str) -> Iterator[_Edit]:
    one, two = _span(left, lines), _span(right, lines)
    if one and two and one[0] == two[0] and one[2] <= two[1]:
        text = lines[one[0] - 1]
        yield _Edit(
            one[0], one[1], two[2], text[two[1] : two[2]] + text[one[2] : two[1]] + text[one[1] : one[2]], operator
        )
