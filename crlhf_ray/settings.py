"""Settings: typed, read from YAML, changed by ``--set``, strict about every key.

Here are the base of every settings class and its reader. The classes themselves stand beside the component that they
set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from crlhf_ray.errors import ConfigError


class Settings(BaseModel):
    """Immutable, typed, and strict: an unknown key is an error. Field docstrings give the unit and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def refuse_unused(settings: Settings, names: Iterable[str], why: str) -> None:
    """For validators: raises ValueError where one of these is not at its default although nothing reads it."""
    for name in names:
        if (value := getattr(settings, name)) != type(settings).model_fields[name].default:
            raise ValueError(f"{name}={value} has no effect with {why}: leave it out")


SettingsType = TypeVar("SettingsType", bound=Settings)


def read_settings(kind: type[SettingsType], file: Path | None = None, changes: Sequence[str] = ()) -> SettingsType:
    """Read settings from YAML, then apply ``a.b=value`` changes (values are YAML too).

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown (names the nearest right one), or a value
            does not fit.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(Path(file).read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no settings file {file}; `ls jobs/*.yaml` shows the ones that come with the project"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not YAML: {error}") from error
        except OSError as error:
            raise ConfigError(f"{file} cannot be read as a settings file: {error.strerror}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{file} holds a {type(loaded).__name__}; settings are a mapping such as `run: {{...}}`")
        tree = _filled(kind, loaded or {})
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {change!r}: write it as learner.lr=1e-5")
        *path, last = key.split(".")
        node = tree
        for part in path:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {change!r}: {part} is a value, not a group of settings")
        try:
            node[last] = _value(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {change!r}: the value is not YAML ({str(error).splitlines()[0]}); quote it, as in "
                f"--set '{key}=\"...\"'"
            ) from error
    return validated(kind, tree)


def _filled(kind: type[Settings], tree: Mapping[str, Any]) -> dict[str, Any]:
    """``learner:`` with nothing below it is an empty group, at any depth."""
    found = dict(tree)
    for name, value in found.items():
        field = kind.model_fields.get(str(name))
        group = field.annotation if field is not None else None
        if isinstance(group, type) and issubclass(group, Settings) and (value is None or isinstance(value, Mapping)):
            found[name] = _filled(group, value or {})
    return found


def validated(kind: type[SettingsType], tree: Mapping[str, Any]) -> SettingsType:
    """The settings of a tree. Raises ConfigError, a line for each key that is wrong."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, item) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _value(text: str) -> Any:
    value = yaml.safe_load(text) if text.strip() else None
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree of settings by their path, such as ``learner.lr``."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
        )
    return leaves


def _explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] == "value_error":  # a check of several settings together: its message names them
        return ": ".join(filter(None, [".".join(path), str(error["ctx"]["error"])]))
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {error['msg']} (got {error['input']!r})"
    groups: list[type[BaseModel]] = [model]
    for part in path[:-1]:  # numbers and kinds of a list's entries are no names of fields
        annotations = [group.model_fields[part].annotation for group in groups if part in group.model_fields]
        groups = [found for annotation in annotations for found in _models(annotation)] or groups
    fields = list(dict.fromkeys(name for group in groups for name in group.model_fields))
    near = difflib.get_close_matches(path[-1], fields, n=1, cutoff=0.5)
    hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known: {', '.join(fields)}"
    return f"unknown setting {'.'.join(path)}; {hint}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in a field's type, such as those of a union or of a tuple's entries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]
