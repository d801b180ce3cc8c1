"""The estimators' common face: crowd-kit's conventions, plus streaming, reliabilities with intervals, save and load."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit
from scipy.stats import beta as beta_distribution

from crlhf_ray.aggregation.encoding import (
    Classes,
    Codebook,
    Table,
    Votes,
    read_gold,
    read_votes,
    refuse_empty,
)
from crlhf_ray.aggregation.state import CrowdState
from crlhf_ray.errors import DataError

#: Gold: a Series of labels indexed by task (crowd-kit's `true_labels`), or a table with columns task and label.
Gold: TypeAlias = pd.Series | pd.DataFrame | pa.Table


class Estimator(ABC):
    """Takes a long table (columns task, worker, label; optionally weight in [0, 1] and time) and says who is right.

    Null labels are abstentions. classes: ``(negative, positive)``; recognised from the labels where not given.
    Of a worker's votes on a task in one table the latest by time stands, the first of those of one time or none.
    Learnt: labels_ (Series by task), probas_ (DataFrame by task, one column a class), classes_, second_votes_ (how many
    votes of a table another one of the same worker on the same task took the place of).
    """

    classes_: tuple[Hashable, ...] | None
    second_votes_: int

    @abstractmethod
    def fit(self, data: Table, true_labels: Gold | None = None) -> Self:
        """Learn from this table alone. true_labels: known truth of some tasks. Raises `DataError` without a label."""

    @abstractmethod
    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """P(class) of these tasks, one column a class; a task never seen has the prior."""

    @abstractmethod
    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """Sensitivity and specificity by worker with 95% credible intervals, and how many labels stand behind them."""

    @property
    @abstractmethod
    def tasks_(self) -> list[Hashable]:
        """All tasks seen, in order of first appearance."""

    @property
    def probas_(self) -> pd.DataFrame:
        """P(class) of every task seen."""
        return self.posterior(self.tasks_)

    @property
    def labels_(self) -> pd.Series:
        """The most probable class of every task seen; the positive one where both are equally so."""
        probas = self.probas_
        # argmax takes the first of equals: look from the last class, the positive one of two.
        best = len(probas.columns) - 1 - np.argmax(probas.to_numpy()[:, ::-1], axis=1)
        return pd.Series(probas.columns.to_numpy()[best], probas.index, name="agg_label")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments; `sklearn.base.clone` makes a new estimator of them."""
        return settings_of(self)

    def set_params(self, **params: Any) -> Self:
        """Change some of the constructor's arguments; what was learnt is forgotten."""
        settings = self.get_params() | params
        vars(self).clear()
        type(self).__init__(self, **settings)
        return self

    def fit_predict(self, data: Table, true_labels: Gold | None = None) -> pd.Series:
        """`fit`, then ``labels_``."""
        return self.fit(data, true_labels).labels_

    def fit_predict_proba(self, data: Table, true_labels: Gold | None = None) -> pd.DataFrame:
        """`fit`, then ``probas_``."""
        return self.fit(data, true_labels).probas_


class StreamingEstimator(Estimator):
    """An estimator whose state is a `CrowdState`: `partial_fit` takes votes as they come, and gold at any time."""

    def __init__(self, classes: Classes | None = None):
        self.classes = classes
        self._reset()

    @abstractmethod
    def _new_state(self) -> CrowdState: ...

    classes_: Classes | None

    def _reset(self) -> None:
        self.classes_ = self.classes
        self.task_book_, self.worker_book_ = Codebook(), Codebook()
        self.state_ = self._new_state()
        self.second_votes_ = 0

    def fit(self, data: Table, true_labels: Gold | None = None) -> Self:
        """Learn from this table alone: the gold tasks' votes first, then all others at once (row order is nothing)."""
        refuse_empty(data)
        with unchanged_if_refused(self):
            self._reset()
            votes, truths = self._read(data, true_labels)
        is_gold = np.isin(votes.task, truths[0])
        self.state_.update(votes.take(is_gold), *truths)
        self.state_.update(votes.take(~is_gold))
        return self

    def partial_fit(self, batch: Table, true_labels: Gold | None = None) -> Self:
        """Go on learning from more votes, and from gold that may concern old tasks. A refused batch changes nothing."""
        with unchanged_if_refused(self):
            votes, truths = self._read(batch, true_labels)
        self.state_.update(votes, *truths)
        return self

    def _read(self, data: Table, true_labels: Gold | None) -> tuple[Votes, tuple[np.ndarray, np.ndarray]]:
        votes, self.classes_ = read_votes(data, self.task_book_, self.worker_book_, self.classes_)
        self.second_votes_ += len(data) - len(votes)
        codes, truth = read_gold(true_labels, self.task_book_, self.classes_)
        known = self.state_.task_gold[codes[codes < self.state_.n_tasks]]
        clash = (known != 0) & (known != truth[codes < self.state_.n_tasks])
        if clash.any():
            name = self.task_book_.names[codes[codes < self.state_.n_tasks][np.argmax(clash)]]
            raise DataError(f"task {name!r} was given the other truth before; keep the right one", field="label")
        return votes, (codes, truth)

    @property
    def tasks_(self) -> list[Hashable]:
        """All tasks seen, in order of first appearance."""
        return list(self.task_book_.names)

    def posterior(self, tasks: Iterable[Hashable]) -> pd.DataFrame:
        """P(class) of these tasks with the reliabilities of now; a task never seen has the prior."""
        names = list(tasks)
        p = np.full(len(names), expit(self.state_.prior_log_odds()))
        codes = self.task_book_.encode(names, grow=False) if names else np.empty(0, np.int64)
        known = (codes >= 0) & (codes < self.state_.n_tasks)
        p[known] = expit(self.state_.log_odds(codes[known]))
        assert self.classes_ is not None, "fit or partial_fit first"
        return pd.DataFrame({self.classes_[0]: 1 - p, self.classes_[1]: p}, index=pd.Index(names, name="task"))

    def reliability(self, workers: Iterable[Hashable] | None = None) -> pd.DataFrame:
        """Sensitivity and specificity by worker with 95% credible intervals, and how many labels stand behind them.

        Raises `DataError` for a worker never seen.
        """
        names = list(self.worker_book_.names if workers is None else workers)
        codes = self.worker_book_.encode(names, grow=False) if names else np.empty(0, np.int64)
        if (codes < 0).any():
            raise DataError(f"worker {names[int(np.argmax(codes < 0))]!r} was never seen", field="worker")
        return pd.DataFrame(reliability_columns(self.state_, codes), index=pd.Index(names, name="worker"))

    # -- keeping -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the parameters and everything learnt to one .npz file. Names must be strings or integers."""
        write_estimator(self, path, self.state_.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `DataError` where the file holds another estimator."""
        estimator, arrays = read_estimator(cls, path)
        estimator.state_.load_arrays(arrays)
        return estimator


def reliability_columns(state: CrowdState, workers: np.ndarray) -> dict[str, np.ndarray]:
    """Rates with 95% credible intervals (equal tails of the Beta posterior) of the annotators with these codes."""
    rates, betas = state.rates(workers), state.beta(workers)
    columns: dict[str, np.ndarray] = {}
    for name, rate, shape in zip(("sensitivity", "specificity"), rates, betas, strict=True):
        columns |= {name: rate, **interval_columns(name, shape[:, 0], shape[:, 1])}
    return columns | {"labels": state.worker_labels[workers], "gold_labels": state.worker_gold[workers]}


def interval_columns(name: str, right: np.ndarray, wrong: np.ndarray) -> dict[str, np.ndarray]:
    """95% credible intervals of a rate, by equal tails of its Beta posteriors [n]: columns ``_low`` and ``_high``."""
    ends = {"low": 0.025, "high": 0.975}
    return {f"{name}_{end}": beta_distribution.ppf(share, right, wrong) for end, share in ends.items()}


@contextmanager
def unchanged_if_refused(estimator: Any) -> Iterator[None]:
    """Whatever is raised inside leaves the estimator as it was, provided that it replaces arrays and writes in none."""
    before, books = vars(estimator).copy(), (estimator.task_book_, estimator.worker_book_)
    sizes = [len(book) for book in books]
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        for book, size in zip(books, sizes, strict=True):
            book.forget_from(size)
        raise


def settings_of(estimator: Estimator) -> dict[str, Any]:
    """The constructor's arguments that made this estimator."""
    return {n: getattr(estimator, n) for n in inspect.signature(type(estimator).__init__).parameters if n != "self"}


def write_estimator(estimator: Any, path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Settings, classes, names and these arrays, in one .npz file."""
    about = {"estimator": type(estimator).__name__, "settings": settings_of(estimator), "classes_": estimator.classes_}
    names = [names_array(book.names) for book in (estimator.task_book_, estimator.worker_book_)]
    with Path(path).open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), tasks=names[0], workers=names[1], **arrays)  # type: ignore[arg-type]


def read_estimator(cls: type[Any], path: str | Path) -> tuple[Any, dict[str, np.ndarray]]:
    """``(estimator with its settings, classes and names, arrays)`` as `write_estimator` wrote them."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    if about["estimator"] != cls.__name__:
        raise DataError(f"holds a {about['estimator']}, not a {cls.__name__}", file=str(path))
    settings: dict[str, Any] = about["settings"]
    settings["classes"], classes = (tuple(some) if some else None for some in (settings["classes"], about["classes_"]))
    estimator = cls(**settings)
    estimator.classes_ = classes
    estimator.task_book_, estimator.worker_book_ = (
        Codebook(json.loads(arrays[name].tobytes())) for name in ("tasks", "workers")
    )
    return estimator, arrays


def names_array(names: list[Hashable]) -> np.ndarray:
    """Names as one array that `np.savez` takes. Raises `DataError` unless each is a string or an integer."""
    if strange := {type(name).__name__ for name in names} - {"int", "str"}:
        raise DataError(f"names are of types {sorted(strange)}; make them strings to save them")
    return np.frombuffer(json.dumps(names).encode(), np.uint8)
