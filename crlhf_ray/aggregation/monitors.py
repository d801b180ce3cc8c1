"""Signs that the crowd or its scores cannot be trusted. Each is a pure function with a threshold that has a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm

#: A standard score that pure chance passes once in 30,000 looks: alerts are looked at every round, for every person.
RARE = 4.0


@dataclass(frozen=True)
class Alert:
    """kind: a fixed name. message: what was seen. remedy: what to do. subjects: the annotators or items concerned."""

    kind: str
    message: str
    remedy: str
    subjects: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}; {self.remedy}"


def frozen_reliabilities(rates: np.ndarray, start: np.ndarray, labels: np.ndarray, *, least: int = 1) -> list[Alert]:
    """Annotators have labelled, yet nobody's reliability has left its starting value: the consensus means nothing.

    rates, start: [n, 2] sensitivity and specificity now and before any label. labels: [n]. Any movement at all clears
    it (1e-9, far above rounding), because with Eq. 8 a crowd at 0.5 without gold stays there exactly, for ever.
    """
    enough = labels >= least
    if not enough.any() or np.abs(rates[enough] - start).max() > 1e-9:
        return []
    return [
        Alert(
            "frozen reliabilities",
            f"{int(labels.sum())} labels of {_people(enough.sum())} moved no reliability off its start",
            "the consensus is meaningless: add honeypots (gold lines) that these annotators answer, or use two_coin",
        )
    ]


def score_stagnation(scores: np.ndarray, *, least: float = 0.01) -> list[Alert]:
    """A round's scores (0 to 1) hardly differ, so there is nothing to learn from.

    least: 0.01, a tenth of what one line is worth in a ten-line program; below it noise in the consensus outweighs
    any real difference between two programs.
    """
    if len(scores) < 2 or (spread := float(np.std(scores))) >= least:
        return []
    return [
        Alert(
            "score stagnation",
            f"the scores of {len(scores)} programs have a standard deviation of only {spread:.4f}",
            "raise the sampling temperature, choose problems that some samples pass and some fail, or use soft scores",
        )
    ]


def skipped_update(signal: float, floor: float) -> list[Alert]:
    """The learner took no step, because the scores of a batch differ by less than its floor; both in units of reward.

    signal: standard deviation of the scores, within problems where these are what the learner compares.
    """
    if signal >= floor:
        return []
    return [
        Alert(
            "skipped update",
            f"the scores that are compared have a standard deviation of {signal:.4f}, below the floor of {floor:g}",
            "nothing was learnt in this round: choose problems that some samples pass and some fail, sample more "
            "programs a problem, or lower learner.signal_floor",
        )
    ]


def annotator_collapse(
    names: Sequence[str], before: np.ndarray, now: np.ndarray, sd: np.ndarray, *, least: float = 0.2
) -> list[Alert]:
    """Reliabilities that swing further between two looks than their own uncertainty allows.

    before, now, sd: [n, 2] sensitivity and specificity then and now, and the posterior's standard deviation then.
    An annotator counts when a rate moved by `RARE` standard deviations and by ``least``: 0.2 turns a good annotator
    into a coin, and less changes little in the consensus.
    """
    moved = np.abs(now - before)
    swung = ((moved > RARE * sd) & (moved > least)).any(axis=1)
    if not swung.any():
        return []
    subjects = tuple(np.asarray(names, object)[swung].tolist())
    return [
        Alert(
            "annotator collapse",
            f"reliabilities of {_people(len(subjects))} moved by up to {moved[swung].max():.2f} since the last look",
            "give them honeypots, and look at what they answered; if their skill drifts set aggregation.decay to 0.98",
            subjects,
        )
    ]


def spammer_score(sensitivity: np.ndarray, specificity: np.ndarray) -> np.ndarray:
    """``(sensitivity + specificity - 1)^2``: 0 says nothing about the truth, 1 says all (Raykar and Yu 2011)."""
    return (sensitivity + specificity - 1) ** 2


def spammers(names: Sequence[str], rates: np.ndarray, sd: np.ndarray, *, most: float = 0.05) -> list[Alert]:
    """Annotators whose votes carry nothing, and those who are reliably wrong.

    rates, sd: [n, 2] posterior mean and standard deviation of sensitivity and specificity. A spammer's score is below
    ``most`` with 95% certainty: 0.05 is sens + spec = 1.22, where twenty votes weigh as much as one good one.
    Reliably wrong is sens + spec < 1 by `RARE` standard deviations: these votes help, turned round, but such people
    know the answers and will change when it pays.
    """
    excess = rates.sum(axis=1) - 1
    margin = np.sqrt((sd**2).sum(axis=1))
    alerts = []
    idle = np.abs(excess) + 1.96 * margin < np.sqrt(most)
    if idle.any():
        alerts.append(
            Alert(
                "spammers",
                f"{_people(idle.sum())} answered without regard to the truth",
                "stop asking them; their votes weigh next to nothing already",
                tuple(np.asarray(names, object)[idle].tolist()),
            )
        )
    hostile = excess < -RARE * margin
    if hostile.any():
        alerts.append(
            Alert(
                "adversaries",
                f"{_people(hostile.sum())} went wrong more often than chance allows",
                "stop asking them, check their answers for collusion, and check more items late",
                tuple(np.asarray(names, object)[hostile].tolist()),
            )
        )
    return alerts


def excess_agreement(votes: csr_array, expected: csr_array, *, least_common: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of annotators who agree more than their skills explain: ``(pairs [m, 2], standard scores [m])``.

    votes: [tasks, annotators] of +1 and -1 where cast. expected: same places, the mean of that vote given the
    consensus and the annotator's rates. Under conditional independence the product of two residuals has mean 0 and
    variance ``(1 - e1^2)(1 - e2^2)``; its sum over common tasks is a standard normal score. Pairs with fewer than
    ``least_common`` tasks are left out: the normal approximation needs them.
    """
    residual = (votes - expected).tocsc()
    variance = votes.copy()
    variance.data = np.ones_like(votes.data)
    common = (variance.T @ variance).tocoo()
    variance = (variance - expected.multiply(expected)).tocsc()
    total = (residual.T @ residual).tocsr()
    scale = (variance.T @ variance).tocsr()
    pick = (common.row < common.col) & (common.data >= least_common)
    row, col = common.row[pick], common.col[pick]
    if not len(row):
        return np.empty((0, 2), np.int64), np.empty(0)
    score = np.asarray(total[row, col]).ravel() / np.sqrt(np.maximum(np.asarray(scale[row, col]).ravel(), 1e-12))
    return np.stack([row, col], axis=1), score


def collusion(
    names: Sequence[str], votes: csr_array, expected: csr_array, *, wrongly: float = 0.01, margin: float = RARE
) -> list[Alert]:
    """Alert for pairs whose `excess_agreement` chance would not bring about among so many pairs.

    wrongly: probability of one false alert in an honest crowd (Bonferroni over pairs). margin: on top of that, for
    hard tasks, on which honest people err together. Where ``expected`` comes from honeypots alone 2 is enough: no pair
    passes 4.6 on the five public sets, and 60 common tasks convict those who copy always. Where what the suspects
    said shaped it, honest pairs come to 7.
    """
    pairs, score = excess_agreement(votes, expected)
    if not len(score):
        return []
    suspect = score > norm.isf(wrongly / len(score)) + margin
    if not suspect.any():
        return []
    people, ties = np.unique(pairs[suspect], return_counts=True)
    worst = people[np.argsort(-ties, kind="stable")]
    return [
        Alert(
            "collusion",
            f"{int(suspect.sum())} pairs among {len(people)} annotators agree far more than their skills explain",
            "compare their answers and times; count a group as one voice, or stop asking it; check more items late",
            tuple(np.asarray(names, object)[worst].tolist()),
        )
    ]


def honeypot_exposure(
    names: Sequence[str],
    gold_right: np.ndarray,
    gold_labels: np.ndarray,
    other_right: np.ndarray,
    other_labels: np.ndarray,
    *,
    least: float = 0.15,
) -> list[Alert]:
    """Annotators who do much better on honeypots than on lines that were not known to be checked.

    Arrays [n]: how many were right, of how many, on honeypots, and on the others (checked late, or by the consensus;
    then ``other_right`` is a sum of posteriors). A two-proportion test at `RARE`; ``least`` allows honeypots, which
    are mutated references, to be somewhat easier than generated lines.
    """
    n1, n2 = np.maximum(gold_labels, 1), np.maximum(other_labels, 1)
    gap = gold_right / n1 - other_right / n2
    pooled = (gold_right + other_right + 1) / (gold_labels + other_labels + 2)
    score = gap / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    exposed = (score > RARE) & (gap > least) & (gold_labels > 0) & (other_labels > 0)
    if not exposed.any():
        return []
    return [
        Alert(
            "honeypot exposure",
            f"{_people(exposed.sum())} did better on honeypots than elsewhere, by {gap[exposed].mean():.0%}",
            "rotate the honeypots and make them look like any other item; check items late; trust late checks only",
            tuple(np.asarray(names, object)[exposed].tolist()),
        )
    ]


def label_shortage(
    labels: np.ndarray, *, wanted: int = 3, share: float = 0.1, what: str = "lines", of: str = "marks"
) -> list[Alert]:
    """Too many lines, or whatever what says, with too few marks, or of. labels: [lines], unsure ones excluded.

    wanted: 3, the fewest that can outvote one mistake. share: a tenth of the lines may be on their way.
    """
    if not len(labels) or (short := float(np.mean(labels < wanted))) <= share:
        return []
    return [
        Alert(
            "label shortage",
            f"{short:.0%} of {len(labels)} {what} have fewer than {wanted} {of}",
            "ask more annotators, or put fewer programs before them in a round",
        )
    ]


def honeypot_shortage(unseen: Mapping[str, int], *, wanted: int) -> list[Alert]:
    """Annotators who will soon have seen every honeypot. unseen: how many each has not seen yet.

    wanted: what the next round would show; with fewer, an annotator's reliability no longer follows their work.
    """
    short = tuple(name for name, count in unseen.items() if count < wanted)
    if not short:
        return []
    return [
        Alert(
            "honeypot shortage",
            f"fewer than {wanted} honeypots are left that {_people(len(short))} did not see yet",
            "make more a problem (feedback.honeypots_per_problem), add problems, or show fewer a round",
            short,
        )
    ]


def unchecked(count: int) -> list[Alert]:
    """Programs of a round that the sandbox failed on."""
    if not count:
        return []
    return [
        Alert(
            "unchecked programs",
            f"the sandbox failed on {count} program{'' if count == 1 else 's'} of the round, left out of it",
            "see that the machine has memory to spare, or lower sandbox.slots",
        )
    ]


def _people(count: int) -> str:
    return f"{count} annotator{'' if count == 1 else 's'}"
