"""Files of other benchmarks, in the forms in which they are published: docs/problems.md names them.

Everything here is for measuring: all problems are held out.
"""

from __future__ import annotations

import ast
import base64
import gzip
import io
import json
import pickle
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from crlhf_ray.errors import DataError
from crlhf_ray.problems.checkers import (
    AssertChecker,
    CallChecker,
    Case,
    Checker,
    InsertChecker,
    ReferenceChecker,
    ScriptChecker,
)
from crlhf_ray.problems.fit import not_possible
from crlhf_ray.problems.names import imported_modules
from crlhf_ray.problems.problem import PROGRAM_STOPS, Problem, docstring

Row = dict[str, Any]


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a JSONL file, compressed or not, or of a JSON array, with their numbers."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip().startswith("["):
            found = list(enumerate(json.loads(text), start=1))
        else:
            found = [(n, json.loads(line)) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"is not UTF-8 with JSON: {error}", file=str(path)) from None
    for number, row in found:
        if not isinstance(row, dict):
            raise DataError(f"{type(row).__name__} where an object belongs", file=str(path), row=number)
        yield number, row


def read(numbered: Iterable[tuple[int, Row]], file: str, make: Callable[[Row], Problem]) -> list[Problem]:
    """A problem for each row. Raises DataError naming file, row and field for a row that is not of this form."""
    problems = []
    for number, row in numbered:
        try:
            problems.append(make(row))
        except _NotPossible as error:
            raise DataError(
                f"cannot be carried out: {error}; leave the row out", file=file, row=number, field="test"
            ) from None
        except KeyError as error:
            raise DataError("is missing", file=file, row=number, field=str(error.args[0])) from None
        except (TypeError, ValueError, IndexError, SyntaxError) as error:
            raise DataError(f"is not of this form: {type(error).__name__}: {error}", file=file, row=number) from None
    return problems


def _told(*parts: str) -> str:
    return docstring("\n\n".join(part.strip() for part in parts if part.strip()))


def _problem(name: str, prompt: str, entry: str, checker: Checker, references: list[str], family: str) -> Problem:
    texts = tuple("\n" + text.replace("\r\n", "\n") for text in references)
    return Problem(name, prompt, entry, checker, texts, split="heldout", family=family, stops=PROGRAM_STOPS)


# ---- MBPP+ (EvalPlus)


def mbpp_plus(row: Row) -> Problem:
    """The original asserts, then many inputs on which the reference gives the answers.

    JSON has no tuples: an argument is a tuple, set or complex number where that of the original asserts is one. Where
    these compare sets of the answers, so does the check of the others.
    """
    entry = row["entry_point"]
    asserts = [ast.unparse(node) for node in ast.parse(row["assertion"]).body if isinstance(node, ast.Assert)]
    examples, unordered = _examples(asserts, entry)
    inputs = [
        tuple(_like(value, example) for value, example in zip(arguments, examples, strict=True))
        if len(arguments) == len(examples)
        else tuple(arguments)
        for arguments in (*row["base_input"], *row["plus_input"])
    ]
    setup = "\n".join(ast.unparse(n) for n in ast.parse(row["assertion"]).body if not isinstance(n, ast.Assert))
    checker = ReferenceChecker(
        AssertChecker(tuple(asserts), setup),
        row["canonical_solution"],
        tuple(inputs),
        tolerance=row.get("atol") or None,
        oracle="set(answer) == set(expected)" if unordered else "",
    )
    return _problem(row["task_id"], row["prompt"].rstrip(), entry, checker, [row["canonical_solution"]], "mbppplus")


def _examples(asserts: list[str], entry: str) -> tuple[list[Any], bool]:
    """Arguments of the first call in the asserts, and whether its answer is made a set of."""
    for node in ast.walk(ast.parse("\n".join(asserts))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry:
            unordered = any(f"set({ast.unparse(node)})" in text for text in asserts)
            try:
                return [ast.literal_eval(argument) for argument in node.args], unordered
            except ValueError:
                return [], unordered
    return [], False


def _like(value: Any, example: Any) -> Any:
    """A value from JSON in the types of an example."""
    if isinstance(value, list) and isinstance(example, list | tuple | set):
        inner = list(example)
        items = [_like(item, inner[min(n, len(inner) - 1)]) if inner else item for n, item in enumerate(value)]
        return type(example)(items)
    if isinstance(value, dict) and isinstance(example, dict) and example:
        first = next(iter(example.values()))
        return {key: _like(item, first) for key, item in value.items()}
    if isinstance(example, complex) and isinstance(value, str):
        return complex(value)
    return value


# ---- LiveCodeBench and APPS: standard input and output, or calls of a function


def livecodebench(row: Row) -> Problem:
    """Public and private tests; a private part that is packed is unpacked without running anything of it."""
    tests = [*json.loads(row["public_test_cases"]), *_unpacked(row.get("private_test_cases") or "[]")]
    name, prompt = f"livecodebench/{row['question_id']}", _told(row["question_content"], row.get("starter_code", ""))
    if not tests:
        raise ValueError("no test")
    if tests[0]["testtype"] == "stdin":
        pairs = tuple((test["input"], test["output"]) for test in tests)
        return _problem(name, prompt, "main", ScriptChecker(pairs, tolerance=1e-9), [], "livecodebench")
    method = json.loads(row["metadata"])["func_name"]
    cases = [
        Case(tuple(json.loads(line) for line in test["input"].splitlines() if line.strip()), json.loads(test["output"]))
        for test in tests
    ]
    return _problem(name, prompt, "Solution", CallChecker(tuple(cases), method=method), [], "livecodebench")


class _Text(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"private tests that hold {module}.{name} are not read")


def _unpacked(tests: str) -> list[Any]:
    if not tests.lstrip().startswith("["):
        tests = _Text(io.BytesIO(zlib.decompress(base64.b64decode(tests)))).load()
    found: list[Any] = json.loads(tests)
    return found


def apps(row: Row) -> Problem:
    """APPS, and sets in its form (TACO, CodeContests exports): ``input_output`` with ``fn_name`` for calls."""
    tests = row["input_output"]
    tests = json.loads(tests) if isinstance(tests, str) else tests
    solutions = row.get("solutions") or "[]"
    solutions = json.loads(solutions) if isinstance(solutions, str) else solutions
    starter = row.get("starter_code") or ""
    prompt = _told(row["question"], starter)
    identity = next((row[key] for key in ("problem_id", "id", "task_id") if key in row), None)
    if identity is None:
        raise KeyError("problem_id")
    name = f"apps/{identity}"
    if "fn_name" not in tests:
        pairs = tuple(
            (_lines(given), _lines(wanted)) for given, wanted in zip(tests["inputs"], tests["outputs"], strict=True)
        )
        return _problem(name, prompt, "main", ScriptChecker(pairs, tolerance=1e-9), solutions, "apps")
    # Answers of one value stand alone or in a list, the same way throughout a problem.
    boxed = all(isinstance(wanted, list) and len(wanted) == 1 for wanted in tests["outputs"])
    cases = tuple(
        Case(tuple(given), wanted[0] if boxed else wanted)
        for given, wanted in zip(tests["inputs"], tests["outputs"], strict=True)
    )
    in_class = "class Solution" in starter or any("class Solution" in solution for solution in solutions[:1])
    entry = "Solution" if in_class else tests["fn_name"]
    checker = CallChecker(cases, method=tests["fn_name"] if in_class else "")
    return _problem(name, prompt, entry, checker, solutions, "apps")


def _lines(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "\n".join(text)


# ---- LeetCode, in the form of LeetCodeDataset


def leetcode(row: Row) -> Problem:
    """``prompt`` defines the nodes and helpers that ``test`` uses; ``test`` defines ``check(candidate)``."""
    prompt = row["prompt"].rstrip() + "\n\n" + _told(row["problem_description"], row.get("starter_code", ""))
    ast.parse(prompt)
    checker = AssertChecker((f"check({row['entry_point']})",), row["test"])
    entry = row["entry_point"].partition("(")[0]
    return _problem(f"leetcode/{row['task_id']}", prompt, entry, checker, [row["completion"]], "leetcode")


# ---- with unittest cases


class _NotPossible(Exception):
    """A test that cannot be carried out, and why."""


def _cases(test: str) -> AssertChecker:
    if (reason := not_possible(test)) is not None:
        raise _NotPossible(reason)
    return AssertChecker((test,))


def class_eval(row: Row) -> Problem:
    """ClassEval: ``skeleton`` is the class to complete, ``test`` has a case for each of its methods."""
    solution = "\n".join((*row["import_statement"], row["solution_code"]))
    prompt = _told(row["skeleton"])
    return _problem(row["task_id"], prompt, row["class_name"], _cases(row["test"]), [solution], "classeval")


def big_code_bench(row: Row) -> Problem:
    """BigCodeBench: ``complete_prompt`` ends with a docstring, ``libs`` names what it may import."""
    libraries = row["libs"] if isinstance(row["libs"], list) else ast.literal_eval(row["libs"])
    return Problem(
        problem_id=row["task_id"],
        prompt=row["complete_prompt"].rstrip(),
        entry_point=row["entry_point"],
        checker=_cases(row["test"]),
        references=("\n" + row["canonical_solution"].rstrip() + "\n",),
        split="heldout",
        family="bigcodebench",
        packages=_packages(libraries),
    )


#: Distributions that are not called as what they install.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "bs4": "beautifulsoup4", "PIL": "pillow", "cv2": "opencv-python"}


def _packages(modules: Iterable[str]) -> tuple[str, ...]:
    roots = {module.split(".")[0] for module in modules} - sys.stdlib_module_names
    return tuple(sorted(_DISTRIBUTIONS.get(root, root) for root in roots))


# ---- DS-1000


def ds_1000(row: Row) -> Problem:
    """DS-1000: ``code_context`` holds the program with its ``[insert]``, the inputs and how answers are compared.

    The answers travel as values: what draws pictures, or answers tensors, is refused.
    """
    about, setup = row["metadata"], row["code_context"]
    about = ast.literal_eval(about) if isinstance(about, str) else about
    if about["library"] in ("Matplotlib", "Pytorch", "Tensorflow"):
        raise _NotPossible(
            f"a result of {about['library']} is not a value that can be carried from the program to its tests"
        )
    if (reason := not_possible(setup)) is not None:
        raise _NotPossible(reason)
    found = {
        node.targets[0].id: node.value.value
        for node in ast.parse(setup).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    context = found.get("exec_context")
    if not isinstance(context, str) or "[insert]" not in context:
        raise ValueError("code_context sets no exec_context with [insert] in it")
    tests = tuple(
        f"test_input, expected_result = generate_test_case({number})\n"
        "assert exec_test(solved(test_input), expected_result)"
        for number in range(1, int(about["test_case_cnt"]) + 1)
    )
    checker = InsertChecker(tests, setup, context=context, reads_text="def test_string(" in setup)
    return Problem(
        problem_id=f"ds1000/{about['problem_id']}",
        prompt=_told(row["prompt"]),
        entry_point="solved",
        checker=checker,
        references=("\n" + row["reference_code"].strip("\n") + "\n",),
        split="heldout",
        family="ds1000",
        stops=("</code>", "\n# SOLUTION END", "\nEND SOLUTION", "\n```"),
        packages=_packages((*imported_modules(setup), *imported_modules(context.replace("[insert]", "")))),
    )


FORMS: dict[str, Callable[[Row], Problem]] = {
    "mbppplus": mbpp_plus,
    "livecodebench": livecodebench,
    "apps": apps,
    "leetcode": leetcode,
    "classeval": class_eval,
    "bigcodebench": big_code_bench,
    "ds1000": ds_1000,
}
