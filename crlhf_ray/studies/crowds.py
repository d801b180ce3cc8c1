"""Studies of annotators: what honeypots teach of them, and how wrong their consensus is."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import spearmanr

from crlhf_ray.aggregation.bounds import berend_kontorovich, bhattacharyya, exact_error
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.aggregation.two_coin import TwoCoin
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.settings import CrowdSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.studies.study import Measured, Study

_NOW = datetime(2024, 1, 1, tzinfo=UTC)
_CORRECT = 0.8  # share of correct lines
_TEN = [f"{n} {member.kind}" for n, member in enumerate(CrowdSettings().annotators)]


def votes_of(crowd: Crowd, truth: np.ndarray) -> pd.DataFrame:
    """Everybody's answers on one program of these lines (truth +1 or -1): task, worker, label 1 or 0."""
    lines = tuple(f"    line({n})" for n in range(len(truth)))
    item = Item("program", "problem", "", lines, tuple(range(len(lines))))
    marks = crowd.annotate([item], {"program": truth}, now=_NOW).to_pandas()
    marks = marks[marks["label"] != 0]
    return pd.DataFrame({"task": marks["line"], "worker": marks["annotator_id"], "label": (marks["label"] > 0) * 1})


def drawn_truth(lines: int, seed: int) -> np.ndarray:
    truth = np.where(np.random.default_rng(seed).random(lines) < _CORRECT, 1, -1).astype(np.int8)
    truth[:2] = 1, -1  # both classes are there
    return truth


@lru_cache(maxsize=256)
def _learnt(lines: int, seed: int) -> pd.DataFrame:
    """What the ten default members' honeypots of so many lines teach, beside what is true of them."""
    crowd = Crowd(seed=seed)
    truth = drawn_truth(lines, seed)
    fitted = TwoCoin().fit(votes_of(crowd, truth), pd.Series((truth > 0) * 1))
    skills = crowd.skills().to_pandas().set_index("annotator_id")
    return skills.join(fitted.reliability(), rsuffix="_learnt")


def calibration(arm: str, place: float, seed: int) -> Measured:
    row = _learnt(int(place), seed).iloc[int(arm.split()[0])]
    return {
        "sensitivity": row["sensitivity_learnt"],
        "specificity": row["specificity_learnt"],
        "sensitivity_error": abs(row["sensitivity_learnt"] - row["sensitivity"]),
        "specificity_error": abs(row["specificity_learnt"] - row["specificity"]),
    }


def annotators(arm: str, place: float, seed: int) -> Measured:
    """Informedness is sensitivity + specificity - 1: 0 for who answers without looking."""
    table = _learnt(int(place), seed)
    true = table["sensitivity"] + table["specificity"] - 1
    learnt = table["sensitivity_learnt"] + table["specificity_learnt"] - 1
    bad = true < 0.15
    found = learnt < 0.25
    return {
        "rank": float(spearmanr(true, learnt).statistic),
        "found": float(found[bad].mean()),
        "blamed": float(found[~bad].mean()),
    }


def bounds(arm: str, place: float, seed: int) -> Measured:
    rng = np.random.default_rng((seed, int(place)))
    p = rng.uniform(0.55, 0.9, int(place))
    if arm == "observed in 20,000 draws":
        right = rng.random((20_000, len(p))) < p
        score = np.where(right, logit(p), -logit(p)).sum(axis=1)
        return {"error": float((score < 0).mean() + (score == 0).mean() / 2)}
    if arm == "exact":
        return {"error": exact_error(p)}
    rule = bhattacharyya if "Bhattacharyya" in arm else berend_kontorovich
    return {"error": rule(p)["upper" in arm]}


@lru_cache(maxsize=1)
def _faultloc() -> pd.DataFrame:
    """By worker: years, profession, what the votes alone say of them, and their share of right answers."""
    folder = Path(os.environ.get("CRLHF_DATA", "")) / "crowd" / "faultloc"
    if "CRLHF_DATA" not in os.environ or not folder.is_dir():
        raise DataError("CRLHF_DATA must name a folder with crowd/faultloc", file=str(folder))
    votes = pd.read_csv(folder / "labels.csv")
    truth = pd.read_csv(folder / "truth.csv").set_index("task")["label"]
    learnt = TwoCoin().fit(votes[["task", "worker", "label"]]).reliability()
    people = votes.groupby("worker").agg(years=("years", "first"), profession=("profession", "first"))
    right = (votes["label"] == votes["task"].map(truth)).groupby(votes["worker"]).mean()
    informed = learnt["sensitivity"] + learnt["specificity"] - 1
    return people.assign(learnt=informed.reindex(people.index), right=right.reindex(people.index))


_YEARS = {0.0: (0, 2), 2.0: (2, 5), 5.0: (5, 10), 10.0: (10, 99)}


def experience(arm: str, place: float, seed: int) -> Measured:
    people = _faultloc()
    low, high = _YEARS[place]
    chosen = people[(people["years"] >= low) & (people["years"] < high)]
    if arm != "everybody":
        chosen = chosen[chosen["profession"] == arm]
    rows = np.random.default_rng(seed).integers(0, max(1, len(chosen)), len(chosen))
    drawn = chosen.iloc[rows]
    return {
        "learnt": float(drawn["learnt"].mean()) if len(drawn) else float("nan"),
        "right": float(drawn["right"].mean()) if len(drawn) else float("nan"),
        "people": float(len(chosen)),
    }


CROWDS = (
    Study(
        "calibration",
        "Ten annotators go through honeypots: do their reliabilities move to what is true of them?",
        "honeypot lines each",
        {
            "sensitivity": "estimated sensitivity",
            "specificity": "estimated specificity",
            "sensitivity_error": "error of the sensitivity",
            "specificity_error": "error of the specificity",
        },
        _TEN,
        (5, 10, 20, 40, 80, 160),
        calibration,
        ("Simulated annotators, four lines in five correct.", "Rates of real people change with the code they see."),
    ),
    Study(
        "annotators",
        "Does the estimated reliability track true skill, and how many honeypot lines until a bad annotator is found?",
        "honeypot lines each",
        {
            "rank": "rank correlation with true skill",
            "found": "share of bad annotators found",
            "blamed": "share of the others taken for bad",
        },
        ("the default ten",),
        (5, 10, 20, 40, 80, 160),
        annotators,
        (
            "Bad is a true sensitivity + specificity - 1 below 0.15; found is an estimate below 0.25: both chosen.",
            "Three of ten annotators are bad; in another crowd the shares are others.",
        ),
    ),
    Study(
        "bounds",
        "How near are the error bounds of a committee to its error?",
        "annotators",
        {"error": "P(the consensus of a line is wrong)"},
        (
            "exact",
            "observed in 20,000 draws",
            "Bhattacharyya, lower",
            "Bhattacharyya, upper",
            "Berend and Kontorovich, lower",
            "Berend and Kontorovich, upper",
        ),
        (1, 3, 5, 7, 9, 11),
        bounds,
        (
            "Reliabilities are known and drawn from 0.55 to 0.9; learnt ones add an error of their own.",
            "Annotators err independently, which people do not quite.",
            "It is not followed over the rounds of a training run.",
        ),
    ),
    Study(
        "experience",
        "Do estimated reliabilities follow years of programming and profession (faultloc, arXiv 1612.03015)?",
        "years of programming, from",
        {
            "learnt": "estimated sensitivity + specificity - 1, without truth",
            "right": "share of right answers",
            "people": "people in the group",
        },
        ("everybody", "Professional_Developer", "Hobbyist", "Graduate_Student", "Undergraduate_Student"),
        tuple(_YEARS),
        experience,
        (
            "Each seed is one bootstrap sample of the group's people; the questions are the same 129.",
            "Half of the people answered three questions or fewer, so single estimates lean on the crowd's.",
            "Years are as people stated them.",
        ),
        bootstrap=True,
    ),
)
