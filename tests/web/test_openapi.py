"""The OpenAPI document against the app: no request that it allows, or forbids, brings the server down."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from crlhf_ray.feedback.queue import QueueSettings
from crlhf_ray.feedback.web.app import create_app
from crlhf_ray.feedback.web.desk import Desk
from crlhf_ray.feedback.web.serve import service_token
from crlhf_ray.feedback.web.settings import WebSettings
from tests.web.conftest import work


@pytest.fixture(scope="module")
def schema_of_app(tmp_path_factory):
    limits = {"requests_a_minute": 10**6, "logins_a_minute": 10**6}
    desk = Desk(WebSettings(dir=tmp_path_factory.mktemp("desk"), queue=QueueSettings(qualification=1), **limits))
    desk.publish([work(n) for n in range(5)], {}, 0, None, "test")
    app = create_app(desk.settings, desk)
    app.state.test_token = service_token(desk).read_text().strip()
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    desk.close()


schema = schemathesis.pytest.from_fixture("schema_of_app").exclude(path="/api/v1/events")


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_server_error(case):
    token = case.operation.schema.app.state.test_token
    response = case.call(headers={"Authorization": f"Bearer {token}"})
    case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])
