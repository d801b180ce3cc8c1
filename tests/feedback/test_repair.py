"""Line truth by repair: only the lines that must change for the tests to pass are wrong."""

import pytest

from crlhf_ray.feedback.repair import ATTEMPTS, Checked, apply, changes, repair
from crlhf_ray.feedback.truth import line_truth, outline
from crlhf_ray.problems.problem import AssertChecker, Problem
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings
from crlhf_ray.sandbox.verdict import Verdict

REFERENCE = "\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n    return total\n"
PROBLEM = Problem(
    problem_id="sum_positive",
    prompt='def sum_positive(xs):\n    """Sum of the positive entries."""',
    entry_point="sum_positive",
    checker=AssertChecker(("assert sum_positive([1, -2, 3]) == 4", "assert sum_positive([]) == 0")),
    references=(REFERENCE,),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        yield sandbox


def repaired(sandbox, text, passing=()):
    verdict, *_ = sandbox.check([(PROBLEM, text)])
    (found,) = repair([Checked(PROBLEM, text, verdict, tuple(passing))], sandbox)
    return found


def wrong_lines(found, text):
    return [line.strip() for line, truth in zip(text.split("\n"), found.truth, strict=True) if truth == -1]


def test_only_the_line_that_must_change_is_wrong(sandbox):
    text = "\n    s = 0\n    for v in xs:\n        if v < 0:\n            s += v\n    return s\n"
    found = repaired(sandbox, text)
    assert wrong_lines(found, text) == ["if v < 0:"]
    assert found.consistent


def test_a_harmless_difference_is_not_blamed(sandbox):
    text = "\n    n = 7\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += 1\n    return total\n"
    verdict = sandbox.check([(PROBLEM, text)])[0]
    found = repaired(sandbox, text)
    assert wrong_lines(found, text) == ["total += 1"]
    assert (line_truth(PROBLEM, text, verdict, ()) == -1).sum() > 1


def test_what_is_missing_is_blamed_on_the_line_before(sandbox):
    text = "\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n"
    assert wrong_lines(repaired(sandbox, text), text) == ["total += x"]


def test_the_repaired_program_passes_and_nothing_less_does(sandbox):
    text = "\n    # start\n    t = 1\n    for x in xs:\n        if x >= 1:\n            t = x\n    return t\n"
    found = repaired(sandbox, text)
    assert wrong_lines(found, text) == ["t = 1", "t = x"]
    assert "# start" in found.repaired
    assert sandbox.check([(PROBLEM, found.repaired)])[0].passed


def test_a_passing_program_has_no_wrong_line(sandbox):
    found = repaired(sandbox, REFERENCE)
    assert wrong_lines(found, REFERENCE) == []


def test_what_is_not_python_keeps_the_alignments_truth(sandbox):
    text = "\n    total = 0\n    for x in xs\n        total += x\n    return total\n"
    found = repaired(sandbox, text)
    assert not found.consistent
    assert wrong_lines(found, text)[0] == "for x in xs"


def test_all_changes_together_give_the_reference_in_the_programs_own_names():
    text = "\n    s = 5\n    for v in xs:\n      s += v\n    return s\n"
    mine, theirs = outline(PROBLEM.prompt, text), outline(PROBLEM.prompt, REFERENCE)
    done = apply(text, mine, changes(mine, theirs))
    assert [line.strip() for line in done.split("\n") if line.strip()] == [
        "s = 0",
        "for v in xs:",
        "if v > 0:",
        "s += v",
        "return s",
    ]


class Failing:
    """A sandbox that fails itself on each program for so many times."""

    def __init__(self, sandbox, times):
        self.sandbox = sandbox
        self.times = times
        self.asked = {}

    def check(self, jobs):
        verdicts = self.sandbox.check(jobs)
        for at, (_, text) in enumerate(jobs):
            self.asked[text] = self.asked.get(text, 0) + 1
            if self.asked[text] <= self.times:
                verdicts[at] = Verdict("infra_error", isolation="jailed")
        return verdicts


@pytest.mark.parametrize("times", [0, ATTEMPTS - 1])
def test_a_change_is_not_called_needed_because_the_sandbox_failed(sandbox, times):
    text = "\n    n = 7\n    s = 0\n    for x in xs:\n        if x < 0:\n            s = x\n    return s\n"
    found = repaired(sandbox, text)
    again = repair([Checked(PROBLEM, text, Verdict("wrong", isolation="jailed"))], Failing(sandbox, times))[0]
    assert (again.truth == found.truth).all()
    assert again.repaired == found.repaired


def test_where_the_sandbox_keeps_failing_the_alignments_truth_stands(sandbox):
    text = "\n    s = 1\n    for x in xs:\n        s += x\n    return s\n"
    (found,) = repair([Checked(PROBLEM, text, Verdict("wrong", isolation="jailed"))], Failing(sandbox, ATTEMPTS))
    assert not found.consistent
    assert (found.truth == line_truth(PROBLEM, text, Verdict("wrong", isolation="jailed"), ())).all()


@pytest.mark.parametrize(
    "text",
    [
        "\n    return " + "-" * 7000 + "1",  # more than the parser's memory
        "",
        "\n",
        "    # a comment",
        "    pass",
        '    """doc"""',
        "    return",
        "\x00",
        "\n\nclass X: pass",
        "\t(",
        "    1\\",
    ],
)
def test_whatever_a_program_is_its_lines_have_a_truth(sandbox, text):
    found = repaired(sandbox, text)
    assert found.truth.shape == (len(text.split("\n")),)
    assert set(found.truth.tolist()) <= {1, -1}


def test_where_the_end_is_asked_about_what_must_be_added_there_is_missing_and_no_line_is_wrong(sandbox):
    text = "\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x"
    (verdict,) = sandbox.check([(PROBLEM, text)])
    (found,) = repair([Checked(PROBLEM, text, verdict, end=True)], sandbox)
    assert found.truth.tolist() == [1] * 5 + [-1]
    assert found.consistent
