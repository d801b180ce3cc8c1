"""Files of other benchmarks, in the form in which they are published: references pass, and a wrong program does not."""

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from crlhf_ray.errors import DataError
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

FORMS = Path(__file__).parent / "forms"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        yield sandbox


def problems(form):
    return load_problems(f"{form}:{FORMS / form}.jsonl")


@pytest.mark.parametrize("form", ["mbppplus", "apps", "leetcode", "classeval", "bigcodebench", "ds1000"])
def test_references_pass(sandbox, form):
    jobs = [(problem, reference) for problem in problems(form) for reference in problem.references]
    assert [(v.status, v.detail) for v in sandbox.check(jobs)] == [("passed", "")] * len(jobs)
    assert all(problem.split == "heldout" for problem, _ in jobs)


@pytest.mark.parametrize(
    "form, program",
    [
        ("mbppplus", "def shared(a, b):\n    return tuple(x for x in a if x in b)[:2]\ndef area(r): return 12.56637"),
        ("mbppplus", "def shared(a, b): return a\ndef area(r): return 3.14159 * r * r"),
        ("apps", "print('yes')\ndef digits(n): return 3\nclass Solution:\n    def half(self, nums): return nums"),
        ("leetcode", "class Solution:\n    def turned(self, head): return head"),
        (
            "classeval",
            "class Waiting:\n    def __init__(self, room): self.line = []\n    def come(self, name): return True",
        ),
        ("bigcodebench", "    return 'b'"),
        ("ds1000", "result = df"),
        ("ds1000", "    return test_input"),
        ("ds1000", "class Yes:\n    def __eq__(self, other): return True\nresult = Yes()"),
        ("livecodebench", "print(3)\nclass Solution:\n    def twice(self, nums, k): return [2, 4]"),
    ],
)
def test_wrong_programs_do_not_pass(sandbox, form, program):
    verdicts = sandbox.check([(problem, f"\n{program}\n") for problem in problems(form)])
    assert "infra_error" not in {verdict.status for verdict in verdicts}
    assert not all(verdict.passed for verdict in verdicts)


def test_livecodebench_has_tests_of_both_kinds_and_packed_private_ones(sandbox):
    script, calls = problems("livecodebench")
    assert script.checker.tests == (("2\n1 2\n", "3\n"), ("3\n10 20 30\n", "60\n"))
    assert [case.arguments for case in calls.checker.cases] == [([1, 2], 1), ([], 3)]
    right = (
        "\nn = int(input())\nprint(sum(map(int, input().split())))\n",
        "\nclass Solution:\n    def twice(self, nums, k): return [x * 2 ** k for x in nums]\n",
    )
    assert all(verdict.passed for verdict in sandbox.check(list(zip((script, calls), right, strict=True))))


def test_arguments_have_the_types_of_the_original_tests():
    shared, area = problems("mbppplus")
    assert shared.checker.inputs == (((3, 4, 5), (5, 7, 4)), ((), (1,)), ((1, 1, 2), (1, 2, 2)))
    assert (shared.checker.oracle, area.checker.oracle) == ("set(answer) == set(expected)", "")


def test_packed_tests_that_hold_more_than_text_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (len, ("boom",))

    row = json.loads((FORMS / "livecodebench.jsonl").read_text().splitlines()[0])
    row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    (tmp_path / "lcb.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"row 1: .*builtins\.len are not read"):
        load_problems(f"livecodebench:{tmp_path / 'lcb.jsonl'}")


def test_a_row_whose_test_cannot_be_carried_out_is_named(tmp_path):
    row = json.loads((FORMS / "bigcodebench.jsonl").read_text().splitlines()[0])
    row["test"] = "import unittest\nfrom unittest.mock import patch\n" + row["test"]
    (tmp_path / "bcb.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"row 1, field 'test': cannot be carried out: it replaces .*\(line 2\)"):
        load_problems(f"bigcodebench:{tmp_path / 'bcb.jsonl'}")


def test_a_row_of_another_form_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"task_id": "Mbpp/1"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, row 1, field 'entry_point': is missing"):
        load_problems(f"mbppplus:{tmp_path / 'x.jsonl'}")
    with pytest.raises(DataError, match=r"'mbppplus:PATH'"):
        load_problems("mbppplus:nowhere.jsonl")


def test_problems_of_two_splits_that_have_one_id_are_refused(tmp_path):
    row = (FORMS / "apps.jsonl").read_text().splitlines()[0]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{row}\n")
    with pytest.raises(DataError, match=r"problem 2 has the id .* of problem 1: .* load one file or split at a time"):
        load_problems(f"apps:data:{tmp_path}")
    assert load_problems(f"apps:data:{tmp_path / 'test.jsonl'}")


def test_ds1000_runs_a_completion_in_its_place_and_looks_at_its_text(sandbox):
    frames, arrays = problems("ds1000")
    assert (frames.packages, arrays.packages) == (("numpy", "pandas"), ("numpy",))
    loop = "\n    for i in range(len(a) - 2, -1, -1): a[i] += a[i + 1]\n    return a\n"
    looks = (
        "\nimport gc\nresult = [o for o in gc.get_objects() if 'expected_result' in str(type(o))] or expected_result\n"
    )
    verdicts = sandbox.check([(arrays, loop), (frames, looks), (frames, "\nexit(0)\n"), (arrays, "\n  (((\n")])
    assert [verdict.status for verdict in verdicts] == ["wrong", "error", "error", "wrong"]


@pytest.mark.parametrize("library", ["Matplotlib", "Pytorch", "Tensorflow"])
def test_ds1000_rows_whose_results_are_no_values_are_refused(tmp_path, library):
    row = json.loads((FORMS / "ds1000.jsonl").read_text().splitlines()[0])
    row["metadata"]["library"] = library
    (tmp_path / "ds.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=rf"row 1.*a result of {library} is not a value"):
        load_problems(f"ds1000:{tmp_path / 'ds.jsonl'}")


YES = "\nclass Yes:\n    __eq__ = __array__ = equals = lambda self, *others: True\n    shape = (3,)\n"
FORGED = {
    "an object that equals everything": f"{YES}\nresult = Yes()",
    "an array of such objects": f"{YES}\nresult = np.array([Yes()] * 3, dtype=object)",
    "an array of its own class": (
        "\nclass Yes(np.ndarray):\n    __eq__ = lambda self, other: True\nresult = np.zeros(3).view(Yes)"
    ),
    "patched comparisons": (
        "\npd.testing.assert_frame_equal = np.testing.assert_array_equal = lambda *_: None\nresult = 0"
    ),
    "no numbers": "\nresult = np.full(3, np.nan)",
}


@pytest.mark.parametrize("name", FORGED)
def test_ds1000_is_passed_by_no_forged_result(sandbox, name):
    frames, arrays = problems("ds1000")
    indented = FORGED[name].replace("\n", "\n    ").replace("result =", "return")
    for verdict in sandbox.check([(frames, FORGED[name]), (arrays, f"\n    import pandas as pd{indented}")]):
        assert verdict.status in ("wrong", "error"), verdict
