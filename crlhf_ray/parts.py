"""Replaceable parts: one of ours by its name, or anybody's as ``package.module:Name``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from crlhf_ray.errors import ConfigError


def part(ours: Mapping[str, Any], name: str) -> Any:
    """The part of that name, from our table or from a module that can be imported on every node of the run.

    For validators of settings: raises ValueError, which says what can be named instead.
    """
    if name in ours:
        return ours[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, ours, n=1)
        hint = f"did you mean {near[0]}?" if near else f"ours are {', '.join(ours)}."
        raise ValueError(f"{name!r} is not known: {hint} Your own is named as package.module:Name")
    try:
        module = import_module(module_name)
    except Exception as error:  # a module of somebody's may fail in any way while it is imported
        raise ValueError(
            f"{name!r}: {module_name} could not be imported ({type(error).__name__}: {error}); it must lie in the "
            "folder that the run is started in, in `ray job submit --working-dir`, or be installed on every node"
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise ValueError(f"{name!r}: {module_name} has no {attribute!r}{hint}")
    return getattr(module, attribute)


def name_of(found: Any) -> str:
    """What settings call a part that is given as an object: ``package.module:Name``; a name stays as it is.

    Raises ConfigError where no other process would find it under that name, as with a lambda.
    """
    if isinstance(found, str):
        return found
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if module in (None, "__main__") or getattr(import_module(module), name or "", None) is not found:
        raise ConfigError(
            f"{found!r} cannot be found by the processes of the run: define it at the top of a module of your own, and "
            "import it from there"
        )
    return f"{module}:{name}"
