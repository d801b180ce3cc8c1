"""Machines that err together are not so many witnesses: the correlation of their errors, and what each then counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

#: Correlation of errors that is expected before any honeypot: of one family (a model, a tool), and of others.
ALIKE, APART = 0.5, 0.1
#: Honeypot lines in common that this expectation is worth.
PRIOR_LINES = 20.0
#: Nobody is always right: one whose rates are 0 or 1 would carry all there is.
_EVER = 1e-3


def expected_correlation(families: Sequence[str]) -> np.ndarray:
    """What is believed before any honeypot, [n, n]."""
    names = np.array(families, dtype=object)
    believed = np.where(names[:, None] == names[None, :], ALIKE, APART)
    np.fill_diagonal(believed, 1.0)
    return believed


def error_correlation(labels: np.ndarray, truth: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Correlation [n, n] of annotators' errors, given the truth, shrunk towards what is expected.

    labels: [lines, n] of +1, -1, and 0 where one did not mark the line. truth: [lines] of +1 and -1.
    expected: [n, n], worth `PRIOR_LINES` lines. Errors are taken less their mean on lines of the same truth: that
    everybody misses faults more often than they call correct lines wrong is skill, not correlation.
    """
    marked = labels != 0
    wrong = np.where(marked, labels != truth[:, None], False).astype(float)
    score = np.zeros_like(wrong)
    for side in (1, -1):
        here = truth == side
        count = marked[here].sum(axis=0)
        rate = (wrong[here].sum(axis=0) + 1) / (count + 2)  # never 0 or 1: one error among few lines proves little
        score[here] = np.where(marked[here], (wrong[here] - rate) / np.sqrt(rate * (1 - rate)), 0.0)
    common = marked.astype(float).T @ marked
    found = (score.T @ score + PRIOR_LINES * expected) / (common + PRIOR_LINES)
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)


def discounts(correlation: np.ndarray) -> np.ndarray:
    """What each annotator's word counts, [n], above 0 to 1: ``1 / sum_j max(0, r_ij)``, its own correlation being 1.

    n annotators with the same correlation r then count as ``n / (1 + (n - 1) r)`` (Kish's design effect, Survey
    Sampling 1965): ten copies as one, two prompts of one model at r = .8 as 1.1, strangers as many as they are.
    """
    return 1.0 / np.maximum(correlation, 0.0).sum(axis=1)


def carried(marks: pa.Table, reliability: pa.Table) -> dict[str, float]:
    """By source, its share of the evidence in some marks: of the sum of what each adds to its line, in nats, unsigned.

    marks: ANNOTATION_SCHEMA. reliability: annotator_id, sensitivity, specificity. 0 where nobody's word counts.
    """
    known: Mapping[str, tuple[float, float]] = {
        row["annotator_id"]: (row["sensitivity"], row["specificity"]) for row in reliability.to_pylist()
    }
    total: dict[str, float] = dict.fromkeys(sorted(set(marks["source"].to_pylist())), 0.0)
    for row in marks.select(["annotator_id", "label", "confidence", "source"]).to_pylist():
        if row["label"] and row["annotator_id"] in known:
            right, wrong = np.clip(known[row["annotator_id"]], _EVER, 1 - _EVER)
            said = np.log(right / (1 - wrong)) if row["label"] > 0 else np.log((1 - right) / wrong)
            total[row["source"]] += abs(float(said)) * (1.0 if row["confidence"] is None else row["confidence"])
    whole = sum(total.values())
    return {source: amount / whole if whole else 0.0 for source, amount in total.items()}
