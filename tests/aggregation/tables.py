"""Small tables for the tests of aggregation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA
from crlhf_ray.feedback.log import AnnotationLog


def annotations(rows, *, prefix="e", start=0):
    """ANNOTATION_SCHEMA from (item, line, annotator, label[, confidence[, created_at in microseconds]])."""
    full = [(*row, None, None)[:6] if len(row) < 6 else row for row in rows]
    return pa.table(
        {
            "event_id": [f"{prefix}{start + i}" for i in range(len(full))],
            "item_id": [row[0] for row in full],
            "line": [row[1] for row in full],
            "annotator_id": [row[2] for row in full],
            "label": [row[3] for row in full],
            "confidence": [row[4] for row in full],
            "milliseconds": [None] * len(full),
            "created_at": [start + i if row[5] is None else row[5] for i, row in enumerate(full)],
            "source": ["simulated"] * len(full),
        },
        schema=ANNOTATION_SCHEMA,
    )


def gold(rows):
    """GOLD_SCHEMA from (item, line, truth)."""
    items, lines, truths = zip(*rows, strict=True)
    return pa.table({"item_id": items, "line": lines, "truth": truths}, schema=GOLD_SCHEMA)


def crowd(rng, truth, sensitivity, specificity, *, density=1.0):
    """Long table (task, worker, label 0/1) of independent annotators with these rates."""
    truth = np.asarray(truth)
    n, m = len(sensitivity), len(truth)
    right = rng.random((m, n)) < np.where(truth[:, None] == 1, sensitivity, specificity)
    label = np.where(right, truth[:, None], 1 - truth[:, None])
    task, worker = np.nonzero(rng.random((m, n)) < density)
    return pd.DataFrame({"task": task, "worker": [f"w{i}" for i in worker], "label": label[task, worker]})


#: Four reviewers' P(right), on any line.
HONEST = np.array([0.95, 0.85, 0.92, 0.90])


def reviewed_programs(rng, share, *, programs=50, honeypots=12, lines=3):
    """``(truth, marks, honeypots' ids)``: +1/-1 by item [lines], and [lines, reviewers] by item, honeypots first.

    The reviewers are the four of `HONEST` and one who calls every line correct. share: P(a line of work is correct). A
    third of the honeypots is intact, each other one has one wrong line.
    """
    truth = {}
    for number in range(honeypots):
        truth[f"p{number}"] = np.ones(lines, int)
        if number >= honeypots // 3:
            truth[f"p{number}"][rng.integers(lines)] = -1
    known = list(truth)
    truth |= {f"w{number}": np.where(rng.random(lines) < share, 1, -1) for number in range(programs)}
    marks = {}
    for item, z in truth.items():
        right = rng.random((lines, len(HONEST))) < HONEST
        marks[item] = np.column_stack([np.where(right, z[:, None], -z[:, None]), np.ones(lines, int)])
    return truth, marks, known


def rows_of(marks):
    """(item, line, reviewer, label) of marks by item, [lines, reviewers]."""
    names = [*"abcd", "spammer"]
    return [(i, n, names[who], int(v)) for i in marks for n, line in enumerate(marks[i]) for who, v in enumerate(line)]


def keeper(folder, settings=None):
    """An aggregation actor's object with a Parquet log of its own, both in this folder."""
    return Aggregator(folder, settings, AnnotationLog(Path(folder) / "marks"))
