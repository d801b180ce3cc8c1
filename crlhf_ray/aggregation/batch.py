"""Crowd labels in files to a consensus in files: the core of ``crlhf aggregate``, for anyone with crowd labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from crlhf_ray.aggregation.advice import expected_bits, usual_rates, with_advice
from crlhf_ray.aggregation.base import Estimator
from crlhf_ray.aggregation.calibrate import Calibrated, OnHoneypots
from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.encoding import infer_classes
from crlhf_ray.aggregation.files import USUAL, Columns, read_chunks
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.logistic_l1 import LogisticL1
from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.one_coin import OneCoin
from crlhf_ray.aggregation.quality import krippendorff_alpha
from crlhf_ray.aggregation.rejections import RowReport, clean, whole_ids
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import ConfigError, DataError

EstimatorName = Literal["hierarchical", "two_coin", "one_coin", "majority", "dawid_skene", "logistic_l1"]

#: Fewer honeypots say less about a temperature than its prior does.
_FEWEST_TO_CALIBRATE = 5
#: Labels outside gold's two classes are slips of the pen up to this share of the votes; more are a class, or a code.
_STRAY = 0.05
_BLANK = {"na", "n/a", "nan", "none", "null"}
#: Probabilities that differ by less are equal: it is rounding.
_TIE = 1e-9
#: More labels than that are no classes, and every annotator's confusion matrix would have a cell for each two.
MOST_LABELS = 200
NO_GOLD = pd.DataFrame({"label": pd.Series(dtype=object), "row": pd.Series(dtype=int)})


@dataclass(frozen=True)
class Aggregation:
    """consensus: task, label, probability (of that label), one ``p_<class>`` a class, labels (votes that stand behind
    it), tie (another class is as probable), bits (what one more vote is expected to tell). reliability: by worker, with
    95% credible intervals and advice (`advice.with_advice`; none by majority). temperature: None where not
    calibrated. alpha: Krippendorff's, None where no two workers share a task. on_honeypots: how the answers did on
    tasks of known truth, each hidden from the fit that answered it; None where not calibrated."""

    consensus: pd.DataFrame
    reliability: pd.DataFrame
    report: RowReport
    temperature: float | None
    alpha: float | None
    on_honeypots: OnHoneypots | None


def aggregate(
    labels: Sequence[Path | str],
    gold: Path | str | None = None,
    *,
    estimator: EstimatorName = "hierarchical",
    calibrate: bool = True,
    classes: tuple[Hashable, ...] | None = None,
    columns: Columns = USUAL,
) -> Aggregation:
    """Consensus of the votes in files (see `files.read_chunks`) with columns task, worker, label, optionally weight.

    gold: a file with columns task and label. An empty label is an abstention. Unusable rows (a missing value, a label
    outside the classes, a worker's second vote on a task, a line that does not parse) are left out and reported; of
    two votes the later one counts where there is a column time, else the first. classes: without them every label
    found is a class, but for stray ones where gold holds two (`classes_of`).
    calibrate: temper by the honeypots, where there are at least five.
    Raises `DataError` for a missing file or column, gold that contradicts itself or the votes, or when no row is
    usable, and `ConfigError` for an unknown estimator. For labels larger than memory: `mapreduce.aggregate_parquet`.
    """
    if estimator not in get_args(EstimatorName):
        raise ConfigError(f"there is no estimator {estimator!r}; there are {', '.join(get_args(EstimatorName))}")
    report = RowReport()
    truth = read_gold_file(Path(gold), columns) if gold is not None else NO_GOLD
    votes = _read_votes([Path(p) for p in labels], report, columns)
    if votes.empty:
        raise no_votes(report, labels[0])
    if classes is None:
        classes = classes_of(labels_given(votes[~second_votes(votes)]), truth, gold, report)
    check_gold(truth, gold, classes, int(truth.index.isin(votes["task"]).sum()), report)
    votes = tidy(votes, report, classes)
    if votes.empty:
        raise no_votes(report, labels[0])
    report.lost(votes["task"])
    truth = truth["label"][truth.index.isin(votes["task"])]
    make = _maker(estimator, classes)
    tempered = calibrate and len(truth) >= _FEWEST_TO_CALIBRATE
    fitted: Estimator = Calibrated(make) if tempered else make()
    fitted.fit(votes[["task", "worker", "label", "weight"]], truth if len(truth) else None)
    probas = fitted.probas_
    count = votes[votes["label"].notna()].groupby("task").size().reindex(probas.index, fill_value=0)
    reliability = fitted.reliability().reset_index()
    rates = usual_rates(reliability)
    consensus = consensus_table(probas.index, probas.to_numpy(), tuple(probas.columns), count.to_numpy(), rates)
    given = votes[votes["label"].notna()]
    alpha = krippendorff_alpha(pd.crosstab(given["task"], given["label"]).to_numpy())
    if estimator != "majority":  # it holds all to be equal
        reliability = with_advice(reliability)
    if isinstance(fitted, Calibrated):
        return Aggregation(consensus, reliability, report, fitted.temperature_, alpha, fitted.on_honeypots_)
    return Aggregation(consensus, reliability, report, None, alpha, None)


def consensus_table(
    tasks: Sequence[str], probas: np.ndarray, classes: Sequence[Hashable], labels: np.ndarray, rates: np.ndarray
) -> pd.DataFrame:
    """The consensus as files hold it. Of equally probable classes the last counts, of two the positive one; ``tie``.

    rates: P(right) by class of who is asked again, for `advice.expected_bits`.
    """
    top = probas.max(axis=1)
    near = probas >= top[:, None] - _TIE
    best = len(classes) - 1 - np.argmax(near[:, ::-1], axis=1)
    columns = {f"p_{name}": probas[:, i] for i, name in enumerate(classes)}
    label = np.array(classes, object)[best]
    table = {"task": tasks, "label": pd.Series(label).infer_objects().array, "probability": top, **columns}
    bits = expected_bits(probas, rates)
    return pd.DataFrame({**table, "labels": labels, "tie": near.sum(axis=1) > 1, "bits": bits})


def read_gold_file(path: Path, columns: Columns = USUAL) -> pd.DataFrame:
    """By task: label, and the row it stands in. Raises `DataError`, naming the row, for a row without task or label and
    for a contradiction: gold is too precious to be left out silently."""
    report = RowReport()
    parts = [
        clean(chunk, rows, str(path), report, gold=True)
        for chunk, rows in read_chunks(path, report, columns, gold=True)
    ]
    whole_ids(parts, "task", str(path), report)
    if report.rows:
        bad = report.rows[0]
        raise DataError(f"{bad.problem}; {bad.remedy}", file=bad.file, row=bad.row, field=bad.field)
    if not parts or not sum(map(len, parts)):
        raise DataError("it contains no gold; give a row for each known task, or leave the file out", file=str(path))
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
    return distinct.set_index("task")[["label", "row"]]


def check_gold(
    truth: pd.DataFrame, path: Path | str | None, classes: tuple[Hashable, ...], voted: int, report: RowReport
) -> None:
    """Raise `DataError` where gold's labels are not among the classes, or nobody voted on any of its tasks.

    voted: how many of gold's tasks have votes; gold that has none is noted in the report.
    """
    if path is None:
        return
    if (strange := ~truth["label"].isin(classes)).any():
        bad = truth[strange].iloc[0]
        raise DataError(
            f"{bad['label']!r} is not among the classes {list(classes)}; correct it, or name the classes (--class)",
            file=str(path),
            row=int(bad["row"]),
            field="label",
        )
    if not voted:
        raise DataError(
            f"nobody voted on task {truth.index[0]!r} or on any other of these {len(truth)}; write tasks as the votes "
            "do",
            file=str(path),
            row=int(truth["row"].iloc[0]),
            field="task",
        )
    if voted < len(truth):
        report.notes.append(f"gold: {len(truth) - voted:,} of {len(truth):,} tasks have no vote and teach nothing")


def no_votes(report: RowReport, path: Path | str) -> DataError:
    """Nothing is left of what was read."""
    why = "; ".join(f"{count} x {reason}" for reason, count in report.counts.items()) or "give a row a vote"
    return DataError(f"no usable vote among {report.read} rows; {why}", file=str(path))


def _read_votes(paths: list[Path], report: RowReport, columns: Columns) -> pd.DataFrame:
    parts = []
    for path in paths:
        tables = [clean(chunk, rows, str(path), report) for chunk, rows in read_chunks(path, report, columns)]
        for name in ("task", "worker"):
            whole_ids(tables, name, str(path), report)
        for table in tables:
            for name in ("task", "worker", "label", "file"):
                table[name] = table[name].astype("category")
            parts.append(table)
    if not parts:
        return pd.DataFrame(columns=["task", "worker", "label", "weight"])
    votes = pd.concat([part.astype(dict.fromkeys(("task", "worker", "label", "file"), object)) for part in parts])
    return votes.reset_index(drop=True)


def tidy(votes: pd.DataFrame, report: RowReport, classes: tuple[Hashable, ...] | None) -> pd.DataFrame:
    """Votes without labels outside the classes and without second votes; both are reported.

    Of one worker's votes on a task the latest stands, and the first of those that have the same time or none.
    """
    label = votes["label"]
    if classes is not None:
        bad = ~(label.isin(classes) | label.isna()).to_numpy()
        if classes == (-1, 1):
            zero = (label == 0).to_numpy() & bad
            votes.loc[zero, "label"] = None
            bad &= ~zero
        _report_rows(votes[bad], report, "label", [repr(v) for v in label[bad]], f"give one of {list(classes)}")
        report.doubtful.update(votes["task"][bad])
        votes = votes[~bad]
    again, timed = second_votes(votes), votes["time"].notna().any()
    problems = [f"{w!r} voted on {t!r} more than once" for t, w in votes.loc[again, ["task", "worker"]].to_numpy()]
    remedy = f"keep one vote a worker and task (the {'latest' if timed else 'first'} was used)"
    _report_rows(votes[again], report, "worker", problems, remedy)
    votes = votes[~again]
    report.used += len(votes)
    report.abstained += int(votes["label"].isna().sum())
    return votes


def second_votes(votes: pd.DataFrame) -> np.ndarray:
    """True where another vote of the same worker on the task stands: a later one, or the first of those as late."""
    latest = votes.sort_values("time", ascending=False, kind="stable")
    return latest.duplicated(["task", "worker"])[votes.index].to_numpy()


def _report_rows(bad: pd.DataFrame, report: RowReport, field: str, problems: list[str], remedy: str) -> None:
    done = 0
    for file, rows in bad.groupby("file", sort=False, observed=True)["row"]:
        report.add(str(file), rows.to_numpy(), field, problems[done : done + len(rows)], remedy)
        done += len(rows)


def labels_given(votes: pd.DataFrame) -> pd.DataFrame:
    """By label: how many votes it has (``votes``), and the file and row of the first; the commonest first."""
    first = votes[votes["label"].notna()].drop_duplicates("label").set_index("label")[["file", "row"]]
    count = votes["label"].value_counts()
    return first.loc[count.index].assign(votes=count)


def classes_of(
    labels: pd.DataFrame, truth: pd.DataFrame, gold: Path | str | None, report: RowReport
) -> tuple[Hashable, ...]:
    """The classes, from `labels_given` or its like, and a note of how often each was given.

    Where gold holds two classes and up to `_STRAY` of the votes say something else, gold's are the classes, so that a
    slip of the pen makes no class of its own. Raises `DataError` where that share is larger, where text stands among
    numbers, where gold holds a label that nobody gave, unless there are but two in all, and where all is one word.
    """
    given = labels["votes"]
    if len(given) > MOST_LABELS:
        raise too_many_labels(labels["file"].iloc[0], len(given))
    found, known = given.index.tolist(), pd.unique(truth["label"]).tolist()
    report.notes.append("labels: " + ", ".join(f"{name} ({count:,} votes)" for name, count in given.head(20).items()))
    report.notes += _alike(found)
    other = [name for name in found if name not in known]
    if len({*found, *known}) > 2 and len(known) == 2 and set(known) <= set(found):
        share, unsure = given[other].sum() / given.sum(), set(known) == {-1, 1} and other == [0]
        if unsure or share <= _STRAY:
            return infer_classes(known)
        raise _unexpected(labels, other, f"is not among the truths in {gold}, yet {share:.0%} of the votes give it")
    if len({*found, *known}) > 2 and (never := [name for name in known if name not in found]):
        row = int(truth["row"][truth["label"].isin(never)].iloc[0])
        raise DataError(
            f"{never[0]!r} is a label that no vote has (they have {found[:10]}); correct it, or name the classes "
            "(--class)",
            file=str(gold),
            row=row,
            field="label",
        )
    if len(found) > 2 and len({isinstance(name, str) for name in found}) == 2:
        text: list[Hashable] = [name for name in found if isinstance(name, str)]
        numbers: list[Hashable] = [name for name in found if name not in text]
        raise _unexpected(labels, min((text, numbers), key=lambda some: given[some].sum()), "stands among other labels")
    if len(found) == 1 and not {*found, *known} & {-1, 0, 1} and set(known) <= set(found):
        raise DataError(
            f"every label is {found[0]!r}; give votes for another class too, or name all classes (--class)",
            file=str(labels["file"].iloc[0]),
            field="label",
        )
    if len({*found, *known}) <= 2 or set(found) == {-1, 0, 1}:
        return infer_classes([*found, *known])
    return tuple(sorted(found, key=lambda v: (isinstance(v, str), v)))


def _alike(classes: Sequence[Hashable]) -> list[str]:
    """Hints at classes that are perhaps one class, or none."""
    forms: dict[str, list[Hashable]] = {}
    for name in classes:
        forms.setdefault(unicodedata.normalize("NFKC", str(name)).casefold(), []).append(name)
    pairs = [" and ".join(map(_told_apart(some), sorted(some, key=str))) for some in forms.values() if len(some) > 1]
    blank = [repr(name) for form, some in forms.items() if form in _BLANK for name in some]
    hints = [f"classes that differ only by case or Unicode form: {'; '.join(pairs)}; write those that are one alike"]
    hints += [f"read as classes: {', '.join(blank)}; leave the field empty where the worker abstained"]
    return [hint for hint, some in zip(hints, (pairs, blank), strict=True) if some]


def _told_apart(names: Sequence[Hashable]) -> Callable[[Hashable], str]:
    """`repr`, or `ascii` where it would look the same for two of them."""
    return repr if len({unicodedata.normalize("NFC", str(name)) for name in names}) == len(names) else ascii


def too_many_labels(file: Path | str, count: int) -> DataError:
    """Free text, most likely, or the wrong column."""
    return DataError(
        f"it has {count:,} different labels or more, the maximum is {MOST_LABELS}: is this the label column? If so, "
        "name the classes (--class)",
        file=str(file),
        field="label",
    )


def _unexpected(labels: pd.DataFrame, strange: list[Hashable], why: str) -> DataError:
    first = labels[labels.index.isin(strange)].sort_values("row", kind="stable").iloc[0]
    return DataError(
        f"{first.name!r} {why}; correct it, leave it empty for an abstention, or name the classes (--class): any "
        "other label is then rejected and counted",
        file=str(first["file"]),
        row=int(first["row"]),
        field="label",
    )


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
