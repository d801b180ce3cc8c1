"""The OpenAPI document against the app: no request that it allows, or forbids, brings the server down."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from crlhf_ray.feedback.queue import QueueSettings
from crlhf_ray.feedback.web.app import create_app
from crlhf_ray.feedback.web.desk import Desk
from crlhf_ray.feedback.web.serve import service_token
from crlhf_ray.feedback.web.settings import WebSettings
from tests.web.conftest import work

ENDLESS = "/api/v1/events"  # a stream of events


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    limits = {"requests_a_minute": 10**6, "logins_a_minute": 10**6}
    desk = Desk(WebSettings(dir=tmp_path_factory.mktemp("desk"), queue=QueueSettings(qualification=1), **limits))
    desk.publish([work(n) for n in range(5)], {}, 0, None, "test")
    yield create_app(desk.settings, desk), service_token(desk).read_text().strip()
    desk.close()


def test_no_request_that_the_document_allows_or_forbids_is_a_server_error(application):
    app, token = application
    schema = schemathesis.openapi.from_asgi("/openapi.json", app).exclude(path=ENDLESS)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20

    def check(case):
        response = case.call(headers={"Authorization": f"Bearer {token}"})
        case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            with suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parameter
                settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))(
                    given(case=strategy)(check)
                )()
