"""A run and its annotation server know the crowd by the same engine, with the same settings."""

from functools import partial
from pathlib import Path

import pytest

from crlhf_ray.aggregation.actor import AggregationSettings, Aggregator
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.source import WebFeedback
from crlhf_ray.feedback.honeypots import HoneypotPool
from crlhf_ray.feedback.settings import FeedbackSettings, WebFeedbackSettings
from tests.desk.conftest import serve

__all__ = ["serve"]


def feedback(settings, folder, aggregation):
    """The feedback of a run that aggregates by these settings; it asks no aggregation actor before its first round."""
    engine = partial(Aggregator, settings=aggregation)
    more = {"engine": engine, "aggregation": aggregation.meaning()}
    return WebFeedback(settings, HoneypotPool([]), None, folder, seed=1, rounds=1, wait_seconds=1, **more)


def at(server):
    web = WebFeedbackSettings(url=server.url, token_file=Path(server.token_file))
    return FeedbackSettings(source="web", web=web)


def test_a_server_with_other_settings_is_refused_with_both_values(serve, tmp_path):
    server = serve(AggregationSettings(estimator="one_coin", decay=0.9))
    with pytest.raises(ConfigError) as refused:
        feedback(at(server), tmp_path / "annotation", AggregationSettings())
    assert "aggregation.estimator is 'two_coin' in the run and 'one_coin' at the server" in str(refused.value)
    assert "aggregation.decay is 1.0 in the run and 0.9 at the server" in str(refused.value)


def test_how_often_a_server_writes_its_state_is_its_own_affair(serve, tmp_path):
    server = serve(AggregationSettings(snapshot_events=7))
    feedback(at(server), tmp_path / "annotation", AggregationSettings()).close()


def test_the_runs_own_server_aggregates_by_the_runs_settings(tmp_path):
    mine = AggregationSettings(estimator="one_coin", decay=0.9, use_confidence=False)
    simulated = feedback(FeedbackSettings(source="simulated"), tmp_path / "annotation", mine)
    assert simulated.client.aggregation() == mine.meaning()
    simulated.close()
