from collections import Counter

import numpy as np
import pytest
from batches import batch, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from crlhf_ray.learner.batching import Experience, pack, plan


def rows_of(cut):
    return [row for minibatch in cut for rank in minibatch for row in rank]


shapes = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.integers(1, 30), min_size=1, max_size=9)), min_size=1, max_size=6
)


@settings(max_examples=60)
@given(shapes, st.integers(1, 12), st.integers(1, 4), st.integers(16, 120), st.integers(0, 5))
def test_every_sample_is_learnt_from_exactly_once(problems, minibatch_samples, ranks, tokens, seed):
    samples = [e for i, (prompt, answers) in enumerate(problems) for e in problem(str(i), prompt, answers)]
    cut = plan(samples, minibatch_samples=minibatch_samples, ranks=ranks, micro_batch_tokens=tokens, seed=[seed])
    assert Counter(i for row in rows_of(cut) for i in row.samples) == Counter(range(len(samples)))
    for minibatch in cut:
        assert sum(len(row.samples) for rank in minibatch for row in rank) <= minibatch_samples
        assert len({len(rank) for rank in minibatch}) == 1, "ranks must take the same number of passes"
    for row in rows_of(cut):
        assert len(row.input_ids) <= tokens or len(row.samples) == 1


def test_a_shared_prompt_is_packed_once():
    row = pack(samples := problem("p", 10, [4, 6, 1]), [[0, 1, 2]])
    assert row.trees == ((10, 3, 5, 0),)
    assert len(row.input_ids) == 10 + 3 + 5
    assert row.position_ids.tolist() == [*range(10), 10, 11, 12, 10, 11, 12, 13, 14]
    assert row.targets.tolist() == [t for sample in samples for t in sample.token_ids]


def test_each_token_is_predicted_from_the_token_before_it():
    samples = [*problem("p", 3, [4, 2]), *problem("q", 2, [3])]
    row = pack(samples, [[0, 1], [2]])
    expected = [t for e in samples for t in (e.prompt_token_ids[-1], *e.token_ids[:-1])]
    assert row.input_ids[row.predictors].tolist() == expected


def test_samples_of_a_problem_share_a_minibatch_where_they_fit():
    samples = batch()
    for minibatch in plan(samples, minibatch_samples=6, ranks=1, micro_batch_tokens=1000, seed=[1]):
        groups = Counter(samples[i].group for row in minibatch[0] for i in row.samples)
        assert set(groups.values()) == {3}


def test_the_same_seed_gives_the_same_cut():
    cut = [
        [
            row.samples
            for row in rows_of(plan(batch(), minibatch_samples=3, ranks=1, micro_batch_tokens=64, seed=[s, 7]))
        ]
        for s in (1, 1)
    ]
    assert cut[0] == cut[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"logprobs": np.zeros(2)}, r"logprobs has shape \(2,\), expected \(3,\)"),
        ({"token_rewards": np.array([0, np.nan, 0])}, "token_rewards holds values that are not finite"),
        ({"prompt_token_ids": ()}, "at least one token"),
        ({"temperature": 0.0}, "temperature 0.0"),
    ],
)
def test_an_experience_that_cannot_be_learnt_from_is_refused_by_name(change, message):
    fields = {
        "sample_id": "r3/7",
        "group": "g",
        "prompt_token_ids": (1,),
        "token_ids": (1, 2, 3),
        "logprobs": np.zeros(3),
        "token_rewards": np.zeros(3),
    }
    with pytest.raises(ValueError, match=f"sample r3/7.*{message}"):
        Experience(**{**fields, **change})
