"""What the estimators reach on crowds of real people; `benchmarks/aggregation.py` sets crowd-kit's figures beside."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crlhf_ray.aggregation.calibrate import Calibrated
from crlhf_ray.aggregation.hierarchical import Hierarchical
from crlhf_ray.aggregation.majority import Majority
from crlhf_ray.aggregation.quality import auc, calibration_error
from crlhf_ray.aggregation.two_coin import TwoCoin

if "CRLHF_DATA" not in os.environ:
    pytest.skip("set CRLHF_DATA to the folder of public data sets, for its crowd/", allow_module_level=True)
FOLDERS = sorted((Path(os.environ["CRLHF_DATA"]) / "crowd").iterdir())


def load(folder):
    text = {"task": str, "worker": str}
    votes = pd.read_csv(folder / "labels.csv", dtype=text)
    truth = pd.read_csv(folder / "truth.csv", dtype=text).set_index("task")["label"]
    return votes.drop_duplicates(["task", "worker"]), truth[truth.index.isin(votes["task"])]


@pytest.fixture(scope="module")
def found():
    """Accuracy and calibration error by set, a tenth of the tasks being honeypots."""
    rows = []
    for folder in FOLDERS:
        votes, truth = load(folder)
        gold = truth.sample(frac=0.1, random_state=0)
        rest = truth.drop(gold.index)
        for name, make in (("best", lambda: Calibrated(Hierarchical)), ("two_coin", TwoCoin), ("majority", Majority)):
            p = make().fit(votes[["task", "worker", "label"]], gold).posterior(rest.index)[1].to_numpy()
            up = (rest == 1).to_numpy()
            rows.append((folder.name, name, ((p >= 0.5) == up).mean(), calibration_error(up, p)))
    return pd.DataFrame(rows, columns=["set", "method", "accuracy", "ece"]).groupby("method").mean(numeric_only=True)


def test_the_best_estimator_is_above_dawid_skene_with_gold_by_a_point(found):
    assert found.loc["best", "accuracy"] >= 0.884 + 0.01  # crowd-kit's DawidSkene with true_labels: .884


def test_two_coin_in_one_pass_is_above_majority_vote(found):
    assert found.loc["two_coin", "accuracy"] > found.loc["majority", "accuracy"] + 0.02


def test_tempered_answers_are_right_as_often_as_they_say(found):
    assert found.loc["best", "ece"] <= 0.05


def test_confidence_and_test_score_tell_faulty_lines_in_a_stream():
    votes, truth = load(Path(os.environ["CRLHF_DATA"]) / "crowd" / "faultloc")
    votes = votes.sort_values("time", kind="stable")
    weight = votes["confidence"] / 5 * np.clip((votes["score"] - 2.5) / 2.5, 0, 1)
    scores = []
    for table in (votes, votes.assign(weight=weight)):
        estimator = TwoCoin(classes=(0, 1))
        for start in range(0, len(table), 20):
            estimator.partial_fit(table.iloc[start : start + 20].drop(columns="time"))
        scores.append(auc((truth == 0).to_numpy(), -estimator.posterior(truth.index)[1].to_numpy()))
    assert scores[1] >= 0.92 > scores[0]
