"""The training loop: Algorithm 1 of cRLHF (arXiv 2503.15129), one function per step of it.

    people, simulated or not      rollout replicas               learner
             ^  |                    ^   |                         |
     publish |  | marks        tasks |   | samples    batch  +-----+ weights
             |  v                    |   v                   v     v
             +------------------ this driver ------------------ sync

Who waits for whom. The driver waits for the first of a sample or a mark (`Flow`), and for a whole update. With
pipeline.max_staleness=0 everything takes turns, as in the paper; above it replicas draw, people review and the learner
learns at the same time, and what is learnt from is never older than that many updates (`pipeline/buffer.py`). Replicas
take new weights when they have finished what they are drawing, or meanwhile (rollout.on_update). Every wait is bounded,
and its error names the replica, rank or actor that did not answer.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crlhf_ray.config import Config, with_parts
from crlhf_ray.engines import checked
from crlhf_ray.evaluation.results import skill
from crlhf_ray.export import export_model, public_settings
from crlhf_ray.pipeline.experience import experiences
from crlhf_ray.pipeline.records import round_row
from crlhf_ray.pipeline.trainer import Run
from crlhf_ray.report.console import Display
from crlhf_ray.report.headline import summary
from crlhf_ray.report.html import write_report
from crlhf_ray.report.metrics import MetricsLog
from crlhf_ray.report.trackers import check_trackers
from crlhf_ray.reward.credit import score_round


def train(
    config: Config,
    *,
    resume: bool = False,
    reward: Any = None,
    advantage: Any = None,
    estimator: Any = None,
    feedback: Any = None,
) -> Path:
    """Train by Algorithm 1, with held-out skill measured before it and after; returns the report's path.

    reward, advantage, estimator, feedback: parts of your own, of a module, in place of those that ``config`` names.
    """
    config = with_parts(config, reward=reward, advantage=advantage, estimator=estimator, feedback=feedback)
    tracking = config.run.tracking
    check_trackers(tracking)
    display = Display(rounds=config.run.rounds, every=config.evaluation.every)
    metrics = partial(MetricsLog, trackers=tracking, settings=public_settings(config), say=display.say)
    with display, Run(config, resume=resume, display=display, metrics=metrics) as run:
        while True:
            if run.evaluation_due():
                evaluate(run)
            if run.round >= config.run.rounds or run.reached_target():
                break
            play_round(run)
        report = write_report(run.dir)
        display.final_table(summary(run.dir, report))
    if config.run.export is not None:  # when the engines have given their memory back
        export_model(run.dir, form=config.run.export, console=display.console)
    return report


def play_round(run: Run) -> None:
    """One update: sample, review line by line, find the consensus, score, learn, hand on the weights."""
    config = run.config
    with run.gathering():
        while (batch := run.flow.take(run.round)) is None:
            run.flow.begin(version=run.round, update=run.round)
            drawn = run.flow.draw()
            run.flow.check(drawn)
            run.flow.review(drawn, run.round)
    run.flow.begin(version=run.round, update=run.round + 1)  # drawn while the learner learns; in turns, none
    samples = [sample for work in batch for sample in work.samples]
    items = [item for work in batch for item in work.items]
    with run.phase("aggregate"):
        consensus = run.consensus(items)
        worth = score_round(
            samples,
            [consensus[item.item_id] for item in items],
            config.reward,
            prior=run.line_prior(),
            passed=[passed for work in batch for passed in work.passed],
            seed=config.run.seed,
            tests=config.feedback.tests,
        )
        scores = np.array([score.value for score in worth])
    with run.phase("learn"):
        learnt = run.engines.learner.update(experiences(samples, worth, config.rollout.temperature, run.round))
    if "logprob_gap_mean" in learnt:  # not where the batch was skipped, or is all of older weights
        run.check_gap(learnt["logprob_gap_mean"])
    with run.phase("sync"):
        run.engines.fleet.sync(run.engines.learner, run.round + 1)
    marks = run.flow.marks_of(batch)
    row = {"learner": learnt, **round_row(batch, consensus, scores, marks, run.flow.report())}
    run.finish_round({**row, "carried": run.feedback.carried(marks)}, batch, consensus, scores)


def evaluate(run: Run) -> None:
    """Measure held-out pass@1 of the current weights."""
    settings = run.config.evaluation
    problems = run.heldout
    with run.phase(f"evaluate round {run.round}", len(problems) * settings.samples):
        drawn = run.generate(problems, n=settings.samples, tag=f"e{run.round}", temperature=settings.temperature)
        samples, verdicts = checked(drawn, run.problems, run.engines.sandbox)
    outcomes = [(sample.problem_id, verdict.passed) for sample, verdict in zip(samples, verdicts, strict=True)]
    asked = {"n": settings.samples, "temperature": settings.temperature, "unchecked": len(drawn) - len(samples)}
    run.metrics.append_evaluation({"round": run.round, "split": "heldout", **asked, **skill(outcomes)})
    run.display.measured(run.metrics.evaluations())
    run.keep_best()
