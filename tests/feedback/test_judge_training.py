"""A judge of one's own: what it learns from."""

import json

import pytest

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.annotators.prompts import PROMPTS, labels, question
from crlhf_ray.feedback.annotators.settings import JudgeTrainSettings
from crlhf_ray.feedback.annotators.training import lessons
from crlhf_ray.feedback.honeypots import Honeypot
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.settings import read_settings

ITEM = Item("i", "p", 'def f(x):\n    """Answer x + 1."""', ("", "    y = x + 2", "    return y"), (1, 2))


@pytest.fixture(scope="module")
def pairs():
    return lessons([Honeypot(ITEM, (1, -1, 1))], "lines", load_tokenizer("tiny"))


def test_a_lesson_is_what_a_run_will_ask_with_the_true_labels_and_the_canary_wrong(pairs):
    for order, pair in zip(("forward", "backward"), pairs, strict=True):
        asked = question(ITEM, order, canary=True, salt="train")
        assert PROMPTS["lines"] in pair["prompt"]
        assert asked.text in pair["prompt"]
        found = labels(asked, pair["completion"])
        assert {asked.numbers.get(k): label for k, label in found.items()} == {1: -1, 2: 1, None: -1}


def test_the_file_of_lessons_is_one_that_fine_tuning_reads(pairs, tmp_path):
    from crlhf_ray.policy.demonstrations import read_demonstrations

    file = tmp_path / "lessons.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = load_tokenizer("tiny")
    first, _ = read_demonstrations(f"pairs:{file}", "bare", tokenizer, 4096)
    assert tokenizer.decode(first.completion, skip_special_tokens=True) == pairs[0]["completion"]


@pytest.mark.parametrize(
    "change, message",
    [("sft.data=pairs:mine", "data=pairs:mine has no effect"), ("per_problm=3", "did you mean per_problem")],
)
def test_settings_without_effect_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(JudgeTrainSettings, None, [change])
