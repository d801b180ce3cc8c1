"""The keys of the annotator's page: one table, which drives the keys, fills the help, and may be changed by each."""

from __future__ import annotations

from typing import Any

from crlhf_ray.errors import ConfigError

#: action: (default keys as KeyboardEvent.key names them, what it does).
ACTIONS: dict[str, tuple[tuple[str, ...], str]] = {
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
}


def key_table(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The table for somebody's choices: action, keys (none where switched off), text."""
    return [
        {"action": action, "keys": chosen.get(action, list(keys)), "text": text}
        for action, (keys, text) in ACTIONS.items()
    ]


def check_keys(chosen: dict[str, list[str]]) -> None:
    """Raise ConfigError for an unknown action, or a key that would do two things."""
    if unknown := sorted(chosen.keys() - ACTIONS.keys()):
        raise ConfigError(f"there is no action {unknown[0]!r}; there are {', '.join(ACTIONS)}")
    used: dict[str, str] = {}
    for row in key_table(chosen):
        for key in row["keys"]:
            if key in used:
                raise ConfigError(f"key {key!r} is given to both {used[key]!r} and {row['action']!r}")
            used[key] = row["action"]
