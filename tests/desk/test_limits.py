"""What strangers can do to the server: large and slow bodies, log-ins by the thousand, forms on other sites."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from crlhf_ray.feedback.desk import limits
from crlhf_ray.feedback.desk.app import create_app
from tests.desk.conftest import PASSWORD, work


@pytest.fixture
def server(serve):
    return serve(logins_a_minute=4, trusted_proxies=("127.0.0.1",))


def test_a_large_body_of_a_stranger_is_refused_unread(server):
    answer = httpx.post(f"{server.url}/api/v1/token", content=b"[" * 200_000)
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "the request is too large: the maximum is 65536 bytes",
    )
    assert "content-security-policy" in answer.headers


def test_a_large_body_in_parts_is_refused_when_it_passes_the_limit(server):
    parts = (b"[" * 10_000 for _ in range(20))
    assert httpx.post(f"{server.url}/api/v1/token", content=parts).status_code == 413


def test_a_lead_publishes_what_a_stranger_could_not_send(server):
    lines = tuple(f"    x = {'1' * 900}  # {n}" for n in range(200))
    server.publish([work(1, lines, range(200))])


def test_a_body_that_does_not_end_is_given_up(server):
    app = limits.BodyLimit(create_app(server.desk), seconds=0.05)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/token",
        "headers": [],
        "query_string": b"",
        "app": app.app,
    }
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as thread:  # the browser's tests leave a loop running in this one
        thread.submit(asyncio.run, app(scope, receive, send)).result()
    assert sent[0]["status"] == 408


def log_in(server, name, address, password="wrong password"):
    body, headers = {"name": name, "password": password}, {"X-Forwarded-For": address}
    return httpx.post(f"{server.url}/api/v1/token", json=body, headers=headers).status_code


def test_an_account_is_guessed_at_from_no_number_of_addresses(server):
    server.person("ann")
    assert log_in(server, "ann", "10.0.0.1", PASSWORD) == 200
    answers = [log_in(server, "ann", f"10.0.1.{n}") for n in range(12)]
    assert answers == [401] * 11 + [429]
    assert log_in(server, "ann", "10.0.0.1", PASSWORD) == 200  # and she is not locked out


def test_an_account_is_limited_under_every_spelling_of_its_name(serve):
    server = serve(logins_a_minute=1, trusted_proxies=("127.0.0.1",))
    server.person("ann")
    spellings = ("ann", " ann", "ann  ", "\uff41nn")
    assert [log_in(server, name, f"10.0.2.{n}") for n, name in enumerate(spellings)] == [401, 401, 401, 429]


def test_without_a_proxy_of_ours_nobody_says_where_they_are(serve):
    server = serve(logins_a_minute=2)
    assert [log_in(server, f"nobody {n}", f"10.0.0.{n}") for n in range(3)] == [401, 401, 429]


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
def test_a_form_on_another_site_logs_nobody_in(server, headers):
    server.person("ann")
    form = {"name": "ann", "password": PASSWORD}
    assert httpx.post(f"{server.url}/login", data=form, headers=headers).status_code == 403
    assert httpx.post(f"{server.url}/login", data=form, headers={"Origin": server.url}).status_code == 303


def test_whoever_looks_at_a_page_that_is_not_there_gets_a_page_and_scripts_get_json(server):
    page = httpx.get(f"{server.url}/nowhere", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "This page does not exist" in page.text
    assert httpx.get(f"{server.url}/api/v1/nowhere").json() == {"detail": "Not Found"}


def test_the_page_of_an_unknown_program_is_not_found(server):
    lead = server.browser("boss", "lead")
    assert lead.get("/lead/programs/i-none", headers={"Accept": "text/html"}).status_code == 404
