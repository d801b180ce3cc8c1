"""Simulated crowds that nothing here was tuned on: ours and crowd-kit's given the same gold, by kind of crowd.

    python benchmarks/aggregation_crowds.py [--crowds 3] [--draws 2]

Each kind departs from what the estimators assume in its own way: one class is rare, most people answer twice, half of
them guess, a tenth of the tasks mislead nearly everybody, tasks differ in difficulty, people copy, people are as good
on one class as on the other, honeypots are of one class only. Prints accuracy by kind, as `aggregation.py` does by set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from aggregation import OURS, crowd_kit, honeypots, measure, run_ours, run_theirs

BEST = "hierarchical, tempered"
METHODS = ["two_coin", "dawid_skene", "hierarchical", BEST]
#: GLAD, MACE, MMSR and KOS are left out: minutes a crowd, or far behind on every public set.
PEERS = ["MajorityVote", "Wawa", "ZeroBasedSkill", "GoldMajorityVote + gold", "OneCoinDawidSkene", "DawidSkene"]
THEIRS = [f"crowd-kit {name}" for name in [*PEERS, "DawidSkene + gold"]]


def crowd(
    seed: int,
    tasks: int,
    workers: int,
    per_task: int,
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    *,
    positive: float = 0.5,
    busy: float = 1.0,
    guess: float = 0.0,
    lazy: float = 0.0,
    hard: float = 0.0,
    misleading: float = 0.0,
    copied: float = 0.0,
    same: bool = False,
) -> tuple[pd.DataFrame, pd.Series]:
    """``(votes, truth)`` of people whose rates are drawn from these Beta distributions; the votes' column ``right`` is
    the probability that this person is right on this task.

    busy: exponent of the Zipf law of how much each answers. guess, lazy: shares of people who guess, and who say 1.
    hard, misleading: shares of tasks on which people are half as good, and on which they are as wrong as they else are
    right. copied: share of tasks where one answer is another's. same: all are as good on one class as on the other.
    """
    rng = np.random.default_rng(seed)
    truth = (rng.random(tasks) < positive).astype(int)
    rates = np.stack([rng.beta(*specificity, workers), rng.beta(*sensitivity, workers)], axis=1)
    if same:
        rates[:, 0] = rates[:, 1]
    kind = rng.random(workers)
    rates[kind < guess] = 0.5
    rates[kind > 1 - lazy] = (0.03, 0.98)
    activity = rng.permutation(1 / np.arange(1, workers + 1) ** busy)
    # The smallest of exponential times are a draw without replacement, in proportion to activity.
    who = np.argsort(rng.exponential(size=(tasks, workers)) / activity, axis=1)[:, :per_task]
    right = rates[who, truth[:, None]]
    right = np.where(rng.random((tasks, 1)) < hard, 0.25 + right / 2, right)
    right = np.where(rng.random((tasks, 1)) < misleading, 1 - right, right)
    label = np.where(rng.random(right.shape) < right, truth[:, None], 1 - truth[:, None])
    if per_task > 1:
        label[:, 1] = np.where(rng.random(tasks) < copied, label[:, 0], label[:, 1])
        right[:, 1] += copied * (right[:, 0] - right[:, 1])
    votes = pd.DataFrame({"task": np.repeat(np.arange(tasks), who.shape[1]), "worker": who.ravel()})
    return votes.assign(label=label.ravel(), right=right.ravel()), pd.Series(truth)


KINDS: dict[str, Callable[[int], tuple[pd.DataFrame, pd.Series]]] = {
    "one in 8 positive, 3 labels": lambda s: crowd(s, 3000, 176, 3, (4, 2), (20, 2), positive=0.12),
    "nine in 10 positive": lambda s: crowd(s, 1000, 100, 5, (15, 3), (3, 3), positive=0.9),
    "one in 33 positive": lambda s: crowd(s, 3000, 60, 5, (5, 2), (30, 1.5), positive=0.03),
    "weak, many people": lambda s: crowd(s, 2000, 500, 5, (4, 3), (4, 3), hard=0.3),
    "some 4 labels each": lambda s: crowd(s, 800, 900, 5, (8, 4), (8, 4), busy=0),
    "17 labels, one-sided": lambda s: crowd(s, 130, 700, 17, (8, 3), (2.2, 2), positive=0.7, busy=0.3, hard=0.3),
    "all answer all, misled": lambda s: crowd(s, 110, 39, 39, (4, 3), (6, 3), hard=0.2, misleading=0.08),
    "a third is lazy": lambda s: crowd(s, 1000, 40, 6, (12, 4), (10, 4), positive=0.75, lazy=0.3),
    "half guess": lambda s: crowd(s, 1000, 60, 8, (12, 3), (12, 3), guess=0.5),
    "copied answers": lambda s: crowd(s, 1000, 60, 6, (9, 4), (9, 4), copied=0.4),
    "hard and misleading": lambda s: crowd(s, 1000, 80, 8, (8, 3), (8, 3), hard=0.4, misleading=0.06),
    "skilled": lambda s: crowd(s, 1000, 100, 7, (20, 2), (20, 2)),
    "one skill, 17 labels each": lambda s: crowd(s, 1000, 400, 7, (4, 2), (4, 2), same=True, busy=0),
    "one skill, many labels": lambda s: crowd(s, 300, 60, 7, (4, 2), (4, 2), same=True),
    "80 tasks": lambda s: crowd(s, 80, 20, 8, (6, 3), (9, 3), positive=0.35, busy=0.5),
    "two labels": lambda s: crowd(s, 1500, 100, 2, (5, 3), (8, 3)),
    "gold all positive": lambda s: crowd(s, 2000, 100, 4, (8, 4), (12, 3), positive=0.25),
    "gold all negative": lambda s: crowd(s, 2000, 100, 4, (8, 4), (12, 3), positive=0.25),
}


def gold_of(kind: str, truth: pd.Series, seed: int) -> pd.Series:
    """A tenth of the tasks; of one class where the kind says so."""
    if kind.startswith("gold all"):
        return truth[truth == int(kind.endswith("positive"))].sample(len(truth) // 10, random_state=seed)
    return honeypots(truth, 0.1, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crowds", type=int, default=3, help="crowds of each kind (default 3)")
    parser.add_argument("--draws", type=int, default=2, help="draws of honeypots for each (default 2)")
    options = parser.parse_args()
    peers, rows = crowd_kit(), []
    for kind, make in KINDS.items():
        for seed in range(options.crowds):
            votes, truth = make(seed)
            votes = votes[["task", "worker", "label"]]
            truth = truth[truth.index.isin(votes["task"])]
            for draw in range(options.draws):
                gold = gold_of(kind, truth, draw)
                rest = truth.drop(gold.index)
                for method in [*METHODS, *THEIRS]:
                    try:
                        if method in OURS:
                            labels, probas, _ = run_ours(OURS[method], votes, gold)
                        else:
                            labels, probas, _ = run_theirs(peers[method][0], votes, gold if peers[method][1] else None)
                    except ValueError:  # GoldMajorityVote, where the gold's voters are too few
                        continue
                    quality = measure(rest, labels, None if probas is None else probas[1], 1)
                    rows.append({"kind": kind, "seed": seed, "method": method} | quality)
    results = pd.DataFrame(rows)
    results["ours"] = results["method"].isin(METHODS)
    table = 100 * results.pivot_table(index="method", columns="kind", values="accuracy", sort=False)
    complete = table.dropna()
    print("Accuracy by kind of crowd (%)")
    print(table.T.rename(columns=lambda name: name.replace("crowd-kit", "ck")).round(1).to_string(na_rep="-"))
    spread = results.groupby(["method", "seed"], sort=False)["accuracy"].mean().groupby("method", sort=False).std()
    ece = 100 * results.groupby("method", sort=False)["ece"].mean()
    summary = pd.DataFrame({"mean accuracy": complete.mean(axis=1), "sd over crowds": 100 * spread, "mean ECE": ece})
    print(summary.round(2).to_string(na_rep="-"))
    best, rival = table.loc[BEST], table.loc[THEIRS].max()
    behind = (rival - best)[rival - best > 0.5].sort_values(ascending=False)
    named = ", ".join(f"{kind} ({gap:.1f})" for kind, gap in behind.items()) or "none"
    print(f"{BEST} beside the best crowd-kit method of each kind: half a point behind or less on")
    print(f"{len(best) - len(behind)} of {len(best)} kinds; further behind on: {named}")


if __name__ == "__main__":
    main()
