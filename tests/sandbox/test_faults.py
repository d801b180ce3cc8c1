"""Whose fault it is that a test cannot run: never a sound test's, whatever a wrong program answers."""

from dataclasses import replace

import pytest

from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

from .samples import asserted


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=2, wall_seconds=30))) as sandbox:
        yield sandbox


def verdict(sandbox: Sandbox, test: str, program: str, *references: str):
    problem = replace(asserted(test), references=tuple(f"\n{reference}\n" for reference in references))
    return sandbox.check([(problem, f"\n{program}\n")])[0]


LARGE = "def f(x): return (1 << (1 << 22)) - 1"
#: A test, a wrong program whose answers keep it from running, and a right one.
KEPT = {
    "a loop has no turn": (
        "for item in f(1): last = item\nassert last == 3",
        "def f(x): return []",
        "def f(x): return [3]",
    ),
    "a loop in a function has no turn": (
        "def check(c):\n    for item in c(1): last = item\n    assert last == 3\ncheck(f)",
        "def f(x): return []",
        "def f(x): return [3]",
    ),
    "an exception comes first": (
        "try: r = f(1)\nexcept ValueError: pass\nassert r == 3",
        "def f(x): raise ValueError",
        "def f(x): return 3",
    ),
    "a name is deleted": ("r = f(1)\nif r == 2: del r\nassert r == 3", "def f(x): return 2", "def f(x): return 3"),
    "an answer is made larger": ("assert f(f(1) * 2) == 8", LARGE, "def f(x): return x * 2"),
    "an answer says how large": ("assert f('x' * f(0)) == 1", "def f(x): return 1 << 25", "def f(x): return 1"),
    "an answer says how deep": (
        "x = ()\nfor _ in range(f(0)): x = (x,)\nassert f(x) == 1",
        "def f(x): return 200",
        "def f(x): return 1",
    ),
    "one row many times": (
        "rows = f(0)\nassert f([list(r) for r in rows]) == 1",
        "def f(x): return [['x' * 1000000]] * 20",
        "def f(x): return 1 if x else [[1]]",
    ),
    "an exception is answered": (
        "r = f(1)\nif isinstance(r, BaseException): raise r\nassert r == 3",
        "def f(x): return {error}",
        "def f(x): return 3",
    ),
    "a module is named": (
        "import importlib\nassert importlib.import_module(f(1)).pi > 3",
        "def f(x): return 'nothing_here'",
        "def f(x): return 'math'",
    ),
    "a callback is handed much": (
        "assert f(lambda x: x + x, 1) == 4",
        "def f(g, x): return g('a' * 9_000_000)",
        "def f(g, x): return g(g(x))",
    ),
    "an exception says how large": (
        "try: f(0)\nexcept ValueError as e: assert f('x' * e.args[0]) == 1",
        "def f(x): raise ValueError(1 << 25)",
        "def f(x):\n    if x == 0: raise ValueError(1)\n    return 1",
    ),
    "a constant is large": (
        "assert f([N] * 3) == 1",
        "N = 'x' * 8_000_000\ndef f(x): return 2",
        "N = 'x'\ndef f(x): return 1",
    ),
    "an attribute is named": (
        "import math\nassert getattr(math, f(1)) > 3",
        "def f(x): return 'pie'",
        "def f(x): return 'pi'",
    ),
}
CASES = [
    (test, wrong.replace("{error}", error), right)
    for test, wrong, right in KEPT.values()
    for error in (
        ("ImportError('no')", "NameError('no', name='no')", "SystemExit(0)", "KeyboardInterrupt()")
        if "{error}" in wrong
        else ("",)
    )
]


@pytest.mark.parametrize("known", [False, True], ids=["without a reference", "with a reference"])
@pytest.mark.parametrize("test, wrong, right", CASES)
def test_no_answer_makes_a_sound_test_the_fault(sandbox, test, wrong, right, known):
    references = (right,) if known else ()
    assert verdict(sandbox, test, right, *references).passed
    assert verdict(sandbox, test, wrong, *references).status in ("wrong", "error")


def test_what_a_reference_passes_is_sound_whatever_the_error(sandbox):
    test = "import sys\nif f(1) != 3: sys.exit(1)"
    assert verdict(sandbox, test, "def f(x): return 2").status == "infra_error"
    found = verdict(sandbox, test, "def f(x): return 2", "def f(x): return 4", "def f(x): return 3")
    assert (found.status, found.detail.startswith("though a reference passes: ")) == ("wrong", True)
    assert verdict(sandbox, test, "def f(x): return 2", "def f(x): return 4").status == "infra_error"


SWALLOWED = "try:\n    {step}\nexcept{what}:\n    raised = True\nelse: raised = False\nassert raised"


@pytest.mark.parametrize("what", ["", " BaseException", " Exception"])
def test_a_test_that_swallows_its_own_mistake_passes_nobody(sandbox, what):
    test = "class W: pass\n" + SWALLOWED.format(step="f(W())", what=what)
    found = verdict(sandbox, test, "def f(x): return 0")
    assert (found.status, "line 3" in found.detail) == ("infra_error", True), found


@pytest.mark.parametrize("what", ["", " BaseException"])
@pytest.mark.parametrize("step", ["for x in r: pass", "f(r)\n    for x in r: pass"])
def test_a_test_that_swallows_our_time_limit_passes_nobody(sandbox, step, what):
    test = "r = f(1)\n" + SWALLOWED.format(step=step, what=what)
    right = "class R:\n    def __iter__(self): raise ValueError\ndef f(x): return R()"
    assert verdict(sandbox, test, right).passed
    assert verdict(sandbox, test, "def f(x): return range(10 ** 12)").status == "timeout"


NAMED = {
    "math": ("from math import isclose", "assert isclose(f(2), 4.5)", "4.5", "def isclose(*a, **k): return True"),
    "collections": (
        "from collections import Counter",
        "assert Counter(f(2)) == Counter([1, 2])",
        "[1, 2]",
        "Counter = lambda x: 0",
    ),
    "short": ("import itertools as it", "assert [*it.chain(f(2))] == [1]", "[1]", "class it: chain = lambda x: [1]"),
}


@pytest.mark.parametrize("imported, test, right, forged", NAMED.values(), ids=NAMED)
def test_what_only_a_reference_imports_is_the_librarys(sandbox, imported, test, right, forged):
    reference = f"{imported}\ndef f(x): return {right}"
    assert verdict(sandbox, test, f"{forged}\ndef f(x): return 0", reference).status in ("wrong", "error")
    assert verdict(sandbox, test, f"def f(x): return {right}", reference).passed


def test_what_a_reference_defines_is_the_programs(sandbox):
    test = "assert isclose(f(2), 4) and f(2) == 4"
    own = "def isclose(a, b): return a == b\ndef f(x): return 4"
    assert verdict(sandbox, test, own, own, "from math import isclose\ndef f(x): return 4").passed
    assert not verdict(sandbox, test, "def f(x): return 4", own).passed


FORGED = (
    "class Other:\n    def __contains__(self, x): return True\n    __eq__ = __contains__\n"
    "Other.__name__ = Other.__qualname__ = 'Money'\n"
)


@pytest.mark.parametrize("test", ["assert 7 in f(2)", "assert f(2) == Money()"])
def test_which_class_is_asked_for_the_programs_names_say_and_not_the_classes(sandbox, test):
    money = "class Money:\n    def __eq__(self, other): return type(other) is Money\n"
    money += "    def __contains__(self, x): return x == 7\n"
    right = money + "def f(x): return Money()"
    assert verdict(sandbox, test, right, right).passed
    assert verdict(sandbox, test, FORGED + "class Money: pass\ndef f(x): return Other()", right).status == "wrong"


def test_a_set_at_the_top_is_keyed_by_the_classes_asked_for(sandbox):
    keyed = "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n"
    keyed += "    def __hash__(self): return self.x\nALL = {P(%d)}\ndef f(x): return P(x)"
    assert verdict(sandbox, "assert f(1) in ALL", keyed % 1, keyed % 1).passed
    assert verdict(sandbox, "assert f(1) in ALL", keyed % 2, keyed % 1).status == "wrong"


CASE = "import unittest\nclass T(unittest.TestCase):\n    {more}\n    def test_f(self): {body}\n"
ENDS = {
    "nothing": "",
    "main": "unittest.main()",
    "main with arguments": "unittest.main(argv=['x'], exit=False, verbosity=2)",
    "guarded main": "if __name__ == '__main__':\n    unittest.main()",
    "imported main": "from unittest import main\nmain()",
    "main with all else": "from unittest import *\nmain()",
    "main of another name": "import unittest as ut\nut.main()",
    "a runner": "unittest.TextTestRunner(stream=__import__('io').StringIO()).run(\n"
    "    unittest.defaultTestLoader.loadTestsFromTestCase(T))",
}
BODIES = [
    ("self.assertEqual(f(1), 1)", ""),
    ("\n        with self.subTest(i=1): self.assertEqual(f(1), 1)\n        self.assertEqual(1, 1)", ""),
    ("self.assertEqual(f(1), self.one)", "def setUp(self): self.one = 1"),
    ("self.assertEqual(self.one, 1)", "@classmethod\n    def setUpClass(cls): cls.one = f(1)"),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("body, more", BODIES[:1])
def test_cases_of_unittest_are_run_however_the_test_ends(sandbox, end, body, more):
    test = CASE.format(body=body, more=more) + ENDS[end]
    assert verdict(sandbox, test, "def f(x): return 1").passed
    found = verdict(sandbox, test, "def f(x): return 2")
    assert (found.status, found.failing_test) == ("wrong", 0), found


def test_a_case_without_a_test_passes_nobody(sandbox):
    test = CASE.format(body="self.assertEqual(f(1), 1)", more="").replace("test_f", "check_f")
    found = verdict(sandbox, test, "def f(x): return 2")
    assert (found.status, "T has no method whose name begins with test" in found.detail) == ("infra_error", True), found


@pytest.mark.parametrize("body, more", BODIES[1:])
def test_cases_of_unittest_have_their_fixtures(sandbox, body, more):
    test = CASE.format(body=body, more=more)
    assert verdict(sandbox, test, "def f(x): return 1").passed
    assert verdict(sandbox, test, "def f(x): return 2").status == "wrong"


@pytest.mark.parametrize(
    "body, status",
    [
        ("f(1); self.skipTest('not here')", "passed"),
        ("self.assertRaises(KeyError, f, 1)", "wrong"),
        ("self.assertEqual(f(1), expceted)", "infra_error"),
        ("self.assertEqual(f.x, 1)", "error"),
    ],
)
def test_what_a_case_says_of_a_program(sandbox, body, status):
    found = verdict(sandbox, CASE.format(body=body, more=""), "def f(x): return 1")
    assert found.status == status, found
    assert status != "infra_error" or "test 0, line 4: NameError" in found.detail


@pytest.mark.parametrize("error", ["SkipTest", "case._ShouldStop", "case._UnexpectedSuccess"])
@pytest.mark.parametrize("derived", [False, True])
def test_no_program_skips_a_case(sandbox, error, derived):
    own = f"class E(unittest.{error}): pass" if derived else f"E = unittest.{error}"
    program = f"import unittest\n{own}\ndef f(x): raise E('later')"
    test = CASE.format(body="self.assertEqual(f(1), 1)", more="")
    assert verdict(sandbox, test, program).status == "error"
    answered = program.replace("raise E", "return E")
    raising = CASE.format(body="\n        r = f(1)\n        if r != 1: raise r", more="")
    assert verdict(sandbox, raising, answered).status in ("wrong", "error")
