"""One step of composed problems: what it does, in code of two styles and in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One typed step.

    kind: filter, map, fold, string, index, dict, sort or numeric. takes, gives: types, keys of `TYPES`.
    loop: statements that read ``{x}`` and bind ``{y}``, or return where ``ends``. short: an expression over ``{x}``.
    phrases: an imperative clause about ``{it}``; the last two are for held-out problems only.
    k: values of its parameter ``{k}``; none where it has no parameter.
    ends: whether it can only be the last step, since its statements return.
    """

    name: str
    kind: str
    takes: str
    gives: str
    loop: str
    short: str
    phrases: tuple[str, ...]
    k: tuple[int, ...] = ()
    ends: bool = False


#: Type: its annotation, what it is called in words, and what a later step calls it.
TYPES = {
    "ints": ("list[int]", "the numbers in {name}", "the resulting numbers"),
    "words": ("list[str]", "the words in {name}", "the resulting words"),
    "text": ("str", "the text {name}", "the resulting text"),
    "int": ("int", "the number {name}", "the resulting number"),
    "table": ("dict[str, int]", "the table {name} of counts by word", "the resulting table of counts by word"),
    "bool": ("bool", "", ""),
}


def filtered(test: str, of: str = "") -> tuple[str, str]:
    loop = f"{{y}} = []\nfor item in {{x}}:\n    if {test}:\n        {{y}}.append(item)"
    return loop, f"[item for item in {{x}} if {of or test}]"


def mapped(value: str, of: str = "") -> tuple[str, str]:
    return f"{{y}} = []\nfor item in {{x}}:\n    {{y}}.append({value})", f"[{of or value} for item in {{x}}]"
