"""Text that would deceive a reader, made plain: generated programs are shown with what they hide."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text with control, format, separating and unpaired characters as escapes, such as those that reorder what
    is read. Newlines and tabs stay, and the joiners within one emoji."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _HIDDEN or _joins(text, at) else ascii(char)[1:-1]
        for at, char in enumerate(text)
    )


def _joins(text: str, at: int) -> bool:
    """Whether this is the zero-width joiner between two pictures, the first with a variant or a skin tone."""
    before = text[:at][-2:].rstrip("\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
    after = text[at + 1 : at + 2]
    return text[at] == "\u200d" and all(c and unicodedata.category(c) == "So" for c in (before[-1:], after))


#: Unicode's categories of control, format, surrogate, private, line and paragraph separating characters.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
