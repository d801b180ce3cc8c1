"""The training loop: Algorithm 1 of cRLHF (arXiv 2503.15129), one function per step of it.

Who waits for whom. The driver runs this file and waits for each step in turn; nothing else has an order of its own.
Rollout replicas sleep until `generate` wakes them and are current again only after `sync`. Annotators answer into the
log; the aggregation actor learns of every batch before `consensus` is asked. The learner's ranks sleep until
`update`. Every wait is bounded, and its error names the replica, rank or actor that did not answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crlhf_ray.aggregation.quality import consensus_quality, majority_consensus
from crlhf_ray.config import Config
from crlhf_ray.evaluation.results import skill
from crlhf_ray.export import export_model
from crlhf_ray.pipeline.experience import experiences
from crlhf_ray.pipeline.trainer import Run
from crlhf_ray.report.console import Display
from crlhf_ray.report.headline import summary
from crlhf_ray.report.html import write_report
from crlhf_ray.report.metrics import MetricsLog
from crlhf_ray.reward.credit import score_round


def train(config: Config, *, resume: bool = False) -> Path:
    """Train by Algorithm 1, with held-out skill measured before it and after; returns the report's path."""
    with Display() as display, Run(config, resume=resume, display=display, metrics=MetricsLog) as run:
        while True:
            if run.evaluation_due():
                evaluate(run)
            if run.round >= config.run.rounds:
                break
            play_round(run)
        report = write_report(run.dir)
        display.final_table(summary(run.dir, report))
    if config.run.export is not None:  # when the engines have given their memory back
        export_model(run.dir, form=config.run.export, console=display.console)
    return report


def play_round(run: Run) -> None:
    """One round: sample, review line by line, find the consensus, score, learn, hand on the weights."""
    config = run.config
    problems = run.problems_of_round()
    with run.phase("generate", len(problems) * config.run.samples_per_problem):
        drawn = run.generate(problems, n=config.run.samples_per_problem, tag=f"r{run.round}")
    with run.phase("judge"):
        samples, verdicts = run.judged(drawn)
        items = run.items(samples)
        truth = run.line_truth(items, verdicts)
    with run.phase("annotate", len(items)):
        annotations = run.feedback.collect(items, truth, run.round, run.display.advance)
    with run.phase("aggregate"):
        consensus = run.consensus(items)
        worth = score_round(
            samples,
            [consensus[item.item_id] for item in items],
            config.reward,
            prior=run.line_prior(),
            passed=[verdict.passed for verdict in verdicts],
            seed=config.run.seed,
        )
        scores = np.array([score.value for score in worth])
    with run.phase("learn"):
        learnt = run.engines.learner.update(experiences(samples, worth, config.rollout.temperature))
    if "logprob_gap_mean" in learnt:  # not where the batch was skipped
        run.check_gap(learnt["logprob_gap_mean"])
    with run.phase("sync"):
        run.engines.fleet.sync(run.engines.learner, run.round + 1)
    row = {
        "samples": len(samples),
        "unjudged": len(drawn) - len(samples),
        "reward": {"mean": scores.mean(), "std": scores.std()},
        "train_pass_rate": np.mean([verdict.passed for verdict in verdicts]),
        "tokens_per_sample": np.mean([len(sample.token_ids) for sample in samples]),
        "learner": learnt,
        "aggregation": {
            "labels": annotations.num_rows,
            "majority_accuracy": consensus_quality(majority_consensus(annotations), truth, items)["consensus_accuracy"],
            **consensus_quality(consensus, truth, items),
        },
    }
    run.finish_round(row, samples, items, consensus, truth, verdicts, scores)


def evaluate(run: Run) -> None:
    """Measure held-out pass@1 of the current weights."""
    settings = run.config.evaluation
    problems = run.heldout
    with run.phase(f"evaluate round {run.round}", len(problems) * settings.samples):
        drawn = run.generate(problems, n=settings.samples, tag=f"e{run.round}", temperature=settings.temperature)
        samples, verdicts = run.judged(drawn)
    outcomes = [(sample.problem_id, verdict.passed) for sample, verdict in zip(samples, verdicts, strict=True)]
    run.metrics.append_evaluation(
        {
            "round": run.round,
            "split": "heldout",
            "n": settings.samples,
            "unjudged": len(drawn) - len(samples),
            "temperature": settings.temperature,
            **skill(outcomes),
        }
    )
    run.keep_best()
