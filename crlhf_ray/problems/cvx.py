"""Bundled convex optimisation problems."""

from __future__ import annotations

from crlhf_ray.problems.cvx_task import Task, draw, positive
from crlhf_ray.problems.problem import Problem

TASKS: tuple[Task, ...] = (
    Task(
        "nonnegative_least_squares",
        "A, b",
        'Minimise the sum of squares of A x - b over x >= 0.\n\n    The variable is a vector called "x".\n    ',
        """
A, b = np.array(A), np.array(b)
x = cp.Variable(A.shape[1], name="x")
return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0])
""",
        (draw(1, (6, 3), (6,)), draw(2, (8, 4), (8,))),
        (
            ("non-convex", "cp.Minimize(cp.sum_squares(A @ x - b))", "cp.Maximize(cp.sum_squares(A @ x - b))"),
            ("dropped constraint", ", [x >= 0]", ""),
            ("wrong sign", "x >= 0", "x <= 0"),
            ("hard-coded", "[x >= 0]", "[x == 0]"),
            ("wrong data", "A @ x - b", "A @ x + b"),
        ),
    ),
    Task(
        "lasso",
        "A, b, weight",
        "Minimise half the sum of squares of A x - b plus weight times the 1-norm of x.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
A, b = np.array(A), np.array(b)
x = cp.Variable(A.shape[1], name="x")
return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) / 2 + weight * cp.norm1(x)))
""",
        ((*draw(3, (7, 4), (7,)), 0.5), (*draw(4, (5, 6), (5,)), 0.3)),
        (
            ("non-convex", "+ weight", "- weight"),
            ("dropped term", " + weight * cp.norm1(x)", ""),
            ("wrong norm", "cp.norm1(x)", "cp.norm2(x)"),
            ("hard-coded", "weight * cp", "0.5 * cp"),
        ),
    ),
    Task(
        "ridge_on_the_simplex_plane",
        "A, b, weight",
        "Minimise the sum of squares of A x - b plus weight times that of x, where the entries of x sum to one.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
A, b = np.array(A), np.array(b)
x = cp.Variable(A.shape[1], name="x")
cost = cp.sum_squares(A @ x - b) + weight * cp.sum_squares(x)
return cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1])
""",
        ((*draw(5, (6, 4), (6,)), 1.0), (*draw(6, (4, 5), (4,)), 0.2)),
        (
            ("non-convex", "+ weight", "- 100 * weight"),
            ("dropped constraint", ", [cp.sum(x) == 1]", ""),
            ("wrong sign", "== 1", "== -1"),
            ("hard-coded", "[cp.sum(x) == 1]", "[x == 1 / A.shape[1]]"),
        ),
    ),
    Task(
        "portfolio",
        "mean, factors, wanted",
        "Choose weights x >= 0 that sum to one and whose mean return is at least wanted, of least risk, the sum of "
        'squares\n    of factors^T x.\n\n    The variable is a vector called "x".\n    ',
        """
mean, factors = np.array(mean), np.array(factors)
x = cp.Variable(len(mean), name="x")
risk = cp.sum_squares(factors.T @ x)
return cp.Problem(cp.Minimize(risk), [mean @ x >= wanted, cp.sum(x) == 1, x >= 0])
""",
        (
            ([0.1, 0.3, 0.2, 0.05], *draw(7, (4, 3)), 0.2),
            ([0.5, 0.1, 0.4], *draw(8, (3, 3)), 0.35),
        ),
        (
            ("non-convex", "cp.Minimize(risk)", "cp.Maximize(risk)"),
            ("dropped return", "mean @ x >= wanted, ", ""),
            ("dropped budget", "cp.sum(x) == 1, ", ""),
            ("dropped sign", ", x >= 0", ""),
            ("wrong sign", "mean @ x >= wanted", "mean @ x <= wanted"),
            ("hard-coded", "[mean", "[x == 1 / len(mean), mean"),
        ),
    ),
    Task(
        "minimax_regression",
        "A, b",
        'Minimise the largest absolute entry of A x - b.\n\n    The variable is a vector called "x".\n    ',
        """
A, b = np.array(A), np.array(b)
x = cp.Variable(A.shape[1], name="x")
return cp.Problem(cp.Minimize(cp.norm_inf(A @ x - b)))
""",
        (draw(9, (8, 3), (8,)), draw(10, (6, 2), (6,))),
        (
            ("non-convex", "cp.norm_inf(A @ x - b)", "cp.min(cp.abs(A @ x - b))"),
            ("one side only", "cp.norm_inf(A @ x - b)", "cp.max(A @ x - b)"),
            ("wrong norm", "cp.norm_inf", "cp.norm1"),
            ("wrong sign", "- b", "+ 2 * b"),
            ("hard-coded", "cp.norm_inf(A @ x - b)", "cp.norm_inf(x) + 0.5"),
        ),
    ),
    Task(
        "diet",
        "cost, nutrients, needed, most",
        "Buy amounts x of foods at least cost so that nutrients @ x is at least needed and 0 <= x <= most.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
cost, nutrients, needed = np.array(cost), np.array(nutrients), np.array(needed)
x = cp.Variable(len(cost), name="x")
return cp.Problem(cp.Minimize(cost @ x), [nutrients @ x >= needed, x >= 0, x <= most])
""",
        (
            (*positive(11, (4,), (3, 4), (3,)), 2.0),
            (*positive(12, (5,), (2, 5), (2,)), 1.5),
        ),
        (
            ("non-convex", "[nutrients", "[cp.sqrt(x[0]) <= 1, nutrients"),
            ("dropped need", "nutrients @ x >= needed, ", ""),
            ("dropped limit", ", x <= most", ""),
            ("dropped sign", "x >= 0, ", ""),
            ("wrong sign", "nutrients @ x >= needed", "nutrients @ x <= needed"),
            ("maximised", "cp.Minimize", "cp.Maximize"),
            ("hard-coded", "x <= most", "x <= 2"),
        ),
    ),
    Task(
        "chebyshev_centre",
        "A, b",
        "Find the largest ball inside the polyhedron A x <= b: maximise its radius, which may not be negative.\n\n"
        '    The variables are the centre, a vector called "x", and the radius, a scalar called "r".\n    ',
        """
A, b = np.array(A), np.array(b)
x, r = cp.Variable(A.shape[1], name="x"), cp.Variable(name="r")
return cp.Problem(cp.Maximize(r), [A @ x + np.linalg.norm(A, axis=1) * r <= b, r >= 0])
""",
        (
            ([[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]], [2.0, 1.0, 3.0, 1.0, 3.0]),
            ([[1, 2], [-2, 1], [0, -1], [1, -1]], [4.0, 3.0, 2.0, 2.5]),
        ),
        (
            ("non-convex", "r >= 0", "r ** 2 >= 0.01"),
            ("dropped norms", "np.linalg.norm(A, axis=1) * r", "r"),
            ("dropped constraint", "A @ x + np.linalg.norm(A, axis=1) * r <= b, r >= 0", "r >= 0, r <= 1"),
            ("wrong sign", "+ np.linalg", "- np.linalg"),
            ("hard-coded", "r >= 0]", "r >= 0, r == 1.2, x == 0.5]"),
        ),
    ),
    Task(
        "smallest_enclosing_ball",
        "points",
        "Find the centre from which the farthest of the points, the rows, is as near as can be.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
points = np.array(points)
x = cp.Variable(points.shape[1], name="x")
return cp.Problem(cp.Minimize(cp.maximum(*[cp.norm(point - x) for point in points])))
""",
        (draw(13, (6, 2)), draw(14, (7, 3))),
        (
            ("non-convex", "cp.maximum", "cp.minimum"),
            (
                "sum instead of maximum",
                "cp.maximum(*[cp.norm(point - x) for point in points])",
                "cp.sum([cp.norm(point - x) for point in points])",
            ),
            ("dropped point", "for point in points", "for point in points[:2]"),
            ("wrong sign", "point - x", "point + 2 * x"),
            ("hard-coded", "cp.maximum(*[", "cp.maximum(cp.norm(x - 1), *[0 * "),
        ),
    ),
    Task(
        "maximum_entropy",
        "values, mean",
        "Find the distribution p on the given values, with the given mean, of largest entropy.\n\n"
        '    The variable is a vector called "p".\n    ',
        """
values = np.array(values)
p = cp.Variable(len(values), name="p")
return cp.Problem(cp.Maximize(cp.sum(cp.entr(p))), [p >= 0, cp.sum(p) == 1, values @ p == mean])
""",
        (([1, 2, 3, 4, 5, 6], 4.5), ([0.0, 1.0, 5.0], 1.5)),
        (
            ("non-convex", "cp.Maximize", "cp.Minimize"),
            ("dropped mean", ", values @ p == mean", ""),
            ("dropped total", "cp.sum(p) == 1, ", ""),
            ("wrong sign", "values @ p == mean", "values @ p == -mean"),
            ("hard-coded", "== mean]", "== mean, p == 1 / len(values)]"),
        ),
    ),
    Task(
        "water_filling",
        "noise, power",
        "Share power among channels: maximise the sum of log(noise + x), where x >= 0 sums to power.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
noise = np.array(noise)
x = cp.Variable(len(noise), name="x")
return cp.Problem(cp.Maximize(cp.sum(cp.log(noise + x))), [x >= 0, cp.sum(x) == power])
""",
        (([0.5, 1.0, 2.0], 1.2), ([0.1, 0.9, 0.4, 3.0], 2.0)),
        (
            ("non-convex", "cp.Maximize", "cp.Minimize"),
            ("dropped sign", "x >= 0, ", ""),
            ("dropped budget", ", cp.sum(x) == power", ", cp.sum(x) <= 10"),
            ("wrong sign", "noise + x", "x - noise + 2"),
            ("hard-coded", "== power]", "== power, x[0] == power / 2]"),
        ),
    ),
    Task(
        "bounded_huber_regression",
        "A, b, low, high",
        "Minimise the sum of the Huber function (threshold 1) of A x - b, where every entry of x lies between low\n"
        '    and high.\n\n    The variable is a vector called "x".\n    ',
        """
A, b = np.array(A), np.array(b)
x = cp.Variable(A.shape[1], name="x")
return cp.Problem(cp.Minimize(cp.sum(cp.huber(A @ x - b))), [x >= low, x <= high])
""",
        ((*draw(15, (9, 3), (9,)), -0.2, 0.1), (*draw(16, (6, 2), (6,)), 0.1, 0.5)),
        (
            ("non-convex", "cp.huber(A @ x - b)", "cp.log(1 + cp.abs(A @ x - b))"),
            ("dropped lower bound", "x >= low, ", ""),
            ("dropped upper bound", ", x <= high", ""),
            ("wrong function", "cp.huber(A @ x - b)", "cp.abs(A @ x - b)"),
            ("wrong sign", "x >= low", "x <= low"),
            ("hard-coded", "x <= high", "x <= 0.1"),
        ),
    ),
    Task(
        "weighted_median_point",
        "points, weights",
        "Find the point whose distances to the points, the rows, times their weights, have the least sum.\n\n"
        '    The variable is a vector called "x".\n    ',
        """
points, weights = np.array(points), np.array(weights)
x = cp.Variable(points.shape[1], name="x")
return cp.Problem(cp.Minimize(sum(w * cp.norm(x - point) for w, point in zip(weights, points))))
""",
        ((*draw(17, (5, 2)), [1.0, 2.0, 0.5, 1.5, 1.0]), (*draw(18, (4, 3)), [1.0, 1.0, 3.0, 0.2])),
        (
            ("non-convex", "cp.norm(x - point)", "cp.sqrt(cp.norm(x - point))"),
            ("dropped weights", "w * cp", "cp"),
            ("squared", "cp.norm(x - point)", "cp.sum_squares(x - point)"),
            ("wrong sign", "x - point", "x + point"),
            ("hard-coded", "x - point", "x - points[0]"),
        ),
    ),
    Task(
        "total_variation",
        "signal, weight",
        "Smooth the signal: minimise the sum of squares of x - signal plus weight times the sum of the absolute\n"
        '    differences of neighbours in x.\n\n    The variable is a vector called "x".\n    ',
        """
signal = np.array(signal)
x = cp.Variable(len(signal), name="x")
return cp.Problem(cp.Minimize(cp.sum_squares(x - signal) + weight * cp.norm1(x[1:] - x[:-1])))
""",
        ((*draw(19, (12,)), 0.7), (*draw(20, (8,)), 2.0)),
        (
            ("non-convex", "+ weight", "- weight"),
            ("dropped term", " + weight * cp.norm1(x[1:] - x[:-1])", ""),
            ("wrong sign", "x[1:] - x[:-1]", "x[1:] + x[:-1]"),
            ("wrong neighbours", "x[1:] - x[:-1]", "x[2:] - x[:-2]"),
            ("hard-coded", "weight * cp", "0.7 * cp"),
        ),
    ),
    Task(
        "maximum_flow",
        "edges, capacity, nodes",
        "Send as much as possible from node 0 to the last node: each edge (i, j) carries between 0 and its capacity\n"
        "    from i to j, and what enters any other node leaves it. Maximise what leaves node 0 less what enters.\n\n"
        '    The variable is a vector called "flow" with an entry an edge.\n    ',
        """
flow = cp.Variable(len(edges), name="flow")
out = np.array([[(i == n) - (j == n) for i, j in edges] for n in range(nodes)], dtype=float)
return cp.Problem(cp.Maximize(out[0] @ flow), [flow >= 0, flow <= np.array(capacity), out[1:-1] @ flow == 0])
""",
        (
            ([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]], [3.0, 2.0, 1.0, 2.0, 3.0], 4),
            ([[0, 1], [1, 2], [0, 2], [2, 3], [1, 3], [3, 1]], [4.0, 2.0, 1.0, 5.0, 1.0, 2.0], 4),
        ),
        (
            ("non-convex", "[flow >= 0", "[flow[0] * flow[1] == 0, flow >= 0"),
            ("dropped conservation", ", out[1:-1] @ flow == 0", ""),
            ("dropped capacity", ", flow <= np.array(capacity)", ", flow <= 100"),
            ("dropped sign", "flow >= 0, ", ""),
            ("wrong sign", "cp.Maximize(out[0]", "cp.Maximize(-out[0]"),
            ("hard-coded", "== 0]", "== 0, flow[0] == 1]"),
        ),
    ),
    Task(
        "nearest_correlation_matrix",
        "A",
        "Find the positive semidefinite matrix with a diagonal of ones that is nearest to A in the Frobenius norm.\n\n"
        '    The variable is a symmetric matrix called "X".\n    ',
        """
A = np.array(A)
X = cp.Variable(A.shape, name="X", symmetric=True)
return cp.Problem(cp.Minimize(cp.norm(X - A, "fro")), [X >> 0, cp.diag(X) == 1])
""",
        (
            ([[1.0, 0.9, -0.8], [0.9, 1.0, 0.9], [-0.8, 0.9, 1.0]],),
            ([[2.0, 1.5], [1.5, 0.5]],),
        ),
        (
            ("non-convex", "[X >> 0", "[cp.norm(X) >= 1, X >> 0"),
            ("dropped semidefiniteness", "X >> 0, ", ""),
            ("dropped diagonal", ", cp.diag(X) == 1", ""),
            ("wrong sign", "X >> 0", "X << 2 * np.eye(A.shape[0])"),
            ("hard-coded", "== 1]", "== 1, X[0, 1] == 0.5]"),
        ),
    ),
    Task(
        "regularised_logistic_regression",
        "features, labels, weight",
        "Fit a linear classifier: minimise the sum over rows of log(1 + exp(-label * (features @ w))) plus weight\n"
        '    times the sum of squares of w. Labels are +1 and -1.\n\n    The variable is a vector called "w".\n    ',
        """
features, labels = np.array(features), np.array(labels)
w = cp.Variable(features.shape[1], name="w")
margins = cp.multiply(labels, features @ w)
return cp.Problem(cp.Minimize(cp.sum(cp.logistic(-margins)) + weight * cp.sum_squares(w)))
""",
        (
            (*draw(21, (6, 2)), [1, -1, 1, 1, -1, -1], 0.5),
            (*draw(22, (5, 3)), [-1, -1, 1, 1, 1], 0.1),
        ),
        (
            ("non-convex", "+ weight", "- weight"),
            ("dropped term", " + weight * cp.sum_squares(w)", ""),
            ("wrong sign", "cp.logistic(-margins)", "cp.logistic(margins)"),
            ("wrong norm", "cp.sum_squares(w)", "cp.norm1(w)"),
            ("hard-coded", "weight * cp.sum", "0.5 * cp.sum"),
        ),
    ),
)


def cvx_problems() -> list[Problem]:
    """The bundled problems. Checking them needs the ``cvx`` extra (cvxpy with an open solver)."""
    return [task.problem() for task in TASKS]
