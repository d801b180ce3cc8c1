"""A run folder as training leaves it, with invented numbers: the report's tests and its reviewers look at it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from crlhf_ray.report.metrics import MetricsLog

CROWD = [
    ("ann-01", "expert", 0.95, 0.9),
    ("ann-02", "expert", 0.92, 0.85),
    ("ann-03", "average", 0.82, 0.6),
    ("ann-04", "average", 0.8, 0.55),
    ("ann-05", "average", 0.78, 0.5),
    ("ann-06", "careless", 0.65, 0.4),
    ("ann-07", "careless", 0.6, 0.42),
    ("ann-08", "spammer", 0.99, 0.01),
    ("ann-09", "random", 0.5, 0.5),
    ("ann-10", "adversary", 0.2, 0.15),
]
PROMPT = 'def count_vowels(text: str) -> int:\n    """Return how many vowels the text holds."""'
PROGRAM = [
    ("", None, None, False),
    ("    vowels = 'aeiou'", 0.93, 1, True),
    ("    # upper case counts too", None, None, False),
    ("    total = 0", 0.97, 1, True),
    ("    for letter in text:", 0.88, 1, True),
    ("        if letter in vowels:", 0.24, -1, True),
    ("            total += 1", 0.58, -1, True),
    ("    return total", 0.91, 1, True),
]


def write_example_run(directory: Path, rounds: int = 40) -> Path:
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "run": {"dir": str(directory), "seed": 0, "rounds": 40},
        "model": {"name": "smollm2-135m", "dtype": "float32"},
        "problems": {"source": "starter"},
        "aggregation": {"estimator": "two_coin"},
    }
    (directory / "settings.json").write_text(json.dumps(settings))
    with MetricsLog(directory) as log:
        for number in range(rounds + 1):
            if number % 10 == 0:
                rates = np.clip(rng.normal(0.2 + 0.003 * number, 0.2, 40), 0, 1)
                half = 1.96 * rates.std() / np.sqrt(len(rates))
                log.append_evaluation(
                    {
                        "round": number,
                        "split": "heldout",
                        "n": 10,
                        "temperature": 0.8,
                        "pass_at_1": rates.mean(),
                        "low": rates.mean() - half,
                        "high": rates.mean() + half,
                        "per_problem": {f"family/{i}": rate for i, rate in enumerate(rates)},
                    }
                )
            if number < rounds:
                log.append(metrics_row(number, rng))
                log.append_reliability(reliability(number, rng))
                log.append_samples([sample(number, index) for index in range(4)])
    return directory


def metrics_row(number: int, rng: np.random.Generator) -> dict:
    alerts = ["score stagnation: reward std 0.02 over the last 3 rounds is too low to learn from"]
    return {
        "round": number,
        "samples": 48,
        "reward": {"mean": 0.6 + 0.004 * number + rng.normal(0, 0.02), "std": 0.18 + rng.normal(0, 0.01)},
        "train_pass_rate": min(1.0, 0.22 + 0.006 * number + abs(rng.normal(0, 0.03))),
        "learner": {
            "kl": 0.002 * number + abs(rng.normal(0, 0.002)),
            "kl_coef": 0.2 * 0.98**number,
            "loss": rng.normal(0, 0.05),
            "logprob_gap_mean": abs(rng.normal(1e-5, 2e-6)) + 1e-7,
            "logprob_gap_max": abs(rng.normal(8e-5, 2e-5)) + 1e-6,
        },
        "aggregation": {
            "consensus_accuracy": 0.93 + rng.normal(0, 0.008),
            "majority_accuracy": 0.88 + rng.normal(0, 0.01),
            "consensus_auc": float("nan"),
            "labels": 2400,
        },
        "seconds": {
            "generate": 8 + rng.normal(0, 0.5),
            "check": 0.6,
            "review": 0.3,
            "aggregate": 0.4,
            "learn": 12 + rng.normal(0, 0.6),
            "sync": 0.8,
            f"evaluate round {number}": 20.0 if number % 10 == 0 else 0.0,
            "checkpoint": 1.2,
        },
        "alerts": alerts if number in (4, 5) else [],
    }


def reliability(number: int, rng: np.random.Generator) -> pa.Table:
    width = 0.25 / np.sqrt(number + 1)
    rows = []
    for name, kind, sensitivity, specificity in CROWD:
        row = {"annotator_id": name, "kind": kind, "round": number, "labels": 200 * (number + 1), "gold_labels": 60}
        for field, true in (("sensitivity", sensitivity), ("specificity", specificity)):
            estimate = float(np.clip(true + rng.normal(0, width / 3), 0.01, 0.99))
            row |= {
                field: estimate,
                f"{field}_low": max(0, estimate - width),
                f"{field}_high": min(1, estimate + width),
                f"true_{field}": true,
            }
        rows.append(row)
    return pa.Table.from_pylist(rows)


def sample(number: int, index: int) -> dict:
    lines = [
        {
            "text": text,
            "p_correct": None if p is None else min(1.0, p + 0.02 * index),
            "truth": truth,
            "to_review": to_review,
        }
        for text, p, truth, to_review in PROGRAM
    ]
    return {
        "round": number,
        "sample_id": f"r{number}-{index}",
        "problem_id": f"strings/count_vowels_{index}",
        "item_id": f"item-{number}-{index}",
        "prompt": PROMPT,
        "lines": lines,
        "reward": 0.75 + 0.02 * index,
        "passed": index == 3,
    }
