"""Crowd labels in files to a consensus in files: the core of ``crlhf aggregate``, for anyone with crowd labels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from crlhf_ray.aggregation.base import Estimator
from crlhf_ray.aggregation.calibrate import Calibrated
from crlhf_ray.aggregation.codes import infer_classes
from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.logistic_l1 import LogisticL1
from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.one_coin import OneCoin
from crlhf_ray.aggregation.rejections import RejectionReport, clean, read_chunks
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import ConfigError, DataError

EstimatorName = Literal["hierarchical", "two_coin", "one_coin", "majority", "dawid_skene", "logistic_l1"]

#: Fewer honeypots say less about a temperature than its prior does.
_FEWEST_TO_CALIBRATE = 5


@dataclass(frozen=True)
class Aggregation:
    """consensus: task, label, probability (of that label), one ``p_<class>`` a class, labels (votes that stand behind
    it). reliability: by worker, with 95% credible intervals. temperature: None where not calibrated."""

    consensus: pd.DataFrame
    reliability: pd.DataFrame
    report: RejectionReport
    temperature: float | None


def aggregate(
    labels: Sequence[Path | str],
    gold: Path | str | None = None,
    *,
    estimator: EstimatorName = "hierarchical",
    calibrate: bool = True,
    classes: tuple[Hashable, ...] | None = None,
) -> Aggregation:
    """Consensus of the votes in CSV, Parquet or JSONL files with columns task, worker, label and optionally weight.

    gold: a file with columns task and label. An empty label is an abstention. Unusable rows (a missing value, a label
    outside the classes, a worker's second vote on a task, a line that does not parse) are left out and reported.
    calibrate: temper by the honeypots, where there are at least five and two classes.
    Raises `DataError` for a missing file or column, gold that contradicts itself, or when no row is usable, and
    `ConfigError` for an unknown estimator. For Parquet larger than memory use `mapreduce.aggregate_parquet`.
    """
    if estimator not in get_args(EstimatorName):
        raise ConfigError(f"there is no estimator {estimator!r}; there are {', '.join(get_args(EstimatorName))}")
    report = RejectionReport()
    truth = read_gold_file(Path(gold)) if gold is not None else pd.Series(dtype=object)
    votes = _read_votes([Path(p) for p in labels], report, classes)
    if votes.empty:
        raise DataError(f"no usable vote among {report.read} rows; reasons: {dict(report.counts)}", file=str(labels[0]))
    if classes is None:
        classes = _classes(votes["label"], truth)
    make = _maker(estimator, classes)
    tempered = calibrate and len(classes) == 2 and len(truth.index.intersection(votes["task"])) >= _FEWEST_TO_CALIBRATE
    fitted: Estimator = Calibrated(make) if tempered else make()
    fitted.fit(votes[["task", "worker", "label", "weight"]], truth if len(truth) else None)
    probas = fitted.probas_
    count = votes[votes["label"].notna()].groupby("task").size()
    best = fitted.labels_
    consensus = pd.DataFrame(
        {
            "task": probas.index,
            "label": best.to_numpy(),
            "probability": probas.to_numpy().max(axis=1),
            **{f"p_{name}": probas[name].to_numpy() for name in probas.columns},
            "labels": count.reindex(probas.index, fill_value=0).to_numpy(),
        }
    )
    temperature = fitted.temperature_ if isinstance(fitted, Calibrated) else None
    return Aggregation(consensus, fitted.reliability().reset_index(), report, temperature)


def read_gold_file(path: Path) -> pd.Series:
    """Truth by task. Raises `DataError`, naming the row, for a row without task or label and for a contradiction:
    gold is too precious to be left out silently."""
    report = RejectionReport()
    parts = [clean(chunk, rows, str(path), report, gold=True) for chunk, rows in read_chunks(path, report)]
    if report.rows:
        bad = report.rows[0]
        raise DataError(f"{bad.problem}; {bad.remedy}", file=bad.file, row=bad.row, field=bad.field)
    table = pd.concat(parts, ignore_index=True)
    distinct = table.drop_duplicates(["task", "label"])
    if (again := distinct["task"].duplicated()).any():
        row = distinct[again].iloc[0]
        first = distinct[distinct["task"] == row["task"]].iloc[0]
        raise DataError(
            f"gold contradicts itself: task {row['task']!r} is {first['label']!r} in row {first['row']} and "
            f"{row['label']!r} here; keep the right one",
            file=str(path),
            row=int(row["row"]),
            field="label",
        )
    return distinct.set_index("task")["label"]


def _read_votes(paths: list[Path], report: RejectionReport, classes: tuple[Hashable, ...] | None) -> pd.DataFrame:
    parts = []
    for path in paths:
        for chunk, rows in read_chunks(path, report):
            table = clean(chunk, rows, str(path), report)
            for name in ("task", "worker", "label", "file"):
                table[name] = table[name].astype("category")
            parts.append(table)
    if not parts:
        return pd.DataFrame(columns=["task", "worker", "label", "weight"])
    votes = pd.concat([part.astype(dict.fromkeys(("task", "worker", "label", "file"), object)) for part in parts])
    return tidy(votes.reset_index(drop=True), report, classes)


def tidy(votes: pd.DataFrame, report: RejectionReport, classes: tuple[Hashable, ...] | None) -> pd.DataFrame:
    """Votes without labels outside the classes and without second votes (the first one stands); both are reported."""
    label = votes["label"]
    if classes is not None:
        bad = ~(label.isin(classes) | label.isna()).to_numpy()
        if classes == (-1, 1):
            zero = (label == 0).to_numpy() & bad
            votes.loc[zero, "label"] = None
            bad &= ~zero
        _report_rows(votes[bad], report, "label", [repr(v) for v in label[bad]], f"give one of {list(classes)}")
        votes = votes[~bad]
    again = votes.duplicated(["task", "worker"]).to_numpy()
    problems = [f"{w!r} labelled {t!r} before" for t, w in votes.loc[again, ["task", "worker"]].to_numpy()]
    _report_rows(votes[again], report, "worker", problems, "keep one vote a worker and task (the first was used)")
    votes = votes[~again]
    report.used += len(votes)
    report.abstained += int(votes["label"].isna().sum())
    return votes


def _report_rows(bad: pd.DataFrame, report: RejectionReport, field: str, problems: list[str], remedy: str) -> None:
    done = 0
    for file, rows in bad.groupby("file", sort=False, observed=True)["row"]:
        report.add(str(file), rows.to_numpy(), field, problems[done : done + len(rows)], remedy)
        done += len(rows)


def _classes(labels: pd.Series, truth: pd.Series) -> tuple[Hashable, ...]:
    found = pd.unique(pd.concat([labels, truth]).dropna()).tolist()
    if len(found) <= 2 or set(found) == {-1, 0, 1}:
        return infer_classes(found)
    return tuple(sorted(found, key=lambda v: (isinstance(v, str), v if isinstance(v, (int, float)) else str(v))))


def _maker(name: EstimatorName, classes: tuple[Hashable, ...]) -> Callable[[], Estimator]:
    many = {"hierarchical": Hierarchical, "dawid_skene": DawidSkene}
    if name in many:
        return lambda: many[name](classes=classes)
    if len(classes) != 2:
        raise ConfigError(
            f"{name} is for two classes, and these are {list(classes)}: use hierarchical or dawid_skene, or name the "
            "two classes that count"
        )
    two = {"two_coin": TwoCoin, "one_coin": OneCoin, "majority": Majority, "logistic_l1": LogisticL1}
    pair = (classes[0], classes[1])
    return lambda: two[name](classes=pair)
