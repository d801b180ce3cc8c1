"""Every setting of every command, read off the classes: a page for people and a JSON schema for editors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from crlhf_ray.config import Config, ServerConfig
from crlhf_ray.feedback.annotators.settings import JudgeTrainSettings
from crlhf_ray.policy.settings import SftSettings
from crlhf_ray.settings import Settings

#: The commands that read settings, each with its class. `crlhf plan` and `crlhf evaluate` read those of train.
ROOTS: dict[str, type[Settings]] = {
    "train": Config,
    "serve": ServerConfig,
    "sft": SftSettings,
    "judge-train": JudgeTrainSettings,
}
HEAD = """# Settings

Every setting of every command that reads settings: in a YAML file (`--config`), or one by one
(`--set learner.lr=1e-5`). An unknown name is an error. Settings that contradict each other, or that would have no
effect together, are refused by name; `crlhf plan` says so without starting anything.

`crlhf init` writes a file to start from. Editors complete and check one by its JSON schema:
`crlhf schema train > crlhf.schema.json`, and as the file's first line
`# yaml-language-server: $schema=crlhf.schema.json`.

This page is made by `crlhf schema --markdown > docs/settings.md`, and a test compares it with the classes.
"""
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", Any: "anything"}


def schema(command: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a command's settings."""
    found = ROOTS[command].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": f"crlhf {command}"}


def page() -> str:
    """docs/settings.md."""
    shown: dict[type[Settings], str] = {}
    parts = [HEAD]
    for command, root in ROOTS.items():
        parts.append(f"## crlhf {command}\n\n{_about(root)}\n")
        parts += _group(root, "", shown)
    return "\n".join(parts)


def _group(kind: type[Settings], path: str, shown: dict[type[Settings], str], title: str = "") -> Iterator[str]:
    """The settings of a class as a table, then those of the groups in it. shown: where a class stands already."""
    shown[kind] = path
    if title:
        yield f"### `{title}`\n\n{_about(kind)}\n"
    groups, rows = [], []
    for name, field in kind.model_fields.items():
        inner = settings_in(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            groups.append((name, field, inner))
            continue
        if not (get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1):  # told by the title
            rows.append(f"| `{path}{name}` | {_type(field)} | {_default(field)} | {_text(field)} |")
        if inner:
            groups.append((name, field, inner))
    if rows:
        yield "| setting | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name, field, inner in groups:
        for one in inner:
            yield from _inner(one, f"{path}{name}", field, shown)


def _inner(kind: type[Settings], path: str, field: FieldInfo, shown: dict[type[Settings], str]) -> Iterator[str]:
    entry = get_origin(field.annotation) is tuple
    which = kind.model_fields["kind"].default if entry and "kind" in kind.model_fields else None
    title = path + ("[]" if entry else "") + (f" (kind: {which})" if isinstance(which, str) else "")
    own = f"{path}[]." if entry else f"{path}."
    if kind not in shown:
        yield from _group(kind, own, shown, title)
    elif shown[kind] != own or "[]" not in own:  # what all kinds of entries have is told once
        default = field.default if isinstance(field.default, kind) else None
        changed = default.model_dump(mode="json", exclude_defaults=True) if default else {}
        defaults = ", ".join(f"`{name}: {_value(value)}`" for name, value in changed.items())
        where = next((f"crlhf {name}" for name, root in ROOTS.items() if root is kind), shown[kind].rstrip("."))
        text = f"{_text(field) or _about(kind)} The settings are those of `{where}`"
        yield f"### `{title}`\n\n{text}" + (f"; by default {defaults}.\n" if changed else ".\n")


def settings_in(annotation: Any) -> list[type[Settings]]:
    """The settings classes in a type, such as those of a union or of a list's entries."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for inner in get_args(annotation) for found in settings_in(inner)]


def _type(field: FieldInfo) -> str:
    bounds = _bounds(field.metadata)
    return _name(field.annotation) + (f", {bounds}" if bounds else "")


def _name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found, bounds = _name(inner[0]), _bounds(inner[1:])
        return f"{found}, {bounds}" if bounds else found
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_name(inner[0])}" if not settings_in(inner[0]) else "list of the settings below"
    if origin is dict:
        return f"mapping to {_name(inner[1])}"
    if inner:  # a union
        names = [_name(one) for one in inner if one is not NoneType]
        return " or ".join([*names, "null"] if NoneType in inner else names)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "the settings below"
    return _PLAIN[annotation]


def _bounds(metadata: Any) -> str:
    signs = [(*_BOUNDS[type(one)], one) for one in metadata if type(one) in _BOUNDS]
    return ", ".join(f"{sign} {getattr(one, name):g}" for sign, name, one in signs)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None and field.default_factory is not dict:
        return "see there"
    value = {} if field.default_factory is dict else field.default
    if isinstance(value, tuple) and any(isinstance(one, Settings) for one in value):
        return f"{len(value)} entries"
    return f"`{_value(value)}`"


def _value(value: Any) -> str:
    return json.dumps(value, default=str).strip('"')


def _text(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return re.sub(r"\bNone\b", "`null`", text)


def _about(kind: type[Settings]) -> str:
    return " ".join((kind.__doc__ or "").split()).replace("``", "`")
