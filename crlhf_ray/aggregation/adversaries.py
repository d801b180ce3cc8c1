"""Simulated crowds with something wrong in them, to measure what an estimator withstands.

Every crowd: ``annotators`` people label ``per_task`` random others' share of ``tasks`` tasks, half of them positive;
honest people have sensitivity and specificity drawn from Beta(12, 4), .75 on average, which makes majority vote right
in 86% of cases where a fifth are spammers. The first ``gold`` share of tasks are honeypots and come first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from crlhf_ray.errors import ConfigError

KINDS = ("honest", "spam", "colluders", "copycats", "camouflaged", "drift")


@dataclass(frozen=True)
class Scenario:
    """votes: task, worker, label (0/1) and time, in time order. truth: by task. gold: known from the start.
    late_gold: checked after the answers came in, on tasks that look like any other; bad: the bad workers."""

    votes: pd.DataFrame
    truth: pd.Series
    gold: pd.Series
    late_gold: pd.Series
    bad: tuple[str, ...]


def simulate(
    kind: str,
    share: float,
    seed: int,
    *,
    tasks: int = 1000,
    annotators: int = 30,
    per_task: int = 7,
    gold: float = 0.1,
    positive: float = 0.5,
) -> Scenario:
    """One crowd of which ``share`` is bad in the way of ``kind``.

    spam: always says 1. colluders: all say the opposite of the truth. camouflaged: know the honeypots and answer them
    rightly, all else wrongly. copycats: all give one answer, which is thrown by a coin. drift: half of
    the annotators fall steadily from .95 to .5 and the other half rise; share is ignored.
    """
    if kind not in KINDS:
        raise ConfigError(f"{kind!r} is none of {', '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    truth = (rng.random(tasks) < positive).astype(int)
    rates = rng.beta(12, 4, size=(annotators, 2))  # columns: specificity, sensitivity
    bad = rng.permutation(annotators)[: 0 if kind in ("honest", "drift") else round(share * annotators)]
    n_gold = round(gold * tasks)
    task = np.repeat(np.arange(tasks), per_task)
    worker = np.concatenate([rng.choice(annotators, per_task, replace=False) for _ in range(tasks)])
    right = rates[worker, truth[task]]
    if kind == "drift":
        way = task / tasks
        right = 0.5 + 0.45 * np.where(worker % 2 == 0, way, 1 - way)
    label = np.where(rng.random(len(task)) < right, truth[task], 1 - truth[task])
    is_bad = np.isin(worker, bad)
    if kind == "spam":
        label[is_bad] = 1
    elif kind == "colluders":
        label[is_bad] = 1 - truth[task[is_bad]]
    elif kind == "copycats":
        label[is_bad] = (rng.random(tasks) < 0.5).astype(int)[task[is_bad]]
    elif kind == "camouflaged":
        knows = task < n_gold
        label[is_bad] = np.where(knows, truth[task], 1 - truth[task])[is_bad]
    late = rng.permutation(np.arange(n_gold, tasks))[:n_gold]
    votes = pd.DataFrame({"task": task, "worker": [f"w{i}" for i in worker], "label": label, "time": task})
    everything = pd.Series(truth)
    return Scenario(
        votes, everything, everything[:n_gold], everything.loc[np.sort(late)], tuple(f"w{i}" for i in sorted(bad))
    )
