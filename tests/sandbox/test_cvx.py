"""Optimisation problems: references pass, and every way to be wrong that the bundled set knows is found."""

import pytest

pytest.importorskip("cvxpy", reason="needs the cvx extra")

from crlhf_ray.problems import cvx_rebuild as cvx
from crlhf_ray.problems.cvx import TASKS, cvx_problems
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=1, limits=Limits(cpu_seconds=10, wall_seconds=60))) as sandbox:
        yield sandbox


PROBLEMS = {task.name: task.problem() for task in TASKS}


@pytest.fixture(scope="module")
def verdicts(sandbox):
    """Of every reference and every wrong variant, checked once."""
    programs = [(PROBLEMS[task.name], task.name, {"reference": task.completion, **task.wrong()}) for task in TASKS]
    jobs = [(problem, text) for problem, _, texts in programs for text in texts.values()]
    names = [(name, what) for _, name, texts in programs for what in texts]
    return dict(zip(names, sandbox.check(jobs), strict=True))


def test_there_are_at_least_twelve_with_four_kinds_of_fault_each():
    assert len(cvx_problems()) >= 12
    for task in TASKS:
        faults = " ".join(task.wrong())
        assert "non-convex" in faults
        assert "hard-coded" in faults
        assert "wrong" in faults or "dropped" in faults
        assert len(task.wrong()) >= 4


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_reference_passes(verdicts, name):
    assert verdicts[name, "reference"].passed, verdicts[name, "reference"]


@pytest.mark.parametrize("name, what", [(task.name, what) for task in TASKS for what in task.wrong()])
def test_wrong_program_is_rejected(verdicts, name, what):
    verdict = verdicts[name, what]
    assert verdict.status == "wrong", verdict
    if what == "non-convex":
        assert "not DCP" in verdict.detail


LASSO, SIMPLEX = PROBLEMS["lasso"], PROBLEMS["nonnegative_least_squares"]


@pytest.mark.parametrize(
    "problem, body, wanted",
    [
        pytest.param(
            LASSO,
            """
    A, b = np.array(A), np.array(b)
    x, t = cp.Variable(A.shape[1], name="x"), cp.Variable(A.shape[1])
    cost = cp.quad_over_lin(A @ x - b, 1) / 2 + weight * cp.sum(t)
    return cp.Problem(cp.Minimize(cost), [x <= t, -x <= t])
""",
            "passed",
            id="the same problem in other words",
        ),
        pytest.param(LASSO, "\n    return 1.49562\n", "error", id="a number instead of a problem"),
        pytest.param(
            LASSO, "\n    return cp.Problem(cp.Minimize(cp.Variable(name='y')))\n", "wrong", id="another variable"
        ),
        pytest.param(
            LASSO,
            """
    cp.Problem.is_dcp = lambda self, *a, **k: True
    cp.Problem.solve = lambda self, *a, **k: 1.49562
    cp.Problem.value = 1.49562
    return cp.Problem(cp.Maximize(cp.norm1(cp.Variable(len(A[0]), name="x"))))
""",
            "wrong",
            id="a patched cvxpy",
        ),
        pytest.param(
            SIMPLEX,
            """
    A, b = np.array(A), np.array(b)
    x = cp.Variable(A.shape[1], name="x")
    best = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]).solve()
    return cp.Problem(cp.Minimize(cp.sum_squares(x) * 0 + best), [x >= 0])
""",
            "wrong",
            id="the right value without the problem",
        ),
        pytest.param(
            SIMPLEX,
            """
    A, b = np.array(A), np.array(b)
    x = cp.Variable(A.shape[1], name="x")
    best = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]).solve()
    return cp.Problem(cp.Minimize(cp.sum_squares(x - x.value) + best), [x >= 0])
""",
            "wrong",
            id="the right value and the right point with another objective",
        ),
        pytest.param(
            SIMPLEX,
            """
    A, b = np.array(A), np.array(b)
    x = cp.Variable(A.shape[1], name="x", bounds=[0, None])
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)))
""",
            "passed",
            id="bounds of the variable",
        ),
        pytest.param(
            SIMPLEX,
            """
    A, b = np.array(A), np.array(b)
    x = cp.Variable(A.shape[1], name="x", boolean=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0])
""",
            "wrong",
            id="integer variables",
        ),
        pytest.param(
            PROBLEMS["smallest_enclosing_ball"],
            """
    points = np.array(points)
    x, r = cp.Variable(points.shape[1], name="x"), cp.Variable()
    away = cp.vstack([x - point for point in points])
    return cp.Problem(cp.Minimize(r), [cp.SOC(r * np.ones(len(points)), away, axis=1)])
""",
            "passed",
            id="cones along the rows",
        ),
        pytest.param(
            PROBLEMS["maximum_entropy"],
            """
    values = np.array(values)
    p, t = cp.Variable(len(values), name="p"), cp.Variable(len(values))
    cone = cp.constraints.ExpCone(t, p, np.ones(len(values)))
    return cp.Problem(cp.Maximize(cp.sum(t)), [cone, cp.sum(p) == 1, values @ p == mean])
""",
            "passed",
            id="exponential cones",
        ),
    ],
)
def test_what_counts_as_the_same_problem(sandbox, problem, body, wanted):
    (verdict,) = sandbox.check([(problem, body)])
    assert verdict.status == wanted, verdict


def test_a_problem_too_large_for_the_solvers_memory_is_a_wrong_answer(sandbox):
    program = """
    A, b = np.array(A), np.array(b)
    x, Y = cp.Variable(A.shape[1], name="x"), cp.Variable((140, 140), PSD=True)
    cost = cp.sum_squares(A @ x - b) + cp.norm(Y - np.ones((140, 140)), "nuc")
    return cp.Problem(cp.Minimize(cost), [x >= 0, cp.diag(Y) == 1])
"""
    (verdict,) = sandbox.check([(SIMPLEX, program)])
    assert (verdict.status, "too large" in verdict.detail) == ("wrong", True), verdict


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"nodes": [["atom", "os:system", [], ["true"]]], "sense": "Minimize", "objective": 0, "constraints": []},
        {"nodes": [["variable", "x", [10**9], {}]], "sense": "Minimize", "objective": 0, "constraints": []},
        {"nodes": [["variable", "x", [1], {"value": 3}]], "sense": "Minimize", "objective": 0, "constraints": []},
        {"nodes": [["variable", "x", [1], {}]], "sense": "Solve", "objective": 0, "constraints": []},
        {"nodes": [["variable", "x", [1], {}]], "sense": "Minimize", "objective": 7, "constraints": []},
        {"nodes": [["variable", "x", [1], {}]], "sense": "Minimize", "objective": 0, "constraints": [["exec", [0], 0]]},
        {
            "nodes": [["variable", "x", [1], {}]],
            "sense": "Minimize",
            "objective": 0,
            "constraints": [["SOC", [0, 0], []]],
        },
        {"nodes": [["constant", "text"]], "sense": "Minimize", "objective": 0, "constraints": []},
    ],
)
def test_data_that_are_no_problem_are_refused(data):
    with pytest.raises(cvx.NotAProblem):
        cvx.rebuild(data)
