"""Groups of programs on their way from the policy to the learner: begun, drawn, checked, reviewed, learnt from.

Who waits for whom is the buffer's to say (`buffer.py`). With pipeline.max_staleness=0 each step below is done for all
groups of an update before the next one; above it, each is done for the groups that have come so far, so that programs
are drawn while others are under review and while the learner learns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.config import Config
from crlhf_ray.engines import Engines, checked
from crlhf_ray.feedback.fault_only import fault_only
from crlhf_ray.feedback.honeypots import make_item, opaque_id
from crlhf_ray.feedback.repair import Checked, repair
from crlhf_ray.feedback.source import Feedback
from crlhf_ray.pipeline.buffer import Buffer
from crlhf_ray.pipeline.work import Work
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.sandbox.verdict import Verdict

#: Longest wait for a sample before the next look at what reviewers said.
LOOK_SECONDS = 1.0


class Flow:
    """train: the training problems, in the order of their file. phase, advance: show a step and its progress."""

    def __init__(
        self,
        config: Config,
        train: Sequence[Problem],
        engines: Engines,
        feedback: Feedback,
        phase: Callable[..., AbstractContextManager[None]],
        advance: Callable[[int], None],
    ):
        self.config, self.engines, self.feedback = config, engines, feedback
        self.phase, self.advance = phase, advance
        self.buffer = Buffer(config.run.problems_per_round, config.pipeline.max_staleness, above=config.pipeline.above)
        self._problems = {problem.problem_id: problem for problem in train}
        self._train_ids = list(self._problems)
        self._works: dict[int, Work] = {}
        self._drawing: dict[str, Work] = {}  # by sample_id
        self._next = self._lost = 0  # the next group; samples without a verdict since the last update
        self._samples_an_update = config.run.problems_per_round * config.run.samples_per_problem
        self._passing: dict[str, list[str]] = defaultdict(list)
        self._marks = ANNOTATION_SCHEMA.empty_table()
        self.dropped: Counter[str] = Counter()  # groups by problem
        self.late_marks = 0

    @property
    def in_turns(self) -> bool:
        """Whether sampling, reviews and learning take turns."""
        return not self.config.pipeline.max_staleness

    def problem_of(self, number: int) -> Problem:
        """The problem of a group: a fresh shuffle for each pass over them. Derived from seed and number alone.

        Problems left over at the end of a pass, too few for an update, wait for the next one.
        """
        count = self.config.run.problems_per_round
        round, place = divmod(number, count)
        epoch, part = divmod(round, max(1, len(self._train_ids) // count))
        order = np.random.default_rng([self.config.run.seed, epoch]).permutation(len(self._train_ids))
        return self._problems[self._train_ids[order[part * count + place]]]

    def begin(self, version: int, update: int) -> None:
        """Begin as many groups as there is room for, with the weights of ``version``; ``update`` is the next."""
        for _ in range(self.buffer.room(version, update, self.config.run.rounds)):
            self._begin(self._next, version)
            self._next += 1

    def _begin(self, number: int, version: int) -> None:
        run, problem = self.config.run, self.problem_of(number)
        tasks = self.engines.tasks([problem], n=run.samples_per_problem, tag=f"r{number // run.problems_per_round}")
        work = Work(number, problem.problem_id, version, tuple(task.sample_id for task in tasks))
        self._works[number] = work
        self._drawing |= dict.fromkeys(work.sample_ids, work)
        self.buffer.begin(number, version)
        self.engines.fleet.submit(tasks)

    def draw(self) -> list[Work]:
        """Groups that are wholly drawn: all that were begun where steps take turns, else those that have come."""
        drawn: list[Work] = []
        with self.phase("generate", len(self._drawing) if self.in_turns else None):
            while self._drawing:
                self._scale()
                samples = self.engines.fleet.poll(LOOK_SECONDS)
                drawn += [work for sample in samples if (work := self._arrived(sample)) is not None]
                if self.in_turns:
                    self.advance(len(samples))
                else:
                    break
        return sorted(drawn, key=lambda work: work.number)

    def _arrived(self, sample: Sample) -> Work | None:
        """The group that the sample completes, if it does. What was drawn of a dropped group is of no use."""
        work = self._drawing.pop(sample.sample_id, None)
        return work if work is not None and work.take(sample) else None

    def check(self, works: Sequence[Work]) -> None:
        """Have the sandbox check the groups that have tests; what it failed on is left out: it is not wrong.

        Raises EngineError where that is more than a few.
        """
        if not works:
            return
        drawn = [sample for work in works for sample in work.samples]
        with self.phase("check"):
            verdicts = self._verdicts([one for one in drawn if self._problems[one.problem_id].tested])
            untested = [one for one in drawn if not self._problems[one.problem_id].tested]
            samples = [*(one for one, _ in verdicts), *untested]
            items = self._items(samples)
            truth = self._line_truth(items, [verdict for _, verdict in verdicts])
        said = {one.sample_id: verdict for one, verdict in verdicts}
        found = {one.sample_id: (one, said.get(one.sample_id), item) for one, item in zip(samples, items, strict=True)}
        for work in works:
            work.keep([found[name] for name in work.sample_ids if name in found], truth)

    def _verdicts(self, samples: Sequence[Sample]) -> list[tuple[Sample, Verdict]]:
        if not samples:
            return []
        found, verdicts = checked(
            samples, self._problems, self.engines.sandbox, lost_before=self._lost, of=self._samples_an_update
        )
        self._lost += len(samples) - len(found)
        return list(zip(found, verdicts, strict=True))

    def review(self, works: Sequence[Work], update: int) -> None:
        """Put the groups before annotators, and hear what was said: until all are reviewed where steps take turns."""
        items = [item for work in works for item in work.items]
        with self.phase("review", len(items) if self.in_turns else None):
            if works:
                self.feedback.publish(items, {key: one for work in works for key, one in work.truth.items()}, update)
            while True:
                heard = self.feedback.hear()
                self._take_in(heard.marks)
                if self.in_turns:
                    self.advance(sum(item.item_id in heard.reviewed for item in items))
                for work in self._works.values():
                    work.waiting -= heard.reviewed
                self._scale()
                waiting = any(work.waiting for work in self._works.values())
                if waiting and not heard.marks.num_rows and (self.in_turns or not self._drawing):
                    self.feedback.pause()
                if not (waiting and self.in_turns):
                    break
        fresh = self.buffer.ready(n for n, work in self._works.items() if work.checked and not work.waiting)
        if not self.in_turns:
            self.advance(fresh)

    def _scale(self) -> None:
        """The pool of replicas grows and shrinks with what is to be drawn and reviewed."""
        self.engines.fleet.scale(to_review=sum(len(work.waiting) for work in self._works.values()))

    def take(self, update: int) -> list[Work] | None:
        """The groups of an update, in the order in which they were begun; None while it has to wait."""
        batch = self.buffer.take(update)
        for number in self.buffer.dropped:
            work = self._works.pop(number)
            self.dropped[work.problem_id] += 1
            for sample_id in work.sample_ids:
                self._drawing.pop(sample_id, None)
            self.engines.fleet.withdraw(work.sample_ids)
        self.buffer.dropped.clear()
        if batch is None:
            return None
        self._lost = 0
        return [self._works.pop(number) for number in batch]

    def report(self) -> dict[str, Any]:
        """What is under way, and what came too late: groups dropped so far by problem, marks on what was learnt from or
        dropped."""
        return {"open": len(self._works), "dropped": dict(self.dropped), "late_marks": self.late_marks}

    def marks_of(self, works: Sequence[Work]) -> pa.Table:
        """What was said of groups that were taken; it is forgotten after."""
        ids = pa.array([item.item_id for work in works for item in work.items], pa.string())
        about = pc.is_in(self._marks["item_id"], ids)
        found, self._marks = self._marks.filter(about), self._marks.filter(pc.invert(about))
        return found

    def _take_in(self, marks: pa.Table) -> None:
        ids = pa.array([item.item_id for work in self._works.values() for item in work.items], pa.string())
        about = marks.filter(pc.is_in(marks["item_id"], ids))
        self.late_marks += marks.num_rows - about.num_rows
        self._marks = pa.concat_tables([self._marks, about])

    def _items(self, samples: Sequence[Sample]) -> list[Item]:
        """The samples as annotators see them, under ids that tell nothing and hold for one text alone.

        At a server the id follows from the text, so that nobody is paid to review the same program again; the crowd in
        this process answers about every sample again, as if each were another program.
        """
        again = self.config.feedback.source == "in_process"
        return [
            make_item(
                self._problems[sample.problem_id],
                sample.text,
                opaque_id(self.config.run.seed, sample.sample_id if again else sample.problem_id, sample.text),
                end=True,
            )
            for sample in samples
        ]

    def _line_truth(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> dict[str, np.ndarray]:
        """What a simulated annotator sees as truth, by item_id, of the items that have a verdict, which come first;
        passing samples join the references from now on."""
        if not verdicts:
            return {}
        items = items[: len(verdicts)]
        for item, verdict in zip(items, verdicts, strict=True):
            text = "\n".join(item.lines)
            if verdict.passed and text not in self._passing[item.problem_id]:
                self._passing[item.problem_id].append(text)
        checked = [
            Checked(
                self._problems[item.problem_id],
                "\n".join(item.lines),
                verdict,
                tuple(self._passing[item.problem_id]),
                end=item.places > len(item.lines),
            )
            for item, verdict in zip(items, verdicts, strict=True)
        ]
        derive = fault_only if self.config.feedback.crowd.truth == "fault_only" else repair
        found = derive(checked, self.engines.sandbox)
        return {item.item_id: one.truth for item, one in zip(items, found, strict=True)}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of the groups under way."""
        return {
            "next": self._next,
            "works": [work.state() for work in self._works.values()],
            "passing": dict(self._passing),
            "marks": self._marks.to_pylist(),
            "dropped": dict(self.dropped),
        }

    def restore(self, state: Mapping[str, Any], update: int) -> None:
        """Go on from a `state`: what was not wholly drawn is drawn again, with the weights of this update, and what was
        not reviewed is published again, which asks nobody twice."""
        self._next = state["next"]
        self._passing.update(state["passing"])
        self._marks = pa.Table.from_pylist(state["marks"], schema=ANNOTATION_SCHEMA)
        self.dropped.update(state["dropped"])
        for one in state["works"]:
            if "problem_id" not in one:
                self._begin(one["number"], update)
                continue
            work = Work.from_state(one)
            self._works[work.number] = work
            self.buffer.begin(work.number, work.version)
            items = [item for item in work.items if item.item_id in work.waiting]
            if items:
                self.feedback.publish(items, work.truth, update)
