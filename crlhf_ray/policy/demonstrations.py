"""What supervised fine-tuning learns from: demonstrations, their order, their batches, the loss. Pure: no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from crlhf_ray.errors import DataError
from crlhf_ray.jsonl import json_rows
from crlhf_ray.policy.prompts import Template, encode
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.settings import DEFAULTS, DataSetSettings

PAIRS_PREFIX = "pairs:"


@dataclass(frozen=True)
class Demonstration:
    """One prompt and the completion to imitate, as token ids; the completion ends with the end-of-sequence token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def read_demonstrations(
    source: str,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    data_set: DataSetSettings = DEFAULTS,
    say: Callable[[str], None] = lambda text: None,
) -> list[Demonstration]:
    """Demonstrations of a source, in its order.

    source: a source of problems (see `load_problems`), of which every reference solution of the train split is one
        demonstration; or ``pairs:PATH``, a JSONL file of objects with exactly the fields ``prompt`` and
        ``completion``, both text, used as they stand.
    data_set, say: as for `load_problems`.

    Raises DataError, naming file, row and field, for a row of another form, an empty completion, a demonstration longer
    than ``max_tokens``, and a source without any.
    """
    if source.startswith(PAIRS_PREFIX):
        file = source.removeprefix(PAIRS_PREFIX)
        rows = [
            (row, list(tokenizer(prompt).input_ids), completion) for row, prompt, completion in _read_pairs(Path(file))
        ]
    else:
        file = source
        problems = load_problems(source, "train", data_set, say)
        rows = [
            (row, encode(problem, template, tokenizer), reference)
            for row, problem in enumerate(problems, start=1)
            for reference in problem.references
        ]
    if not rows:
        raise DataError("no demonstration: no problem of the train split has a reference solution", file=file)
    demonstrations = []
    for row, prompt, completion in rows:
        ids = [*tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        if len(prompt) + len(ids) > max_tokens:
            raise DataError(
                f"{len(prompt)} prompt and {len(ids)} completion tokens exceed max_tokens={max_tokens}; "
                "raise it or shorten the row",
                file=file,
                row=row,
                field="completion",
            )
        demonstrations.append(Demonstration(tuple(prompt), tuple(ids)))
    return demonstrations


def _read_pairs(path: Path) -> list[tuple[int, str, str]]:
    if not path.is_file():
        raise DataError(
            f"no such file; {PAIRS_PREFIX}PATH names a JSONL file of prompts and completions", file=str(path)
        )
    pairs = []
    for number, row in json_rows(path):
        for field in sorted({"prompt", "completion"} ^ row.keys()):
            problem = "missing" if field not in row else "unknown; a row has 'prompt' and 'completion' and no more"
            raise DataError(problem, file=str(path), row=number, field=field)
        for field in ("prompt", "completion"):
            if not isinstance(row[field], str) or not row[field].strip():
                problem = f"text that is not blank belongs here, found {row[field]!r}"
                raise DataError(problem, file=str(path), row=number, field=field)
        pairs.append((number, row["prompt"], row["completion"]))
    if not pairs:
        raise DataError("the file holds no demonstration", file=str(path))
    return pairs


def batch_indices(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Which demonstrations step ``step`` (0-based) learns from: every pass over them is a fresh shuffle.

    Depends on its arguments alone, so the step is the whole data cursor, on every rank and after a restart.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {p // count for p in positions}
    }
    return [int(orders[position // count][position % count]) for position in positions]


@dataclass(frozen=True)
class Batch:
    """Padded so that all completions begin in the same column; rows B, columns P + C (prompt, completion).

    input_ids, attention_mask, position_ids: (B, P + C).
    labels: (B, C) token ids of the completions, -100 where padded.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


def collate(rows: Sequence[Demonstration], pad_id: int) -> Batch:
    """Prompts padded on the left, completions on the right: logits are then needed in the last C columns only."""
    prompt_width = max(len(row.prompt) for row in rows)
    completion_width = max(len(row.completion) for row in rows)
    shape = (len(rows), prompt_width + completion_width)
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full((len(rows), completion_width), -100)
    for index, row in enumerate(rows):
        begin, end = prompt_width - len(row.prompt), prompt_width + len(row.completion)
        input_ids[index, begin:end] = torch.tensor([*row.prompt, *row.completion])
        attention_mask[index, begin:end] = 1
        labels[index, : len(row.completion)] = torch.tensor(row.completion)
    return Batch(input_ids, attention_mask, (attention_mask.cumsum(1) - 1).clamp(min=0), labels)


def completion_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the completions' tokens, in nats (a scalar)."""
    width = batch.labels.shape[1]
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=-100, reduction="sum"
    )
