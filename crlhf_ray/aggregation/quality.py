"""How good an answer is, where the truth is known: accuracy, AUC, calibration error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array
from scipy.stats import rankdata

from crlhf_ray.aggregation.marks import Item


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """P(a positive scores above a negative), ties counting half; nan where one class is missing."""
    positive = np.asarray(positive, bool)
    n = int(positive.sum())
    rest = len(positive) - n
    if n == 0 or rest == 0:
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * rest))


def calibration_error(positive: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """ECE: gap between confidence in the answer given and accuracy, in equal-width bins of confidence [0.5, 1]."""
    positive, p = np.asarray(positive, bool), np.asarray(p, float)
    if not len(p):
        return float("nan")
    return confidence_gap(np.maximum(p, 1 - p), (p >= 0.5) == positive, bins, lowest=0.5)


def bin_of(confidence: np.ndarray, bins: int = 10, *, lowest: float = 0.0) -> np.ndarray:
    """Which of so many equal-width bins from ``lowest`` to 1 each value lies in, from 0 on."""
    return np.minimum(((confidence - lowest) / (1 - lowest) * bins).astype(int), bins - 1)


def confidence_gap(confidence: np.ndarray, right: np.ndarray, bins: int = 10, *, lowest: float = 0.0) -> float:
    """Mean gap between how sure answers are and how often they are right, in equal-width bins from ``lowest`` to 1."""
    where = bin_of(confidence, bins, lowest=lowest)
    gaps = np.bincount(where, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Agreement beyond chance for nominal labels: 1 is perfect, 0 is what chance gives (Krippendorff 2004, ch. 11).

    counts: how many annotators gave each label to each task [tasks, labels]. Tasks with one label say nothing. None
    where no two annotators share a task, or where all gave one label.
    """
    counts = np.asarray(counts, float)
    counts = counts[counts.sum(axis=1) >= 2]
    total = counts.sum(axis=1)
    pairs = counts.sum()
    chance = pairs**2 - (counts.sum(axis=0) ** 2).sum() if len(counts) else 0.0
    if not chance:
        return None
    observed = ((total**2 - (counts**2).sum(axis=1)) / (total - 1)).sum()
    return float(1 - (pairs - 1) * observed / chance)


def pairwise_kappa(
    task: np.ndarray, annotator: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Agreement of each two annotators on the tasks that both labelled (Cohen 1960).

    task, annotator, label: [n] votes, one a task and annotator, labels above 0 and below. Returns ``(pairs [m, 2],
    tasks [m], agreement [m], kappa [m])``: how many tasks they share, on what share they agree, and how much of what
    chance leaves that is; nan where both gave one and the same label to all. Memory grows with annotators squared.
    """
    shape = (int(task.max(initial=-1)) + 1, int(annotator.max(initial=-1)) + 1)
    up, down = (
        csr_array((np.ones(int(side.sum())), (task[side], annotator[side])), shape=shape)
        for side in (label > 0, label < 0)
    )
    both, neither, split = ((a.T @ b).toarray() for a, b in ((up, up), (down, down), (up, down)))
    shared = both + neither + split + split.T
    first, second = np.nonzero(np.triu(shared, 1))
    tasks, agreed = shared[first, second], (both + neither)[first, second] / shared[first, second]
    ups = (both + split)[first, second] / tasks, (both + split.T)[first, second] / tasks
    chance = ups[0] * ups[1] + (1 - ups[0]) * (1 - ups[1])
    kappa = np.full(len(tasks), np.nan)
    np.divide(agreed - chance, 1 - chance, out=kappa, where=chance < 1)
    return np.stack([first, second], axis=1), tasks.astype(int), agreed, kappa


def balanced_accuracy(positive: np.ndarray, p: np.ndarray) -> float:
    """Mean of the accuracies on the two classes; of one class where the other is missing."""
    positive = np.asarray(positive, bool)
    right = (np.asarray(p) >= 0.5) == positive
    return float(np.mean([right[side].mean() for side in (positive, ~positive) if side.any()]))


def majority_consensus(annotations: pa.Table) -> dict[str, dict[int, float]]:
    """Share of "correct" among the votes on each line, by item and line: what weighing nobody would say.

    annotations: ANNOTATION_SCHEMA. Lines on which everybody was unsure are left out.
    """
    votes = annotations.filter(pc.not_equal(annotations["label"], 0))
    votes = votes.append_column("correct", pc.greater(votes["label"], 0).cast(pa.float64()))
    shares = votes.group_by(["item_id", "line"]).aggregate([("correct", "mean")])
    found: dict[str, dict[int, float]] = {}
    for item, line, share in zip(
        *(shares[name].to_pylist() for name in ("item_id", "line", "correct_mean")), strict=True
    ):
        found.setdefault(item, {})[line] = share
    return found


def consensus_quality(
    consensus: Mapping[str, Mapping[int, float]], truth: Mapping[str, np.ndarray], items: Iterable[Item]
) -> dict[str, float]:
    """``consensus_accuracy``, ``consensus_auc`` and ``consensus_ece`` over the items' reviewed lines.

    consensus: p_correct by item and line; truth: +1 or -1 for each line of each item whose truth is known. Lines
    without an answer, and items without a truth, are left out. nan where nothing can be said.
    """
    pairs = [
        (truth[item.item_id][line] > 0, consensus[item.item_id][line])
        for item in items
        if item.item_id in truth
        for line in item.to_review
        if line in consensus.get(item.item_id, {})
    ]
    if not pairs:
        return dict.fromkeys(("consensus_accuracy", "consensus_auc", "consensus_ece"), float("nan"))
    positive, p = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], float)
    return {
        "consensus_accuracy": float(((p >= 0.5) == positive).mean()),
        "consensus_auc": auc(positive, p),
        "consensus_ece": calibration_error(positive, p),
    }
