"""What a learner eats, and how it is cut: minibatches (one optimizer step each), ranks, packed prompt trees.

A packed row holds problems one after the other: ``prompt, answer 1, answer 2, ..., prompt, answer 1, ...``. Every
answer attends to its prompt and to itself, so a prompt is computed once however many answers it has, and no token is
padding. An answer's last token predicts nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np


@dataclass(frozen=True)
class Experience:
    """One sample to learn from.

    prompt_token_ids, token_ids: the prompt (at least one token) and T >= 1 generated tokens.
    logprobs: [T] nats; of the behaviour policy, which at age 0 is PPO's old policy. At temperature 1 unless said
        otherwise.
    token_rewards: [T]; without the KL penalty, which the learner adds.
    praise, blame: [T] factors of a token's advantage where that is above and where it is below zero; 1 if not given.
    group: samples with the same group answer the same problem.
    temperature: what the sample was drawn at; the learner's log-probs are taken at the same one.
    age: updates since the weights that drew it.
    """

    sample_id: str
    group: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: np.ndarray
    token_rewards: np.ndarray
    temperature: float = 1.0
    praise: np.ndarray | None = None
    blame: np.ndarray | None = None
    age: int = 0

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if not length or not len(self.prompt_token_ids):
            raise ValueError(f"sample {self.sample_id}: prompt and answer need at least one token each")
        for name in ("logprobs", "token_rewards", "praise", "blame"):
            if (values := getattr(self, name)) is None:
                continue
            values = np.asarray(values)
            if values.shape != (length,):
                raise ValueError(f"sample {self.sample_id}: {name} has shape {values.shape}, expected ({length},)")
            if not np.isfinite(values).all():
                raise ValueError(f"sample {self.sample_id}: {name} holds values that are not finite")
        if not self.temperature > 0:
            raise ValueError(f"sample {self.sample_id}: temperature {self.temperature}; log-probs need one above 0")

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """praise and blame, [T] each."""
        ones = np.ones(len(self.token_ids))
        return (ones if self.praise is None else self.praise), (ones if self.blame is None else self.blame)


@dataclass(frozen=True)
class Packed:
    """One forward pass. N tokens go in, log-probs of M generated tokens come out.

    input_ids, position_ids: int64 [N].
    trees: per problem, the lengths (prompt, answer 1, answer 2, ...); they sum to N.
    predictors: int64 [M]; where in the row each generated token is predicted from.
    targets: int64 [M]; the generated tokens, sample after sample in the order of `samples`.
    temperatures: float32 [M].
    samples: indices into the batch. Empty for a row that only keeps the ranks in step.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    trees: tuple[tuple[int, ...], ...]
    predictors: np.ndarray
    targets: np.ndarray
    temperatures: np.ndarray
    samples: tuple[int, ...]


def pack(batch: Sequence[Experience], trees: Sequence[Sequence[int]]) -> Packed:
    """One row from trees: lists of indices into ``batch`` of samples that share a prompt."""
    ids: list[int] = []
    positions: list[int] = []
    lengths: list[tuple[int, ...]] = []
    predictors: list[np.ndarray] = []
    for tree in trees:
        prompt = batch[tree[0]].prompt_token_ids
        last = len(ids) + len(prompt) - 1
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        for index in tree:
            answer = batch[index].token_ids[:-1]
            predictors.append(np.concatenate(([last], np.arange(len(ids), len(ids) + len(answer)))))
            ids.extend(answer)
            positions.extend(range(len(prompt), len(prompt) + len(answer)))
        lengths.append((len(prompt), *(len(batch[index].token_ids) - 1 for index in tree)))
    samples = tuple(index for tree in trees for index in tree)
    return Packed(
        input_ids=np.array(ids, dtype=np.int64),
        position_ids=np.array(positions, dtype=np.int64),
        trees=tuple(lengths),
        predictors=np.concatenate(predictors).astype(np.int64),
        targets=np.concatenate([np.array(batch[index].token_ids, dtype=np.int64) for index in samples]),
        temperatures=np.concatenate(
            [np.full(len(batch[index].token_ids), batch[index].temperature, dtype=np.float32) for index in samples]
        ),
        samples=samples,
    )


#: Keeps a rank in step with the others (collectives must match) where it has nothing to compute.
IDLE = Packed(
    input_ids=np.zeros(1, dtype=np.int64),
    position_ids=np.zeros(1, dtype=np.int64),
    trees=((1,),),
    predictors=np.zeros(0, dtype=np.int64),
    targets=np.zeros(0, dtype=np.int64),
    temperatures=np.zeros(0, dtype=np.float32),
    samples=(),
)


def plan(
    batch: Sequence[Experience], *, minibatch_samples: int, ranks: int, micro_batch_tokens: int, seed: Sequence[int]
) -> list[list[list[Packed]]]:
    """Cut a batch: ``plan[minibatch][rank]`` is a list of rows, equally many on every rank of a minibatch.

    Problems are shuffled (``seed``), then dealt into minibatches of about equal size and at most minibatch_samples;
    a problem is split over two minibatches only where it has more samples than that.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, experience in enumerate(batch):
        by_prompt.setdefault(experience.prompt_token_ids, []).append(index)
    trees = [
        tree[start : start + minibatch_samples]
        for tree in by_prompt.values()
        for start in range(0, len(tree), minibatch_samples)
    ]
    order = np.random.default_rng(list(seed)).permutation(len(trees))
    minibatches: list[list[list[int]]] = [[]]
    for tree in (trees[i] for i in order):
        if sum(map(len, minibatches[-1])) + len(tree) > minibatch_samples:
            minibatches.append([])
        minibatches[-1].append(tree)
    return [_rows(batch, trees, ranks, micro_batch_tokens) for trees in minibatches if trees]


def _rows(batch: Sequence[Experience], trees: list[list[int]], ranks: int, budget: int) -> list[list[Packed]]:
    def tokens(tree: Sequence[int]) -> int:
        prompt = len(batch[tree[0]].prompt_token_ids)
        return prompt + sum(len(batch[index].token_ids) - 1 for index in tree)

    rows = deal(trees, tokens, ranks, budget)
    longest = max(map(len, rows))
    return [[pack(batch, row) for row in own] + [IDLE] * (longest - len(own)) for own in rows]


def deal(
    trees: Sequence[Sequence[int]], tokens: Callable[[Sequence[int]], int], ranks: int, budget: int
) -> list[list[list[list[int]]]]:
    """A minibatch's trees, each cut where it is longer than a rank's part or the budget: ``deal[rank][row][piece]``.

    tokens: of a piece, its prompt included. A row has at most ``budget`` of them, or is one sample that has more.
    """
    limit = min(budget, ceil(sum(map(tokens, trees)) / ranks))
    pieces: list[list[int]] = []
    for tree in trees:
        pieces.append([])
        for index in tree:
            if pieces[-1] and tokens([*pieces[-1], index]) > limit:
                pieces.append([])
            pieces[-1].append(index)
    pieces.sort(key=tokens, reverse=True)

    of_rank: list[list[list[int]]] = [[] for _ in range(ranks)]
    work = [0] * ranks
    for piece in pieces:  # the longest piece to the rank with the least work
        least = work.index(min(work))
        of_rank[least].append(piece)
        work[least] += tokens(piece)
    return [_fill(own, tokens, budget) for own in of_rank]


def _fill(pieces: list[list[int]], tokens: Callable[[Sequence[int]], int], budget: int) -> list[list[list[int]]]:
    """First-fit decreasing."""
    rows: list[list[list[int]]] = []
    held: list[int] = []
    for piece in pieces:
        size = tokens(piece)
        fitting = next((i for i, other in enumerate(held) if other + size <= budget), len(rows))
        if fitting == len(rows):
            rows.append([])
            held.append(0)
        rows[fitting].append(piece)
        held[fitting] += size
    return rows
