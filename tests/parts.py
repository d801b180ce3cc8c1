"""A module of somebody's own parts, as text: written where a run is started."""

MY_PARTS = """
import numpy as np
from crlhf_ray.learner.advantage import Algorithm

limit = 3

def strict(evidence, prior, settings):
    return float((evidence > 0).all())

def centred(batch):
    mean = np.mean([rewards.sum() for rewards in batch.rewards])
    return [np.full(len(rewards), rewards.sum() - mean) for rewards in batch.rewards]

grouped = Algorithm(centred, needs_groups=True)

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
