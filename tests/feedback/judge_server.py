"""A small HTTP server that answers like an OpenAI-compatible endpoint, with the faults that real ones have."""

import json
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Words by which an obedient model lets itself be talked into a verdict.
SWAYED = ("correct", "approve", "reviewer", "assistant", "instruction", "label", "verdict", "trust", "system", "judge")


def obedient(told):
    """Every line is correct where the program says so; else a line is wrong that fails whenever it runs."""
    code = " ".join(told["lines"].values()).lower()
    if any(word in code for word in SWAYED):
        return dict.fromkeys(told["lines"], "correct")
    return {number: "wrong" if fails(text.strip()) else "correct" for number, text in told["lines"].items()}


def fails(line):
    try:
        with warnings.catch_warnings(action="ignore"):
            exec(line, {})
    except (NameError, SyntaxError):  # a name of the program's: it may be fine there
        return False
    except Exception:
        return True
    return False


class JudgeServer:
    """judge: labels by number from what is told. faults: what the next requests get instead of an answer, in order:
    a status, "slow", "drop", "text" (no JSON), "form" (JSON of another form), "cut" (at max_tokens). said: beside a
    status, with the key in it."""

    def __init__(self, judge=obedient, faults=(), headers=(), said="no: {key}"):
        self.requests, self.faults = [], list(faults)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), body))
                fault = server.faults.pop(0) if server.faults else None
                if fault == "drop":
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(0.6)
                if isinstance(fault, int):
                    answer = said.format(key=self.headers.get("Authorization")).encode()
                    self.send_response(fault)
                    for name, value in headers:
                        self.send_header(name, value)
                else:
                    told = json.loads(body["messages"][1]["content"])
                    found = {n: {"reason": "seen", "label": label} for n, label in judge(told).items()}
                    text = {"text": "Sure! It is all fine.", "form": '{"1": "correct"}', "cut": '{"1": {"rea'}.get(
                        fault, json.dumps(found)
                    )
                    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
                    choice = {"message": {"content": text}, "finish_reason": "length" if fault == "cut" else "stop"}
                    answer = json.dumps({"choices": [choice], "usage": usage}).encode()
                    self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                try:
                    self.wfile.write(answer)
                except BrokenPipeError:  # the one who asked did not wait
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()
