"""Source as highlighted HTML, a string for each line, and which lines carry code, by the language's Pygments lexer.

Everything is escaped: the code is hostile text. Characters that could hide or reorder what is read become escapes.
"""

from __future__ import annotations

import difflib
from html import escape

from pygments.lexer import Lexer
from pygments.lexers import get_all_lexers, get_lexer_by_name, get_lexer_for_filename
from pygments.token import STANDARD_TYPES, Comment, Text, _TokenType
from pygments.util import ClassNotFound

from crlhf_ray.errors import ConfigError
from crlhf_ray.visible import visible


def lexer_of(language: str) -> Lexer:
    """The lexer of a language by any of its names at Pygments. Raises ConfigError for an unknown one."""
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        known = [alias for _, aliases, _, _ in get_all_lexers() for alias in aliases]
        near = difflib.get_close_matches(language.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`pygmentize -L lexers` lists those that there are"
        raise ConfigError(f"there is no language {language!r}: {hint}") from None


def language_of(file: str, text: str) -> str | None:
    """The language of a file by its name, and by its text where names are shared; None where Pygments knows none."""
    try:
        aliases = get_lexer_for_filename(file, text).aliases
    except ClassNotFound:
        return None
    return str(aliases[0]) if aliases else None


def code_lines(text: str, language: str) -> tuple[int, ...]:
    """The numbers, from 0, of the lines that are neither blank nor all comment. Strings and directives are code."""
    found, number = set(), 0
    for kind, piece in lexer_of(language).get_tokens(text):
        remark = kind in Comment and kind not in Comment.Preproc and kind not in Comment.PreprocFile
        for offset, words in enumerate(piece.split("\n")):
            number += offset > 0
            if words.strip() and not remark:
                found.add(number)
    return tuple(sorted(found))


def highlighted(prompt: str, program: str = "", language: str | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompt's lines and the program's, a string of HTML for each, as `str.split` on newlines cuts them.

    language: None where the program is Python and the prompt its beginning: both are one source then. Otherwise the
    prompt is prose, and the program is highlighted alone.

    Worked out each time (half a millisecond for a program): out of a cache, those that everybody gets would come
    quicker than others, which tells honeypots.
    """
    if language is None:
        return _cut(prompt + program, len(visible(prompt)), lexer_of("python"))
    _, lines = _cut(program, 0, lexer_of(language))
    return tuple(_span(Text, line) for line in visible(prompt).split("\n")), lines


def _cut(source: str, left: int, lexer: Lexer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """left: visible characters until the second part begins."""
    parts: tuple[list[list[str]], list[list[str]]] = ([[]], [[]])
    for kind, text in lexer.get_tokens(visible(source)):
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
    name, shown = STANDARD_TYPES.get(kind, ""), escape(text).replace("\t", '<span class="tab">\t</span>')
    return f'<span class="{name}">{shown}</span>' if name else shown
