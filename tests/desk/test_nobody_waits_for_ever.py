"""What happens though nobody asks, and what training does while nothing comes."""

import http.server
import threading

import pytest

from crlhf_ray.feedback.desk import client as module
from crlhf_ray.feedback.desk.client import AnnotationClient, ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import review, work

PLAIN = QueueSettings(qualification=0, honeypots_least=0, honeypots_most=0)


def test_the_server_itself_closes_what_nobody_is_left_for_and_tells_the_lead_before(serve):
    server = serve(queue=PLAIN)
    server.publish([work(1)])
    people = [server.person(name) for name in ("ann", "bob", "away")]
    for person, label in zip(people, (1, -1), strict=False):
        review(person, label)
    server.settled()

    def alerts():
        server.now += 100
        server.desk.crowd._work_out()
        return {alert["kind"] for alert in server.desk.crowd._view.alerts}

    def state():
        return server.lead._call("GET", f"/items/{work(1).item_id}")["state"]

    assert "nobody left" not in alerts()
    server.now += PLAIN.present_seconds
    assert "nobody left" in alerts()
    server.desk._tidy()
    assert state() == "open"
    server.now += PLAIN.absent_seconds + 1
    server.desk._tidy()
    assert state() == "done"
    assert "nobody left" not in alerts()


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers in turn as it is told: a status, or None to drop the connection."""

    answers: list[int | None]

    def do_GET(self):
        answer = self.answers.pop(0)
        if answer is None:
            return self.connection.close()
        self.send_response(answer)
        self.end_headers()
        self.wfile.write(b'{"name": "ann"}' if answer == 200 else b"<html>Bad gateway</html>")

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    server = http.server.HTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_proxys_errors_and_dropped_connections_are_waited_out(flaky):
    Flaky.answers = [502, None, 503, 200]
    with AnnotationClient(flaky, "token", patience=20) as client:
        assert client.me() == {"name": "ann"}


@pytest.mark.parametrize("answer, patience", [(502, 0), (500, 20), (404, 20)])
def test_other_errors_and_impatient_clients_fail_at_once(flaky, answer, patience):
    Flaky.answers = [answer]
    with AnnotationClient(flaky, "token", patience=patience) as client, pytest.raises(ServerError, match=str(answer)):
        client.me()
