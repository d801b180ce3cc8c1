"""One exception tree. Each error says what was wrong, where, and what would be right."""

from __future__ import annotations


class CrlhfError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(CrlhfError):
    """A setting is unknown, out of range or contradicts another."""


class DataError(CrlhfError):
    """An input file or table holds something that cannot be used.

    The message names the file, row and field, the value found, and what would be right.
    """

    def __init__(self, problem: str, *, file: str | None = None, row: int | None = None, field: str | None = None):
        place = ", ".join(
            part
            for part in (file, f"row {row}" if row is not None else None, f"field {field!r}" if field else None)
            if part
        )
        super().__init__(f"{place}: {problem}" if place else problem)
        self.file, self.row, self.field = file, row, field


class ResourceError(CrlhfError):
    """The cluster or machine lacks something: says which bundle, how much, and how to fix it."""


class EngineError(CrlhfError):
    """An engine (vLLM, DeepSpeed, the sandbox) failed or did not answer in time; names the replica or rank."""


class TransferError(EngineError):
    """A weight transfer failed or timed out; names the replica and the parameter."""
