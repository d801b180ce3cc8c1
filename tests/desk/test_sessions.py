"""Sessions that end: for everything that they opened, and for whoever has a copy of the cookie."""

import httpx
import pytest

from crlhf_ray.feedback.desk import lead
from crlhf_ray.feedback.desk.security import COOKIE
from tests.desk.conftest import PASSWORD


def status(server, cookie):
    return httpx.get(f"{server.url}/api/v1/me", cookies={COOKIE: cookie}).status_code


def log_out(server, session):
    session.post("/logout")


def suspend(server, session):
    server.lead._call("POST", f"/annotators/{session.get('/api/v1/me').json()['annotator_id']}/suspend")


def let_expire(server, session):
    server.desk.settings = server.desk.settings.model_copy(update={"session_seconds": -1})


@pytest.mark.parametrize("end", [log_out, suspend, let_expire])
def test_a_live_dashboard_ends_with_its_session(serve, monkeypatch, end):
    monkeypatch.setattr(lead, "LIVE_SECONDS", 0.05)
    server = serve()
    session = server.browser("boss", "lead")
    with session.stream("GET", "/api/v1/events") as stream:
        pieces = stream.iter_text()
        assert "event: stats" in next(pieces)
        end(server, session)
        for _ in pieces:  # until the server ends it
            pass
    assert session.get("/api/v1/events").status_code == 401


def test_who_logs_out_ends_this_session_for_good_and_no_other(serve, database):
    server = serve(database=database)
    here = server.browser("ann")
    cookie, token = here.cookies[COOKIE], server.lead.log_in("ann", PASSWORD)
    there = httpx.Client(base_url=server.url)
    there.post("/login", data={"name": "ann", "password": PASSWORD})
    here.post("/logout")
    assert status(server, cookie) == 401
    assert status(server, there.cookies[COOKIE]) == 200
    assert token.me()["name"] == "ann"


def test_a_session_that_was_logged_out_of_stays_ended_when_the_server_starts_again(serve):
    first = serve()
    session = first.browser("ann")
    cookie = session.cookies[COOKIE]
    session.post("/logout")
    first.close()
    assert status(serve(database=str(first.desk.database.engine.url)), cookie) == 401
