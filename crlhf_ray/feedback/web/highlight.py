"""Python source as highlighted HTML, a string for each line. Everything is escaped: the code is hostile text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES, _TokenType

from crlhf_ray.report.hidden import visible

_LEXER = PythonLexer(stripnl=False, ensurenl=False)


def highlighted(source: str, start: int = 0) -> tuple[str, ...]:
    """One HTML string for each line of the source from a character on, as `str.split` on newlines cuts it.

    Worked out each time (half a millisecond for a program): out of a cache, those that everybody gets would come
    quicker than others, which tells honeypots. Characters that could hide or reorder what is read are shown as escapes.
    """
    lines: list[list[str]] = [[]]
    skip = len(visible(source[:start]))
    for kind, text in _LEXER.get_tokens(visible(source)):
        text, skip = text[skip:], max(0, skip - len(text))
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            if part:
                lines[-1].append(_span(kind, part))
    return tuple("".join(parts) for parts in lines)


def program_lines(prompt: str, lines: Sequence[str]) -> tuple[str, ...]:
    """The completion's lines, highlighted as what they are after the prompt: the end of a whole program."""
    return highlighted(prompt + "\n".join(lines), len(prompt))


def _span(kind: _TokenType, text: str) -> str:
    while kind not in STANDARD_TYPES and kind.parent is not None:
        kind = kind.parent
    name = STANDARD_TYPES.get(kind, "")
    return f'<span class="{name}">{escape(text)}</span>' if name else escape(text)
