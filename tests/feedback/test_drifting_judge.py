"""A judge that is talked into approving everything in the middle of a run: what 50 honeypot lines show."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA
from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.feedback.log import AnnotationLog

NOW = datetime(2025, 1, 1, tzinfo=UTC)


class Run:
    """Rounds of 50 honeypot lines, three quarters of them correct, marked by three people and one judge."""

    def __init__(self, folder, decay, seed):
        log = AnnotationLog(folder / "marks")
        self.aggregator = Aggregator(folder, AggregationSettings(decay=decay), log)
        self.rng = np.random.default_rng(seed)
        self.lines = 0

    def round(self, judge):
        truth = np.where(self.rng.random(50) < 0.75, 1, -1)
        ids = [f"i-{self.lines + n}" for n in range(50)]
        self.lines += 50
        gold = pa.table([ids, [0] * 50, truth.tolist()], schema=GOLD_SCHEMA)
        self.aggregator.add_gold(gold)
        for person in range(3):
            self.mark(ids, f"person-{person}", self.skilled(truth), "human")
        self.mark(ids, "llm:m", judge(truth), "llm")
        return [alert.kind for alert in self.aggregator.alerts() if "llm:m" in alert.subjects]

    def skilled(self, truth):
        return np.where(self.rng.random(50) < np.where(truth > 0, 0.9, 0.8), truth, -truth)

    def mark(self, ids, who, labels, source):
        at = NOW + timedelta(minutes=self.lines)
        columns = [[f"{who}-{i}" for i in ids], ids, [0] * 50, [who] * 50, labels.tolist()]
        rest = [[None] * 50, [None] * 50, [at] * 50, [source] * 50]
        self.aggregator.ingest(pa.table([*columns, *rest], schema=ANNOTATION_SCHEMA))

    def weight(self):
        """Nats that the judge's "correct" adds to a line."""
        (row,) = [row for row in self.aggregator.reliability().to_pylist() if row["annotator_id"] == "llm:m"]
        return np.log(row["sensitivity"] / (1 - row["specificity"]))


@pytest.mark.parametrize("seed", range(3))
def test_fifty_honeypot_lines_bring_an_alert_and_halve_its_weight_where_old_marks_fade(seed, tmp_path):
    run = Run(tmp_path, 0.98, seed)
    before = [run.round(run.skilled) for _ in range(8)]
    trusted = run.weight()
    assert before == [[]] * 8
    assert "annotator collapse" in run.round(np.abs)
    assert run.weight() < 0.5 * trusted
    run.aggregator.close()


def test_where_nothing_fades_its_weight_falls_more_slowly(tmp_path):
    run = Run(tmp_path, 1.0, 0)
    for _ in range(8):
        run.round(run.skilled)
    trusted = run.weight()
    run.round(np.abs)
    assert 0.5 * trusted < run.weight() < trusted
    run.aggregator.close()
