import pytest

from crlhf_ray.problems.problem import AssertChecker, Problem
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

PROMPT = 'def double(x):\n    """Twice x."""'
DOUBLE = Problem(
    problem_id="double",
    prompt=PROMPT,
    entry_point="double",
    checker=AssertChecker(tests=("assert double(2) == 4", "assert double('a') == 'aa'", "assert double(-1) == -2")),
    references=("\n    return 2 * x\n",),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=1, wall_seconds=5))) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "completion, status, failing_test",
    [
        ("\n    return 2 * x\n", "passed", None),
        ("\n    return x + x\n", "passed", None),
        ("\n    return x ** 2\n", "error", 1),
        ("\n    return x * 2 if x == 2 else 0\n", "wrong", 1),
        ("\n    return 2 * x if x != -1 else 1\n", "wrong", 2),
        ("\n    return 2 *\n", "error", None),
        ("\n    while True: pass\n", "timeout", 0),
    ],
)
def test_verdict(sandbox, completion, status, failing_test):
    (verdict,) = sandbox.check([(DOUBLE, completion)])
    assert (verdict.status, verdict.passed) == (status, status == "passed")
    if status != "timeout":
        assert verdict.failing_test == failing_test


def test_verdicts_come_in_the_order_of_the_jobs(sandbox):
    good, bad = "\n    return 2 * x\n", "\n    return 0\n"
    completions = [good, bad, bad, good, good, bad, good] * 3
    verdicts = sandbox.check([(DOUBLE, completion) for completion in completions])
    assert [verdict.passed for verdict in verdicts] == [completion is good for completion in completions]
