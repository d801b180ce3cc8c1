"""No request brings the server down: the OpenAPI document against the app, and what people may type into its forms."""

import json
from contextlib import suppress
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.desk.app import create_app
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.serve import service_token
from crlhf_ray.feedback.desk.settings import WebSettings
from tests.desk.conftest import PASSWORD, work

ENDLESS = "/api/v1/events"  # a stream of events


@pytest.fixture
def application(tmp_path, database):
    limits = {"requests_a_minute": 10**6, "logins_a_minute": 10**6}
    queue = QueueSettings(qualification=1)
    desk = Desk(WebSettings(dir=tmp_path / "desk", database=database, queue=queue, **limits), Aggregator)
    desk.publish([work(n) for n in range(5)], {}, 0, None, "test")
    yield create_app(desk), service_token(desk).read_text().strip()
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
                settings(max_examples=8, database=None, suppress_health_check=list(HealthCheck))(
                    given(case=strategy)(check)
                )()


ODD = {
    "the character 0": "a\0b",
    "nothing": "",
    "blanks": "   ",
    "very long": "x" * 100_000,
    "half a character": "\ud800",
    "beyond the first plane": "\U0001f600" * 50,
    "turning text around": "\u202e",
    "a quote": "'; DROP TABLE account; --",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_text_in_a_form_is_a_server_error(serve, database, odd):
    server = serve(database=database, logins_a_minute=10**6)
    session = server.browser("ann")
    password = server.lead._call("POST", f"/annotators/{session.get('/api/v1/me').json()['annotator_id']}/password")
    name_and_password = [{"name": odd, "password": PASSWORD}, {"name": "bob", "password": odd}]
    forms = [(path, fields) for path in ("/login", f"/invite/{server.lead.invite()}") for fields in name_and_password]
    del session.headers["X-CSRF-Token"]
    for path, fields in [*forms, (password["path"], {"password": odd}), ("/logout", {"csrf_token": odd})]:
        body = urlencode(fields, errors="surrogatepass")
        kind = {"content-type": "application/x-www-form-urlencoded"}
        assert session.post(path, content=body, headers=kind).status_code < 500, (path, fields)
    address = quote(odd[:1000], safe="", errors="surrogatepass")
    for path in (f"/login/{address}", f"/invite/{address}", f"/password/{address}", f"/lead/programs/{address}"):
        assert session.get(path).status_code < 500, path


@pytest.mark.parametrize("odd", [*ODD.values(), float("nan"), {"\ud800": 1}, None], ids=[*ODD, "NaN", "key", "null"])
def test_no_value_in_a_body_is_a_server_error_and_refusals_can_be_read(serve, database, odd):
    server = serve(database=database, logins_a_minute=10**6)
    for path, fields in (
        ("/token", {"name": odd, "password": PASSWORD}),
        ("/token", {"name": "ann", "password": odd}),
        ("/simulated", {"name": odd}),
        ("/leases/1/submit", {"confidence": odd}),
        ("/invites", {"hours": odd}),
        ("/invites", odd),
    ):
        headers = {"content-type": "application/json"}
        answer = server.lead._http.post(path, content=json.dumps(fields), headers=headers)
        assert answer.status_code < 500, (path, fields)
        if answer.status_code == 422:
            assert all(one["msg"] for one in answer.json()["detail"])
