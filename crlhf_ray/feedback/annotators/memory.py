"""What people said of the same line before: of the same text, blanks and comments aside, for the same problem.

Its marks never become its own evidence: it takes in people's marks alone, each person's latest on a line once, however
many programs hold that line.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.settings import MemorySettings

#: Whose marks are people's; the simulated crowd stands for them.
PEOPLE = ("human", "simulated")
_NOT_SHOWN = (tokenize.COMMENT, tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


class Memory(Annotator):
    """The memory of one run, held by problem, line, and person."""

    source = "memory"
    annotator_id = family = "memory"

    def __init__(self, settings: MemorySettings):
        self.settings = settings
        self._round = 0
        #: problem -> line -> person -> (label times confidence, round).
        self._said: dict[str, dict[str, dict[str, tuple[float, int]]]] = {}

    def review(self, items: Sequence[Item]) -> list[Review]:
        return [self._review(item) for item in items]

    def _review(self, item: Item) -> Review:
        known = self._said.get(item.problem_id, {})
        labels, confidence = {}, {}
        for line in item.to_review:
            said = known.get(normalised(item.lines[line]), {}) if line < len(item.lines) else {}
            weights = [(mark, 0.5 ** ((self._round - at) / self.settings.half_life)) for mark, at in said.values()]
            total = sum(weight for _, weight in weights)
            balance = sum(mark * weight for mark, weight in weights)
            if total >= self.settings.least and balance:
                labels[line] = 1 if balance > 0 else -1
                confidence[line] = min(1.0, abs(balance) / total)
        return Review(labels, confidence)

    def observe(self, items: Sequence[Item], marks: pa.Table, round: int) -> None:
        """Take in what people said; the next round is looked at from there."""
        by_id = {item.item_id: item for item in items}
        for row in marks.select(["item_id", "line", "annotator_id", "label", "confidence", "source"]).to_pylist():
            item = by_id.get(row["item_id"])
            if row["source"] not in PEOPLE or not row["label"] or item is None or row["line"] >= len(item.lines):
                continue
            sure = 1.0 if row["confidence"] is None else row["confidence"]
            lines = self._said.setdefault(item.problem_id, {})
            lines.setdefault(normalised(item.lines[row["line"]]), {})[row["annotator_id"]] = (
                row["label"] * sure,
                round,
            )
        self._round = round + 1

    def state(self) -> dict[str, Any]:
        return {"round": self._round, "said": self._said}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._round = state["round"]
        self._said = {
            problem: {line: {who: (mark, at) for who, (mark, at) in said.items()} for line, said in lines.items()}
            for problem, lines in state["said"].items()
        }


def normalised(line: str) -> str:
    """A line of Python by its tokens, one blank between them, without comments; where it has none, by its words."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip()).readline))
    except (tokenize.TokenError, SyntaxError):
        return " ".join(line.split())
    return " ".join(token.string for token in tokens if token.type not in _NOT_SHOWN)
