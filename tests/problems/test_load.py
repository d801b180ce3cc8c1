"""Loaders: HumanEval, MBPP and any JSONL come out as the same `Problem`, and a bad row is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crlhf_ray.errors import DataError
from crlhf_ray.problems.load import load_problems, load_splits, with_tests
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

GOOD = {
    "problem_id": "own/add",
    "prompt": 'def add(a: int, b: int) -> int:\n    """Return a + b."""',
    "entry_point": "add",
    "tests": ["assert add(1, 2) == 3"],
    "references": ["\n    return a + b"],
}


def write(path: Path, *rows: dict | str) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def failing(problems, cpu_seconds: float = 5.0) -> list[str]:
    """Ids of the problems whose first reference does not pass."""
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=cpu_seconds, memory_mb=2048))) as sandbox:
        verdicts = sandbox.check([(problem, problem.references[0]) for problem in problems])
    return [problem.problem_id for problem, verdict in zip(problems, verdicts, strict=True) if not verdict.passed]


@pytest.fixture(scope="module")
def mbpp() -> Path:
    if "CRLHF_DATA" not in os.environ:
        pytest.skip("CRLHF_DATA is not set: it names the folder that holds code/mbpp/mbpp.jsonl")
    return Path(os.environ["CRLHF_DATA"]) / "code" / "mbpp"


# ---------------------------------------------------------------- JSONL


def test_a_row_becomes_a_problem_with_defaults_for_what_it_leaves_out(tmp_path):
    [problem] = load_problems(write(tmp_path / "own.jsonl", GOOD))
    assert problem.problem_id == "own/add"
    assert problem.checker.tests == ("assert add(1, 2) == 3",)
    assert (problem.split, problem.difficulty, problem.language) == ("train", "medium", "python")
    assert problem.stops


def test_a_split_selects_its_rows_in_file_order(tmp_path):
    rows = [GOOD | {"problem_id": f"own/{i}", "split": "heldout" if i % 2 else "train"} for i in range(4)]
    path = write(tmp_path / "own.jsonl", *rows)
    assert [problem.problem_id for problem in load_problems(path, "heldout")] == ["own/1", "own/3"]
    assert len(load_problems(path)) == 4


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"tests": []}, "tests", "at least 1"),
        ({"tests": ["assert add(1, 2) == 3", "assert add(1,"]}, "tests.1", "not Python"),
        ({"tests": "assert add(1, 2) == 3"}, "tests", "list"),
        ({"references": ["\nreturn a + b)"]}, "references", "not Python"),
        ({"prompt": GOOD["prompt"] + "\n"}, "prompt", "closing quotes"),
        ({"prompt": 'def add(a, b:\n    """Return a + b."""'}, "prompt", "not Python"),
        ({"split": "test"}, "split", "'test'"),
        ({"difficulty": "extreme"}, "difficulty", "'extreme'"),
        ({"language": "cobol"}, "language", "'cobol'"),
        ({"entry_point": "add it"}, "entry_point", "'add it'"),
        ({"problem_id": 7}, "problem_id", "7"),
        ({"referenses": []}, "referenses", "not permitted"),
    ],
)
def test_a_bad_field_is_named_with_its_file_row_and_value(tmp_path, change, field, says):
    path = write(tmp_path / "own.jsonl", GOOD, GOOD | {"problem_id": "own/second"} | change)
    with pytest.raises(DataError) as caught:
        load_problems(path)
    assert (caught.value.file, caught.value.row, caught.value.field) == (path, 2, field)
    assert says in str(caught.value)


@pytest.mark.parametrize("field", ["problem_id", "prompt", "entry_point", "tests"])
def test_a_missing_field_is_named(tmp_path, field):
    path = write(tmp_path / "own.jsonl", {key: value for key, value in GOOD.items() if key != field})
    with pytest.raises(DataError) as caught:
        load_problems(path)
    assert (caught.value.row, caught.value.field) == (1, field)


def test_rows_are_counted_as_lines_of_the_file(tmp_path):
    path = write(tmp_path / "own.jsonl", GOOD, "", "{broken")
    with pytest.raises(DataError, match="row 3: not JSON"):
        load_problems(path)


def test_a_row_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 1: list where an object belongs"):
        load_problems(write(tmp_path / "own.jsonl", "[1, 2]"))


def test_bytes_that_are_not_utf8_are_refused_with_their_file(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"problem_id": "\xff"}\n')
    with pytest.raises(DataError, match=r"own\.jsonl.*UTF-8"):
        load_problems(str(path))


def test_a_problem_id_used_twice_is_refused_with_both_places(tmp_path):
    with pytest.raises(DataError, match="row 2, field 'problem_id': 'own/add' is the id of row 1 too"):
        load_problems(write(tmp_path / "own.jsonl", GOOD, GOOD))


def test_an_empty_selection_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no problem in split 'heldout'"):
        load_problems(write(tmp_path / "own.jsonl", GOOD), "heldout")


def test_an_unknown_source_and_an_unknown_split_say_what_there_is(tmp_path):
    with pytest.raises(DataError, match="a source is 'starter'"):
        load_problems(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="'train', 'heldout'"):
        load_problems("starter", "test")


# ---------------------------------------------------------------- HumanEval


def test_humaneval_is_held_out_and_its_prompts_end_after_the_docstring():
    problems = load_problems("humaneval")
    assert len(problems) == 164
    assert {problem.split for problem in problems} == {"heldout"}
    assert all(problem.prompt.endswith(('"""', "'''")) for problem in problems)


def test_every_humaneval_canonical_solution_passes():
    assert failing(load_problems("humaneval")) == []


# ---------------------------------------------------------------- MBPP


def test_an_mbpp_prompt_holds_task_and_tests_and_ends_after_the_docstring(tmp_path):
    row = {"task_id": 601, "text": "Add.", "code": "def f(a):\r\n    return a", "test_list": ["assert f(1) == 1"]}
    [problem] = load_problems("mbpp:" + write(tmp_path / "mbpp.jsonl", row))
    assert problem.prompt == '"""\nAdd.\nassert f(1) == 1\n"""'
    assert problem.references == ("\ndef f(a):\n    return a",)
    assert problem.entry_point == "f"
    assert problem.split == "train"
    assert "\ndef " not in problem.stops


def test_an_mbpp_problem_to_train_on_shows_one_test_and_is_graded_by_all(tmp_path):
    tests = ["assert f(1) == 1", "assert f(2) == 2"]
    rows = [{"task_id": n, "text": "Same.", "code": "def f(a): return a", "test_list": tests} for n in (11, 601)]
    measured, trained = load_problems("mbpp:" + write(tmp_path / "mbpp.jsonl", *rows))
    assert [text in measured.prompt for text in tests] == [True, True]
    assert [text in trained.prompt for text in tests] == [True, False]
    assert trained.checker.tests == tuple(tests)


def test_a_backslash_in_an_mbpp_test_reaches_the_model_as_it_stands_in_the_test(tmp_path):
    row = {"task_id": 1, "text": "Split.", "code": "def f(a): pass", "test_list": [r"assert f('a\n') == 1"]}
    [problem] = load_problems("mbpp:" + write(tmp_path / "mbpp.jsonl", row))
    namespace: dict = {}
    exec("text = " + problem.prompt, namespace)
    assert row["test_list"][0] in namespace["text"]


def test_an_mbpp_row_without_tests_is_named(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", {"task_id": 1, "text": "Add.", "code": "def f(a): pass"})
    with pytest.raises(DataError, match="row 1, field 'test_list'"):
        load_problems(f"mbpp:{path}")


def test_every_mbpp_canonical_solution_passes(mbpp):
    problems = load_problems(f"mbpp:{mbpp / 'mbpp.jsonl'}")
    assert len(problems) == 974
    assert len([problem for problem in problems if problem.split == "train"]) == 374
    assert failing(problems, cpu_seconds=30.0) == []


def test_sanitized_mbpp_canonical_solutions_pass(mbpp):
    problems = load_problems(f"mbpp:{mbpp / 'sanitized-mbpp.json'}")
    assert len(problems) == 427
    # Most programs are those of the full set, so every fourth one is enough here; all 427 pass.
    assert failing(problems[::4], cpu_seconds=30.0) == []


def test_a_problem_that_is_trained_on_and_held_out_is_refused_with_both_sources_named(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", GOOD)
    heldout = write(tmp_path / "heldout.jsonl", {**GOOD, "split": "heldout"})
    with pytest.raises(DataError, match=r"'own/add' is a training problem of .*train\.jsonl.*of .*heldout\.jsonl"):
        load_splits(train, heldout)


def test_a_training_problem_without_a_reference_is_refused_before_anything_starts(tmp_path: Path):
    train = write(tmp_path / "train.jsonl", {**GOOD, "references": []})
    with pytest.raises(DataError, match=r"train\.jsonl, field 'references': 'own/add' has none"):
        load_splits(train, "starter")


REVIEWED = {
    "problem_id": "own/greet",
    "kind": "review",
    "prompt": '"""Print a friendly greeting for each name in names.txt."""',
}


def test_a_problem_of_kind_review_has_no_tests_no_reference_and_no_entry_point(tmp_path: Path):
    [problem] = load_problems(write(tmp_path / "own.jsonl", REVIEWED))
    assert (problem.tested, problem.references, problem.entry_point) == (False, (), "")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tests", ["assert greet()"], "a problem of kind 'review' has no tests: people alone decide"),
        ("cases", [{"expected": 1}], "a problem of kind 'review' has no tests: people alone decide"),
        ("setup", "import math", "only a problem with tests has this field"),
        ("tolerance", 0.1, "only a problem with tests has this field"),
    ],
)
def test_a_problem_of_kind_review_with_something_of_tests_is_refused(tmp_path: Path, field, value, reason):
    with pytest.raises(DataError, match=rf"row 1, field '{field}': {reason}"):
        load_problems(write(tmp_path / "own.jsonl", REVIEWED | {field: value}))


def test_every_other_problem_needs_its_entry_point(tmp_path: Path):
    with pytest.raises(DataError, match="field 'entry_point': Field required"):
        load_problems(write(tmp_path / "own.jsonl", {k: v for k, v in GOOD.items() if k != "entry_point"}))


def test_problems_without_tests_can_be_trained_on_and_not_measured_on(tmp_path: Path):
    held = REVIEWED | {"problem_id": "own/held", "split": "heldout", "prompt": '"""Print a poem."""'}
    mine = write(tmp_path / "own.jsonl", REVIEWED, held)
    train, heldout = load_splits(mine, mine)
    assert [problem.problem_id for problem in train] == ["own/greet"]
    with pytest.raises(DataError, match=r"none of the 1 problems has tests.*evaluation.source"):
        with_tests(heldout, mine)


def test_the_bundled_sources_keep_training_and_held_out_problems_apart():
    assert all(load_splits("starter", "starter"))
    assert all(load_splits("starter", "cvx"))


CASES = {**{name: value for name, value in GOOD.items() if name != "tests"}, "kind": "calls"}
SCRIPT = {**CASES, "kind": "script", "prompt": '"""Write the sum of the numbers read."""'}


def test_a_row_may_hold_calls_with_a_tolerance_of_their_own_and_packages(tmp_path: Path):
    cases = [{"arguments": [1, 2], "expected": 3.2, "tolerance": 0.5}, {"arguments": [1, 1], "expected": 2}]
    (problem,) = load_problems(write(tmp_path / "own.jsonl", {**CASES, "cases": cases, "packages": ["numpy"]}))
    assert (problem.packages, problem.checker.kind) == (("numpy",), "calls")
    assert [case.tolerance for case in problem.checker.cases] == [0.5, None]
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        verdicts = sandbox.check([(problem, "\n    import numpy\n    return a + b"), (problem, "\n    return 3")])
    assert [verdict.status for verdict in verdicts] == ["passed", "wrong"]


def test_a_row_may_hold_runs_of_a_script(tmp_path: Path):
    row = {**SCRIPT, "references": [], "cases": [{"arguments": ["1 2\n"], "expected": "3\n"}]}
    (problem,) = load_problems(write(tmp_path / "own.jsonl", row))
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        (verdict,) = sandbox.check([(problem, "\nprint(sum(map(int, input().split())))\n")])
    assert verdict.passed


@pytest.mark.parametrize(
    "row, field",
    [
        (
            {**GOOD, "tests": ["from unittest.mock import patch\nassert add(1, 2) == 3"]},
            r"tests': .*replaces something",
        ),
        ({**GOOD, "tests": ["import time\ntime.time = lambda: 3\nassert add(1, 2)"]}, r"tests': .*replaces .*line 2"),
        ({**GOOD, "tests": ["assert add(open('x').read(), 2) == 3"]}, r"tests': .*files"),
        ({**GOOD, "setup": "import tempfile"}, r"setup': .*files"),
        ({**GOOD, "tests": ["class T(add):\n    def push(self): pass\nassert T()"]}, r"tests': .*overrides push"),
        ({**GOOD, "tests": ["expected = 3\nassert add(1, 2) == expceted"]}, r"tests': the name 'expceted'"),
        ({**GOOD, "tests": ["assert add(1, 2) == " + "-" * 7000 + "1"]}, r"tests.0': not Python"),
        ({**GOOD, "kind": "calls"}, r"tests': a problem of kind 'calls' has at least 1 of cases"),
        (CASES, r"cases': a problem of kind 'calls' has at least 1 of cases"),
        ({**CASES, "cases": [{"arguments": [1]}]}, r"cases.0.expected'"),
        ({**SCRIPT, "cases": [{"arguments": [1], "expected": "2"}]}, r"cases': a script's case"),
    ],
)
def test_a_test_that_cannot_be_run_is_refused_with_its_row_and_field(tmp_path: Path, row, field):
    with pytest.raises(DataError, match=rf"own\.jsonl, row 1, field '{field}"):
        load_problems(write(tmp_path / "own.jsonl", row))


def test_a_file_that_begins_with_a_byte_order_mark_reads_as_without(tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert load_problems(str(marked)) == load_problems(str(plain))


def test_a_misspelt_field_names_the_right_one(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**GOOD, "entrypoint": "f"}) + "\n")
    with pytest.raises(DataError, match=r"row 1, field 'entrypoint'.*did you mean 'entry_point'\?"):
        load_problems(str(path))


def test_an_entry_point_that_nothing_defines_is_refused(tmp_path):
    path = write(tmp_path / "problems.jsonl", GOOD | {"entry_point": "adds"})
    with pytest.raises(DataError, match=r"field 'entry_point': 'adds' is defined by neither.*did you mean 'add'\?"):
        load_problems(path)
