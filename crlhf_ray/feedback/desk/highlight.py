"""Python source as highlighted HTML, a string for each line. Everything is escaped: the code is hostile text."""

from __future__ import annotations

from html import escape

from pygments.lexers import PythonLexer
from pygments.token import STANDARD_TYPES, _TokenType

from crlhf_ray.visible import visible

_LEXER = PythonLexer(stripnl=False, ensurenl=False)


def highlighted(prompt: str, program: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompt's lines, and the program's as what they are after it: the end of one source. A string of HTML for each
    line, as `str.split` on newlines cuts them.

    Worked out each time (half a millisecond for a program): out of a cache, those that everybody gets would come
    quicker than others, which tells honeypots. Characters that could hide or reorder what is read are shown as escapes.
    """
    parts: tuple[list[list[str]], list[list[str]]] = ([[]], [[]])
    left = len(visible(prompt))  # characters until the program begins
    for kind, text in _LEXER.get_tokens(visible(prompt + program)):
        for lines, piece in zip(parts, (text[:left], text[left:]), strict=True):
            for number, words in enumerate(piece.split("\n")):
                if number:
                    lines.append([])
                if words:
                    lines[-1].append(_span(kind, words))
        left = max(0, left - len(text))
    first, second = (tuple("".join(words) for words in lines) for lines in parts)
    return first, second


def _span(kind: _TokenType, text: str) -> str:
    while kind not in STANDARD_TYPES and kind.parent is not None:
        kind = kind.parent
    name = STANDARD_TYPES.get(kind, "")
    return f'<span class="{name}">{escape(text)}</span>' if name else escape(text)
