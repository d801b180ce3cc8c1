"""The keys of the annotator's page: one table, which drives the keys, fills the help, and may be changed by each."""

from __future__ import annotations

from typing import Any

from crlhf_ray.errors import ConfigError

#: action: (default keys as KeyboardEvent.key names them, what it does). One table for each place where keys work.
ACTIONS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "program": {
        "down": (("j", "ArrowDown"), "Next line (with Shift: extend the range)"),
        "up": (("k", "ArrowUp"), "Line before (with Shift: extend the range)"),
        "correct": (("1",), "Mark the line or range correct"),
        "wrong": (("0",), "Mark the line or range wrong"),
        "unsure": (("i",), "Mark the line or range unsure"),
        "rest": (("a",), "The rest is correct: mark every unmarked line"),
        "comment": (("m",), "Comment on the line"),
        "undo": (("u",), "Undo the last mark"),
        "submit": (("Enter",), "Submit, or jump to the first line without a mark"),
        "help": (("?",), "Show or hide the keys"),
    },
    "submit": {
        "guess": (("1",), "When submitting: a guess"),
        "fair": (("2",), "When submitting: fairly sure"),
        "sure": (("3",), "When submitting: sure"),
    },
}


def key_table(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The table for somebody's choices: action, place where it works, keys (none where switched off), text."""
    return [
        {"action": action, "place": place, "keys": chosen.get(action, list(keys)), "text": text}
        for place, actions in ACTIONS.items()
        for action, (keys, text) in actions.items()
    ]


def check_keys(chosen: dict[str, list[str]]) -> None:
    """Raise ConfigError for an unknown action, or a key that would do two things in one place."""
    known = [action for actions in ACTIONS.values() for action in actions]
    if unknown := sorted(chosen.keys() - set(known)):
        raise ConfigError(f"there is no action {unknown[0]!r}; there are {', '.join(known)}")
    used: dict[tuple[str, str], str] = {}
    for row in key_table(chosen):
        for key in row["keys"]:
            other = used.setdefault((row["place"], key.lower()), row["action"])
            if other != row["action"]:
                raise ConfigError(f"key {key!r} is given to both {other!r} and {row['action']!r}")
