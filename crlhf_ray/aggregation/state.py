"""The streaming core: soft counts by worker, votes by task, and one incremental step of EM for what a batch touches.

Pure arrays on integer codes, no names, no clock. `CrowdState.update` is an incremental EM step (Neal and Hinton 1998):
the touched tasks are estimated with reliabilities frozen, then each of their votes is credited again, in place of what
it was credited before. So late labels, late gold and corrections leave exactly the state that honest bookkeeping
demands.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit

from crlhf_ray.aggregation.coin import CROWD, KEPT, NEGATIVES, POSITIVES, SHARE_KEPT, STRENGTHS, Coin
from crlhf_ray.aggregation.encoding import Votes
from crlhf_ray.aggregation.information import information_kept
from crlhf_ray.errors import DataError

#: Tasks that the guess of even shares is worth where the prior is learnt.
EVEN_TASKS = 10.0
#: Where the prior is learnt, all tasks are estimated again so many times whenever the strengths are learnt again, as
#: long as there are no more labels than this: what more labels teach outweighs what the first were taken for.
_SWEEPS, _SWEPT_LABELS = 3, 20_000
#: The crowd's strengths are learnt again when it has given so many times as many labels, from so many of its members.
_RELEARN = 1.5
_TEACHERS = 10_000
#: Sorts annotators by their counts, only alike ones side by side; no two whole counts have the same product with it.
_SORTING = np.sqrt([1.0, 2.0, 3.0, 5.0])
_WORKER = ("worker_counts", "worker_kept", "worker_labels", "worker_gold", "worker_clock")
_TASK = ("task_start", "task_length", "task_credited", "task_gold")
_VOTE = ("vote_worker", "vote_label", "vote_weight", "vote_time", "vote_clock")
NONE = np.empty(0, np.int64)
NO_VOTES = Votes(NONE, NONE, np.empty(0, np.int8), np.empty(0), NONE)


class CrowdState:
    """Everything known about annotators and tasks.

    coin: turns counts into rates. prior: P(positive); None to learn it (inside a one-coin model that collapses to the
    majority class). learn_from: "all" credits every task by its posterior, "honeypots" only those with gold.
    decay: factor on an annotator's old counts at each new label of theirs; 1 never forgets, .98 follows drift.
    """

    def __init__(self, coin: Coin, *, prior: float | None = 0.5, learn_from: str = "all", decay: float = 1.0):
        self.coin, self.prior, self.learn_from, self.decay = coin, prior, learn_from, decay
        self.n_workers = self.n_tasks = 0
        self.worker_counts = np.zeros((16, 4))
        self.worker_kept = np.zeros((16, 2))  # 0: not known, as the crowd's
        self.worker_labels = np.zeros(16, np.int64)
        self.worker_gold = np.zeros(16, np.int64)
        self.worker_clock = np.zeros(16, np.int64)
        self.crowd = np.zeros(CROWD)
        self.crowd[STRENGTHS] = coin.strengths(self.worker_counts[:0], self.crowd)
        self.crowd[KEPT] = self.crowd[SHARE_KEPT] = 1.0
        self.cast = self.cast_on_gold = 0  # labels in all
        self.task_start = np.zeros(16, np.int64)
        self.task_length = np.zeros(16, np.int64)
        self.task_credited = np.full(16, np.nan)
        self.task_gold = np.zeros(16, np.int8)
        self.used = 0
        self.vote_worker = np.zeros(64, np.int32)
        self.vote_label = np.zeros(64, np.int8)
        self.vote_weight = np.zeros(64, np.float64)
        self.vote_time = np.zeros(64, np.int64)
        self.vote_clock = np.zeros(64, np.int64)

    def prior_log_odds(self) -> float:
        """Log-odds of the positive class before any vote: as set, or as the tasks without gold have shown so far.

        Tasks with gold say nothing of it: honeypots were made, not drawn from the work.
        """
        if self.prior is not None:
            return math.log(self.prior / (1 - self.prior))
        negatives, positives = self.crowd[[NEGATIVES, POSITIVES]].tolist()
        return math.log((positives + EVEN_TASKS / 2) / (negatives + EVEN_TASKS / 2))

    def share(self) -> tuple[float, float]:
        """Beta parameters of the share of positive tasks in the work, as the tasks without gold show it."""
        negatives, positives = self.crowd[[NEGATIVES, POSITIVES]] + EVEN_TASKS / 2
        return float(self.crowd[SHARE_KEPT] * positives), float(self.crowd[SHARE_KEPT] * negatives)

    # -- growing -------------------------------------------------------------------------------------------------

    def reserve(self, n_workers: int, n_tasks: int) -> None:
        """Make room for codes below these numbers."""
        if n_workers > len(self.worker_labels):
            size = max(n_workers, 2 * len(self.worker_labels))
            for name in _WORKER:
                setattr(self, name, _grown(getattr(self, name), size))
        if n_tasks > len(self.task_start):
            size = max(n_tasks, 2 * len(self.task_start))
            old = len(self.task_credited)
            for name in _TASK:
                setattr(self, name, _grown(getattr(self, name), size))
            self.task_credited[old:] = np.nan
        self.n_workers, self.n_tasks = max(self.n_workers, n_workers), max(self.n_tasks, n_tasks)

    def _room_for_votes(self, extra: int) -> None:
        if self.used + extra <= len(self.vote_worker):
            return
        live = int(self.task_length[: self.n_tasks].sum())
        size = max(2 * (live + extra), 64)
        tasks = np.arange(self.n_tasks)
        slots, _ = self._slots(tasks)
        for name in _VOTE:
            values = getattr(self, name)
            fresh = np.zeros(size, values.dtype)
            fresh[:live] = values[slots]
            setattr(self, name, fresh)
        lengths = self.task_length[: self.n_tasks]
        self.task_start[: self.n_tasks] = np.cumsum(lengths) - lengths
        self.used = live

    def _slots(self, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the tasks' votes, and for each the position of its task in ``tasks``."""
        lengths = self.task_length[tasks]
        local = np.repeat(np.arange(len(tasks)), lengths)
        ends = np.cumsum(lengths)
        return np.arange(len(local)) + np.repeat(self.task_start[tasks] - (ends - lengths), lengths), local

    # -- learning ------------------------------------------------------------------------------------------------

    def update(self, votes: Votes, gold_task: np.ndarray = NONE, gold_truth: np.ndarray = NONE) -> None:
        """Take in votes (all at once: their order does not matter) and gold, and credit the annotators concerned.

        A vote supersedes an earlier one of the same annotator on the same task, by time, and by arrival where times
        are equal. Known truth replaces the posterior with certainty. Codes new to the state make it grow.
        """
        if not len(votes) and not len(gold_task):
            return
        self.reserve(
            max(self.n_workers, int(votes.worker.max(initial=-1)) + 1),
            max(self.n_tasks, int(votes.task.max(initial=-1)) + 1, int(gold_task.max(initial=-1)) + 1),
        )
        touched, local = np.unique(np.concatenate([votes.task, gold_task]), return_inverse=True)
        was_gold = self.task_gold[touched] != 0
        self.task_gold[gold_task] = gold_truth
        slots, old_task = self._slots(touched)
        task = np.concatenate([old_task, local[: len(votes)]])
        worker, label, weight, time = (
            np.concatenate([getattr(self, f"vote_{name}")[slots], getattr(votes, name)])
            for name in ("worker", "label", "weight", "time")
        )
        crew, who = np.unique(worker, return_inverse=True)
        old, old_cast, new = who[: len(slots)], label[: len(slots)] != 0, who[len(slots) :]

        fresh = np.bincount(new[votes.label != 0], minlength=len(crew))
        clock = np.concatenate([self.vote_clock[slots], self._clocks(votes, crew, new, fresh)])
        self.worker_clock[crew] += fresh
        faded = weight * self.decay ** (self.worker_clock[worker] - clock)
        credited = np.concatenate([self.task_credited[touched][old_task], np.full(len(votes), np.nan)])
        own = _contributions(label, faded * self._teaches(was_gold)[task], credited)

        order = np.lexsort((time, who, task))
        last = _last_of_run(task[order], who[order])
        keep = order[last]
        own = own[order]
        if len(keep) < len(order):
            own = np.add.reduceat(own, np.append(0, np.flatnonzero(last)[:-1] + 1), axis=0)
        task, worker, who, label, weight = task[keep], worker[keep], who[keep], label[keep], weight[keep]

        counts = self.worker_counts[crew] * (self.decay**fresh)[:, None]
        log_odds = self._log_odds(len(touched), task, label, weight, counts[who] - own)
        gold = self.task_gold[touched]
        posterior = np.where(gold != 0, (gold + 1) / 2, expit(log_odds))
        gain = _contributions(label, faded[keep] * self._teaches(gold != 0)[task], posterior[task]) - own
        for column in range(4):
            counts[:, column] += np.bincount(who, gain[:, column], minlength=len(crew))
        np.maximum(counts, 0.0, out=counts)  # subtraction may leave -1e-17 where the count is nought
        self.crowd[:4] += (counts - self.worker_counts[crew]).sum(axis=0)
        self.worker_counts[crew] = counts
        cast, is_gold = label != 0, gold != 0
        had = np.bincount(old_task[old_cast], minlength=len(touched)) > 0
        has = np.bincount(task[cast], minlength=len(touched)) > 0
        self._share(self.task_credited[touched][had & ~was_gold], -1)
        self._share(posterior[has & ~is_gold], 1)
        self.task_credited[touched] = posterior
        self._store(touched, task, worker, label, weight, time[keep], clock[keep])
        on_gold, were_on_gold = who[cast & is_gold[task]], old[old_cast & was_gold[old_task]]
        self._tally(self.worker_gold, crew, on_gold, were_on_gold)
        self._tally(self.worker_labels, crew, who[cast], old[old_cast])
        self._count(int(cast.sum()) - int(old_cast.sum()), len(on_gold) - len(were_on_gold))

    def _tally(self, total: np.ndarray, crew: np.ndarray, now: np.ndarray, before: np.ndarray) -> None:
        """Count votes instead of those that were counted before; both by place in the crew."""
        total[crew] += np.bincount(now, minlength=len(crew)) - np.bincount(before, minlength=len(crew))

    def _teaches(self, gold: np.ndarray) -> np.ndarray:
        """1 for tasks from whose votes their annotators' rates are learnt, given which have gold, else 0."""
        return np.ones(len(gold)) if self.learn_from == "all" else gold.astype(float)

    def _share(self, posterior: np.ndarray, sign: int) -> None:
        """Add or take away these tasks' classes; nan where nothing is known of them."""
        positive = np.nansum(posterior)
        self.crowd[POSITIVES] += sign * positive
        self.crowd[NEGATIVES] += sign * (np.count_nonzero(posterior == posterior) - positive)

    def _count(self, more: int, on_gold: int) -> None:
        """Count labels, and those on gold; at each step of a geometric series of either the crowd is learnt again."""
        before = _step(self.cast), _step(self.cast_on_gold)
        self.cast, self.cast_on_gold = self.cast + more, self.cast_on_gold + on_gold
        now = _step(self.cast), _step(self.cast_on_gold)
        if now[0] <= before[0] and (now[1] <= before[1] or self.cast > _SWEPT_LABELS):
            return
        self.crowd[STRENGTHS] = self.coin.strengths(self._teachers(), self.crowd)
        if self.cast <= _SWEPT_LABELS:
            for _ in range(_SWEEPS if self.prior is None else 0):
                self.sweep()
            self._weigh_doubt()

    def _weigh_doubt(self) -> None:
        """What the soft counts are worth to the rates' posteriors and to the share's, by Louis' information."""
        tasks, everyone = np.arange(self.n_tasks), np.arange(self.n_workers)
        slots, task = self._slots(tasks)
        worker, label = self.vote_worker[slots], self.vote_label[slots]
        faded = self.vote_weight[slots] * self.decay ** (self.worker_clock[worker] - self.vote_clock[slots])
        is_gold = self.task_gold[tasks] != 0
        work = (np.bincount(task[label != 0], minlength=self.n_tasks) > 0) & ~is_gold
        shapes = self.coin.beta(self.worker_counts[everyone], self.crowd)
        rates = np.stack([shape[:, 0] / shape.sum(axis=1) for shape in shapes])
        total = np.stack([shape.sum(axis=1) for shape in shapes])
        use = work[task] & (label != 0) & (self.learn_from == "all") & (self.coin.coins > 0)
        up, who = label[use] > 0, worker[use]
        score = faded[use] * np.stack([up - rates[0, who], rates[1, who] - ~up])
        place = np.stack([who, who + self.n_workers])
        complete = total * rates * (1 - rates)
        if self.coin.coins == 1:
            score, place, complete = score.sum(axis=0), who, complete[0]
        entries = np.tile((np.cumsum(work) - 1)[task[use]], self.coin.coins)
        share = float(self.crowd[NEGATIVES : POSITIVES + 1].sum()) + EVEN_TASKS
        kept, self.crowd[SHARE_KEPT] = information_kept(
            entries, score.ravel(), place.ravel(), expit(self.log_odds(tasks[work])), complete.ravel(), share
        )
        # What honeypots and the prior tell is certain.
        own = _contributions(label, faded * is_gold[task], self.task_credited[task])
        gold = np.stack([np.bincount(worker, own[:, c], minlength=self.n_workers) for c in range(4)], axis=1)
        floor = np.stack([shape.sum(axis=1) for shape in self.coin.beta(gold, self.crowd)]) / total
        kept = np.broadcast_to(kept.reshape(-1, self.n_workers), (2, self.n_workers))
        self.worker_kept[everyone] = np.clip(np.where(np.isfinite(kept) & (kept > 0), kept, floor), floor, 1.0).T
        self.crowd[KEPT] = self.worker_kept[everyone].mean(axis=0)

    def _teachers(self) -> np.ndarray:
        """Counts [n, 4] of up to `_TEACHERS` annotators, spread evenly over all, whatever the order they came in."""
        counts = self.worker_counts[: self.n_workers]
        if self.n_workers <= _TEACHERS:
            return counts
        places = (np.arange(_TEACHERS) + 0.5) * (self.n_workers / _TEACHERS)
        return counts[np.argsort(counts @ _SORTING)[places.astype(np.int64)]]

    def sweep(self) -> None:
        """One full EM pass: estimate every task again with the present reliabilities, and credit all votes by that."""
        self.update(NO_VOTES, np.arange(self.n_tasks), self.task_gold[: self.n_tasks].copy())

    def _clocks(self, votes: Votes, crew: np.ndarray, who: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """How many labels each new vote's annotator will have given when it was cast (equal times share the last)."""
        start = self.worker_clock[crew]
        if self.decay == 1 or not len(votes) or votes.time.min() == votes.time.max():
            return (start + fresh)[who]
        order = np.lexsort((votes.time, who))
        cast = np.cumsum(votes.label[order] != 0)
        ends = np.cumsum(np.bincount(who, minlength=len(crew)))
        before = np.append(0, cast)[ends - np.bincount(who, minlength=len(crew))]
        last = _last_of_run(who[order], votes.time[order])
        group_end = np.flatnonzero(last)[np.cumsum(last) - last]
        clock = np.empty(len(votes), np.int64)
        clock[order] = cast[group_end] + (start - before)[who[order]]
        return clock

    def _store(self, touched, task, worker, label, weight, time, clock) -> None:  # type: ignore[no-untyped-def]
        """Write the touched tasks' votes (sorted by task) behind all others; their old places become free."""
        lengths = np.bincount(task, minlength=len(touched))
        self.task_length[touched] = 0
        self._room_for_votes(len(task))
        place = slice(self.used, self.used + len(task))
        self.vote_worker[place], self.vote_label[place], self.vote_weight[place] = worker, label, weight
        self.vote_time[place], self.vote_clock[place] = time, clock
        self.task_start[touched] = self.used + np.cumsum(lengths) - lengths
        self.task_length[touched] = lengths
        self.used += len(task)

    # -- answering -----------------------------------------------------------------------------------------------

    def _log_odds(
        self, n: int, task: np.ndarray, label: np.ndarray, weight: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """Eq. 7 with both kinds of error: prior log-odds plus each vote's log-likelihood ratio, by task."""
        sensitivity, specificity = self.coin.rates(counts, self.crowd)
        evidence = np.where(
            label > 0, np.log(sensitivity) - np.log1p(-specificity), np.log1p(-sensitivity) - np.log(specificity)
        )
        return self.prior_log_odds() + np.bincount(task, np.where(label == 0, 0.0, weight * evidence), minlength=n)

    def log_odds(self, tasks: np.ndarray) -> np.ndarray:
        """Log-odds of the positive class with the reliabilities of now; gold tasks are +inf or -inf.

        What a vote's own task taught about its annotator is left out of that vote's weight, so no vote vouches for
        itself; this matters where annotators have few labels.
        """
        slots, task = self._slots(tasks)
        worker, label, weight = self.vote_worker[slots], self.vote_label[slots], self.vote_weight[slots]
        faded = weight * self.decay ** (self.worker_clock[worker] - self.vote_clock[slots])
        teaches = self._teaches(self.task_gold[tasks] != 0)[task]
        own = _contributions(label, faded * teaches, self.task_credited[tasks][task])
        answer = self._log_odds(len(tasks), task, label, weight, np.maximum(self.worker_counts[worker] - own, 0.0))
        gold = self.task_gold[tasks]
        answer[gold > 0], answer[gold < 0] = np.inf, -np.inf
        return answer

    def n_labels(self, tasks: np.ndarray) -> np.ndarray:
        """How many votes, abstentions excluded, each task has."""
        slots, task = self._slots(tasks)
        return np.bincount(task[self.vote_label[slots] != 0], minlength=len(tasks))

    def rates(self, workers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(sensitivity, specificity)`` of these annotators."""
        return self.coin.rates(self.worker_counts[workers], self.crowd)

    def newcomer(self) -> np.ndarray:
        """``(sensitivity, specificity)``, [2], of anyone before anybody labelled anything."""
        return np.stack(CrowdState(self.coin).rates(np.array([0])))[:, 0]

    def beta(self, workers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [n, 2] of these annotators' sensitivity and specificity."""
        kept = np.where(self.worker_kept[workers] > 0, self.worker_kept[workers], self.crowd[KEPT])
        sensitivity, specificity = self.coin.beta(self.worker_counts[workers], self.crowd)
        return sensitivity * kept[:, :1], specificity * kept[:, 1:]

    def votes(self) -> Votes:
        """All standing votes, ordered by task and annotator."""
        slots, task = self._slots(np.arange(self.n_tasks))
        return Votes(
            task,
            self.vote_worker[slots].astype(np.int64),
            self.vote_label[slots],
            self.vote_weight[slots],
            self.vote_time[slots],
        )

    def faded(self) -> np.ndarray:
        """What each of `votes` counts for now: its weight, less what ``decay`` took."""
        slots, _ = self._slots(np.arange(self.n_tasks))
        return self.vote_weight[slots] * self.decay ** (
            self.worker_clock[self.vote_worker[slots]] - self.vote_clock[slots]
        )

    # -- keeping -------------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole state, compact and in a canonical order: equal states give equal arrays."""
        slots, _ = self._slots(np.arange(self.n_tasks))
        arrays: dict[str, np.ndarray] = {"crowd": self.crowd}
        arrays |= {name: getattr(self, name)[: self.n_workers] for name in _WORKER}
        arrays |= {name: getattr(self, name)[: self.n_tasks] for name in _TASK if name != "task_start"}
        arrays |= {name: getattr(self, name)[slots] for name in _VOTE}
        return arrays

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `to_arrays` gave. Raises DataError for what another version of the package wrote."""
        if np.shape(arrays["crowd"]) != (CROWD,):
            raise DataError(
                "this state was written by another version of the package: learn again from the labels (for a training "
                "run: take the version that began it, or another run.dir; for `crlhf serve`: delete DIR/crowd)"
            )
        for name in ("crowd", *_WORKER, *_TASK, *_VOTE):
            if name != "task_start":
                setattr(self, name, np.array(arrays[name]))
        self.task_start = np.cumsum(self.task_length) - self.task_length
        self.n_workers, self.n_tasks, self.used = len(self.worker_labels), len(self.task_length), len(self.vote_worker)
        self.cast, self.cast_on_gold = int(self.worker_labels.sum()), int(self.worker_gold.sum())


def _step(labels: int) -> int:
    """How many steps of the geometric series so many labels are past; -1 before the first."""
    return int(math.log(labels, _RELEARN)) if labels > 0 else -1


def _contributions(label: np.ndarray, weight: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """What each vote adds to its annotator's counts [n, 4]; nothing where it abstains or nothing is known (nan)."""
    weight = np.where((label == 0) | np.isnan(posterior), 0.0, weight)
    positive = weight * np.nan_to_num(posterior)
    negative = weight - positive
    up = label > 0
    return np.stack([negative * ~up, negative * up, positive * ~up, positive * up], axis=1)


def _last_of_run(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mask of the last of each run of equal pairs in sorted arrays."""
    last = np.ones(len(first), bool)
    last[:-1] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return last


def _grown(values: np.ndarray, size: int) -> np.ndarray:
    fresh = np.zeros((size, *values.shape[1:]), values.dtype)
    fresh[: len(values)] = values
    return fresh
