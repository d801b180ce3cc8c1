"""How a data set becomes problems. Without anything heavy, since all settings are read by themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crlhf_ray.settings import Settings, refuse_unused

#: How the sources begin that these settings are for.
DATA_SETS = ("hub:", "data:")


#: In place of a column's name.
NO_COLUMN = "none"


class Columns(Settings):
    """Which column of a data set holds what of a problem. None: found by its name (docs/problems.md); the word none: no
    column does, whatever it is called."""

    problem_id: str | None = None
    """The name of the problem. Numbers, and rows without one, are told apart by the data set's name before them."""
    prompt: str | None = None
    """What is asked: Python that ends with a docstring, or words, which become one."""
    entry_point: str | None = None
    """The function under test. Where no column has it: the first that the tests call and a reference defines."""
    tests: str | None = None
    """Asserts as a list or as one text, or a text that defines check(candidate)."""
    setup: str | None = None
    """What runs once before the tests: imports and helpers."""
    references: str | None = None
    """One solution, or a list of them."""
    split: str | None = None
    """To train on where it begins with train, held out where it says anything else. Without such a column, the data
    set's own splits."""
    difficulty: str | None = None
    """easy, medium or hard."""
    family: str | None = None
    """The topic."""


class DataSetSettings(Settings):
    """How a source of the kinds hub: and data: is read."""

    columns: Columns = Columns()
    refused: Literal["stop", "leave_out"] = "stop"
    """What happens where rows cannot be read as problems: nothing is started, or they are left out and counted."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many rows of each split. None: all."""


DEFAULTS = DataSetSettings()


def refuse_data_set(settings: Settings, key: str) -> None:
    """For validators: raises ValueError where ``data_set`` is set although the source, the value of key, has no use for
    it."""
    source = getattr(settings, key)
    if not source.startswith(DATA_SETS):
        refuse_unused(settings, ("data_set",), f"{key}={source}, whose rows have a form of their own")
