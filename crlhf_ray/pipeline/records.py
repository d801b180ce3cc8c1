"""What a run writes down of the programs that it learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from crlhf_ray.aggregation.quality import consensus_quality, majority_consensus
from crlhf_ray.pipeline.work import Work


def round_row(
    batch: Sequence[Work],
    consensus: Mapping[str, Mapping[int, float]],
    scores: np.ndarray,
    marks: pa.Table,
    flow: Mapping[str, Any],
) -> dict[str, Any]:
    """A row of metrics.jsonl, without what the learner has to say. marks: those on the batch's programs."""
    items = [item for work in batch for item in work.items]
    truth = {item_id: lines for work in batch for item_id, lines in work.truth.items()}
    outcomes = [passed for work in batch for passed in work.passed]
    passed = [one for one in outcomes if one is not None]
    return {
        "samples": len(items),
        "unchecked": sum(work.lost for work in batch),
        "reward": {"mean": scores.mean(), "std": scores.std()},
        "untested": len(outcomes) - len(passed),
        "train_pass_rate": np.mean(passed) if passed else None,
        "tokens_per_sample": np.mean([len(sample.token_ids) for work in batch for sample in work.samples]),
        "pipeline": {**flow, "updated_while_drawn": sum(bool(one.newer) for work in batch for one in work.samples)},
        "aggregation": {
            "labels": marks.num_rows,
            "majority_accuracy": consensus_quality(majority_consensus(marks), truth, items)["consensus_accuracy"],
            **consensus_quality(consensus, truth, items),
        },
    }


def sample_rows(
    round: int, batch: Sequence[Work], consensus: Mapping[str, Mapping[int, float]], scores: np.ndarray
) -> list[dict[str, Any]]:
    """A row of samples.jsonl for each program. scores: rewards, in the order of the groups and their samples."""
    rows = []
    programs = [(work, *one) for work in batch for one in zip(work.samples, work.items, work.passed, strict=True)]
    for (work, sample, item, passed), score in zip(programs, scores, strict=True):
        posterior, truth = consensus[item.item_id], work.truth.get(item.item_id)
        rows.append(
            {
                "round": round,
                "sample_id": sample.sample_id,
                "problem_id": sample.problem_id,
                "item_id": item.item_id,
                "prompt": item.prompt,
                "lines": [
                    {
                        "text": text,
                        "p_correct": posterior.get(number),
                        "truth": None if truth is None else truth[number],
                        "to_review": number in item.to_review,
                    }
                    for number, text in enumerate(item.lines)
                ],
                "end": {"p_correct": posterior[item.places - 1], "truth": None if truth is None else truth[-1]}
                if item.places > len(item.lines)
                else None,
                "reward": score,
                "passed": passed,
            }
        )
    return rows
