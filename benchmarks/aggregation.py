"""Our estimators and crowd-kit's on crowd labels with known truth, side by side, in one run.

    python benchmarks/aggregation.py --data ../shared/data/crowd [--plot docs/figures] [--json table.json]

``--data`` is a folder of folders, each with ``labels.csv`` (task,worker,label) and ``truth.csv`` (task,label). In each
of ``--draws`` draws a tenth of the tasks are honeypots, drawn afresh; every method that can take gold gets them, and
every method is measured on the other tasks. Printed, by set too: accuracy, balanced accuracy, AUC and calibration error
(ECE); labels a CPU second (so that other work on the machine does not count; run with OMP_NUM_THREADS=1), then
adversarial crowds, streaming speed, and the replay of timed sets as a stream.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from crlhf_ray.aggregation.adversaries import Scenario, simulate
from crlhf_ray.aggregation.calibrate import Calibrated
from crlhf_ray.aggregation.dawid_skene import DawidSkene
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.logistic_l1 import LogisticL1
from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.one_coin import OneCoin
from crlhf_ray.aggregation.quality import auc, calibration_error
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import CrlhfError

warnings.simplefilter("ignore")

OURS: dict[str, Callable] = {
    "majority": Majority,
    "one_coin (paper)": OneCoin,
    "one_coin, honeypots only": lambda: OneCoin(learn_from="honeypots"),
    "two_coin": TwoCoin,
    "dawid_skene": DawidSkene,
    "logistic_l1": LogisticL1,
    "hierarchical": Hierarchical,
    "two_coin, tempered": lambda: Calibrated(TwoCoin),
    "hierarchical, tempered": lambda: Calibrated(Hierarchical),
}
#: What is measured of the replay, named before it runs: the best of several would be chance.
STREAMED = "two_coin, confidence x score"
BEST, BEST_TEMPERED, REFERENCE = "hierarchical", "hierarchical, tempered", "crowd-kit DawidSkene + gold"
MANY_CLASSES = {"dawid_skene", "hierarchical"}


THEIRS = [
    "crowd-kit MajorityVote",
    "crowd-kit Wawa",
    "crowd-kit ZeroBasedSkill",
    "crowd-kit GoldMajorityVote + gold",
    "crowd-kit OneCoinDawidSkene",
    "crowd-kit DawidSkene",
    REFERENCE,
    "crowd-kit KOS",
    "crowd-kit MMSR",
    "crowd-kit MACE",
    "crowd-kit GLAD",
]


def crowd_kit() -> dict[str, tuple[Callable, bool, bool]]:
    """``name -> (constructor, takes gold, slow)``."""
    from crowdkit import aggregation as ck

    def adapted(cls: type) -> type:
        # crowd-kit 1.4.2 calls scikit-learn's check_is_fitted on objects that lack the tags scikit-learn >= 1.7 asks
        # for. Inheriting scikit-learn's own base class beside crowd-kit's supplies them; nothing else changes.
        return type(cls.__name__, (cls, BaseEstimator), {})

    # Left to itself it refuses sets in which some worker answered no honeypot.
    class gold_majority(adapted(ck.GoldMajorityVote)):  # type: ignore[misc]
        def fit(self, votes, gold):  # type: ignore[no-untyped-def]
            from crowdkit.aggregation.utils import get_accuracy

            skills = get_accuracy(votes, true_labels=gold, by="worker")
            self._vote = ck.MajorityVote(on_missing_skill="value", default_skill=float(skills.mean()))
            self._vote.fit(votes, skills)
            self.labels_, self.probas_ = self._vote.labels_, self._vote.probas_
            return self

    return {
        "crowd-kit MajorityVote": (adapted(ck.MajorityVote), False, False),
        "crowd-kit Wawa": (adapted(ck.Wawa), False, False),
        "crowd-kit ZeroBasedSkill": (adapted(ck.ZeroBasedSkill), False, False),
        "crowd-kit GoldMajorityVote + gold": (gold_majority, True, False),
        "crowd-kit OneCoinDawidSkene": (ck.OneCoinDawidSkene, False, False),
        "crowd-kit DawidSkene": (ck.DawidSkene, False, False),
        REFERENCE: (ck.DawidSkene, True, False),
        "crowd-kit KOS": (ck.KOS, False, False),
        "crowd-kit MMSR": (ck.MMSR, False, True),
        "crowd-kit MACE": (ck.MACE, False, True),
        "crowd-kit GLAD": (ck.GLAD, False, True),
    }


def load(folder: Path) -> tuple[pd.DataFrame, pd.Series, str]:
    """``(votes, truth, remark)``: abstentions and second votes are taken out.

    An abstention is empty, or the one of -1, 0 and 1 that is no truth, 1 excepted.
    """
    text = {"task": str, "worker": str}
    votes = pd.read_csv(folder / "labels.csv", dtype=text).dropna(subset=["task", "worker", "label"])
    truth = pd.read_csv(folder / "truth.csv", dtype=text).dropna(subset=["task", "label"])
    before = len(votes)
    if set(votes["label"]) == {-1, 0, 1} and set(truth["label"]) <= {0, 1}:
        votes = votes[votes["label"] >= 0]
    elif set(votes["label"]) == {-1, 0, 1} and set(truth["label"]) <= {-1, 1}:
        votes = votes[votes["label"] != 0]
    abstained, before = before - len(votes), len(votes)
    votes = votes.drop_duplicates(["task", "worker"]).reset_index(drop=True)
    truth = truth.drop_duplicates("task").set_index("task")["label"]
    truth = truth[truth.index.isin(votes["task"])]
    if votes["label"].dtype == float and (votes["label"] % 1 == 0).all():
        votes["label"], truth = votes["label"].astype(int), truth.astype(int)
    remark = f"{len(votes)} labels, {votes.task.nunique()} tasks, {votes.worker.nunique()} workers"
    remark += f", {votes.label.nunique()} classes" if votes.label.nunique() != 2 else ""
    remark += f", {abstained} abstentions" if abstained else ""
    remark += f", {before - len(votes)} second votes left out" if before > len(votes) else ""
    return votes, truth, remark


def honeypots(truth: pd.Series, share: float, seed: int) -> pd.Series:
    """A random ``share`` of the tasks with truth, the same for every method."""
    return truth.sample(frac=share, random_state=seed)


def measure(truth: pd.Series, labels: pd.Series, positive_p: pd.Series | None, positive: object) -> dict[str, float]:
    """Quality on the tasks of ``truth``; AUC and ECE only where a probability is given (two classes)."""
    said = labels.reindex(truth.index)
    recalls = [(said[truth == c] == c).mean() for c in truth.unique()]
    result = {"accuracy": float((said == truth).mean()), "balanced": float(np.mean(recalls))}
    if positive_p is not None:
        up, p = (truth == positive).to_numpy(), positive_p.reindex(truth.index).fillna(0.5).to_numpy()
        result |= {"auc": auc(up, p), "ece": calibration_error(up, p)}
    return result


def run_ours(make: Callable, votes: pd.DataFrame, gold: pd.Series) -> tuple[pd.Series, pd.DataFrame, float]:
    begun = time.process_time()
    fitted = make().fit(votes, gold)
    probas = fitted.probas_
    seconds = time.process_time() - begun
    return fitted.labels_, probas, seconds


def run_theirs(make: Callable, votes: pd.DataFrame, gold: pd.Series | None) -> tuple[pd.Series, pd.DataFrame, float]:
    begun = time.process_time()
    method = make()
    method = method.fit(votes, gold) if gold is not None else method.fit(votes)
    seconds = time.process_time() - begun
    labels, probas = getattr(method, "labels_", None), getattr(method, "probas_", None)
    if labels is None:
        labels = method.predict(votes)
    if probas is None and hasattr(method, "predict_proba"):
        probas = method.predict_proba(votes)
    return labels, probas, seconds


def compare(
    sets: dict[str, tuple[pd.DataFrame, pd.Series, str]], draws: int, share: float, slow_limit: int
) -> pd.DataFrame:
    """One row a method, set and draw."""
    rows = []
    theirs = crowd_kit()
    for name, (votes, truth, remark) in sets.items():
        print(f"# {name}: {remark}", file=sys.stderr, flush=True)
        table = votes[["task", "worker", "label"]]
        classes = sorted(votes["label"].unique())
        positive = classes[1] if len(classes) == 2 else None
        golds = [honeypots(truth, share, seed) for seed in range(draws)]
        for method in [*OURS, *theirs]:
            ours = method in OURS
            if ours and positive is None and method not in MANY_CLASSES:
                continue
            if not ours and theirs[method][2] and len(votes) > slow_limit:
                continue
            answer, done = None, []
            for draw, gold in enumerate(golds):
                try:
                    if ours:
                        answer = run_ours(OURS[method], table, gold)
                    elif theirs[method][1]:
                        answer = run_theirs(theirs[method][0], table, gold)
                    elif answer is None:  # without gold the draws change only what it is measured on
                        answer = run_theirs(theirs[method][0], table, None)
                except (
                    ValueError,
                    AttributeError,
                    KeyError,
                    IndexError,
                    TypeError,
                    ArithmeticError,
                    CrlhfError,
                ) as error:
                    print(f"  {method} failed on {name}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
                    done = []
                    break
                labels, probas, seconds = answer
                p = probas[positive] if probas is not None and positive is not None else None
                rest = truth.drop(gold.index)
                quality = measure(rest, labels, p, positive)
                done.append(
                    {"set": name, "method": method, "draw": draw, "labels_per_s": len(votes) / seconds} | quality
                )
            rows += done
    return pd.DataFrame(rows)


def print_table(results: pd.DataFrame, sets: dict[str, tuple[pd.DataFrame, pd.Series, str]]) -> pd.DataFrame:
    """Means over draws by set, and over binary sets; a method that failed or was skipped on a set has no mean."""
    binary = [n for n, (votes, _, _) in sets.items() if votes["label"].nunique() == 2]
    means = results.groupby(["method", "set"], sort=False).mean(numeric_only=True)
    summary = []
    for method in results["method"].unique():
        by_set = means.loc[method]
        complete = all(n in by_set.index for n in binary)
        whole = by_set.loc[binary].mean() if complete and binary else None
        time_taken = sum(len(sets[n][0]) / by_set.loc[n, "labels_per_s"] for n in by_set.index)
        spread = results[(results.method == method) & results.set.isin(binary)].groupby("draw")["accuracy"].mean().std()
        summary.append(
            {"method": method}
            | {n: 100 * by_set.loc[n, "accuracy"] if n in by_set.index else np.nan for n in sets}
            | {
                "mean": 100 * whole["accuracy"] if complete and binary else np.nan,
                "sd": 100 * spread if complete else np.nan,
                "balanced": 100 * whole["balanced"] if complete and binary else np.nan,
                "AUC": 100 * whole["auc"] if complete and binary else np.nan,
                "ECE": 100 * whole["ece"] if complete and binary else np.nan,
                "labels/CPU s": sum(len(sets[n][0]) for n in by_set.index) / time_taken,
            }
        )
    frame = pd.DataFrame(summary).set_index("method")
    print(
        "\nAccuracy by set; mean, its standard deviation over draws, balanced accuracy, AUC, ECE over binary sets (%)"
    )
    shown = frame.copy()
    shown["labels/CPU s"] = shown["labels/CPU s"].map("{:,.0f}".format)
    print(shown.to_string(float_format="{:.1f}".format, na_rep="-"))
    print_sets(means)
    return frame


def print_sets(means: pd.DataFrame) -> None:
    """What is not accuracy, by set."""
    for column, title in (("balanced", "Balanced accuracy"), ("auc", "AUC"), ("ece", "ECE")):
        if column in means and (table := 100 * means[column].unstack("set", sort=False)).notna().any(axis=None):
            print(f"\n{title} by set (%)")
            print(table.to_string(float_format="{:.1f}".format, na_rep="-"))


def streamed(estimator: TwoCoin, scenario: Scenario, tasks_a_batch: int) -> float:
    """Accuracy of the answers given when each batch of tasks came in, honeypots first."""
    votes, gold = scenario.votes, scenario.gold
    estimator.partial_fit(votes[votes.task.isin(gold.index)], gold)
    rest = votes[~votes.task.isin(gold.index)]
    right = []
    for _, batch in rest.groupby(rest.task // tasks_a_batch):
        estimator.partial_fit(batch)
        names = batch.task.unique()
        right.append((estimator.posterior(names)[1] >= 0.5) == (scenario.truth.loc[names] == 1))
    return float(pd.concat(right).mean())


def adversaries(draws: int) -> pd.DataFrame:
    """Accuracy on tasks without gold, mean over draws."""
    cases = {
        "honest": ("honest", 0.0, "early"),
        "always-correct spam, 20%": ("spam", 0.2, "early"),
        "always-correct spam, 30%": ("spam", 0.3, "early"),
        "colluders, 40%": ("colluders", 0.4, "early"),
        "copycats, 40%": ("copycats", 0.4, "early"),
        "camouflaged, 20%, no late gold": ("camouflaged", 0.2, "early"),
        "camouflaged, 20%, late gold": ("camouflaged", 0.2, "both"),
        "camouflaged, 20%, late gold alone": ("camouflaged", 0.2, "late"),
    }
    methods = {n: OURS[n] for n in ("majority", "one_coin (paper)", "two_coin", "dawid_skene", "hierarchical")}
    rows: dict[str, dict[str, float]] = {}
    for title, (kind, share, when) in cases.items():
        for method, make in methods.items():
            found = []
            for seed in range(draws):
                scenario = simulate(kind, share, seed)
                golds = {"early": scenario.gold, "late": scenario.late_gold}
                gold = pd.concat(golds.values()) if when == "both" else golds[when]
                rest = scenario.truth.drop(scenario.gold.index).drop(scenario.late_gold.index)
                said = make().fit(scenario.votes[["task", "worker", "label"]], gold).labels_
                found.append((said.loc[rest.index] == rest).mean())
            rows.setdefault(title, {})[method] = 100 * float(np.mean(found))
    for decay in (1.0, 0.98):
        title = f"drift, streamed, decay {decay:g}"
        found = [
            streamed(TwoCoin(decay=decay), simulate("drift", 0, seed, tasks=2000, annotators=20, per_task=5), 5)
            for seed in range(draws)
        ]
        rows[title] = {"two_coin": 100 * float(np.mean(found))}
    frame = pd.DataFrame(rows).T
    print("\nAdversarial crowds: accuracy (%)")
    print(frame.to_string(float_format="{:.1f}".format, na_rep="-"))
    return frame


def share_of_top(values: pd.Series, chance: float) -> np.ndarray:
    """0 to 1 on a scale whose top is the largest value there is and of which ``chance`` comes by guessing."""
    return np.nan_to_num(np.clip((values / max(values.max(), 1e-9) - chance) / (1 - chance), 0, 1).to_numpy(float))


def replayable(votes: pd.DataFrame) -> bool:
    """Whether the set has two classes, times, confidences and test scores."""
    numbers = all(name in votes and pd.api.types.is_numeric_dtype(votes[name]) for name in ("confidence", "score"))
    return "time" in votes and numbers and votes["label"].nunique() == 2


def replay(folder: Path) -> dict[str, float]:
    """AUC of the negative class ("this line is faulty"), the set replayed in time order, vote by vote in batches of 20.

    Without gold, as the set is. A vote's weight is its confidence (of the highest), times the test score corrected for
    chance: half of the points come by guessing. The median annotator gave three answers; how far to trust so few beside
    the crowd's rate is for the estimator to find out.
    """
    votes, truth, _ = load(folder)
    votes = votes.sort_values("time", kind="stable").drop(columns="time")
    confidence, score = share_of_top(votes["confidence"], 0), share_of_top(votes["score"], 0.5)
    weights = {"votes": None, "confidence": confidence, "confidence x score": confidence * score}
    makers = {"majority": Majority, "two_coin": TwoCoin, "two_coin, strength 4": lambda **kw: TwoCoin(4, **kw)}
    negative, positive = sorted(votes["label"].unique().tolist())
    result = {}
    for title, weight in weights.items():
        table = votes[["task", "worker", "label"]]
        table = table if weight is None else table.assign(weight=weight)
        for name, make in makers.items():
            estimator = make(classes=(negative, positive))
            for start in range(0, len(table), 20):
                estimator.partial_fit(table.iloc[start : start + 20])
            p = estimator.posterior(truth.index)[positive].to_numpy()
            result[f"{name}, {title}"] = auc((truth == negative).to_numpy(), -p)
    print(f"\n{folder.name} replayed as a stream: AUC of class {negative!r}")
    for title, value in result.items():
        print(f"  {title:42s} {value:.3f}")
    return result


def streaming_speed() -> dict[str, float]:
    """labels/s in batches of 1,000 through the whole API."""
    rng = np.random.default_rng(0)
    n, tasks = 300_000, 60_000
    votes = pd.DataFrame(
        {
            "task": np.repeat(np.arange(tasks), 5),
            "worker": [f"w{i}" for i in rng.integers(0, 2000, n)],
            "label": (rng.random(n) < 0.7).astype(int),
        }
    ).drop_duplicates(["task", "worker"])
    gold = pd.Series(rng.integers(0, 2, 2000))
    batches = [votes.iloc[i : i + 1000] for i in range(0, len(votes), 1000)]
    estimator = TwoCoin(classes=(0, 1)).partial_fit(votes[:0], gold)
    begun = time.process_time()
    for batch in batches:
        estimator.partial_fit(batch)
    rate = len(votes) / (time.process_time() - begun)
    speed = {"labels/CPU s in batches of 1,000": rate}
    print("\nStreaming two_coin")
    for title, value in speed.items():
        print(f"  {title:32s} {value:,.0f}")
    return speed


def above_theirs(results: pd.DataFrame, binary: list[str]) -> tuple[float, str]:
    """``(points above the crowd-kit method that comes closest, what was not run everywhere)``; each of them is compared
    on the binary sets that it ran on."""
    accuracy = results[results["set"].isin(binary)].groupby(["method", "set"])["accuracy"].mean().unstack()
    margins, gaps = [], []
    for method in THEIRS:
        ran = accuracy.loc[method].dropna().index if method in accuracy.index else []
        if len(ran):
            margins.append(100 * float((accuracy.loc[BEST, ran] - accuracy.loc[method, ran]).mean()))
        if len(ran) < len(binary):
            gaps.append(f"{method.removeprefix('crowd-kit ')} on {', '.join(ran) or 'none'}")
    return min(margins, default=float("nan")), f" (not run on all sets: {'; '.join(gaps)})" if gaps else ""


def targets(
    results: pd.DataFrame,
    table: pd.DataFrame,
    crowds: pd.DataFrame,
    streams: dict[str, dict[str, float]],
    speed: dict[str, float],
    binary: list[str],
) -> None:
    """What was aimed at, and whether it was reached in this run."""

    def at(frame: pd.DataFrame, row: str, column: str) -> float:
        return float(frame.loc[row, column]) if row in frame.index and column in frame.columns else float("nan")

    margin, gaps = above_theirs(results, binary)
    reference_speed = at(table, REFERENCE, "labels/CPU s")
    lines = [
        (f"accuracy above every crowd-kit method{gaps}", margin, ">", 0.0),
        ("points above DawidSkene with true_labels", at(table, BEST, "mean") - at(table, REFERENCE, "mean"), ">=", 1.0),
        ("ECE after tempering, %", at(table, BEST_TEMPERED, "ECE"), "<=", 5.0),
        (
            "dawid_skene, times crowd-kit DawidSkene's labels/s",
            at(table, "dawid_skene", "labels/CPU s") / reference_speed,
            ">=",
            10.0,
        ),
        (
            "hierarchical, times crowd-kit DawidSkene's labels/s",
            at(table, BEST, "labels/CPU s") / reference_speed,
            ">=",
            10.0,
        ),
        ("streamed labels/CPU s in batches of 1,000", speed["labels/CPU s in batches of 1,000"], ">=", 300_000.0),
        ("always-correct spam at 30%", at(crowds, "always-correct spam, 30%", BEST), ">=", 88.0),
        ("colluders at 40%", at(crowds, "colluders, 40%", BEST), ">=", 80.0),
        ("camouflaged colluders at 20%, late gold", at(crowds, "camouflaged, 20%, late gold", BEST), ">=", 85.0),
        ("drift with decay", at(crowds, "drift, streamed, decay 0.98", "two_coin"), ">=", 87.0),
    ]
    lines += [(f"{name} streamed, AUC of {STREAMED}", found[STREAMED], ">=", 0.92) for name, found in streams.items()]
    print("\nAims")
    for title, value, sign, aim in lines:
        met = (
            value > aim
            if sign == ">"
            else value >= aim
            if sign == ">="
            else value < aim
            if sign == "<"
            else value <= aim
        )
        word = "NOT RUN" if np.isnan(value) else "met    " if met else "NOT MET"
        print(f"  {word} {title}: {value:,.3f} (aim {sign} {aim:,g})")


def plot(folder: Path, table: pd.DataFrame, crowds: pd.DataFrame, sets: dict, share: float) -> None:
    """accuracy.png, calibration.png, adversaries.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    binary = [name for name, (votes, _, _) in sets.items() if votes["label"].nunique() == 2]
    if binary:
        plot_sets(folder, table, {name: sets[name] for name in binary}, share)
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    crowds.plot.barh(ax=axes, width=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy (%)", xlim=(0, 100))
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(folder / "adversaries.png", dpi=130)
    print(f"\nplots in {folder}")


def plot_sets(folder: Path, table: pd.DataFrame, sets: dict, share: float) -> None:
    """accuracy.png and calibration.png of the binary sets."""
    import matplotlib.pyplot as plt

    order = table["mean"].dropna().sort_values()
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(order) + 1.2), layout="constrained")
    axes.barh(order.index, order, xerr=table.loc[order.index, "sd"].fillna(0),
              color=["#8a8a8a" if n.startswith("crowd-kit") else "#2a6fbb" for n in order.index])  # fmt: skip
    axes.set(xlabel="mean accuracy over binary sets (%), bar: sd over draws", xlim=(max(50, order.min() - 3), 100))
    figure.savefig(folder / "accuracy.png", dpi=130)

    figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for name, make in {"hierarchical": Hierarchical, "tempered": lambda: Calibrated(Hierarchical)}.items():
        p, up = [], []
        for votes, truth, _ in sets.values():
            positive = sorted(votes["label"].unique())[1]
            gold = honeypots(truth, share, 0)
            rest = truth.drop(gold.index)
            p.append(make().fit(votes[["task", "worker", "label"]], gold).posterior(rest.index)[positive].to_numpy())
            up.append((rest == positive).to_numpy())
        joined, positive_class = np.concatenate(p), np.concatenate(up)
        bins = np.minimum((joined * 10).astype(int), 9)
        filled = [b for b in range(10) if (bins == b).sum() >= 10]
        axes.plot(
            [joined[bins == b].mean() for b in filled],
            [positive_class[bins == b].mean() for b in filled],
            "o-",
            label=name,
        )
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(xlabel="P(positive) said", ylabel="share positive")
    axes.legend()
    figure.savefig(folder / "calibration.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of folders with labels.csv and truth.csv")
    parser.add_argument("--draws", type=int, default=5, help="draws of honeypots (default 5)")
    parser.add_argument("--gold", type=float, default=0.1, help="share of tasks that are honeypots (default 0.1)")
    parser.add_argument(
        "--slow-limit",
        type=int,
        default=10_000,
        help="largest set, in labels, on which crowd-kit's slow GLAD, MACE and MMSR run (default 10000)",
    )
    parser.add_argument("--plot", type=Path, help="folder to write plots into")
    parser.add_argument("--json", type=Path, help="file to write every draw's numbers into")
    arguments = parser.parse_args()
    folders = sorted(f.parent for f in arguments.data.glob("*/labels.csv") if (f.parent / "truth.csv").exists())
    if not folders:
        parser.error(f"{arguments.data} has no folder with labels.csv and truth.csv")
    sets = {folder.name: load(folder) for folder in folders}
    results = compare(sets, arguments.draws, arguments.gold, arguments.slow_limit)
    if arguments.json:  # before anything else can fail
        arguments.json.write_text(json.dumps(results.to_dict("records"), indent=1))
    table = print_table(results, sets)
    crowds = adversaries(arguments.draws)
    streams = {folder.name: replay(folder) for folder in folders if replayable(sets[folder.name][0])}
    speed = streaming_speed()
    binary = [name for name, (votes, _, _) in sets.items() if votes["label"].nunique() == 2]
    targets(results, table, crowds, streams, speed, binary)
    if arguments.plot:
        plot(arguments.plot, table, crowds, sets, arguments.gold)


if __name__ == "__main__":
    main()
