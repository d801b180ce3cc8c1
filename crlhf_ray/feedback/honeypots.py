"""Honeypots: programs whose right answers are known, which tell how reliable each annotator is.

They are made from reference solutions. A mutated one has one changed line that is proven to break a test: that line
is wrong, the others are correct. An unmutated one passes all tests: every line is correct. Honeypots that can be told
from other work are worse than none, so they are ordinary `Item`s of the training problems, with ids like all item ids
are (`opaque_id`), and nobody sees one of them twice.

Limits: a mutated line's fault could often be mended in another line; the tests of a problem may miss what a mutation
changes, then it is not used; and a reference reads like a person's program, so pass passing samples as `completions`
once there are some.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crlhf_ray.aggregation.marks import GOLD_SCHEMA, Item
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.mutations import Mutation, mutations
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.lines import carries_code
from crlhf_ray.sandbox.samples import AnySandbox

_FORMAT = 2  # of the cache file and of what goes into it; raise it when either changes


@dataclass(frozen=True)
class Honeypot:
    """An item with its truth. truth: +1 or -1 for each place of the item. operator: the mutation, None for none."""

    item: Item
    truth: tuple[int, ...]
    operator: str | None = None


def opaque_id(seed: int, *parts: object) -> str:
    """An item id that says nothing about where the item came from; equal parts give equal ids."""
    text = "\0".join(map(str, (seed, *parts)))
    return "i-" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def make_item(problem: Problem, completion: str, item_id: str, *, end: bool = False) -> Item:
    """The item that puts a completion before annotators. end: ask also whether something is missing at its end."""
    lines = tuple(completion.split("\n"))
    to_review = tuple(n for n, text in enumerate(lines) if carries_code(text))
    to_review = (*to_review, len(lines)) if end and to_review else to_review
    return Item(item_id, problem.problem_id, problem.prompt, lines, to_review, problem.language)


def build_honeypots(
    problems: Sequence[Problem],
    sandbox: AnySandbox,
    seed: int,
    per_problem: int = 3,
    *,
    completions: Mapping[str, Sequence[str]] | None = None,
    cache: str | os.PathLike[str] | None = None,
    end: bool = False,
) -> list[Honeypot]:
    """Up to `per_problem` honeypots of each problem: a third of them unmutated (rounded down, at least one from 2 up).

    problems: of the training split only; what is shown to annotators is trained on. Those without tests yield none.
    completions: by problem_id, passing samples to start from besides the references.
    cache: folder in which the result is kept; found again by a fingerprint of all arguments.
    end: ask also whether something is missing at the end; some honeypots then lack their last line of code.
    A problem whose mutations all pass its tests yields fewer. Deterministic in its arguments.
    Raises DataError for a held-out problem, and for a reference or completion that does not pass.
    """
    for problem in problems:
        if problem.split != "train":
            raise DataError(
                f"{problem.problem_id} is held out: make honeypots of training problems only", field="split"
            )
    problems = [problem for problem in problems if problem.tested]
    sources = {
        p.problem_id: list(dict.fromkeys((*p.references, *(completions or {}).get(p.problem_id, ())))) for p in problems
    }
    key = [
        _FORMAT,
        seed,
        per_problem,
        end,
        [(p.problem_id, p.prompt, repr(p.checker), sources[p.problem_id]) for p in problems],
    ]
    fingerprint = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
    file = Path(cache) / f"honeypots-{fingerprint}.json" if cache is not None else None
    if file is not None and file.exists():
        return [_from_json(row) for row in json.loads(file.read_text())]
    honeypots = _build(problems, sources, sandbox, seed, per_problem, end)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps([asdict(h) for h in honeypots]))
        os.replace(temporary, file)
    return honeypots


def _build(
    problems: Sequence[Problem],
    sources: Mapping[str, list[str]],
    sandbox: AnySandbox,
    seed: int,
    per_problem: int,
    end: bool,
) -> list[Honeypot]:
    intact = max(per_problem // 3, int(per_problem >= 2))
    rngs = {p.problem_id: _rng(seed, p.problem_id) for p in problems}
    jobs = [(p, text) for p in problems for text in sources[p.problem_id]]
    for (problem, text), verdict in zip(jobs, sandbox.check(jobs), strict=True):
        if not verdict.passed:
            raise DataError(
                f"{problem.problem_id}: the reference {text!r} does not pass: {verdict.status} {verdict.detail}",
                field="references",
            )
    made: dict[str, list[Honeypot]] = defaultdict(list)
    queues = {p.problem_id: _candidates(p, sources[p.problem_id], rngs[p.problem_id], end) for p in problems}
    for problem in problems:
        texts = sources[problem.problem_id]
        for at in rngs[problem.problem_id].permutation(len(texts))[:intact]:
            made[problem.problem_id].append(_honeypot(problem, texts[at], seed, None, end))
    wanted = {p.problem_id: per_problem - intact for p in problems}
    while True:  # each pass tries as many more mutations of each problem as it still lacks
        tried = [
            (p, queues[p.problem_id].pop(0))
            for p in problems
            for _ in range(min(wanted[p.problem_id], len(queues[p.problem_id])))
        ]
        if not tried:
            break
        for (problem, mutation), verdict in zip(
            tried, sandbox.check([(p, m.completion) for p, m in tried]), strict=True
        ):
            if verdict.status in ("wrong", "error"):
                made[problem.problem_id].append(_honeypot(problem, mutation.completion, seed, mutation, end))
                wanted[problem.problem_id] -= 1
    return [honeypot for problem in problems for honeypot in made[problem.problem_id]]


def _candidates(problem: Problem, texts: Sequence[str], rng: np.random.Generator, end: bool) -> list[Mutation]:
    """All mutations of all texts in random order, but each line of each text once before any line comes again."""
    found = [(at, mutation) for at, text in enumerate(texts) for mutation in mutations(problem.prompt, text)]
    if end:
        found += [(at, short) for at, text in enumerate(texts) if (short := _unfinished(problem.prompt, text))]
    shuffled = [found[i] for i in rng.permutation(len(found))]
    times: Counter[tuple[int, int]] = Counter()
    ranked = []
    for at, mutation in shuffled:
        ranked.append((times[at, mutation.line], mutation))
        times[at, mutation.line] += 1
    known = set(texts)
    ordered = [m for _, m in sorted(ranked, key=lambda pair: pair[0]) if m.completion not in known]
    return list({m.completion: m for m in reversed(ordered)}.values())[::-1]


def _unfinished(prompt: str, text: str) -> Mutation | None:
    """The text without its last line of code; None where that is no program. The number of its end is "wrong"."""
    lines = text.split("\n")
    code = [n for n, line in enumerate(lines) if carries_code(line)]
    short = "\n".join(lines[: code[-1]])
    try:
        ast.parse(prompt + short)
    except SyntaxError:
        return None
    return Mutation(short, code[-1], "the last line is missing") if len(code) > 1 else None


def _honeypot(problem: Problem, completion: str, seed: int, mutation: Mutation | None, end: bool) -> Honeypot:
    item = make_item(problem, completion, opaque_id(seed, "honeypot", problem.problem_id, completion), end=end)
    truth = [1] * item.places
    if mutation is not None:
        truth[mutation.line] = -1
    return Honeypot(item, tuple(truth), mutation.operator if mutation else None)


def _from_json(row: dict[str, Any]) -> Honeypot:
    item = row["item"]
    return Honeypot(
        Item(**{**item, "lines": tuple(item["lines"]), "to_review": tuple(item["to_review"])}),
        tuple(row["truth"]),
        row["operator"],
    )


def _rng(seed: int, *parts: str) -> np.random.Generator:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, int.from_bytes(digest, "little")])


class HoneypotPool:
    """Hands honeypots out in rotation and remembers who saw which.

    honeypots: as `build_honeypots` returns them. seed: orders those that were shown equally often.
    """

    def __init__(self, honeypots: Sequence[Honeypot], seed: int = 0):
        self._by_id = {h.item.item_id: h for h in honeypots}
        self._seed = seed
        self._seen: dict[str, dict[str, None]] = {}  # annotator_id -> item ids in the order in which they were shown
        self._shown: Counter[str] = Counter()

    def next_for(self, annotator_id: str, n: int) -> list[Honeypot]:
        """n honeypots that this annotator has not seen, counted as shown from now on.

        Problems that the annotator saw least come first, then honeypots that were shown least. Returns fewer than n
        when there are no more: see `remaining`.
        """
        seen = self._seen.setdefault(annotator_id, {})
        problems = Counter(self._by_id[i].item.problem_id for i in seen if i in self._by_id)
        chosen: list[Honeypot] = []
        fresh = [h for i, h in self._by_id.items() if i not in seen]
        tie = {h.item.item_id: opaque_id(self._seed, annotator_id, h.item.item_id) for h in fresh}
        for _ in range(min(n, len(fresh))):
            best = min(
                fresh, key=lambda h: (problems[h.item.problem_id], self._shown[h.item.item_id], tie[h.item.item_id])
            )
            fresh.remove(best)
            chosen.append(best)
            problems[best.item.problem_id] += 1
            seen[best.item.item_id] = None
            self._shown[best.item.item_id] += 1
        return chosen

    def remaining(self, annotator_id: str) -> int:
        """How many honeypots this annotator has not seen."""
        return sum(item_id not in self._seen.get(annotator_id, {}) for item_id in self._by_id)

    def items(self) -> list[Item]:
        """Every honeypot's item."""
        return [h.item for h in self._by_id.values()]

    def gold(self, items: Iterable[Honeypot | Item | str] | None = None) -> pa.Table:
        """Truth of the lines to review (GOLD_SCHEMA), of all honeypots or those named. KeyError for any other item."""
        chosen = self._by_id.values() if items is None else [self._by_id[_id_of(item)] for item in items]
        rows = [(h.item.item_id, line, h.truth[line]) for h in chosen for line in h.item.to_review]
        ids, lines, truth = zip(*rows, strict=True) if rows else ((), (), ())
        return pa.table([ids, lines, truth], schema=GOLD_SCHEMA)

    def truth(self) -> dict[str, np.ndarray]:
        """Truth by item_id, int8 +1 or -1 for each place: what a simulated crowd needs."""
        return {i: np.array(h.truth, dtype=np.int8) for i, h in self._by_id.items()}

    def state(self) -> dict[str, Any]:
        """Who saw what, as JSON can hold it: belongs in the checkpoint."""
        return {"seen": {annotator: list(ids) for annotator, ids in self._seen.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`. Exposures of honeypots that this pool does not have are kept all the same."""
        self._seen = {annotator: dict.fromkeys(ids) for annotator, ids in state["seen"].items()}
        self._shown = Counter(i for ids in self._seen.values() for i in ids)


def _id_of(item: Honeypot | Item | str) -> str:
    if isinstance(item, Honeypot):
        return item.item.item_id
    return item.item_id if isinstance(item, Item) else item
