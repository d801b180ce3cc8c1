"""Are learner and rollout the same policy?"""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from crlhf_ray.errors import EngineError
from crlhf_ray.learner.forward_check import check_gap, check_names

SMALL = LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=16)


def names():
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SMALL)
    return [(name, "float32", tuple(weight.shape)) for name, weight in model.named_parameters()]


def test_log_probs_that_differ_too_much_stop_a_run_by_type_or_by_the_set_bound():
    check_gap(0.2, None, exact=False)
    check_gap(0.2, 0.25, exact=True)
    for gap in (0.0485, float("nan")):
        with pytest.raises(EngineError, match=r"differ by .* on average \(at most 0\.01\)"):
            check_gap(gap, None, exact=True)


def test_weights_that_are_sent_as_the_plain_model_names_them_pass():
    check_names(SMALL, names())


def test_a_weight_under_a_wrong_name_or_of_a_wrong_shape_is_named():
    wrong = [
        ("model.embed_tokens.base_layer.weight", *rest) if i == 0 else (name, *rest)
        for i, (name, *rest) in enumerate(names())
    ]
    with pytest.raises(EngineError, match=r"model\.embed_tokens\.base_layer\.weight \(16, 8\) is only on one side"):
        check_names(SMALL, wrong)
    with pytest.raises(EngineError, match=r"is only on one side of the transfer \(1 such\)"):
        check_names(SMALL, names()[1:])
