"""Reading JSONL: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crlhf_ray.errors import DataError


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a UTF-8 file with their 1-based line numbers; blank lines are skipped.

    Raises DataError naming file and row.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))  # Windows editors mark files
            except UnicodeDecodeError as error:
                problem = f"not UTF-8: {error}; save the file as UTF-8"
                raise DataError(problem, file=str(path), row=number) from None
            except json.JSONDecodeError as error:
                problem = f"not JSON: {error}; each line is one JSON object"
                raise DataError(problem, file=str(path), row=number) from None
            if not isinstance(row, dict):
                raise DataError(f"{type(row).__name__} where an object belongs", file=str(path), row=number)
            yield number, row
