"""The annotation schema: what one mark on one line is, everywhere in the system."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

#: label: +1 correct, -1 wrong, 0 unsure. confidence: 0 to 1, null where not asked. A correction is a new event.
ANNOTATION_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("annotator_id", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("milliseconds", pa.int64()),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
SOURCES = ("human", "llm", "tests", "check", "memory", "simulated")

#: truth: +1 correct, -1 wrong. Never leaves the server.
GOLD_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("truth", pa.int8(), nullable=False),
    ]
)

#: p_correct: posterior P(line is correct), 0 to 1; labels: how many marks (unsure ones excluded) stand behind it;
#: evidence: what these say alone, in nats: log P(marks | correct) / P(marks | wrong), so the log-odds of
#: p_correct less those of the prior (`Aggregator.share`), and untempered, as p_correct is. Infinite for known truth.
CONSENSUS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("p_correct", pa.float64(), nullable=False),
        pa.field("labels", pa.int32(), nullable=False),
        pa.field("evidence", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Item:
    """One program put before annotators. Nothing in it tells a honeypot from other work.

    lines: the completion's lines; to_review: the numbers of those that carry code, and, where it is asked whether
    something is missing at the program's end, the number after the last line's. A mark on that place is +1 for "nothing
    is missing" and -1 for "something is". Where something is missing between lines, the line before it is wrong.
    """

    item_id: str
    problem_id: str
    prompt: str
    lines: tuple[str, ...]
    to_review: tuple[int, ...]
    language: str = "python"

    @property
    def places(self) -> int:
        """How many places have a truth: the lines, and the end where it is asked about."""
        return len(self.lines) + (len(self.lines) in self.to_review)
