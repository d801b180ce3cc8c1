"""A reward, an advantage, an estimator and a source of reviews from outside the package, named in the settings."""

from importlib import import_module

import numpy as np
import pytest

from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.config import load_config, with_parts
from crlhf_ray.errors import ConfigError
from crlhf_ray.learner.advantage import Rewarded, algorithm_named
from crlhf_ray.reward import RewardSettings, program_score
from tests.aggregation.tables import annotations, keeper
from tests.parts import MY_PARTS


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    """A module that is not the package's, where the run is started."""
    (tmp_path / "my_parts.py").write_text(MY_PARTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_reward_of_ones_own_scores_programs():
    settings = RewardSettings(form="my_parts:strict")
    assert program_score(np.array([2.0, 0.5]), 0.5, settings) == 1.0
    assert program_score(np.array([2.0, -0.5]), 0.5, settings) == 0.0


def test_an_advantage_of_ones_own_is_a_function():
    batch = Rewarded(
        rewards=[np.array([0.0, 1.0]), np.array([0.0])], values=[np.zeros(2), np.zeros(1)], groups=["a"] * 2
    )
    advantages = algorithm_named("my_parts:centred").estimate(batch)
    assert [array.tolist() for array in advantages] == [[0.5, 0.5], [-0.5]]


def test_an_algorithm_of_ones_own_may_need_groups():
    with pytest.raises(ConfigError, match="nothing to compare a program with"):
        load_config(changes=["learner.algorithm=my_parts:grouped", "run.samples_per_problem=1"])


@pytest.mark.parametrize("use_confidence, p", [(True, 0.9), (False, 0.6)])
def test_an_estimator_of_ones_own_weighs_the_votes(tmp_path, use_confidence, p):
    settings = AggregationSettings(estimator="my_parts:Trusting", use_confidence=use_confidence)
    crowd = keeper(tmp_path, settings)
    crowd.ingest(annotations([("i", 0, "ann", 1), ("i", 1, "ann", -1)]))
    assert crowd.consensus(["i"])["p_correct"].to_pylist() == pytest.approx([p, 1 - p])


def test_both_are_named_in_the_settings_of_a_run():
    config = load_config(changes=["reward.form=my_parts:strict", "learner.algorithm=my_parts:centred"])
    assert (config.reward.form, config.learner.algorithm) == ("my_parts:strict", "my_parts:centred")


@pytest.mark.parametrize(
    "change, message",
    [
        ("reward.form=mena", r"reward\.form: 'mena' is not known: did you mean mean\?"),
        ("reward.form=no_such_module:f", "no_such_module could not be imported .*folder that the run is started in"),
        ("reward.form=my_parts:strikt", r"my_parts has no 'strikt'; did you mean my_parts:strict\?"),
        ("reward.form=my_parts:limit", "is not a function of"),
        ("aggregation.estimator=two_coins", r"'two_coins' is not known: did you mean two_coin\?"),
        ("aggregation.estimator=my_parts:limit", "is not an estimator: give a class or function that takes"),
        ("aggregation.estimator=my_parts:centred", "'my_parts:centred' failed: AttributeError"),
        ("aggregation={estimator: one_coin, strength: 3}", "strength=3.0 has no effect with estimator=one_coin"),
        ("feedback.source=webb", r"'webb' is not known: did you mean web\?"),
        ("feedback.source=my_parts:Trusting", "is not a source of reviews: give a class derived from"),
        ("feedback.source=my_parts:Deaf", "'my_parts:Deaf' lacks hear"),
        ("learner.algorithm=rlo", r"learner\.algorithm: 'rlo' is not known: did you mean rloo\?"),
        ("learner.algorithm=my_parts:limit", "is neither an Algorithm nor a function"),
    ],
)
def test_what_cannot_be_found_is_refused_with_what_can(change, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changes=[change])


def test_a_part_may_be_given_as_an_object():
    module = import_module("my_parts")
    config = with_parts(
        load_config(),
        reward=module.strict,
        advantage="my_parts:grouped",
        estimator=module.Trusting,
        feedback=module.OneVoice,
    )
    assert (config.reward.form, config.learner.algorithm) == ("my_parts:strict", "my_parts:grouped")
    assert (config.aggregation.estimator, config.feedback.source) == ("my_parts:Trusting", "my_parts:OneVoice")


def test_a_part_that_no_other_process_finds_is_refused():
    with pytest.raises(ConfigError, match="define it at the top of a module of your own"):
        with_parts(load_config(), reward=lambda evidence, prior, settings: 1.0)
