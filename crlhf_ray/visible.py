"""Text that would deceive a reader, made plain: generated programs are shown with what they hide."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text with control, format, separating and unpaired characters as escapes, such as those that reorder what
    is read. Newlines and tabs stay."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _HIDDEN else ascii(char)[1:-1] for char in text
    )


#: Unicode's categories of control, format, surrogate, private, line and paragraph separating characters.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
