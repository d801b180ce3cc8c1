"""Language models as judges: an OpenAI-compatible endpoint, one annotator a prompt.

A program is asked about several times, in alternating orders of its lines, because order changes verdicts
(CodeJudgeBench, arXiv 2507.10535). The label of a line is what most answers say, and its confidence is by how much.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.endpoint import Endpoint, Failed, Refused
from crlhf_ray.feedback.annotators.prompts import PROMPTS, Order, labels, question, schema
from crlhf_ray.feedback.annotators.settings import LlmSettings
from crlhf_ray.parts import part

MISSED = "missed the canary line"
_ORDERS: tuple[Order, Order] = ("forward", "backward")
#: Programs in a row without an answer after which a round's others are not asked about.
_GIVE_UP = 5


class Judge(Annotator):
    """One model with one prompt. cache: a file in which reviews are kept by text; None keeps none."""

    source = "llm"

    def __init__(self, settings: LlmSettings, prompt: str, endpoint: Endpoint, cache: Path | None = None):
        self.settings, self.endpoint = settings, endpoint
        self.annotator_id = f"llm:{settings.model}:{prompt}"
        self.family = f"llm:{settings.model}"
        self._system: str = part(PROMPTS, prompt)
        self._cache = cache
        self._known: dict[str, Review] = {}
        if cache is not None and cache.exists():
            for line in cache.read_text().splitlines():
                self._remember(line)
        self._failures = 0

    def review(self, items: Sequence[Item]) -> list[Review]:
        keys = [self._key(item) for item in items]
        self._failures = 0
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        with ThreadPoolExecutor(self.settings.at_once) as pool:
            fresh = dict(zip(new, pool.map(self._ask, new, new.values()), strict=True))
        known, reviews = dict(self._known), []
        for key in keys:  # what was asked about once is paid for once
            reviews.append(fresh.pop(key) if key in fresh else known.get(key) or self._known.get(key, Review()))
        return reviews

    def close(self) -> None:
        self.endpoint.close()

    def _ask(self, key: str, item: Item) -> Review:
        if self._failures >= _GIVE_UP:
            return Review(note="the endpoint does not answer")
        begun, settings = time.monotonic(), self.settings
        votes: list[dict[int, int]] = []
        cost, note = 0.0, ""
        try:
            for number in range(settings.votes):
                asked = question(item, _ORDERS[number % 2], canary=settings.canary, salt=self.annotator_id)
                vote = None
                for attempt in range(settings.attempts):
                    # another one in each program: a weak model would say the same of all of them
                    seed = int(key[:7], 16) + number * settings.attempts + attempt
                    answer = self.endpoint.ask(self._system, asked.text, schema(asked), seed)
                    cost += answer.tokens_in * settings.price_in + answer.tokens_out * settings.price_out
                    try:
                        vote = labels(asked, answer.text)
                        break
                    except ValueError as error:
                        note = f"its answers have another form: {str(error)[:100]}"
                        if answer.cut:
                            note = f"its answers are cut off at max_tokens={settings.max_tokens}; raise it"
                if vote is None:
                    break
                note = ""
                if asked.canary is not None and vote[asked.canary] != -1:
                    note = MISSED
                    break
                votes.append({line: vote[k] for k, line in asked.numbers.items()})
            self._failures = 0
        except Failed as error:
            self._failures = 0 if isinstance(error, Refused) else self._failures + 1
            return Review(note=str(error), seconds=time.monotonic() - begun, cost=cost / 1e6)
        found = Review(note=note) if note else _together(votes)
        self._store(key, found)
        return Review(found.labels, found.confidence, time.monotonic() - begun, cost / 1e6, note)

    def _key(self, item: Item) -> str:
        settings = self.settings
        about = [self._system, settings.votes, settings.temperature, settings.canary, settings.structured]
        text = json.dumps([self.annotator_id, *about, item.prompt, item.lines, item.to_review])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _store(self, key: str, review: Review) -> None:
        line = json.dumps([key, list(review.labels.items()), list(review.confidence.items()), review.note])
        self._remember(line)
        if self._cache is not None:
            with self._cache.open("a") as file:
                file.write(line + "\n")

    def _remember(self, line: str) -> None:
        try:
            key, marks, confidence, note = json.loads(line)
        except ValueError:  # a line torn by a crash
            return
        self._known[key] = Review(dict(marks), dict(confidence), note=note)


def _together(votes: Sequence[dict[int, int]]) -> Review:
    """The majority of several votes by line, and by how much of them it leads; a tie is unsure."""
    found: dict[int, int] = {}
    confidence: dict[int, float] = {}
    for line in votes[0] if votes else ():
        total = sum(vote[line] for vote in votes)
        found[line] = (total > 0) - (total < 0)
        if total:
            confidence[line] = abs(total) / len(votes)
    return Review(found, confidence)


def judges(settings: LlmSettings, folder: Path | None) -> list[Annotator]:
    """The annotators of one entry of the settings. folder: for their caches."""
    endpoint = Endpoint(settings)
    cache = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        cache = folder / "reviews.jsonl"
    return [Judge(settings, prompt, endpoint, cache) for prompt in settings.prompts]
