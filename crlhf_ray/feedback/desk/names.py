"""Names that no two people can share, also where they only look alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from confusable_homoglyphs import confusables
from precis_i18n import get_profile

from crlhf_ray.errors import ConfigError

#: RFC 8266: spaces trimmed and folded, compatibility forms unified, control and zero-width characters refused.
_PROFILE = get_profile("NicknameCasePreserved")
LONGEST = 64


def normalised(name: str) -> str:
    """The name in the one form in which it is stored and looked up. Raises ConfigError where it cannot be a name."""
    if not name.strip() or len(name) > LONGEST:
        raise ConfigError(f"choose a name of 1 to {LONGEST} characters")
    try:
        name = str(_PROFILE.enforce(name))
    except UnicodeEncodeError as error:
        raise ConfigError(
            "this name has characters that cannot be seen or typed: use letters, digits, spaces and punctuation"
        ) from error
    if any(confusables.is_mixed_script(word, allowed_aliases=["COMMON", "INHERITED"]) for word in name.split()):
        raise ConfigError("this name mixes alphabets within a word, so it may look like another name: use one alphabet")
    return name


def skeleton(name: str) -> str:
    """Equal for names that look alike (Unicode UTS 39): case, accents and letters of other alphabets are folded."""
    return _fold("".join(_PROTOTYPES.get(char, char) for char in _fold(name)))


def _fold(name: str) -> str:
    # l and I, 0 and O look alike in many fonts, and UTS 39 gives them one prototype each: before folding case.
    name = name.replace("I", "l").replace("1", "l").replace("|", "l").replace("0", "O")
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(char for char in letters if not unicodedata.combining(char))
    for pair, single in (("i", "l"), (" ", ""), ("rn", "m"), ("vv", "w"), ("cl", "d")):
        plain = plain.replace(pair, single)
    return plain


def taken(name: str, others: Iterable[str]) -> str | None:
    """The one of the others that the name cannot be told from; None where there is none."""
    mine = skeleton(name)
    return next((other for other in others if skeleton(other) == mine), None)


def _latin_prototypes() -> dict[str, str]:
    """The Latin letter or digit that a character looks like, for those that look like one."""
    found: dict[str, str] = {}
    for char, twins in confusables.confusables_data.items():
        latin = next((twin["c"] for twin in twins if len(twin["c"]) == 1 and twin["c"].isascii()), None)
        if latin is not None and not char.isascii():
            found[char] = latin
    return found


_PROTOTYPES = _latin_prototypes()
