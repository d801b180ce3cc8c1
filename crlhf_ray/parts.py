"""Replaceable parts: one of ours by its name, or anybody's as ``package.module:Name``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any


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
