"""How often the 95% intervals of annotators' rates hold the true ones, on simulated crowds and on sets with truth.

    python benchmarks/aggregation_intervals.py [--data FOLDER] [--crowds 3] [--draws 2] [--seed 0] [--methods ...]

The crowds are those of `aggregation_crowds.py`, most of which break an assumption of the estimators (tasks differ in
difficulty, some mislead nearly everybody, answers are copied, half of the people guess), and crowds of more classes
whose members share mistakes. A tenth of the tasks are honeypots. The true rate of a person on a class is, in a crowd,
the mean probability with which they answer rightly the tasks of that class that they got; in a set with truth, the
share of right answers on at least `FEWEST` such tasks, and an interval holds it where it comes within half an answer.
Printed by kind and set: the share of intervals that hold, their mean width, and by how much the rates are too high.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from aggregation import honeypots, load
from aggregation_crowds import KINDS, gold_of

from crlhf_ray.aggregation.base import Estimator
from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.one_coin import OneCoin
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import DataError

METHODS: dict[str, Callable[[], Estimator]] = {
    "one_coin": OneCoin,
    "two_coin": TwoCoin,
    "dawid_skene": DawidSkene,
    "hierarchical": Hierarchical,
}
#: On fewer tasks of a class a share of right answers says little of the rate behind it.
FEWEST = 10


def many_classes(seed: int, k: int, shared: float) -> tuple[pd.DataFrame, pd.Series]:
    """400 tasks of k classes, five votes each by thirty people of every skill; of their mistakes ``shared`` are the
    task's own, the others each person's favourites."""
    rng = np.random.default_rng([k, seed])
    truth, trap = rng.integers(0, k, 400), rng.integers(0, k, 400)
    skill, favourite = rng.uniform(0.4, 0.9, 30), rng.dirichlet(np.full(k, 0.7), 30)
    who = np.stack([rng.choice(30, 5, replace=False) for _ in truth])
    rows = []
    for task, people in enumerate(who):
        for worker in people:
            wrong = np.eye(k)[trap[task]] * shared + favourite[worker] * (1 - shared)
            p = skill[worker] * np.eye(k)[truth[task]] + (1 - skill[worker]) * wrong
            rows.append((task, f"w{worker}", int(rng.choice(k, p=p)), p[truth[task]]))
    return pd.DataFrame(rows, columns=["task", "worker", "label", "right"]), pd.Series(truth)


CROWDS = KINDS | {
    "3 classes": lambda s: many_classes(s, 3, 0.0),
    "3 classes, shared mistakes": lambda s: many_classes(s, 3, 0.4),
    "5 classes, shared mistakes": lambda s: many_classes(s, 5, 0.4),
}


def cases(
    data: Path | None, crowds: int, draws: int, seed: int
) -> Iterator[tuple[str, pd.DataFrame, pd.Series, pd.Series]]:
    """``(kind, votes, truth, gold)``."""
    for kind, make in CROWDS.items():
        for number in range(seed, seed + crowds):
            votes, truth = make(number)
            truth = truth[truth.index.isin(votes["task"])]
            yield kind, votes, truth, gold_of(kind, truth, number)
    for folder in sorted(data.iterdir()) if data else ():
        votes, truth, _ = load(folder)
        for draw in range(seed, seed + draws):
            yield f"set {folder.name}", votes, truth, honeypots(truth, 0.1, draw)


def true_rates(votes: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """By worker and class: the rate of right answers, and on how many tasks."""
    known = votes.assign(truth=votes["task"].map(truth)).dropna(subset=["truth"])
    right = known["right"] if "right" in known else (known["label"] == known["truth"]).astype(float)
    return right.groupby([known["worker"], known["truth"]]).agg(["mean", "size"])


def coverage(fitted: Estimator, votes: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """A row for each person and class that they met: held, width, and the estimate's excess."""
    rates = true_rates(votes, truth)
    rates = rates if "right" in votes else rates[rates["size"] >= FEWEST]
    workers, classes = rates.index.get_level_values(0), rates.index.get_level_values(1)
    table, known = fitted.reliability(), list(fitted.classes_ or ())
    two = dict(zip(known, ("specificity", "sensitivity"), strict=False)) if len(known) == 2 else {}
    names = [two.get(c, f"recall_{c}") for c in classes]
    said, low, high = (
        np.array([table.at[w, f"{name}{end}"] for w, name in zip(workers, names, strict=True)])
        for end in ("", "_low", "_high")
    )
    rate, slack = rates["mean"].to_numpy(), 0 if "right" in votes else 0.5 / rates["size"].to_numpy()
    held = (low - slack <= rate) & (rate <= high + slack)
    return pd.DataFrame({"held": held, "width": high - low, "excess": said - rate})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of sets, as of aggregation.py")
    parser.add_argument("--crowds", type=int, default=3, help="crowds of each kind (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the first crowd and draw (default 0)")
    parser.add_argument("--draws", type=int, default=2, help="draws of honeypots of each set (default 2)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    options = parser.parse_args()
    rows = []
    for kind, votes, truth, gold in cases(options.data, options.crowds, options.draws, options.seed):
        for method in options.methods:
            try:
                fitted = METHODS[method]().fit(votes[["task", "worker", "label"]], gold)
            except DataError:  # for two classes only
                continue
            found = coverage(fitted, votes, truth).mean()
            rows.append({"kind": kind, "method": method} | found.to_dict())
    table = 100 * pd.DataFrame(rows).groupby(["kind", "method"], sort=False).mean().unstack("method")
    print("Of 100 intervals so many hold the true rate; their width; by how much the rate is too high (points)")
    print(table.round(1).to_string(na_rep="-"))
    sets = table.index.str.startswith("set ")
    for title, some in (("crowds", table[~sets]), ("sets", table[sets])):
        if len(some):
            held = some["held"]
            print(f"\n{title}: mean and worst share that holds (%)")
            print(pd.DataFrame({"mean": held.mean(), "worst": held.min(), "of": held.idxmin()}).round(1).to_string())


if __name__ == "__main__":
    main()
