"""The base of every settings class. The classes themselves stand beside the component that they set."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable, typed, and strict: an unknown key is an error. Field docstrings give the unit and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
