"""`crlhf serve` as people start it: plain, and on Ray Serve."""

import os
import re
import signal
import stat
import subprocess
import sys
import time

import httpx
import pytest

from benchmarks.postgres import free_port
from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.desk.client import AnnotationClient
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.settings import WebSettings
from tests.desk.conftest import PASSWORD, review, work

PLAIN_AND_RAY = pytest.mark.parametrize("options", [[], pytest.param(["--ray"], marks=pytest.mark.engine)])


class Serving:
    """``crlhf serve`` in a process group of its own; usable once it is healthy. output: the file of what it says."""

    def __init__(self, folder, *options):
        port, self.desk, self.output = free_port(), folder / "desk", folder / "output"
        self.url = f"http://127.0.0.1:{port}"
        changes = ["--set", f"dir={self.desk}", "--set", "queue.qualification=0"]
        command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(port), *changes, *options]
        with open(self.output, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def healthy(self):
        while True:
            assert self.process.poll() is None, self.output.read_text()
            try:
                if httpx.get(f"{self.url}/healthz").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)

    def lead(self):
        return AnnotationClient.from_file(self.url, self.desk / "token")

    def left(self):
        """What runs yet of what it started."""
        listing = subprocess.run(["ps", "-eo", "sess,args"], capture_output=True, text=True, check=True).stdout
        return [line for line in listing.splitlines() if line.split(None, 1)[0] == str(self.process.pid)]


@pytest.fixture
def serving(tmp_path):
    """``serving(*options)`` starts ``crlhf serve``."""
    started = []

    def start(*options):
        started.append(Serving(tmp_path, *options))
        started[-1].healthy()
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:  # the test failed
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


@pytest.mark.parametrize("there_before", [False, True])
def test_nobody_else_on_the_machine_can_read_what_the_server_keeps(tmp_path, there_before):
    folder = tmp_path / "desk"
    if there_before:
        folder.mkdir(mode=0o755)
    Desk(WebSettings(dir=folder), Aggregator).close()
    assert stat.filemode(folder.stat().st_mode) == "drwx------"


@PLAIN_AND_RAY
def test_the_server_names_the_admins_link_serves_and_stops_cleanly(serving, options):
    server = serving(*options)
    link = re.search(r"Make yourself the admin: (\S+)", server.output.read_text()).group(1)
    form = {"name": "boss", "password": PASSWORD}
    assert httpx.post(link, data=form, follow_redirects=True).url.path == "/lead"
    with server.lead() as lead:
        lead.publish([work(1)])
        with lead.join(lead.invite(), "ann", PASSWORD) as person:
            assert review(person) == work(1).item_id
        assert lead.annotations(0)[0].num_rows == 2
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert server.left() == []
    assert "Traceback" not in server.output.read_text()


@PLAIN_AND_RAY
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_server_stops_cleanly_while_somebody_looks_at_the_live_dashboard(serving, options, sent):
    server = serving(*options)
    with server.lead() as lead, lead._http.stream("GET", "/events") as stream:
        pieces = stream.iter_text()
        assert "event: stats" in next(pieces)
        server.process.send_signal(sent)
        assert server.process.wait(60) == 0  # the stream is open until the server ends it
    assert server.left() == []
    assert "Traceback" not in server.output.read_text()
