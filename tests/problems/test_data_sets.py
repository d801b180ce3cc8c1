"""Data sets of the hub and of this machine as problems. Nothing is fetched: the hub is a cache made by the test."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict
from rich.console import Console

from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.pipeline.claim import check_inputs, data_sets_read, write_data_sets
from crlhf_ray.problems.data_sets import _hub
from crlhf_ray.problems.load import load_problems, load_splits
from crlhf_ray.problems.preview import show
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings
from crlhf_ray.sandbox.samples import data_set_id
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = {
    "task_id": 7,
    "text": "Write a function that adds two numbers.",
    "code": "def add(a, b):\r\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
}
CODE = {
    "task_id": "own/add",
    "prompt": 'def add(a, b):\n    """Return a + b."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def jsonl(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data:{path}"


def mapped(**columns: str) -> DataSetSettings:
    return DataSetSettings.model_validate({"columns": columns})


def passing(problems) -> list[bool]:
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=30))) as sandbox:
        return [verdict.passed for verdict in sandbox.check([(one, one.references[0]) for one in problems])]


def test_a_prompt_in_words_becomes_a_docstring_with_the_first_test_and_whole_programs_as_references(tmp_path):
    (problem,) = load_problems(jsonl(tmp_path / "set.jsonl", WORDS))
    assert problem.prompt == '"""\nWrite a function that adds two numbers.\nassert add(1, 2) == 3\n"""'
    assert (problem.problem_id, problem.entry_point) == ("set/7", "add")
    assert problem.references == ("\ndef add(a, b):\n    return a + b",)
    assert problem.checker.tests == tuple(WORDS["test_list"])


def test_a_prompt_in_python_is_continued_and_a_text_with_check_is_called(tmp_path):
    (problem,) = load_problems(jsonl(tmp_path / "set.jsonl", CODE))
    assert (problem.prompt, problem.references) == (CODE["prompt"].rstrip(), ("\n" + CODE["canonical_solution"],))
    assert (problem.checker.tests, problem.checker.setup) == (("check(add)",), CODE["test"])
    assert passing([problem]) == [True]


def test_one_text_of_asserts_is_as_many_tests_with_what_stands_before_as_setup(tmp_path):
    row = WORDS | {"test_list": "import math\nassert add(1, 2) == 3\nassert math.isclose(add(.1, .2), .3)"}
    (problem,) = load_problems(jsonl(tmp_path / "set.jsonl", row))
    assert (len(problem.checker.tests), problem.checker.setup) == (2, "import math")
    assert passing([problem]) == [True]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "saved", "folder"])
def test_parquet_jsonl_a_saved_data_set_and_a_folder_are_the_same_problems(tmp_path, form, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = Dataset.from_list([WORDS, WORDS | {"task_id": 8}])
    (tmp_path / "set").mkdir()
    if form == "parquet":
        found.to_parquet(tmp_path / "set.parquet")
    elif form == "jsonl":
        found.to_json(tmp_path / "set.jsonl")
    elif form == "saved":
        found.save_to_disk(tmp_path / "set")
    else:
        found.to_parquet(tmp_path / "set" / "train.parquet")
    place = tmp_path / (f"set.{form}" if form in ("parquet", "jsonl") else "set")
    problems = load_problems(f"data:{place}")
    assert [problem.problem_id for problem in problems] == ["set/7", "set/8"]
    expected = load_problems(jsonl(tmp_path / "set.json", WORDS, WORDS | {"task_id": 8}))
    assert problems == expected


def test_the_sets_own_splits_are_kept_apart(tmp_path):
    splits = {
        name: Dataset.from_list([WORDS | {"task_id": n, "text": f"Add two numbers, {n}."}])
        for n, name in enumerate(("train", "validation", "test"))
    }
    DatasetDict(splits).save_to_disk(tmp_path / "set")
    trained, measured = load_splits(f"data:{tmp_path / 'set'}", f"data:{tmp_path / 'set'}")
    assert [one.problem_id for one in trained] == ["set/train/0"]
    assert [one.problem_id for one in measured] == ["set/validation/1", "set/test/2"]


def test_a_column_says_the_split_of_each_row(tmp_path):
    source = jsonl(tmp_path / "set.jsonl", WORDS | {"part": "train"}, WORDS | {"task_id": 8, "part": "dev"})
    assert [one.split for one in load_problems(source, None, mapped(split="part"))] == ["train", "heldout"]


def test_a_set_without_splits_is_what_it_is_named_for_and_never_both(tmp_path):
    source = jsonl(tmp_path / "set.jsonl", WORDS)
    assert load_problems(source, "train")[0].split == "train"
    assert load_problems(source, "heldout")[0].split == "heldout"
    with pytest.raises(DataError, match="is a training problem of"):
        load_splits(source, source)


def test_columns_are_named_in_settings_and_what_was_guessed_is_said(tmp_path):
    row = {"question": WORDS["text"], "checks": WORDS["test_list"], "answer": WORDS["code"]}
    source, said = jsonl(tmp_path / "set.jsonl", row), []
    (problem,) = load_problems(source, None, mapped(tests="checks", references="answer"), said.append)
    assert len(problem.references) == 1
    assert said == [f"{source}: prompt from 'question', tests from 'checks', references from 'answer'; 1 problems"]


@pytest.mark.parametrize(
    "columns, field, says",
    [
        ({"tests": "test_lsit"}, "tests", "there is no column 'test_lsit'; did you mean 'test_list'?"),
        ({}, "prompt", "name it in data_set.columns.prompt: the columns are task_id, code, test_list"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_what_there_is(tmp_path, columns, field, says):
    source = jsonl(tmp_path / "set.jsonl", {name: value for name, value in WORDS.items() if name != "text" or columns})
    with pytest.raises(DataError) as caught:
        load_problems(source, None, mapped(**columns))
    assert (caught.value.file, caught.value.field) == (source, field)
    assert says in str(caught.value)


BAD = [WORDS | {"task_id": 8, "test_list": ["assert add(1,"]}, WORDS | {"task_id": 9, "test_list": ["assert 1 == 1"]}]


def test_rows_that_make_no_problem_stop_the_load_or_are_left_out_and_counted(tmp_path):
    source, said = jsonl(tmp_path / "set.jsonl", WORDS, *BAD), []
    with pytest.raises(
        DataError, match=r"2 of 3 rows cannot be read as problems. The first: .*row 2, field 'tests.0': not Python"
    ):
        load_problems(source)
    left = DataSetSettings(refused="leave_out")
    assert [one.problem_id for one in load_problems(source, None, left, said.append)] == ["set/7"]
    assert "2 rows left out, the first: " in said[0]


def test_a_column_that_was_guessed_wrong_is_switched_off(tmp_path):
    row = {name: value for name, value in CODE.items() if name != "canonical_solution"} | {"solution": "see page 42"}
    source = jsonl(tmp_path / "set.jsonl", row)
    with pytest.raises(DataError, match="field 'references'"):
        load_problems(source)
    assert load_problems(source, None, mapped(references="none"))[0].references == ()
    with pytest.raises(DataError, match="no column has one of the names"):
        load_problems(source, None, mapped(tests="none"))


def test_a_problem_that_comes_twice_is_left_out_where_that_is_asked_for(tmp_path):
    source, said, console = (
        jsonl(tmp_path / "set.jsonl", WORDS, WORDS | {"task_id": 8}, WORDS),
        [],
        Console(record=True, width=400),
    )
    left = DataSetSettings(refused="leave_out")
    assert [one.problem_id for one in load_problems(source, None, left, said.append)] == ["set/7", "set/8"]
    assert "1 more left out, the first: " in said[1]
    assert show(source, DEFAULTS, 1, console) == 1
    text = console.export_text()
    assert "problem 3 has the id 'set/7' of problem 1" in text
    assert "leave them out with problems.data_set.refused=leave_out" in text


def test_rows_without_an_id_are_told_apart_by_what_they_ask(tmp_path):
    """In whatever folder their files lie, and in whatever order they stand."""
    row = {name: value for name, value in WORDS.items() if name != "task_id"}
    other = row | {"text": "Add two numbers, both small."}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    here, there = jsonl(tmp_path / "a" / "set.jsonl", row), jsonl(tmp_path / "b" / "set.jsonl", other)
    trained, measured = load_splits(here, there)
    assert trained[0].problem_id != measured[0].problem_id
    moved = load_problems(jsonl(tmp_path / "a" / "set.jsonl", other, row))
    assert [one.problem_id for one in moved] == [measured[0].problem_id, trained[0].problem_id]


def test_the_same_problem_under_two_names_is_a_leak(tmp_path):
    source = jsonl(tmp_path / "train.jsonl", WORDS)
    renamed = jsonl(tmp_path / "test.jsonl", WORDS | {"task_id": "other", "text": f"{WORDS['text']} "})
    with pytest.raises(DataError, match=r"'train/7' is a training problem of .* and, as 'other', a held-out problem"):
        load_splits(source, renamed)
    other = jsonl(tmp_path / "heldout.jsonl", WORDS | {"task_id": "train/7", "text": "Add numbers."})
    with pytest.raises(DataError, match=r"'train/7' is a problem of .* and another one of .*: give each problem"):
        load_splits(source, other)


def test_a_limit_reads_the_first_rows_of_each_split(tmp_path):
    source = jsonl(tmp_path / "set.jsonl", WORDS, *BAD)
    assert len(load_problems(source, None, DataSetSettings(limit=1))) == 1


def test_the_preview_shows_columns_problems_counts_and_refused_rows(tmp_path):
    console = Console(record=True, width=100)
    assert show(jsonl(tmp_path / "set.jsonl", WORDS, *BAD), DEFAULTS, 1, console) == 2
    text = console.export_text()
    for said in (
        "test_list",
        "by its name",
        "--- set/7",
        "1 problems: 1 to train on, 0 held out; 1 with a reference",
        "row 3, field 'entry_point': Field required",
        "2 rows are refused",
    ):
        assert said in text
    with pytest.raises(DataError, match="are for hub: and data: sources"):
        show("starter", mapped(tests="checks"), 1, console)


@pytest.mark.parametrize("group", ["problems", "evaluation"])
def test_settings_of_data_sets_are_refused_where_the_source_is_none(group):
    with pytest.raises(ConfigError, match=r"data_set=.* has no effect with source=starter"):
        load_config(changes=[f"{group}.data_set.limit=3"])


def test_held_out_problems_of_the_same_source_are_read_in_the_same_way():
    settings = ["problems.source=data:a", "problems.data_set.columns.tests=checks"]
    same = load_config(changes=[*settings, "evaluation.source=data:a"])
    assert same.heldout_data_set() == same.problems.data_set == mapped(tests="checks")
    assert load_config(changes=[*settings, "evaluation.source=data:b"]).heldout_data_set() == DEFAULTS


@pytest.mark.parametrize("place", ["nowhere", "broken.parquet"])
def test_what_is_not_there_or_not_parquet_is_an_error(tmp_path, place):
    (tmp_path / "broken.parquet").write_text("no")
    with pytest.raises(DataError, match=r"no such file or folder|is not a Parquet file"):
        load_problems(f"data:{tmp_path / place}")


# ---------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one data set of two configurations, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "datasets--ada--sums"
    files = repository / "snapshots" / COMMIT
    for name in ("small", "large"):
        (files / name).mkdir(parents=True)
        Dataset.from_list([WORDS]).to_parquet(files / name / "train.parquet")
        Dataset.from_list([WORDS | {"task_id": 8, "text": "Add 2 numbers."}]).to_parquet(files / name / "test.parquet")
    configs = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("small", "large"))
    (files / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    _hub.cache_clear()
    yield repository
    _hub.cache_clear()


def test_functions_that_pytest_would_call_are_called(tmp_path):
    code = "def test_add():\n    assert add(1, 2) == 3\n\ndef test_zero():\n    assert add(0, 0) == 0\n"
    row = {"prompt": "Add two numbers.", "code": "def add(a, b):\n    return a + b", "test": code, "entry_point": "add"}
    wrong = {**row, "prompt": "Add numbers.", "code": "def add(a, b):\n    return a + b + (a == 0)"}
    problems = load_problems(jsonl(tmp_path / "set.jsonl", row, wrong))
    assert problems[0].checker.tests == ("test_add()", "test_zero()")
    assert problems[0].prompt == '"""\nAdd two numbers.\n"""'
    assert passing(problems) == [True, False]


def test_a_list_as_python_writes_it_down_is_a_list(tmp_path):
    (problem,) = load_problems(jsonl(tmp_path / "set.jsonl", {**WORDS, "test_list": str(WORDS["test_list"])}))
    assert problem.checker.tests == tuple(WORDS["test_list"])


@pytest.mark.parametrize(
    "test", ["add(1, 2) == 3", "{'inputs': ['1'], 'outputs': ['2']}", "def run():\n    assert add(1, 2)"]
)
def test_a_test_that_cannot_fail_is_refused(tmp_path, test):
    with pytest.raises(DataError, match="nothing in it can fail"):
        load_problems(jsonl(tmp_path / "set.jsonl", {**CODE, "test": test}))


def test_rows_of_kind_review_need_no_tests(tmp_path):
    row = {"problem_id": "own/x", "kind": "review", "prompt": '"""Do something."""'}
    (problem,) = load_problems(jsonl(tmp_path / "set.jsonl", row))
    assert not problem.tested


def test_a_set_of_the_hub_has_its_splits_and_its_commit(hub, tmp_path):
    trained, measured = load_splits("hub:ada/sums:small", "hub:ada/sums:small@" + COMMIT)
    assert [one.problem_id for one in (*trained, *measured)] == ["sums/train/7", "sums/test/8"]
    assert data_set_id("hub:ada/sums:small", trained)["version"] == f"revision {COMMIT}"
    assert data_set_id("mbpp:hub:ada/sums:small", load_problems("mbpp:hub:ada/sums:small"))["version"].endswith(COMMIT)


@pytest.mark.parametrize(
    "source, says",
    [
        ("hub:ada/sums", "has several configurations; name one, as hub:ada/sums:"),
        ("hub:ada/sums:smal", "has no configuration 'smal'; did you mean 'small'?"),
        ("hub:ada/none", "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"),
        ("hub:ada/sums:small@v2", "the hub cannot be reached"),
        ("hub:ada/sums/small", "is named as hub:OWNER/NAME"),
    ],
)
def test_what_the_hub_or_its_cache_has_not_is_said_in_plain_words(hub, source, says):
    with pytest.raises(DataError) as caught:
        load_problems(source)
    assert says in str(caught.value)


def test_a_run_writes_its_commit_down_and_a_changed_set_names_it(hub, tmp_path):
    config = load_config(changes=["problems.source=hub:ada/sums:small"])
    read = load_splits(config.problems.source, config.problems.source)
    write_data_sets(tmp_path, config, *read)
    assert data_sets_read(tmp_path)["problems.source"]["version"] == f"revision {COMMIT}"
    check_inputs(tmp_path, {"problems.source": "a"}, {})
    with pytest.raises(ConfigError, match=f"the earlier problems are problems.source=hub:ada/sums:small@{COMMIT}"):
        check_inputs(tmp_path, {"problems.source": "b"}, {"problems.source": "hub:ada/sums:small"})


# ---------------------------------------------------------------- public files


@pytest.fixture(scope="module")
def code() -> Path:
    if "CRLHF_DATA" not in os.environ:
        pytest.skip("CRLHF_DATA is not set: it names the folder that holds code/mbpp and code/humanevalplus")
    return Path(os.environ["CRLHF_DATA"]) / "code"


def test_mbpp_and_humaneval_are_read_by_their_names_and_their_references_pass(code, tmp_path):
    found = load_problems(f"data:{code / 'mbpp' / 'mbpp.jsonl'}", None, DataSetSettings(limit=40))
    with gzip.open(code / "humanevalplus" / "HumanEvalPlus.jsonl.gz", "rt") as lines:
        rows = [{name: json.loads(line)[name] for name in CODE} for line in lines]
    Dataset.from_list(rows).to_parquet(tmp_path / "humaneval.parquet")
    more = load_problems(f"data:{tmp_path / 'humaneval.parquet'}")
    assert (len(found), len(more)) == (40, 164)
    assert all(passing([*found, *more[::4]]))
