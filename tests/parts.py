"""A module of somebody's own parts, as text: written where a run is started."""

MY_PARTS = """
import numpy as np
import pyarrow as pa
from crlhf_ray import Feedback
from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.feedback.source import Heard
from crlhf_ray.learner.advantage import Algorithm

limit = 3

def strict(evidence, prior, settings):
    return float((evidence > 0).all())

def centred(batch):
    mean = np.mean([rewards.sum() for rewards in batch.rewards])
    return [np.full(len(rewards), rewards.sum() - mean) for rewards in batch.rewards]

grouped = Algorithm(centred, needs_groups=True)

class OneVoice(Feedback):
    def __init__(self, settings, honeypots, aggregator, directory, *, seed, rounds, wait_seconds):
        super().__init__(aggregator, wait_seconds, rounds)
        self.said = []
    def publish(self, items, truth, round):
        rows = [
            {"event_id": f"{item.item_id}-{line}", "item_id": item.item_id, "line": line, "annotator_id": "one",
             "label": int(label), "confidence": None, "milliseconds": None, "created_at": 0, "source": "llm"}
            for item in items for line, label in zip(item.to_review, truth[item.item_id])
        ]
        marks = pa.Table.from_pylist(rows, ANNOTATION_SCHEMA)
        self.hand_in(marks)
        self.said.append(Heard(marks, frozenset(item.item_id for item in items)))
    def hear(self):
        return self.said.pop() if self.said else Heard(ANNOTATION_SCHEMA.empty_table(), frozenset())

class Deaf(Feedback):
    def publish(self, items, truth, round):
        pass

class Trusting:
    coins = 0
    def __init__(self, settings):
        self.p = 0.9 if settings.use_confidence else 0.6
    def rates(self, counts, crowd):
        return np.full(len(counts), self.p), np.full(len(counts), self.p)
    def beta(self, counts, crowd):
        return np.ones((len(counts), 2)), np.ones((len(counts), 2))
    def strengths(self, counts, crowd):
        return np.zeros(2)
"""
