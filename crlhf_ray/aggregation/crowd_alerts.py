"""What the aggregation actor looks for in the crowd as it stands."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from crlhf_ray.aggregation.encoding import Votes
from crlhf_ray.aggregation.monitors import (
    RARE,
    Alert,
    annotator_collapse,
    collusion,
    frozen_reliabilities,
    honeypot_exposure,
    label_shortage,
    spammers,
)
from crlhf_ray.aggregation.state import CrowdState

#: Pairs grow with the square: 2,000 annotators make two million.
MOST_FOR_PAIRS = 2_000
#: Labels on honeypots an annotator, on average, that tell skills apart from those of others.
_GOLD_LABELS = 10


def crowd_alerts(
    names: list[str], state: CrowdState, last_look: list[tuple[np.ndarray, np.ndarray]], labels_wanted: int
) -> list[Alert]:
    """See `Aggregator.alerts`. last_look: rates and their standard deviations at the call before; replaced."""
    everyone, lines = np.arange(state.n_workers), np.arange(state.n_tasks)
    votes, cast = state.votes(), state.n_labels(lines)
    found: list[Alert] = []
    if state.coin.coins and len(names):
        start = state.newcomer()
        rates, shapes = np.stack(state.rates(everyone), axis=1), np.stack(state.beta(everyone), axis=1)
        total = shapes.sum(axis=2)
        sd = np.sqrt(shapes.prod(axis=2) / (total**2 * (total + 1)))
        found += frozen_reliabilities(rates, start, state.worker_labels[everyone])
        for before, sd_before in last_look:
            known = slice(len(before))
            found += annotator_collapse(names[known], before, rates[known], sd_before)
        last_look[:] = [(rates, sd)]
        found += honeypot_exposure(names, *_right_on_and_off_gold(state, votes))
        found += spammers(names, rates, sd)
        if len(names) <= MOST_FOR_PAIRS:
            found += _collusion(names, state, votes)
    return found + label_shortage(cast[state.task_gold[lines] == 0], wanted=labels_wanted)


def _right_on_and_off_gold(state: CrowdState, votes: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By annotator: votes that were right and votes in all, on gold lines and on others (there by the consensus)."""
    on_gold, cast = state.task_gold[votes.task] != 0, votes.label != 0
    p = expit(state.log_odds(np.arange(state.n_tasks)))[votes.task]
    right = np.where(votes.label > 0, p, 1 - p)
    counts = []
    for where in (cast & on_gold, cast & ~on_gold):
        counts.append(np.bincount(votes.worker[where], right[where], minlength=state.n_workers))
        counts.append(np.bincount(votes.worker[where], minlength=state.n_workers))
    return counts[0], counts[1], counts[2], counts[3]


def _collusion(names: list[str], state: CrowdState, votes: Votes) -> list[Alert]:
    """By what honeypots alone tell of people and lines, where they tell enough: a large group that copies shapes the
    consensus, and then agrees with it no more than it should."""
    everyone, lines = np.arange(state.n_workers), np.arange(state.n_tasks)
    known = np.flatnonzero(state.task_gold[lines])
    margin = RARE
    if state.worker_gold[everyone].sum() >= _GOLD_LABELS * len(everyone):
        whole, margin = state, 2.0
        state = CrowdState(whole.coin, prior=whole.prior, learn_from="honeypots")
        state.update(votes, known, whole.task_gold[known])
    rates = np.stack(state.rates(everyone), axis=1)
    return collusion(names, *_votes_and_expected(state, votes, rates), margin=margin)


def _votes_and_expected(state: CrowdState, votes: Votes, rates: np.ndarray) -> tuple[csr_array, csr_array]:
    """Votes as +1/-1 and their means given the consensus and the annotator's rates, [lines, annotators]."""
    cast = votes.label != 0
    task, worker = votes.task[cast], votes.worker[cast]
    p = expit(state.log_odds(np.arange(state.n_tasks)))[task]
    says_correct = p * rates[worker, 0] + (1 - p) * (1 - rates[worker, 1])
    shape = (state.n_tasks, state.n_workers)
    label = votes.label[cast].astype(float)
    return csr_array((label, (task, worker)), shape=shape), csr_array(
        (2 * says_correct - 1, (task, worker)), shape=shape
    )
