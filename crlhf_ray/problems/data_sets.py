"""Any data set as problems: ``hub:OWNER/NAME[:CONFIG][@REVISION]`` of the hub, ``data:PATH`` of this machine.

A row becomes one of `crlhf_ray.problems.row`, and is checked as those of a problem file are. docs/problems.md says by
which names columns are found.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from crlhf_ray.errors import DataError
from crlhf_ray.jsonl import json_rows
from crlhf_ray.problems.benchmarks import rows
from crlhf_ray.problems.names import first_called, parsed
from crlhf_ray.problems.problem import PROGRAM_STOPS, Problem, docstring
from crlhf_ray.problems.row import Row, Split, read_row
from crlhf_ray.problems.settings import DATA_SETS, NO_COLUMN, Columns, DataSetSettings

_HUB = re.compile(r"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@]+))?(?:@(?P<revision>\S+))?")
#: What a repository is read from; weights and pictures beside it are not fetched.
_FILES = [f"*.{end}" for end in ("parquet", "json", "jsonl", "json.gz", "jsonl.gz", "csv", "arrow", "md", "yaml")]
#: By the field of a problem: the names of columns, of which the first that is there holds it.
NAMES = {
    "problem_id": ("problem_id", "task_id", "question_id", "id", "name"),
    "prompt": ("prompt", "text", "question", "problem", "description", "instruction"),
    "entry_point": ("entry_point", "function_name", "func_name", "fn_name"),
    "tests": ("tests", "test_list", "test", "test_cases", "assertions", "unit_tests"),
    "setup": ("setup", "test_setup_code", "test_imports"),
    "references": ("references", "canonical_solution", "reference", "solutions", "solution", "code", "completion"),
    "split": ("split",),
    "difficulty": ("difficulty",),
    "family": ("family",),
}
#: Fields of our own schema, which a data set has under their own names or not at all.
_OURS = sorted(Row.model_fields.keys() - NAMES.keys())

RowOfData = dict[str, Any]


def is_data_set(source: str) -> bool:
    return source.startswith(DATA_SETS)


@dataclass(frozen=True)
class Opened:
    """Rows by split, in order, and the names of all columns. revision: what the hub calls this state of it."""

    splits: Mapping[str, Iterable[RowOfData]]
    columns: tuple[str, ...]
    revision: str = ""


@dataclass(frozen=True)
class Reading:
    """What was understood of a data set.

    columns: the column of each field that has one. guessed: those that were found by their names.
    unused: columns that nothing is read from. refused: an error for each row that cannot be read as one.
    """

    source: str
    revision: str
    columns: dict[str, str]
    guessed: tuple[str, ...]
    unused: tuple[str, ...]
    problems: list[Problem]
    refused: list[DataError]

    def accepted(self, settings: DataSetSettings) -> list[Problem]:
        """The problems. Raises DataError where rows were refused and are not to be left out."""
        if self.refused and settings.refused == "stop":
            total = len(self.refused) + len(self.problems)
            raise DataError(
                f"{len(self.refused)} of {total} rows cannot be read as problems. The first: {self.refused[0]}. `crlhf "
                f"problems show {self.source}` lists them; correct them, or leave them out: in training and evaluation "
                "with problems.data_set.refused=leave_out or evaluation.data_set.refused=leave_out"
            )
        return self.problems

    def told(self) -> str:
        """One line: which column was taken for what, and how many problems there are."""
        fields = [f"{field} from {column!r}" for field, column in self.columns.items()]
        at = f" at revision {self.revision}" if self.revision else ""
        left = f"; {len(self.refused)} rows left out, the first: {self.refused[0]}" if self.refused else ""
        return f"{self.source}{at}: {', '.join(fields)}; {len(self.problems)} problems{left}"


def read_data_set(source: str, settings: DataSetSettings, split: Split | None = None) -> Reading:
    """Problems of a source of one of `DATA_SETS`, of one split or both.

    A data set that has no split but ``train`` and no column for it is used for whichever split is asked for. Raises
    DataError for one that is not there, or that has no column for prompt or tests; errors of rows are in the result.
    """
    opened = open_data_set(source)
    columns = _columns(opened, settings.columns, source)
    unsplit = "split" not in columns and set(opened.splits) == {"train"}
    problems: list[Problem] = []
    refused: list[DataError] = []
    for name, found in opened.splits.items():
        file = source if len(opened.splits) == 1 else f"{source}, split {name!r}"
        for number, row in enumerate(islice(found, settings.limit), start=1):
            side = (split or "train") if unsplit else _side(row.get(columns.get("split", "")) or name)
            if split not in (None, side):
                continue
            label = _short_name(source) if len(opened.splits) == 1 else f"{_short_name(source)}/{name}"
            try:
                problems.append(read_row(as_row(row, columns, label, side), file, number))
            except DataError as error:
                refused.append(error)
    guessed = tuple(field for field in columns if getattr(settings.columns, field, None) is None)
    unused = tuple(name for name in opened.columns if name not in columns.values())
    return Reading(source, opened.revision, columns, guessed, unused, problems, refused)


def rows_of(source: str) -> Iterator[tuple[int, RowOfData]]:
    """All rows of all splits, numbered from 1, for those who know their form."""
    opened = open_data_set(source)
    return enumerate((row for found in opened.splits.values() for row in found), start=1)


def revision_of(source: str) -> str:
    """The commit of a ``hub:`` source, wherever in the name it stands; "" for any other."""
    at = source.find("hub:")
    return open_data_set(source[at:]).revision if at in (0, source.find(":") + 1) and at >= 0 else ""


def _columns(opened: Opened, named: Columns, source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, names in NAMES.items():
        column = getattr(named, field)
        if column == NO_COLUMN:
            continue
        if column is not None and column not in opened.columns:
            near = difflib.get_close_matches(column, opened.columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(opened.columns)}"
            raise DataError(f"there is no column {column!r}; {hint}", file=source, field=field)
        column = column or next((name for name in names if name in opened.columns), None)
        if column is not None:
            found[field] = column
    found |= {field: field for field in _OURS if field in opened.columns}
    for field in ("prompt", *(() if {"cases", "kind"} & found.keys() else ("tests",))):
        if field not in found:
            raise DataError(
                f"no column has one of the names {', '.join(NAMES[field])}; name it in data_set.columns.{field}: the "
                f"columns are {', '.join(opened.columns)}",
                file=source,
                field=field,
            )
    return found


def _side(split: Any) -> Split:
    return "train" if str(split).lower().startswith("train") else "heldout"


def _short_name(source: str) -> str:
    hub = _HUB.fullmatch(source)
    return hub["name"].rpartition("/")[2] if hub else Path(source.partition(":")[2]).name.partition(".")[0]


def as_row(raw: RowOfData, columns: Mapping[str, str], label: str, split: Split) -> RowOfData:
    """A row in the form of a problem file. label: goes before a problem_id that is a number, or of the content where
    there is none.

    Prompts in words become a docstring, with the first test where they don't show the function called; solutions of
    these are whole programs, and what follows the prompt of the others.
    """
    given = {field: raw[column] for field, column in columns.items() if raw.get(column) not in (None, "")}
    row: RowOfData = {field: given[field] for field in (*_OURS, "family", "entry_point") if field in given}
    row["split"] = split
    if isinstance(level := given.get("difficulty"), str) and level.lower() in ("easy", "medium", "hard"):
        row["difficulty"] = level.lower()
    references, prompt = given.get("references"), given.get("prompt")
    references = [text for text in _listed(references or []) if text]
    if isinstance(row.get("cases"), str):
        row["cases"] = _listed(row["cases"])
    setup = given.get("setup", "")
    row["setup"] = "\n".join(map(str, setup)) if isinstance(setup, list) else setup
    if "tests" in given and row.get("kind", "asserts") == "asserts":
        tests = _listed(given["tests"])
        if "entry_point" not in row and all(isinstance(text, str) for text in [*tests, *references]):
            row["entry_point"] = _entry_point(tests, references, prompt)
        row["tests"], more = _tests(tests, row.get("entry_point"))
        row["setup"] = "\n".join(filter(None, [row["setup"], more]))
    if isinstance(prompt, str) and not (prompt := prompt.rstrip()).endswith(('"""', "'''")):
        shown = [text for text in row.get("tests", [])[:1] if f"{row.get('entry_point')}(" not in prompt]
        shown = [text for text in shown if isinstance(text, str) and text.startswith("assert")]
        prompt = docstring("\n".join([prompt.strip(), *map(str, shown)]))
        row.setdefault("stops", list(PROGRAM_STOPS))
    row |= {"prompt": prompt, "references": [_continued(text, prompt) for text in references]}
    row["problem_id"] = _identity(given.get("problem_id"), label, row)
    return {field: value for field, value in row.items() if value is not None and (field, value) != ("setup", "")}


def _identity(value: Any, label: str, row: RowOfData) -> str:
    if isinstance(value, str):
        return value
    if value is None:  # a number of the row would be another problem's in another file
        content = {field: row.get(field) for field in ("prompt", "entry_point", "setup", "tests", "cases")}
        value = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"{label}/{value}"


def _listed(value: Any) -> list[Any]:
    """A list; a text that holds one as JSON is read as it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            try:
                value = ast.literal_eval(value)  # as Python writes a list down
            except (SyntaxError, ValueError, MemoryError, RecursionError):
                return [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _entry_point(tests: list[str], references: list[str], prompt: Any) -> str | None:
    for code in (*references, prompt if isinstance(prompt, str) else "", *(f"{prompt}\n{text}" for text in references)):
        if (found := first_called(tests, code)) is not None:
            return found
    return None if all(map(parsed, tests)) else "unknown"  # then the tests are what is wrong with the row


def _tests(tests: list[Any], entry_point: str | None) -> tuple[list[Any], str]:
    """Each to be run by itself, and what runs before: one text may hold asserts, or define check(candidate) or the
    functions that pytest would call."""
    if len(tests) != 1 or not isinstance(tests[0], str):
        return tests, ""
    if (tree := parsed(tests[0])) is None:
        return tests, ""
    body = tree.body
    if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in body):
        called = any(isinstance(node, ast.Expr) and ast.unparse(node).startswith("check(") for node in body)
        return (tests, "") if called else ([f"check({entry_point})"], tests[0])
    if all(isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom) for node in body):
        calls = [f"{node.name}()" for node in body if isinstance(node, ast.FunctionDef) and _is_pytest(node)]
        return (calls, tests[0]) if calls else (tests, "")
    first = next((n for n, node in enumerate(body) if isinstance(node, ast.Assert)), len(body))
    if first == len(body) or not all(isinstance(node, ast.Assert) for node in body[first:]):
        return tests, ""
    return [ast.unparse(node) for node in body[first:]], "\n".join(ast.unparse(node) for node in body[:first])


def _is_pytest(node: ast.FunctionDef) -> bool:
    return node.name.startswith("test") and not node.args.args


def _continued(reference: Any, prompt: Any) -> Any:
    if not (isinstance(reference, str) and isinstance(prompt, str)):
        return reference
    rest = reference.replace("\r\n", "\n").removeprefix(prompt)
    return rest if rest.startswith("\n") else f"\n{rest}"


# ---- where they are


def open_data_set(source: str) -> Opened:
    """Raises DataError, which says what can be done, where it cannot be opened."""
    if source.startswith("hub:"):
        return _hub(source)
    path = Path(source.removeprefix("data:")).expanduser()
    if path.is_dir():
        if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
            from datasets import Dataset, load_from_disk

            saved = load_from_disk(str(path))
            return _opened({"train": saved} if isinstance(saved, Dataset) else saved)
        return _folder(path, None, source)
    if not path.is_file():
        raise DataError(
            f"no such file or folder: {str(path)!r}; data:PATH is a Parquet or JSONL file, a folder of them, or one "
            "that Dataset.save_to_disk wrote"
        )
    if path.suffix == ".parquet":
        return _parquet(path)
    found = [row for _, row in (json_rows(path) if path.suffix == ".jsonl" else rows(path))]
    return Opened({"train": found}, tuple(dict.fromkeys(name for row in found for name in row)))


def _parquet(path: Path) -> Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"is not a Parquet file: {error}", file=str(path)) from None
    return Opened({"train": table.to_pylist()}, tuple(table.column_names))


def _opened(splits: Mapping[str, Any], revision: str = "") -> Opened:
    columns = dict.fromkeys(name for found in splits.values() for name in found.column_names)
    return Opened(dict(splits), tuple(columns), revision)


def _folder(folder: Path, config: str | None, source: str, revision: str = "") -> Opened:
    """A folder as the hub has them: data files, and a README that may say which belong together."""
    from datasets import get_dataset_config_names, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        names = get_dataset_config_names(str(folder))
        if config is None and len(names) > 1 and "default" not in names:
            raise DataError(f"has several configurations; name one, as {source.partition('@')[0]}:{names[0]}: "
                            f"{', '.join(names)}", file=source)  # fmt: skip
        if config is not None and config not in names:
            near = difflib.get_close_matches(config, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise DataError(f"has no configuration {config!r}; {hint}", file=source)
        return _opened(load_dataset(str(folder), config or (names[0] if len(names) == 1 else None)), revision)
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"`datasets` cannot read it: {reason}", file=source) from error


@lru_cache(maxsize=4)
def _hub(source: str) -> Opened:
    """The repository's data files, at the commit that its revision means now. Kept: a run asks for it several times."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = _HUB.fullmatch(source)
    if named is None:
        raise DataError("a data set of the hub is named as hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or "
                        "hub:OWNER/NAME:CONFIG@REVISION", file=source)  # fmt: skip
    name, revision = named["name"], named["revision"]
    try:
        folder = Path(
            snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=_FILES, tqdm_class=None)
        )
    except GatedRepoError:
        problem = f"{name} is gated: accept its terms on the hub, and log in with `hf auth login`"
    except RepositoryNotFoundError:
        problem = (
            f"the hub has no data set {name!r} that you may read: check the name, or `hf auth login` for a private one"
        )
    except RevisionNotFoundError:
        problem = f"{name} has no revision {revision!r}: name a branch, a tag or a full commit hash of it"
    except LocalEntryNotFoundError:
        problem = (
            "it is not in the cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set): fetch it "
            "once where there is a network, or name a file of it as data:PATH"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        problem = f"the hub cannot be read: {error}"
    else:
        return _folder(folder, named["config"], source, folder.name)
    raise DataError(problem, file=source) from None
