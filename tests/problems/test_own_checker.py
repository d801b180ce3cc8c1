"""Problems of a function outside the package, with a checker of their own: the example of docs/problems.md."""

import re
from pathlib import Path

import pytest

from crlhf_ray import Sandbox, load_problems
from crlhf_ray.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "problems.md"
MISTAKES = """

def twice():
    return problems() * 2

def none():
    return ["x"]

def fails():
    1 / 0
"""
#: By what the checker has to say of them.
PROGRAMS = {
    "passed": "\n    return sorted(numbers)",
    "[1, 3] is not in order": "\n    return [min(numbers), max(numbers)]",
    "more than 6 lines": "\n" + "    # so\n" * 6 + "    return sorted(numbers)",
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The documented module, where the command is started."""
    (example,) = re.findall(r"```python\n(# my_problems\.py\n.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "my_problems.py").write_text(example + MISTAKES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_checker_of_ones_own_decides(outside):
    (problem,) = load_problems("my_problems:problems")
    with Sandbox() as sandbox:
        verdicts = sandbox.check([(problem, completion) for completion in PROGRAMS.values()])
    assert [verdict.passed for verdict in verdicts] == [True, False, False]
    assert ["passed" if v.passed else v.detail for v in verdicts] == list(PROGRAMS)


@pytest.mark.parametrize(
    "source, message",
    [
        ("my_problems:probelms", "has no 'probelms'; did you mean my_problems:problems?"),
        ("no_such_module:problems", "no_such_module could not be imported"),
        ("my_problems:none", "this is a str, not a Problem"),
        ("my_problems:twice", "problem 2 has the id 'mine/arrange' of problem 1"),
        ("my_problems:fails", "it failed: ZeroDivisionError"),
    ],
)
def test_what_is_not_a_source_is_refused_with_its_reason(outside, source, message):
    with pytest.raises(DataError, match=re.escape(message)):
        load_problems(source)
