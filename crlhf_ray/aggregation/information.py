"""How much labels tell of an annotator when the truth itself is only estimated: Louis' observed information."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

#: Above so many rates each annotator's are taken alone: the whole matrix grows with the square.
_TOGETHER = 300


def information_kept(
    task: np.ndarray,
    score: np.ndarray,
    place: np.ndarray,
    posterior: np.ndarray,
    complete: np.ndarray,
    share_total: float,
) -> tuple[np.ndarray, float]:
    """``(by rate [R], of the share of correct tasks)``: the part of the soft counts that a posterior may count, 0 to 1.

    Soft counts take the tasks' posteriors for certain, so that intervals made of them are too narrow. With log-odds as
    parameters, the observed information is the complete one less the missing one (Louis 1982,
    doi:10.1111/j.2517-6161.1982.tb01203.x): ``J = D - sum_j p_j (1 - p_j) g_j g_j'``. ``D`` is diagonal,
    ``n r (1 - r)`` for a rate r that stands on n counts. ``g_j`` is what the class of task j changes in the score:
    ``v - sens`` and ``spec - w`` for an annotator who said v (1 for "correct", else 0) and w = 1 - v, and 1 for the
    share. The part is ``1 / (D_rr (J^-1)_rr)``; nan or out of range where labels without gold tell nothing.

    score, place: the entries of g [n entries], with their task's and their rate's number. posterior: P(correct) of the
    tasks without gold. complete: D of the rates, [R]. share_total: tasks that the share stands on.
    """
    n, doubt = len(complete), posterior * (1 - posterior)
    share = float(posterior.mean()) if len(posterior) else 0.5
    share_complete = max(share_total * share * (1 - share), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        if n > _TOGETHER:
            missing = np.bincount(place, score**2 * doubt[task], minlength=n)
            return 1 - missing / complete, 1 - float(doubt.sum()) / share_complete
        everyone = np.arange(len(posterior))
        entries = np.concatenate([score, np.ones(len(posterior))])
        rows, columns = np.concatenate([task, everyone]), np.concatenate([place, np.full(len(posterior), n)])
        g = csr_array((entries, (rows, columns)), shape=(len(posterior), n + 1))
        diagonal = np.append(complete, share_complete)
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12))
        missing = (g.T @ g.multiply(doubt[:, None]).tocsr()).toarray()
        variance = np.diag(np.linalg.pinv(np.eye(n + 1) - missing * scale * scale[:, None], hermitian=True))
        kept = 1 / variance
    return kept[:n], float(kept[n])
