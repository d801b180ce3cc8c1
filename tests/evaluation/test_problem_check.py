"""`crlhf problems check`: what the tests of a file of problems are worth."""

import json

from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.evaluation.problem_check import examine
from crlhf_ray.sandbox.verdict import Verdict
from tests.sandbox.samples import DOUBLE

PROMPT = 'def larger(a, b):\n    """The larger of a and b."""'
GOOD = {
    "problem_id": "good",
    "prompt": PROMPT,
    "entry_point": "larger",
    "tests": ["assert larger(1, 2) == 2", "assert larger(2, 1) == 2", "assert larger(3, 3) == 3"],
    "references": ["\n    return a if a > b else b\n"],
}
ROWS = [
    GOOD,
    GOOD | {"problem_id": "weak", "tests": ["assert larger(1, 1) == 1"]},
    GOOD | {"problem_id": "failing", "references": ["\n    return a\n"]},
    GOOD | {"problem_id": "shown", "prompt": PROMPT.replace('b."""', 'b.\n\n    assert larger(1, 2) == 2\n    """')},
    GOOD | {"problem_id": "faulty", "tests": ["import math\nassert larger(1, 2) == math.two"]},
    GOOD | {"problem_id": "alone", "references": []},
    {"problem_id": "people", "prompt": PROMPT, "kind": "review", "references": ["\n    return a"]},
]


def test_each_problem_is_told_what_its_tests_are_worth(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    result = CliRunner().invoke(app, ["problems", "check", str(path), "--json", "--mutants", "8"])
    assert result.exit_code == 1, result.output
    found = {each["problem_id"]: each for each in json.loads(result.stdout)}
    assert (found["good"]["faults"], found["good"]["notes"], found["good"]["references"]) == ([], [], [1, 1])
    caught, tried = found["good"]["caught"]
    assert caught >= tried / 2 > 1
    assert found["weak"]["notes"] == [f"the tests catch {found['weak']['caught'][0]} of {tried} mutants"]
    assert found["failing"]["faults"] == ["reference 0 does not pass: wrong, test 0: AssertionError"]
    assert found["shown"]["notes"] == ["the prompt shows 1 of 3 tests"]
    assert "test 0, line 2: AttributeError" in found["faulty"]["faults"][0]
    assert found["alone"]["notes"] == ["no reference to check the tests with"]
    assert found["people"]["notes"] == ["no tests: people alone decide"]
    assert (found["people"]["faults"], found["people"]["references"]) == ([], [0, 0])


def test_a_file_without_fault_says_so_in_words(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD))
    result = CliRunner().invoke(app, ["problems", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "references pass: 1 of 1" in result.output
    assert "no fault" in result.output


def test_a_reference_that_passes_now_and_then_is_flaky():
    class Coin:
        def check(self, jobs, each):
            return [Verdict("passed" if n % 2 else "wrong", isolation="jailed") for n, _ in enumerate(jobs)]

    (finding,) = examine([DOUBLE], Coin(), mutants=5, cpu_limit=5.0)
    assert (finding.faults, finding.references) == (("flaky: reference 0 is wrong and passed",), (0, 1))
