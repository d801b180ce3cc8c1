"""`crlhf check` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.evaluation.check import summary


def row(task, result, test=None, cpu=0.1, text=""):
    verdict = {"failing_test": test, "cpu_seconds": cpu, "detail": "no memory", "isolation": "jailed"}
    verdict["memory_by"] = "watch"
    passed = None if result == "infra_error" else result == "passed"
    return {"task_id": task, "completion": text, "passed": passed, "result": result, "verdict": verdict}


def test_a_summary_says_what_people_came_for():
    rows = [row("a", "passed"), row("a", "wrong", 1), row("a", "wrong", 1), row("b", "passed", cpu=2.0)]
    rows += [row("b", "passed"), row("b", "error", text="```python\n"), row("b", "infra_error")]
    found = summary(rows, 3)
    assert (found["samples"], found["checked"], found["problems"], found["problems_with_samples"]) == (7, 6, 3, 2)
    assert [(each["k"], each["mean"]) for each in found["pass_at_k"]] == [
        (1, pytest.approx(0.5)),
        (2, pytest.approx(5 / 6)),
        (3, 1.0),
    ]
    assert all(each["low"] <= each["mean"] <= each["high"] for each in found["pass_at_k"])
    assert found["verdicts"] == {"passed": 3, "wrong": 2, "error": 1, "infra_error": 1}
    assert found["slowest"][0] == {"row": 4, "task_id": "b", "cpu_seconds": 2.0}
    assert next(iter(found["failing"].items())) == ("a", {"passed": 1, "samples": 3, "tests": {"test 1": 2}})
    assert found["failing"]["b"]["tests"] == {"before the first test": 1}
    assert found["fenced"] == [6]


def invoke(tmp_path, *options, completions=("    return number\n",), problem="humaneval"):
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps({"task_id": "HumanEval/2", "completion": text}) + "\n" for text in completions))
    return CliRunner().invoke(app, ["check", str(path), "--problems", problem, *options])


def test_the_summary_is_printed_for_people_and_as_json(tmp_path):
    right = "    return number % 1.0\n"
    result = invoke(tmp_path, completions=(right, "    return 0\n"))
    assert result.exit_code == 0, result.output
    for part in ("2 of 2 programs checked", "pass@1", "50.0%", "passed 1, wrong 1", "HumanEval/2: 1 of 2 pass; test 0"):
        assert part in result.output
    result = invoke(tmp_path, "--json", "--resume", "--isolation", "weak", completions=(right,))
    found = json.loads(result.stdout)
    assert (found["pass_at_k"][0]["mean"], found["isolation"]) == (1.0, ["weak"])


def test_a_file_of_which_nothing_could_be_checked_is_an_error(tmp_path):
    problems = tmp_path / "own.jsonl"
    problem = {
        "problem_id": "HumanEval/2",
        "prompt": 'def f():\n    """x"""',
        "entry_point": "f",
        "tests": ["assert f(typo)"],
    }
    problems.write_text(json.dumps(problem))
    result = invoke(tmp_path, problem=str(problems))
    assert isinstance(result.exception, EngineError)
    assert "not one of 1 programs got a verdict: the tests of" in str(result.exception)
    assert "test 0, line 1: NameError: name 'typo'" in str(result.exception)
    assert json.loads((tmp_path / "samples.jsonl_results.jsonl").read_text())["passed"] is None


def test_a_file_without_samples_is_refused(tmp_path):
    result = invoke(tmp_path, completions=())
    assert isinstance(result.exception, DataError)
    assert "samples.jsonl: holds no sample" in str(result.exception)


def test_a_program_that_sleeps_beyond_the_wall_clock_is_told_its_limit(tmp_path):
    result = invoke(
        tmp_path, "--wall-seconds", "0.5", "--cpu-seconds", "40", completions=("    import time; time.sleep(9)\n",)
    )
    row = json.loads((tmp_path / "samples.jsonl_results.jsonl").read_text())
    assert (row["result"], row["verdict"]["detail"]) == ("timeout", "0.5 s of wall clock"), result.output


@pytest.mark.parametrize("option, value", [("--slots", "0"), ("--cpu-seconds", "0"), ("--isolation", "none")])
def test_an_option_out_of_range_is_refused_in_words(tmp_path, option, value):
    result = invoke(tmp_path, option, value)
    assert result.exit_code == 2
    assert option in result.output
