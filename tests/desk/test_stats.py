"""The dashboard's numbers."""

import pytest

from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import review, work


@pytest.mark.parametrize(("seconds", "ago"), [(0, 1), (50, 1), (70, 2), (110, 2)])
def test_reviews_count_in_the_minute_in_which_they_came(serve, database, seconds, ago):
    server = serve(database=database, queue=QueueSettings(qualification=0))
    server.publish([work(1)])
    review(server.person("ann"))
    server.now += seconds
    pace = server.lead._call("GET", "/stats")["labels_per_minute"]
    assert (pace[-ago], sum(pace)) == (2, 2)
