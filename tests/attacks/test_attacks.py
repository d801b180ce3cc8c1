"""Hostile programs: none passes, none escapes, each ends within its limits, and the slot is healthy afterwards."""

import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crlhf_ray.problems.checkers import AssertChecker, CallChecker, Case
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings
from crlhf_ray.sandbox.slot import Slot

from .programs import CHEATS, ESCAPES, FORGED_ARRAYS, HOGS, STUBBORN, TOGETHER, UNFOLDING, UNOWNED_MEMORY, UNSPEAKABLE

PROMPT = '"""Write largest_gap(xs): the largest difference between neighbours of the sorted list."""'
SOLUTION = "\ndef largest_gap(xs):\n    ys = sorted(xs)\n    return max(b - a for a, b in zip(ys, ys[1:]))\n"
INPUTS = ([1, 4], [9, 2, 4], [5, 5, 5], [1.5, 4.0, 2.0], [10, -7, 3, 20], [100, 1, 50, 51, 99])
EXPECTED = (3, 5, 0, 2.0, 10, 49)

ASSERTS = Problem(
    problem_id="attacked/asserts",
    prompt=PROMPT,
    entry_point="largest_gap",
    checker=AssertChecker(
        setup="def equal(a, b):\n    return a == b\n",
        tests=(
            *(f"assert largest_gap({x}) == {y}" for x, y in zip(INPUTS[:3], EXPECTED, strict=False)),
            "assert abs(largest_gap([1.5, 4.0, 2.0]) - 2.0) < 1e-6",
            "assert equal(largest_gap([10, -7, 3, 20]), 10)",
            "assert not largest_gap([100, 1, 50, 51, 99]) != 49",
            "assert list(map(largest_gap, [[0, 1], [7, 0]])) == [1, 7]",
            "assert all(gap > 0 for gap in map(largest_gap, [[0, 1], [7, 0]]))",
        ),
    ),
    references=(SOLUTION,),
)
CALLS = Problem(
    problem_id="attacked/calls",
    prompt=PROMPT,
    entry_point="largest_gap",
    checker=CallChecker(tuple(Case((x,), y) for x, y in zip(INPUTS, EXPECTED, strict=True)), tolerance=1e-6),
    references=(SOLUTION,),
)
TELLS = Problem(
    problem_id="attacked/tells",
    prompt=PROMPT,
    entry_point="tell",
    checker=AssertChecker(tests=("assert tell() == []",)),
    references=("\ndef tell(): return []\n",),
)
USES = Problem(
    problem_id="attacked/uses",
    prompt=PROMPT,
    entry_point="largest_gap",
    checker=AssertChecker(
        tests=(
            "answer = largest_gap([1, 4])\n"
            "if isinstance(answer, int):\n    assert len([0] * answer) == 3\n"
            "else:\n    assert sorted(n * n for n in answer) == [9]",
        )
    ),
    references=("\ndef largest_gap(xs): return 3\n",),
)
LIMITS = Limits(cpu_seconds=1, wall_seconds=4, memory_mb=128)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=LIMITS, slots=2)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def other_sandbox():
    """With a slot that may start more jails."""
    with Sandbox(SandboxSettings(limits=LIMITS, slots=1)) as sandbox:
        yield sandbox


def all_gone(pids: list[int]) -> bool:
    """Whether these processes have ended, or do so in a moment."""
    deadline = time.monotonic() + 60
    while (left := any(os.path.exists(f"/proc/{pid}") for pid in pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def processes_below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in processes_below(int(child)))]


def namespaces(pids: list[int]) -> set[str]:
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in pids for kind in ("pid", "ipc", "mnt", "user", "net")}


@pytest.fixture(autouse=True)
def slots_stay_healthy(sandbox):
    """After each attack: the same processes and namespaces as before, and right programs still pass."""
    pids = [pid for slot in sandbox._slots for pid in processes_below(slot.process.pid)]
    before = namespaces(pids)
    yield
    verdicts = sandbox.check([(ASSERTS, SOLUTION), (CALLS, SOLUTION), (TELLS, TELLS.references[0])])
    assert [verdict.status for verdict in verdicts] == ["passed"] * 3, verdicts
    after = [pid for slot in sandbox._slots for pid in processes_below(slot.process.pid)]
    if after != pids:  # the sandbox ended a slot, and nothing is left of it
        assert len(after) == len(pids)
        assert all_gone(list(set(pids) - set(after)))
    assert len(namespaces(after)) == len(before)


def test_there_are_enough_attacks():
    assert len(CHEATS) + len(HOGS) + len(UNFOLDING) + len(ESCAPES) >= 45


@pytest.mark.parametrize("name", CHEATS)
def test_cheat_does_not_pass(sandbox, name):
    for verdict in sandbox.check([(ASSERTS, CHEATS[name]), (CALLS, CHEATS[name])]):
        assert verdict.status in ("wrong", "error", "killed", "timeout"), verdict
        assert verdict.detail.isprintable()
        assert verdict.cpu_seconds <= LIMITS.cpu_seconds + 1


@pytest.mark.parametrize("name", HOGS)
def test_hog_is_stopped(sandbox, name):
    program, statuses = HOGS[name]
    (verdict,) = sandbox.check([(ASSERTS, program)])
    assert verdict.status in statuses | {"timeout"}, verdict  # where much else runs, the backstop may come first
    # The CPU limit is of each process. Many that the wall clock ended may have had all cores until then.
    many = "fork" in program and "wall" in verdict.detail
    assert verdict.cpu_seconds <= (LIMITS.wall_seconds * (os.cpu_count() or 1) if many else LIMITS.cpu_seconds) + 1
    assert len(verdict.output) <= LIMITS.output_kb << 10


@pytest.mark.parametrize("name", UNFOLDING)
def test_answer_that_unfolds_does_not_burden_the_verifier(sandbox, name):
    for verdict in sandbox.check([(problem, UNFOLDING[name]) for problem in (USES, ASSERTS)]):
        assert verdict.status in ("wrong", "error", "timeout", "out_of_memory"), verdict


@pytest.mark.parametrize("packages", [(), ("numpy",)], ids=["without numpy", "with numpy"])
@pytest.mark.parametrize("name", FORGED_ARRAYS)
def test_forged_array_equals_nothing_that_it_is_not(other_sandbox, name, packages):
    tests = (
        "assert largest_gap([0, 200000]) == 200000",
        "assert largest_gap([0, 10 ** 18]) == 10 ** 18",
        "assert largest_gap([0, 3.141592653589793]) == 3.141592653589793",
        "assert largest_gap([0]) == [2]",
        "assert abs(largest_gap([0, 3.141592653589793]) - 3.141592653589793) < 1e-9",
    )
    cases = (Case(([0, 200000],), 200000), Case(([0],), [200000]), Case(([0],), [2]), Case(([0],), 3.141592653589793))
    checkers = [AssertChecker((test,)) for test in tests] + [CallChecker((case,)) for case in cases]
    problems = [Problem("attacked", PROMPT, "largest_gap", checker, (), packages=packages) for checker in checkers]
    for verdict in other_sandbox.check([(problem, FORGED_ARRAYS[name]) for problem in problems]):
        assert verdict.status in ("wrong", "error"), verdict


@pytest.mark.parametrize("name", UNSPEAKABLE)
def test_answer_without_a_text_harms_no_other_verdict(sandbox, name):
    tests = ("assert largest_gap([1, 4]) == 3, largest_gap([1, 4])", "assert {3: True}[largest_gap([1, 4])]")
    problems = [Problem("attacked", PROMPT, "largest_gap", AssertChecker((test,)), ()) for test in tests]
    verdicts = sandbox.check(
        [(ASSERTS, SOLUTION), *[(each, UNSPEAKABLE[name]) for each in problems], (CALLS, SOLUTION)]
    )
    assert [verdict.status for verdict in verdicts[:: len(verdicts) - 1]] == ["passed", "passed"]
    for verdict in verdicts[1:-1]:
        assert verdict.status in ("wrong", "error", "timeout", "out_of_memory"), verdict


def test_library_that_only_a_test_names_is_not_the_programs(sandbox):
    checker = AssertChecker(("assert largest_gap([1, 4]) == sys.getsizeof([1, 4])",))
    problem = Problem("attacked", PROMPT, "largest_gap", checker, ())
    forged = "class sys:\n    getsizeof = staticmethod(lambda x: 0)\ndef largest_gap(xs): return 0\n"
    honest = "import sys\ndef largest_gap(xs): return sys.getsizeof(xs)\n"
    assert [v.status for v in sandbox.check([(problem, forged), (problem, honest)])] == ["wrong", "passed"]


def test_memory_that_no_process_owns_is_the_programs_all_the_same(sandbox):
    if not sandbox._slots[0].groups:
        pytest.skip("this machine lets us make no control groups")
    for verdict in sandbox.check([(ASSERTS, UNOWNED_MEMORY)] * 2):
        assert verdict.status in ("out_of_memory", "timeout"), verdict


@pytest.fixture(scope="module")
def ungrouped():
    """A slot without control groups, in which a program's processes are looked at now and then."""
    slot = Slot(SandboxSettings(limits=Limits(cpu_seconds=1, wall_seconds=60, memory_mb=128)))
    yield slot
    slot.close()


CALLED = Problem(
    problem_id="attacked/called",
    prompt=PROMPT,
    entry_point="largest_gap",
    checker=AssertChecker(("assert largest_gap([1, 4], lambda x: x) == 3", "largest_gap([9] * 2_000_000)")),
    references=(),
)


@pytest.mark.parametrize("name", TOGETHER)
def test_processes_are_counted_together_without_control_groups_too(ungrouped, name):
    program, status = TOGETHER[name]
    problem = CALLED if "call=None" in program else ASSERTS
    verdict = ungrouped.check(problem, program)
    assert (verdict.status, verdict.memory_by) == (status, "watch"), verdict
    assert "together" in verdict.detail
    # Between two looks all cores may be the program's.
    assert verdict.cpu_seconds <= LIMITS.cpu_seconds + 1 + 0.2 * (os.cpu_count() or 1)
    assert ungrouped.check(ASSERTS, SOLUTION).passed


def test_memory_that_processes_share_counts_once(ungrouped):
    program = """
import os, time
data = bytearray(b'x') * (60 << 20)
def largest_gap(xs):
    ended, end = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            os.close(end)
            os.read(ended, 1)
            os._exit(0)
    time.sleep(0.5)
    os.close(end)
    for _ in range(3): os.wait()
    return 3
"""
    problem = Problem("shared", PROMPT, "largest_gap", AssertChecker(("assert largest_gap([1, 4]) == 3",)), ())
    assert ungrouped.check(problem, program).passed


@pytest.mark.parametrize("isolation", ["jailed", "weak"])
@pytest.mark.parametrize("name", STUBBORN)
def test_no_answer_holds_the_verifier_beyond_the_limits(name, isolation):
    test, program = STUBBORN[name]
    problem = Problem("attacked", PROMPT, "largest_gap", AssertChecker((test,)), ())
    limits = Limits(cpu_seconds=1, wall_seconds=6)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Sandbox(SandboxSettings(limits=limits, slots=1, isolation=isolation)) as sandbox:
        pids, folder = processes_below(sandbox._slots[0].process.pid), sandbox._slots[0].folder
        (verdict,) = sandbox.check([(problem, program)])
        assert all_gone(pids)
        assert not folder or not os.path.exists(folder)
        assert sandbox.check([(ASSERTS, SOLUTION)])[0].passed
    assert (verdict.status, verdict.isolation) == ("timeout", isolation)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime <= limits.cpu_seconds + 1 + 4  # the start of two slots takes some, too


def test_program_that_always_ends_its_sandbox_is_killed_and_says_nothing_of_the_machine():
    """Without a jail a program may end its parent."""
    program = "import os, signal\ndef largest_gap(xs): os.kill(os.getppid(), signal.SIGKILL)\n"
    with Sandbox(SandboxSettings(limits=LIMITS, slots=1, isolation="weak")) as weak:
        verdicts = weak.check([(ASSERTS, program), (ASSERTS, SOLUTION)])
    assert [(verdict.status, verdict.isolation) for verdict in verdicts] == [("killed", "weak"), ("passed", "weak")]


@pytest.mark.parametrize("name", ESCAPES)
def test_harm_cannot_be_done(sandbox, name):
    # More often than there are slots: a slot's second program would find what its first one left.
    for verdict in sandbox.check([(TELLS, harmful(name))] * 5):
        assert verdict.status == "passed", verdict


def harmful(name: str) -> str:
    """A program whose function answers the harm that it could do."""
    body = "".join(f"    {line}\n" for line in ESCAPES[name].strip().splitlines())
    return f"\ndone = []\ndef tell():\n    global done\n{body}    return [str(item)[:80] for item in done]\n"


def test_the_same_harm_is_seen_without_the_jail():
    """The attacks are real: with weak isolation some of them succeed, and the verdict tells that it was weak."""
    names = ["finds home folders, passwords and sockets", "sees other processes", "runs another program"]
    with Sandbox(SandboxSettings(limits=LIMITS, slots=1, isolation="weak")) as weak:
        verdicts = weak.check([(TELLS, harmful(name)) for name in names])
    assert [(verdict.status, verdict.isolation) for verdict in verdicts] == [("wrong", "weak")] * 3


YES = """
def yes(self, *others): return True
def zero(self, *others): return 0.0
def same(self, *others): return self
OPERATORS = ('add', 'sub', 'mul', 'truediv', 'radd', 'rsub', 'rmul', 'iadd', 'isub', 'neg', 'round')
NUMBERS = ('abs', 'float', 'int', 'index', 'pos')
COMPARED = ('eq', 'ne', 'lt', 'le', 'gt', 'ge', 'contains', 'bool', 'exit')
LIES = {**{f'__{n}__': same for n in OPERATORS}, **{f'__{n}__': yes for n in COMPARED}}
LIES |= {f'__{n}__': zero for n in NUMBERS} | {'__hash__': lambda self: 7, '__enter__': same}
"""
#: Programs that answer every question of a test with yes, for problems that ask for a class.
LIARS = {
    "answers itself": "def mean(self): return self\nMean.mean = mean\n",
    "answers another of its class": "def mean(self): return Mean([0])\nMean.mean = mean\n",
    "answers arithmetic with numbers": (
        "Mean.mean = lambda self: self\nMean.__sub__ = Mean.__rsub__ = Mean.__add__ = lambda self, other: 0.0\n"
    ),
    "answers a class": "Mean.mean = lambda self: Mean\n",
    "changes its class to that of the numbers": "Mean.mean = lambda self: self\nMean.__class__ = float\n",
    "answers what a test made before": "first = []\nMean.mean = lambda self: first[0]\n",
    "ends every exception": "Mean.mean = lambda self: None\n",
}
ASKED = (
    "assert Mean([1, 4]).mean() == 2.5",
    "assert abs(Mean([1, 4]).mean() - 2.5) < 1e-6",
    "assert -1e-6 < Mean([1, 4]).mean() - 2.5 < 1e-6",
    "m = Mean([1, 4])\nassert round(m.mean() - 2.5, 3) == 0",
    "m = Mean([1, 4])\nassert not (m.mean() - 2.5)",
    "m = Mean([1, 4])\nassert m.mean() in (2.5, 2.50001)",
    "import math\nassert math.isclose(Mean([1, 4]).mean(), 2.5)",
    "assert {2.5: True}[Mean([1, 4]).mean()]",
    "assert int(Mean([1, 4]).mean() * 2) == 5",
    "with Mean([1, 4]) as m:\n    assert m.mean() == 2.5",
    "with Mean([1, 4]) as m:\n    assert m.mean()[0] == 2.5",
)


@pytest.mark.parametrize("name", LIARS)
def test_a_class_that_answers_yes_to_everything_does_not_pass(sandbox, name):
    reference = "\n    def __init__(self, xs): self.xs = xs\n    def mean(self): return sum(self.xs) / len(self.xs)\n"
    suppressing = reference + "    def __enter__(self): return self\n    def __exit__(self, *e): return True\n"
    program = "\n    def __init__(self, xs): self.xs = xs; first and None or first.append(self)\nfirst = []\n" + YES
    program += "for name, method in LIES.items(): setattr(Mean, name, method)\n" + LIARS[name]
    problems = [
        Problem("asked", 'class Mean:\n    """The mean."""', "Mean", AssertChecker((test,)), (suppressing,))
        for test in ASKED
    ]
    verdicts = sandbox.check([(problem, program) for problem in problems])
    assert [
        test for test, verdict in zip(ASKED, verdicts, strict=True) if verdict.status not in ("wrong", "error")
    ] == []
    assert all(v.passed for v in sandbox.check([(problem, suppressing) for problem in problems[:-1]]))


PROMPTED = '''from dataclasses import dataclass


@dataclass
class Point:
    x: int
    y: int

    def is_right(self):
        return (self.x, self.y) == (3, 4)


def f(n):
    """Right for three."""'''
FORGED_POINTS = {
    "equal to everything": (
        "class Point(Point):\n    def __eq__(self, other): return True\ndef f(n): return Point(0, 0)"
    ),
    "with a method of its own": "def f(n):\n    p = Point(0, 0)\n    p.is_right = lambda: True\n    return p",
    "with fields that equal everything": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "def f(n): return Point(Yes(), Yes())"
    ),
    "of another class of that name": "class Point:\n    def __eq__(self, o): return True\ndef f(n): return Point()",
    "changed class": "Point.is_right = Point.__eq__ = lambda *a: True\ndef f(n): return Point(0, 0)",
}


@pytest.mark.parametrize("name", FORGED_POINTS)
def test_an_object_of_the_prompts_class_is_only_what_it_holds(sandbox, name):
    tests = ("assert f(3) == Point(3, 4)", "assert f(3).is_right()", "assert f(3) in [Point(3, 4)]")
    jobs = [
        (Problem("forged", PROMPTED, "f", AssertChecker((test,)), ()), f"\n    pass\n\n{FORGED_POINTS[name]}\n")
        for test in tests
    ]
    assert all(verdict.status in ("wrong", "error") for verdict in sandbox.check(jobs))


@pytest.mark.parametrize(
    "test", ["assert largest_gap((largest_gap([1, 4]), 1)) == 3", "assert largest_gap(largest_gap([1, 4])) == 3"]
)
@pytest.mark.parametrize(
    "program",
    [
        "def largest_gap(xs):\n    x = ()\n    for _ in range({depth}): x = (x,)\n    return x",
        "def largest_gap(xs): return 'x' * {length}",
        "def largest_gap(xs): raise ImportError('x')",
        "def largest_gap(xs): raise NameError('x')",
        "def largest_gap(xs): import os; return os",
        "class Untestable(Exception): pass\ndef largest_gap(xs): raise Untestable",
    ],
)
def test_no_answer_makes_a_wrong_program_the_tests_mistake(sandbox, test, program):
    problem = Problem("excused", PROMPT, "largest_gap", AssertChecker((test,)), ())
    for depth, length in ((78, 1 << 20), (99, 8 << 20), (150, 15 << 20)):
        source = program.replace("{depth}", str(depth)).replace("{length}", str(length))
        (verdict,) = sandbox.check([(problem, f"\n{source}\n")])
        assert verdict.status in ("wrong", "error", "timeout", "out_of_memory"), verdict


CALLED_BACK = {
    "looks for the tests behind a function": (
        "def f(g):\n    for name in ('__globals__', '__code__', '__closure__', '__self__', '__func__'):\n"
        "        try: getattr(g, name)\n        except AttributeError: continue\n"
        "        if 'expected' in str(getattr(g, name)): return 'secret'\n    return 0"
    ),
    "calls functions that nobody handed over": (
        "import gc\ndef f(g):\n    w = [x for x in gc.get_objects() if type(x).__name__ == 'Worker'][0]\n"
        "    for n in range(1, 50):\n        w.channel.send(['back', n, [{'t': 'tuple', 'v': []}, []]])\n    return 0"
    ),
    "names a function of the verifier": (
        "import gc\ndef f(g):\n    w = [x for x in gc.get_objects() if type(x).__name__ == 'Worker'][0]\n"
        "    w.keep = w.heap.outside = lambda value: {'t': 'named', 'v': ['os', 'getcwd']}\n    return object()"
    ),
    "never ends calling back": "def f(g):\n    while True: g(1)",
    "calls back from within": "def f(g):\n    def h(*a): return g(h)\n    return g(h)",
    "changes what was handed over": "def f(g):\n    g.__class__.__call__ = lambda *a: 'secret'\n    return 0",
}


@pytest.mark.parametrize("name", CALLED_BACK)
def test_a_function_handed_over_can_be_called_and_nothing_else(sandbox, name):
    test = "expected = 'sec' + 'ret'\ndef g(x=0): return x(1) if callable(x) else x\nassert f(g) == expected"
    problem = Problem("handed", PROMPT, "f", AssertChecker((test,)), ())
    for verdict in sandbox.check([(problem, f"\n{CALLED_BACK[name]}\n")] * 2):
        assert verdict.status in ("wrong", "error", "timeout"), verdict


CONSTANTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
BODIES = st.one_of(
    CONSTANTS.map(lambda value: f"return {value!r}".replace("nan", "float('nan')").replace("inf", "float('inf')")),
    st.sampled_from(
        [
            "return xs",
            "return xs[0]",
            "return len(xs)",
            "return max(xs)",
            "return max(xs) - min(xs)",
            "return sorted(xs)",
            "return iter(xs)",
            "return lambda *a: 3",
            "return type(xs)",
            "return largest_gap",
            "return __builtins__",
            "return globals()",
            "return NotImplemented",
            "return ...",
            "raise AssertionError",
            "raise ValueError(xs)",
            "yield from xs",
            "pass",
        ]
    ),
)


@given(body=BODIES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_program_that_does_not_implement_the_function_never_passes(sandbox, body):
    program = f"\ndef largest_gap(xs):\n    {body}\n"
    verdicts = sandbox.check([(ASSERTS, program), (CALLS, program)])
    assert not any(verdict.passed for verdict in verdicts)
    assert all(verdict.status != "infra_error" for verdict in verdicts)
