import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from standardwebhooks import Webhook

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk import webhooks
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.webhooks import Webhooks
from tests.desk.conftest import review, work

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver():
    """A server that refuses the first message it gets; ``got`` holds (headers, body) of all."""

    class Handler(BaseHTTPRequestHandler):
        got = []  # noqa: RUF012

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.got.append((dict(self.headers.items()), body))
            self.send_response(503 if len(self.got) == 1 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", Handler.got
    server.shutdown()
    thread.join()
    server.server_close()


def wait_for(count, got):
    while len(got) < count:
        time.sleep(0.02)


def test_a_refused_message_is_sent_again_with_the_same_id_and_a_valid_signature(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSES", (0.1, 0.1))
    url, got = receiver
    sender = Webhooks([url], SECRET, tmp_path)
    sender.send("alert", {"kind": "spammers"})
    wait_for(2, got)
    sender.close()
    assert got[0][0]["webhook-id"] == got[1][0]["webhook-id"]
    for headers, body in got:
        assert Webhook(SECRET).verify(body, headers)["data"] == {"kind": "spammers"}
    assert list(tmp_path.iterdir()) == []


def test_a_message_that_was_not_delivered_survives_a_restart(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSES", (0.5,))
    url, got = receiver
    first = Webhooks([url], SECRET, tmp_path)
    first.send("item.done", {"item_id": "i-1"})
    wait_for(1, got)
    first.close()
    second = Webhooks([url], SECRET, tmp_path)
    wait_for(2, got)
    second.close()
    assert json.loads(got[1][1])["data"] == {"item_id": "i-1"}


def test_programs_done_are_told(receiver, serve):
    url, got = receiver
    queue = QueueSettings(qualification=0, labels_least=1, labels_most=1)
    server = serve(queue=queue, webhooks=(url,), webhook_secret=SECRET)
    server.publish([work(1)])
    review(server.person("ann"))
    wait_for(1, got)
    message = json.loads(got[0][1])
    assert (message["type"], message["data"]["item_id"]) == ("item.done", work(1).item_id)


def test_webhooks_without_a_secret_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="webhook_secret"):
        Webhooks(["http://127.0.0.1:1"], None, tmp_path)


@pytest.mark.parametrize("url", ["hooks.example/crlhf", "http://[::1", "ftp://hooks.example"])
def test_what_is_no_url_is_refused_at_the_start(tmp_path, url):
    with pytest.raises(ConfigError, match="is no URL"):
        Webhooks([url], SECRET, tmp_path)


def test_alerts_are_told_with_what_to_do(receiver, serve, monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSES", (0.1,))
    url, got = receiver
    queue = QueueSettings(qualification=0, honeypots_least=1, honeypots_most=1)
    server = serve(queue=queue, webhooks=(url,), webhook_secret=SECRET)
    server.publish([work(n) for n in range(30)], honeypots=30)
    person = server.person("ann")
    while review(person, label=-1):
        pass
    server.settled()
    while not (told := [(headers, body) for headers, body in got if "spammers" in str(body)]):
        server.now += 60
        server.lead._call("GET", "/alerts")
        time.sleep(0.05)
    message = Webhook(SECRET).verify(told[0][1], told[0][0])
    assert (message["type"], message["data"]["subjects"]) == ("alert", [person.me()["annotator_id"]])
    assert set(message["data"]) == {"kind", "message", "remedy", "subjects"}
