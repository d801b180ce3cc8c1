"""Right and wrong programs in the shapes of common benchmarks: no right one is called wrong, no wrong one passes."""

import json
from pathlib import Path

import pytest

from crlhf_ray.errors import DataError
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

from .samples import asserted

ROWS = [json.loads(line) for line in (Path(__file__).parent / "programs.jsonl").read_text().splitlines()]
REFUSED = {"mock_patch": "replaces something of a module", "file_test": "writes or reads files"}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(limits=Limits(cpu_seconds=6, wall_seconds=60))) as sandbox:
        yield sandbox


def test_each_program_gets_the_verdict_that_it_deserves(sandbox, tmp_path):
    jobs, wanted = [], []
    for number, row in enumerate(ROWS):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row["problem"]))
        name = row["problem"]["problem_id"]
        if name in REFUSED:
            with pytest.raises(DataError, match=rf"row 1, field 'tests': .*{REFUSED[name]}"):
                load_problems(str(path))
            continue
        jobs.append((load_problems(str(path))[0], "\n" + row["completion"]))
        wanted.append((name, row["expected"] == "passed"))
    verdicts = sandbox.check(jobs)
    found = [(name, verdict.passed) for (name, _), verdict in zip(wanted, verdicts, strict=True)]
    assert found == wanted, [verdict for verdict in verdicts if not verdict.passed]


@pytest.mark.parametrize(
    "test, says",
    [
        ("x = f()\nassert x == expceted", "line 2: NameError"),
        ("import math\nassert math.sqroot(4) == f()", "line 2: AttributeError"),
        ("import sys\nf()\nsys.exit(1)", "line 3: SystemExit"),
        ("x = ()\nfor _ in range(200): x = (x,)\nf(x)", "line 3: .*deeper than 100"),
        ("f('x' * (17 << 20))", "line 1: .*bytes"),
    ],
)
def test_a_mistake_in_a_test_is_the_tests(sandbox, test, says):
    for program in ("def f(*a): return 1", "def f(*a): return None"):
        (verdict,) = sandbox.check([(asserted(test), f"\n{program}\n")])
        assert verdict.status == "infra_error"
        assert __import__("re").search(says, verdict.detail), verdict


KEPT = "kept = []\ndef f(x=None, kept=kept):\n    kept.append(x)\n    return kept\n"


@pytest.mark.parametrize(
    "test, right, wrong",
    [
        ("a = f(1)\nb = f(2)\nassert a == [1] and a is not b", "def f(x): return [x]", KEPT),
        (
            "d = {}\nassert f(d) is d and d == {1: 2}",
            "def f(d):\n    d[1] = 2\n    return d",
            "def f(d): return {1: 2}",
        ),
        ("seen = []\nf(seen.append)\nassert seen == [1, 2]", "def f(g): g(1); g(2)", "def f(g): g(1)"),
        (
            "assert f(lambda x: x * x, [1, 2]) == [1, 4]",
            "def f(g, xs): return [*map(g, xs)]",
            "def f(g, xs): return xs",
        ),
        ("assert f(iter([1, 2, 3])) == 6", "def f(xs): return sum(xs)", "def f(xs): return next(xs)"),
        ("assert f(len, 'abc') == 3", "def f(g, x): return g(x)", "def f(g, x): return 0"),
        (
            "def g(): raise KeyError('k')\ntry: f(g)\nexcept KeyError as e: assert e.args == ('k',)\nelse: assert 0",
            "def f(g): g()",
            "def f(g): pass",
        ),
        (
            "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): f()\n"
            "assert b.getvalue() == '1\\n'",
            "def f(): print(1)",
            "def f(): print(2)",
        ),
        (
            "import random\nrandom.seed(3)\na = [random.random(), f()]\nrandom.seed(3)\n"
            "assert a == [random.random(), random.random()]",
            "import random\ndef f(): return random.random()",
            "import random\ndef f(): return random.Random(3).random()",
        ),
        (
            "import asyncio\nasync def main(): return [x async for x in f(3)]\nassert asyncio.run(main()) == [0, 1, 2]",
            "async def f(n):\n    for i in range(n): yield i",
            "async def f(n):\n    yield n",
        ),
        (
            "import json\ntry: f('{')\nexcept json.JSONDecodeError: pass\nelse: assert 0",
            "import json\ndef f(x): return json.loads(x)",
            "def f(x): raise ValueError(x)",
        ),
        (
            "g = f()\nassert list(g) == [*range(1000)]",
            "def f(): yield from range(1000)",
            "def f(): yield from range(999)",
        ),
    ],
)
def test_what_passes_between_test_and_program_is_as_in_one_process(sandbox, test, right, wrong):
    verdicts = sandbox.check([(asserted(test), f"\n{program}\n") for program in (right, wrong)])
    assert verdicts[0].passed, verdicts[0]
    assert verdicts[1].status in ("wrong", "error"), verdicts[1]


LIST = (
    "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val, self.next = val, next\n\n"
    'def turned(head):\n    """Turn a linked list round."""'
)


def test_nodes_of_the_prompt_are_handed_over_answered_and_changed(sandbox):
    problem = asserted(
        "head = None\nfor i in range(500): head = ListNode(i, head)\nfirst = head\nfound = turned(head)\n"
        "assert type(found) is ListNode and first.next is None\nvalues = []\n"
        "while found: values.append(found.val); found = found.next\nassert values == [*range(500)]",
        prompt=LIST,
        entry="turned",
    )
    right = "\n    last = None\n    while head: head.next, last, head = last, head, head.next\n    return last\n"
    assert [v.status for v in sandbox.check([(problem, right), (problem, "\n    return head\n")])] == [
        "passed",
        "wrong",
    ]
