"""Demonstrations: validated as they are read, ordered by step alone, padded without changing the loss."""

import json

import pytest
import torch

from crlhf_ray.errors import DataError
from crlhf_ray.policy.demonstrations import Demonstration, batch_indices, collate, completion_loss, read_demonstrations
from crlhf_ray.policy.model import ModelSettings, load_model, load_tokenizer
from crlhf_ray.policy.settings import SftSettings
from crlhf_ray.problems.settings import DataSetSettings


def read(path, *rows, max_tokens=500):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_demonstrations(f"pairs:{path}", "bare", load_tokenizer("tiny"), max_tokens)


def test_a_pair_becomes_prompt_and_completion_with_an_end_token(tmp_path):
    (demonstration,) = read(tmp_path / "p.jsonl", {"prompt": "ab", "completion": "cde"})
    tokenizer = load_tokenizer("tiny")
    assert tokenizer.decode(demonstration.prompt) == "ab"
    assert tokenizer.decode(demonstration.completion) == "cde<|im_end|>"


def test_the_starter_problems_give_a_demonstration_for_each_reference():
    from crlhf_ray.problems.load import load_problems

    found = read_demonstrations("starter", "bare", load_tokenizer("tiny"), 2048)
    assert len(found) == sum(len(problem.references) for problem in load_problems("starter", "train"))


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    "bad, field, says",
    [
        ("{", None, "not JSON"),
        ([1], None, "list where an object belongs"),
        ({"prompt": "a"}, "completion", "missing"),
        ({**GOOD, "label": 1}, "label", "unknown"),
        ({**GOOD, "completion": " "}, "completion", "found ' '"),
        ({**GOOD, "prompt": 3}, "prompt", "found 3"),
        ({**GOOD, "completion": "b" * 600}, "completion", "max_tokens=500"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, field, says):
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path / "p.jsonl", GOOD, bad)
    assert (caught.value.row, caught.value.field) == (2, field)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no demonstration"):
        read(tmp_path / "p.jsonl")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_demonstrations(f"pairs:{tmp_path}/none.jsonl", "bare", load_tokenizer("tiny"), 100)


def test_every_pass_sees_each_demonstration_once_even_where_batches_cross_it():
    seen = [index for step in range(7) for index in batch_indices(step, 4, 14, seed=0)]
    assert sorted(seen[:14]) == sorted(seen[14:]) == list(range(14))
    assert seen[:14] != seen[14:]


def test_padding_changes_no_loss():
    model = load_model(ModelSettings(name="tiny"))
    rows = [
        Demonstration((10, 11, 12), (20, 21, 2)),
        Demonstration((13,), (30, 31, 32, 33, 2)),
    ]
    with torch.no_grad():
        together = completion_loss(model, collate(rows, pad_id=2))
        apart = sum(completion_loss(model, collate([row], pad_id=2)) for row in rows)
        ids = torch.tensor([[10, 11, 12, 20, 21, 2]])
        logprobs = model(ids).logits.log_softmax(-1)
    plain = -sum(logprobs[0, position - 1, ids[0, position]] for position in (3, 4, 5))
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(completion_loss(model, collate(rows[:1], pad_id=2)), plain)


def test_the_references_of_a_data_set_are_demonstrations_and_its_columns_can_be_named(tmp_path):
    row = {"text": "Add.", "answer": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n")
    named = DataSetSettings.model_validate({"columns": {"references": "answer"}})
    tokenizer = load_tokenizer("tiny")
    (found,) = read_demonstrations(f"data:{tmp_path / 'set.jsonl'}", "bare", tokenizer, 512, named)
    assert tokenizer.decode(found.completion[:-1]) == "\ndef add(a, b): return a + b"
    with pytest.raises(ValueError, match=r"data_set=.* has no effect with data=starter"):
        SftSettings(data_set=named)
