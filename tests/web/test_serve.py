"""`crlhf serve` as people start it: plain, and on Ray Serve."""

import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

from benchmarks.postgres import free_port
from crlhf_ray.feedback.web.client import AnnotationClient
from tests.web.conftest import PASSWORD, judge, work


@pytest.mark.parametrize("options", [[], pytest.param(["--ray"], marks=pytest.mark.engine)])
def test_the_server_names_the_admins_link_serves_and_stops_cleanly(tmp_path, options):
    port, desk = free_port(), tmp_path / "desk"
    command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(port), "--set", f"dir={desk}", *options]
    command += ["--set", "queue.qualification=0"]
    output = tmp_path / "output"
    with open(output, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while True:
            assert process.poll() is None, output.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        link = re.search(r"Make yourself the admin: (\S+)", output.read_text()).group(1)
        form = {"name": "boss", "password": PASSWORD}
        assert httpx.post(link, data=form, follow_redirects=True).url.path == "/lead"
        with AnnotationClient.from_file(f"http://127.0.0.1:{port}", desk / "token") as lead:
            lead.publish([work(1)])
            with lead.join(lead.invite(), "ann", PASSWORD) as person:
                assert judge(person) == work(1).item_id
            assert lead.annotations(0)[0].num_rows == 2
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0
    listing = subprocess.run(["ps", "-eo", "sess,args"], capture_output=True, text=True, check=True).stdout
    assert [line for line in listing.splitlines() if line.split(None, 1)[0] == str(process.pid)] == []
    assert "Traceback" not in output.read_text()
