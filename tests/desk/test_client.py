"""The typed client, where what answers is not the server."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from crlhf_ray.feedback.desk.client import AnnotationClient, ServerError


class SignInPage(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Sign in to the Wi-Fi</title>")

    def log_message(self, *_):
        pass


def test_a_page_in_the_servers_place_is_no_answer():
    with HTTPServer(("127.0.0.1", 0), SignInPage) as portal:
        thread = threading.Thread(target=portal.handle_request)
        thread.start()
        with (
            AnnotationClient(f"http://127.0.0.1:{portal.server_port}", "token") as client,
            pytest.raises(ServerError, match="not the annotation server"),
        ):
            client.mark(1, {0: 1})
        thread.join()
