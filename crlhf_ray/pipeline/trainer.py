"""What one training run owns: its folder, its Ray cluster, its actors, and the state that a resumed run starts from."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from crlhf_ray.actors import answer
from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.aggregation.monitors import Alert, score_stagnation, skipped_update, unchecked
from crlhf_ray.aggregation.snapshots import go_back
from crlhf_ray.cluster import connect
from crlhf_ray.config import FREE_ON_RESUME, Config, check_unchanged, settings_file, settings_of_run
from crlhf_ray.engines import Engines
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.source import WebFeedback
from crlhf_ray.feedback.honeypots import HoneypotPool, build_honeypots
from crlhf_ray.feedback.ledger import LOG
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.settings import source_named
from crlhf_ray.feedback.source import AGGREGATOR, Feedback, SimulatedFeedback
from crlhf_ray.learner.forward_check import check_gap
from crlhf_ray.learner.group import Experience
from crlhf_ray.pipeline.claim import check_inputs, claimed, inputs, write_data_sets
from crlhf_ray.pipeline.flow import Flow
from crlhf_ray.pipeline.problems import questions
from crlhf_ray.pipeline.records import sample_rows
from crlhf_ray.pipeline.watching import Display, Metrics
from crlhf_ray.pipeline.work import Work
from crlhf_ray.policy.checkpoints import BEST, LATEST, latest_tag, point, recover
from crlhf_ray.policy.model import load_tokenizer, resolve
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.sample import Sample

#: The aggregation actor's state in a checkpoint's folder.
AGGREGATION_FILE = "aggregation.npz"


class Run:
    """Starts everything that a run needs, restores its state, and ends everything on the way out.

    metrics: opens what keeps the metrics of a folder from a round on.
    """

    def __init__(self, config: Config, *, resume: bool, display: Display, metrics: Callable[[Path, int], Metrics]):
        self.config = config
        self.dir = config.run.dir.absolute()
        self.display = display
        self._open_metrics = metrics
        self.round = 0
        self._saved_at = 0
        self.problems: dict[str, Problem] = {}
        self.heldout: list[Problem] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._exit = ExitStack()
        # A run that failed before it had anything to write down is none: it may be started again with other settings.
        self._resumed = any((self.dir / name).exists() for name in ("evaluations.jsonl", "metrics.jsonl"))
        if self._resumed:
            if not resume:
                raise ConfigError(
                    f"{self.dir} already contains a run; continue it with --resume, or name another run.dir"
                )
            check_unchanged(settings_of_run(self.dir), config, self.dir, free=FREE_ON_RESUME)

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _start(self) -> None:
        config = self.config
        self._exit.enter_context(claimed(self.dir))
        if (complaint := recover(self.dir / "checkpoints")) is not None:
            self.display.say(complaint)
        logs = self.dir / "logs"
        logs.mkdir(exist_ok=True)
        with self.phase("start"):
            resolve(config.model.name)  # unpacked once here rather than by every actor
            self.tokenizer = load_tokenizer(config.model.name)
            train, self.heldout = questions(config, self.tokenizer, self.display.say)
            self.problems = {problem.problem_id: problem for problem in [*train, *self.heldout]}
            named = {"problems.source": config.problems.source, "model.name": config.model.name}
            check_inputs(self.dir, inputs(config, train), named)
            write_data_sets(self.dir, config, train, self.heldout)
            settings_file(self.dir).write_text(config.model_dump_json(indent=2))
            self._exit.enter_context(connect(config.ray.address))
            self.engines = self._exit.enter_context(Engines(config, self.tokenizer, logs, say=self.display.say))
            ledger = AnnotationLog(self.dir / LOG)
            if self._resumed:
                # Later rounds are played again, and what is answered then is all that counts.
                ledger.cut(go_back(self.dir / "aggregation", self._checkpointed(AGGREGATION_FILE)))
            self.aggregator: Any = (
                ray.remote(Aggregator)
                .options(num_cpus=0, max_restarts=3, max_task_retries=3)
                .remote(str(self.dir / "aggregation"), config.aggregation, ledger)
            )
            honeypots = HoneypotPool(
                build_honeypots(
                    train,
                    self.engines.sandbox,
                    config.run.seed,
                    config.feedback.honeypots_per_problem,
                    cache=self.dir / "honeypots",
                    end=True,
                ),
                config.run.seed,
            )
            kind: Callable[..., Feedback] = source_named(config.feedback.source) or SimulatedFeedback
            if config.feedback.source in ("simulated", "web"):
                engine = partial(Aggregator, settings=config.aggregation)
                kind = partial(WebFeedback, engine=engine, aggregation=config.aggregation.meaning())
            self.feedback = kind(
                config.feedback,
                honeypots,
                self.aggregator,
                self.dir,
                seed=config.run.seed,
                rounds=config.run.rounds,
                wait_seconds=config.ray.wait_seconds,
            )
            self._exit.callback(self.feedback.close)
            self.flow = Flow(config, train, self.engines, self.feedback, self._step, self.display.advance)
            self.engines.ready()
            self._restore()
            self._check_transfer()
        self.metrics = self._open_metrics(self.dir, self.round)
        self._exit.callback(self.metrics.close)

    def _check_transfer(self) -> None:
        """A real sync before the first round, and a short draw on whose log-probs rollout and learner must agree."""
        if self.round == 0:
            self.engines.fleet.sync(self.engines.learner, self.round)
        drawn = [sample for sample in self.generate(self.heldout[:1], n=2, tag="probe") if sample.token_ids]
        if drawn:
            told = self.engines.learner.logprobs(
                [
                    Experience(
                        sample_id=sample.sample_id,
                        group=sample.problem_id,
                        prompt_token_ids=sample.prompt_token_ids,
                        token_ids=sample.token_ids,
                        logprobs=sample.logprobs,
                        token_rewards=np.zeros(len(sample.token_ids)),
                        temperature=self.config.rollout.temperature,
                    )
                    for sample in drawn
                ]
            )
            gaps = [np.abs(own - sample.logprobs) for own, sample in zip(told, drawn, strict=True)]
            self.check_gap(float(np.concatenate(gaps).mean()))

    def check_gap(self, gap: float) -> None:
        """Raises EngineError where rollouts and learner are two policies; gap: nats a token, of the same weights."""
        rollout = self.config.rollout
        exact = self.config.model.dtype == rollout.dtype == "float32" and rollout.top_p == 1
        check_gap(gap, self.config.learner.max_logprob_gap, exact=exact)

    def _restore(self) -> None:
        if not self._checkpointed():
            return
        state = self.engines.learner.load(self.dir / "checkpoints")
        self.round = self._saved_at = state["round"]
        self.feedback.restore(state["feedback"])
        self.engines.fleet.sync(self.engines.learner, self.round)
        self.flow.restore(state["flow"], self.round)
        self._crowd_alerts()  # the look at the crowd that the next one compares with

    def _checkpointed(self, name: str = "") -> Path | None:
        """A file of the last checkpoint, or its folder; None before the first."""
        checkpoints = self.dir / "checkpoints"
        return checkpoints / latest_tag(checkpoints) / name if (checkpoints / LATEST).exists() else None

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[None]:
        """Show a phase and add its seconds to the round's."""
        with self.display.phase(name, total), self._timed(name):
            yield

    def gathering(self) -> AbstractContextManager[None]:
        """Show how many groups of an update are ready, where its steps go on side by side."""
        if self.flow.in_turns:
            return nullcontext()
        return self.display.phase("generate, check, review", self.config.run.problems_per_round)

    def _step(self, name: str, total: int | None = None) -> AbstractContextManager[None]:
        """A step of the flow: a phase of its own where steps take turns, else its seconds alone."""
        return self.phase(name, total) if self.flow.in_turns else self._timed(name)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._seconds[name] += time.monotonic() - begun

    def generate(
        self, problems: Sequence[Problem], *, n: int, tag: str, temperature: float | None = None
    ) -> list[Sample]:
        """n samples for each problem, in order."""
        return self.engines.generate(problems, n=n, tag=tag, temperature=temperature, progress=self.display.advance)

    def consensus(self, items: Sequence[Item]) -> dict[str, dict[int, float]]:
        """P(line is correct) by item and line, for every reviewed line of the items."""
        table = self._ask(self.aggregator.consensus.remote([item.item_id for item in items]))
        found: dict[str, dict[int, float]] = {item.item_id: {} for item in items}
        for item_id, line, p_correct in zip(
            table["item_id"].to_pylist(), table["line"].to_pylist(), table["p_correct"].to_pylist(), strict=True
        ):
            found[item_id][line] = p_correct
        if any(len(found[item.item_id]) < len(item.to_review) for item in items):  # nobody said anything: the prior
            prior = self.line_prior()
            for item in items:
                found[item.item_id] = dict.fromkeys(item.to_review, prior) | found[item.item_id]
        return found

    def line_prior(self) -> float:
        """P(a line is correct) before any mark: what is in every posterior of `consensus` beside the marks."""
        return float(self._ask(self.aggregator.share.remote())["share"])

    def evaluation_due(self) -> bool:
        """Before the first round, after the last, and every so many rounds; never twice for the same weights."""
        every, last = self.config.evaluation.every, self.config.run.rounds
        due = self.round == 0 or self.round >= last or (every > 0 and self.round % every == 0)
        return due and all(row["round"] != self.round for row in self.metrics.evaluations())

    def keep_best(self) -> None:
        """Keep the current weights' checkpoint, made now if need be, where no trained ones scored as well."""
        if not self.config.run.keep_best:
            return
        scores = {row["round"]: row["pass_at_1"] for row in self.metrics.evaluations() if row["round"] > 0}
        own = scores.pop(self.round, None)
        if own is None or own <= max(scores.values(), default=-1.0):
            return
        self._save_now()
        point(self.dir / "checkpoints", BEST, latest_tag(self.dir / "checkpoints"))

    def reached_target(self) -> bool:
        """Whether the current weights, once trained, score evaluation.target on the held-out problems. Saves them."""
        target, scores = self.config.evaluation.target, {row["round"]: row for row in self.metrics.evaluations()}
        if target is None or not self.round or self.round not in scores:
            return False
        if (score := scores[self.round]["pass_at_1"]) < target:
            return False
        self._save_now()
        self.display.say(f"held-out pass@1 is {score:.1%} after round {self.round}: evaluation.target is reached")
        return True

    def _save_now(self) -> None:
        if self._saved_at != self.round:
            with self.phase("checkpoint"):
                self._checkpoint()

    def finish_round(
        self,
        row: Mapping[str, Any],
        batch: Sequence[Work],
        consensus: Mapping[str, Mapping[int, float]],
        scores: np.ndarray,
    ) -> None:
        """Write what the round showed, count it, and save what a resumed run goes on from."""
        found = [
            *self._crowd_alerts(),
            *self.feedback.alerts(),
            *score_stagnation(scores),
            *unchecked(row["unchecked"]),
        ]
        found += skipped_update(row["learner"]["signal"], self.config.learner.signal_floor)
        alerts = [asdict(alert) for alert in found]
        self.metrics.append_samples(sample_rows(self.round, batch, consensus, scores))
        self.metrics.append_reliability(self._reliability())
        told = {"rollout": self.engines.fleet.report(), "seconds": dict(self._seconds), "alerts": alerts}
        full = {"round": self.round, **row, **told}
        self._seconds.clear()
        self.metrics.append(full)
        self.display.round_done(full)
        self.round += 1
        if self.round % self.config.run.checkpoint_every == 0 or self.round >= self.config.run.rounds:
            with self.phase("checkpoint"):
                self._checkpoint()

    def _checkpoint(self) -> None:
        state = {"round": self.round, "flow": self.flow.state(), "feedback": self.feedback.state()}
        crowd = {AGGREGATION_FILE: self._ask(self.aggregator.snapshot.remote())}
        self.engines.learner.save(self.dir / "checkpoints", state, files=crowd, kept=self.config.run.checkpoints_kept)
        self._saved_at = self.round

    def _crowd_alerts(self) -> list[Alert]:
        return self._ask(self.aggregator.alerts.remote(self.feedback.labels_wanted))

    def _reliability(self) -> pa.Table:
        """What is known of each annotator, beside the skill that the simulation gave them."""
        found = self._ask(self.aggregator.reliability.remote())
        skills = self.feedback.skills(self.round).rename_columns(
            {"sensitivity": "true_sensitivity", "specificity": "true_specificity"}
        )
        joined = found.join(skills, "annotator_id").sort_by("annotator_id")
        return joined.append_column("round", pa.array([self.round] * joined.num_rows, pa.int32()))

    def _ask(self, reference: ray.ObjectRef) -> Any:
        """The aggregation actor's answer. Raises as `answer` does."""
        return answer(reference, self.config.ray.wait_seconds, AGGREGATOR, "; end the run, and continue with --resume")
