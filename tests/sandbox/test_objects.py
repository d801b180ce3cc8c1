"""What a test may ask of a program's own objects and classes is answered as in one process."""

from dataclasses import replace

import pytest

from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

from .samples import asserted

POINT = (
    "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x\n"
    "    def __hash__(self): return hash(self.x)\n"
)
COUNT = (
    "class Count:\n    def __init__(self, n): self.n = n\n    def __iter__(self):\n        self.i = {first}\n"
    "        return self\n    def __next__(self):\n        self.i += 1\n"
    "        if self.i >= self.n: raise StopIteration\n"
    "        return self.i\n"
)
COLOR = "import enum\nclass Color(enum.Enum):\n    RED = 1\n    {name} = 2\ndef f(): return Color.RED\n"
RECORD = "from dataclasses import dataclass\n@dataclass\nclass R:\n    x: int\n    y: int = {y}\n"
RECORD += "def f(*a): return R(*a or (1,))\n"
FRAME = "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2, 3], 'b': [.5, 1., 2.]})\n"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=6, wall_seconds=60))) as sandbox:
        yield sandbox


def told_apart(sandbox: Sandbox, test: str, right: str, wrong: str, **fields) -> None:
    """The right program passes the test, and the wrong one fails it."""
    problem = replace(asserted(test, **fields), references=(f"\n{right}\n",))
    passed, failed = sandbox.check([(problem, f"\n{program}\n") for program in (right, wrong)])
    assert passed.passed, passed
    assert failed.status in ("wrong", "error"), failed


@pytest.mark.parametrize(
    "test",
    [
        "c = Count(3)\nassert [*c] == [0, 1, 2] and [*c] == [0, 1, 2]",
        "c = Count(200)\nassert [x for x, _ in zip(c, range(150))][-1] == 149 and sum(c) == 19900",
        "c = iter(Count(2))\nassert next(c) == 0 and next(c) == 1 and next(c, None) is None and c.i == 2",
    ],
)
def test_iterators_begin_in_iter(sandbox, test):
    told_apart(sandbox, test, COUNT.format(first=-1), COUNT.format(first=0), entry="Count")


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1, 2) == {P(1), P(2)} and len(f(1, 1, 2)) == 2 and P(2) in f(1, 2)",
        "assert {p: p.x for p in f(1, 2)} == {P(1): 1, P(2): 2}",
        "assert frozenset(f(1, 2)) == frozenset([P(1), P(2)])",
        "s = f(1, 2)\ns.add(P(3))\nassert g(s) == 6 and len(s) == 3",
    ],
)
def test_sets_and_mappings_are_keyed_by_a_programs_objects(sandbox, test):
    rest = "def f(*xs): return {P(x) for x in xs%s}\ndef g(ps): return sum(p.x for p in ps)\n"
    told_apart(sandbox, test, POINT + rest % "", POINT + rest % "[1:]")


@pytest.mark.parametrize("change", ["append(1)", "extend([1])", "__setitem__(slice(0), [1])"])
def test_what_a_test_changes_of_a_field_and_lets_go_is_changed(sandbox, change):
    program = "class R: xs = %s\nr = R()\ndef f(): return r\n"
    told_apart(sandbox, f"f().xs.{change}\nassert f().xs == [1]", program % "[]", program % "()")


def test_a_hash_that_changes_what_is_on_its_way_ends_in_a_verdict(sandbox):
    program = "kept = set()\n" + POINT.replace("return hash(self.x)", "kept.discard(self); return 1")
    program += "def f(): kept.update({P(1), P(2)}); return [kept, {P(3): kept}]\n"
    (verdict,) = sandbox.check([(asserted("assert f() == [1] and P"), f"\n{program}")])
    assert verdict.status in ("wrong", "error")


@pytest.mark.parametrize("name", ["home", "known", "_remote", "_level", "_ahead", "_end", "send", "close", "program"])
def test_attributes_have_any_name(sandbox, name):
    test = f"assert f().{name} == (0, 0) and type(f()).{name} == 1\nr = f()\nr.{name} = 5\nassert g(r) == 5"
    program = f"class R:\n    {name} = 1\n    def __init__(self): self.{name} = (0, %s)\n"
    program += f"def f(): return R()\ndef g(r): return r.{name}\n"
    told_apart(sandbox, test, program % 0, program % 1)


@pytest.mark.parametrize(
    "test",
    [
        "assert [c.name for c in Color] == ['RED', 'BLUE'] and [*reversed(Color)][0] is Color.BLUE",
        "assert Color['BLUE'].value == 2",
        "assert len(Color) == 2 and Color.BLUE in Color and Color",
        "assert [*Color.__members__] == ['RED', 'BLUE']",
    ],
)
def test_enums_have_length_items_and_names(sandbox, test):
    wrong = (
        COLOR.format(name="BLUE").replace("    BLUE = 2", "    GREEN = 2") if "len" not in test else "Color = f = []"
    )
    told_apart(sandbox, test, COLOR.format(name="BLUE"), wrong)


def test_a_class_that_is_answered_contains_nothing(sandbox):
    liar = "class M(type):\n    def __contains__(self, x): return True\nclass A(metaclass=M): pass\ndef f(): return A\n"
    told_apart(sandbox, "assert 3 in f()", "def f(): return [3]", liar)


@pytest.mark.parametrize(
    "test",
    [
        "import dataclasses\nassert dataclasses.asdict(f()) == {'x': 1, 'y': 2}",
        "from dataclasses import astuple\nassert astuple(f()) == (1, 2)",
        "from dataclasses import astuple, replace\nassert astuple(replace(f(), x=5)) == (5, 2)",
        "from dataclasses import fields\nassert [(f.name, f.type) for f in fields(R)] == [('x', int), ('y', int)]\n"
        "assert fields(R)[1].default == 2",
        "assert vars(f()) == {'x': 1, 'y': 2} and f().__dict__['y'] == 2",
        "r = f()\nvars(r)['y'] = 7\nassert r.y == 7 and f().y == 2",
    ],
)
def test_dataclasses_tell_what_they_hold(sandbox, test):
    told_apart(sandbox, test, RECORD.format(y=2), RECORD.format(y=3))


def test_what_is_no_dataclass_is_none(sandbox):
    test = "from dataclasses import is_dataclass\nassert is_dataclass(f()) and not is_dataclass(g)"
    told_apart(sandbox, test, RECORD.format(y=2) + "def g(): pass", "class R: pass\ndef f(): return R()\ndef g(): pass")


@pytest.mark.parametrize(
    "test, right, wrong",
    [
        (
            "import types, inspect\nassert isinstance(f(), types.GeneratorType) and inspect.isgenerator(f())",
            "def f(): yield 1",
            "def f(): return iter([1])",
        ),
        ("from collections.abc import Generator\nassert isinstance(f(), Generator)", "def f(): yield 1", "f = list"),
        (
            "g = f()\nnext(g)\ng.close()\nassert [*g] == []\ng = f()\nnext(g)\nassert g.throw(KeyError('k')) == 'k'",
            "def f():\n    try: yield 1\n    except KeyError as e: yield e.args[0]",
            "def f():\n    yield 1\n    yield 2",
        ),
        ("import inspect\nassert inspect.iscoroutinefunction(f)", "async def f(): pass", "def f(): pass"),
        ("import inspect\nassert inspect.isgeneratorfunction(f)", "def f(): yield", "def f(): return iter([])"),
        (
            "import inspect\nassert str(inspect.signature(f)) == '(a: int, *b, c=3, **d) -> str'",
            "def f(a: int, *b, c=3, **d) -> str: pass",
            "def f(a: int, *b, c=4, **d) -> str: pass",
        ),
        (
            "import inspect\nassert [*inspect.signature(f).parameters] == ['x']\n"
            "assert [*inspect.signature(f(1).g).parameters] == ['y'] and inspect.ismethod(f(1).g)",
            "class f:\n    def __init__(self, x): pass\n    def g(self, y): pass",
            "class f:\n    def __init__(self, x): pass\n    def g(self, z): pass",
        ),
        ("assert f.__code__.co_argcount == 2", "def f(a, b): pass", "def f(*a): pass"),
    ],
)
def test_functions_and_generators_are_what_they_are_to_inspect(sandbox, test, right, wrong):
    told_apart(sandbox, test, right, wrong)


@pytest.mark.parametrize(
    "test, base, value, other",
    [
        ("assert isinstance(f(), A) and f() == 5 and 5 == f() and f() < 6", "int", "5", "4"),
        ("assert isinstance(f(), A) and f() + 1 == 6 and 1 + f() == 6 and abs(f() - 5.1) < .2", "int", "5", "4"),
        ("assert isinstance(f(), A) and f() + 'b' == 'ab' and {'a': 1}[f()]", "str", "'a'", "'b'"),
        ("assert isinstance(f(), A) and f() == {1: 2} and f()[1] == 2 and 1 in f()", "dict", "{1: 2}", "{1: 3}"),
        ("assert isinstance(f(), A) and f() == [1] and f() + [2] == [1, 2]", "list", "[1]", "[2]"),
        ("assert isinstance(f(), A) and f() == {1, 2} and f() | {3} == {1, 2, 3}", "set", "{1, 2}", "{2}"),
    ],
)
def test_subclasses_of_plain_types_equal_what_they_hold(sandbox, test, base, value, other):
    program = f"class A({base}): pass\ndef f(): return A(%s)\n"
    told_apart(sandbox, test, program % value, program % other)
    liar = "    def __eq__(self, other): return True\n    __lt__ = __contains__ = __radd__ = __eq__\n"
    told_apart(sandbox, test, program % value, program.replace(" pass\n", "\n" + liar) % other)


@pytest.mark.parametrize(
    "test, base, value, method",
    [
        ("x = f()\nx &= {1, 2}\nassert x == {1, 2}", "set", "{1, 2}", "def __iand__(s, o): s.update(o); return s"),
        ("x = f()\nx -= {1, 2}\nassert x == set()", "set", "{1}", "def __isub__(s, o): s.clear(); return s"),
        (
            "x = f()\nx |= {1: 2}\nassert x == {1: 2}",
            "dict",
            "{}",
            "def __ior__(s, o): s.clear(); s.update(o); return s",
        ),
        ("e = [1]\nx = f()\nx += [e]\nassert x[0] == [1]", "list", "[]", "def __iadd__(s, o): o[0].clear(); return s"),
    ],
)
def test_operators_in_place_of_a_programs_own_decide_nothing(sandbox, test, base, value, method):
    right = f"class A({base}): pass\ndef f(): return A({value})\n"
    liar = f"class A({base}):\n    {method}\ndef f(): return A(%s)\n"
    wrong = {"set": "{7}", "dict": "{7: 7}", "list": "[[7]]"}[base]
    told_apart(sandbox, f"assert isinstance(f(), A)\n{test}", right, liar % wrong)


def test_a_new_class_may_be_of_several_objects_at_any_place_of_an_answer(sandbox):
    program = (
        "def f(x):\n    class R:\n        def __init__(self, x): self.x = x\n    return R(x), [R(%d)], {1: R(3)}\n"
    )
    told_apart(sandbox, "a, (b,), c = f(1)\nassert (a.x, b.x, c[1].x) == (1, 2, 3)", program % 2, program % 3)


PANDAS = ("numpy", "pandas")


@pytest.mark.parametrize(
    "test, right, wrong",
    [
        (FRAME + "assert f(df) == 6 and f(df) == 6", "int(df['a'].sum())", "len(df)"),
        (FRAME + "df['a'] = df['a'] + 1\nassert f(df) == 9", "int(df['a'].sum())", "6"),
        (FRAME + "f(df)\nassert [*df['c']] == [2, 4, 6]", "df.insert(2, 'c', df['a'] * 2)", "df.copy()"),
        (FRAME + "f(df)\nassert [*df['a']] == [9, 2, 3]", "df.loc.__setitem__((0, 'a'), 9)", "df.copy()"),
        (FRAME + "assert f(df).equals(df.iloc[::-1])", "df.iloc[::-1]", "df"),
        (
            "import pandas as pd\ns = pd.Series([1, 2], index=[5, 6])\nassert f(s) == 3 and f(s) == 3",
            "int(df.sum())",
            "2",
        ),
        (
            "import pandas as pd\nd = pd.DataFrame([[1, 2], [3, 4]])\nassert f(d) == 10 and f(d) == 10",
            "int(df.values.sum())",
            "4",
        ),
        (
            "import pandas as pd\nd = pd.DataFrame({'a': []})\nf(d)\nassert len(d) == 1 and d['a'][0] == 5",
            "df.loc.__setitem__(0, [5])",
            "df.copy()",
        ),
        (
            "import pandas as pd\nd = pd.DataFrame({'a': [1, None], 'b': ['x', None]})\nassert f(d) == 2 and f(d) == 2",
            "int(df.isna().sum().sum())",
            "0",
        ),
    ],
)
def test_frames_and_series_are_handed_over_as_often_as_one_likes(sandbox, test, right, wrong):
    told_apart(sandbox, test, f"def f(df): return {right}", f"def f(df): return {wrong}", packages=PANDAS)


@pytest.mark.parametrize("dtype", ["Float32", "float32"])
def test_no_narrow_column_equals_a_number_beyond_it(sandbox, dtype):
    test = "assert (f() == 1e300).all()"
    program = f"import pandas as pd\ndef f(): return pd.Series([float('%s')], dtype='{dtype}'%s)\n"
    right = (program % ("1e300", "")).replace("32'", "64'")
    told_apart(sandbox, test, right, program % ("inf", ""), packages=PANDAS)


ACCOUNT = """
class Acc:
    def __init__(self, n): self.n = n
    def total(self): return self.n
"""
ZERO = """
class Acc:
    def __init__(self, n): self.n = n
    def total(self): return self
    def __sub__(self, other): return Zero()
    __rsub__ = __mod__ = __pow__ = __sub__
class Zero(Acc, int):
    def __init__(self): pass
    def __new__(cls, *a): return int.__new__(cls, 0)
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert Acc(6).total() - 6 == 0",
        "assert -1e-6 < Acc(6).total() - 6 < 1e-6",
        "assert (Acc(6).total() - 6) ** 2 < 1e-9",
        "assert Acc(6).total() % 3 == 0",
        "assert Acc(6).total() - 6 in {0}",
    ],
)
def test_what_a_program_made_of_its_own_object_and_another_equals_nothing_it_chose(sandbox, test):
    told_apart(sandbox, test, ACCOUNT, ZERO, entry="Acc")


def test_a_number_of_the_programs_own_class_stays_the_number_that_it_was(sandbox):
    liar = """
import sys
values = next(m for name, m in sys.modules.items() if name.endswith("guest.values"))
class Many(int): pass
def divisor(n):
    values.NUMBERS = ((int, lambda value, said=iter((2, 2, 1)): next(said)),)
    return Many(1)
"""
    right = "def divisor(n): return next(d for d in range(2, n) if n % d == 0)"
    told_apart(
        sandbox,
        "n = 1009 * 2003\nr = divisor(n)\nassert 1 < r\nassert r < n\nassert n % r == 0",
        right,
        liar,
        entry="divisor",
    )
