"""A judge behind a real `vllm serve`: a tiny random model, held to the form of an answer by guided decoding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import httpx
import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.annotators.endpoint import Endpoint
from crlhf_ray.feedback.annotators.llm import MISSED
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.annotators.prompts import PROMPTS
from crlhf_ray.feedback.annotators.settings import LlmSettings
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.policy.model import resolve
from tests.clusters import free_port

pytestmark = pytest.mark.engine

NOW = datetime(2025, 1, 1, tzinfo=UTC)
#: `vllm serve`, whose command the CPU build lacks.
SERVE = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name=tiny", "--host=127.0.0.1"]
SERVE += ["--dtype=float32", "--enforce-eager", "--kv-cache-memory-bytes=67108864", "--max-num-seqs=16"]
SERVE += ["--no-enable-chunked-prefill", "--max-num-batched-tokens=4096"]
SERVE += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
PROMPT = 'def f(x):\n    """Answer x + 1."""'


def item(name, *lines):
    lines = ("", *lines)
    return Item(name, "p", PROMPT, lines, tuple(range(1, len(lines))))


PROGRAMS = [item(f"i-{n}", f"    y = x + {n}", "    return y") for n in range(3)]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The endpoint of a server that is ended by its process id, whatever happens."""
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [*SERVE, f"--model={resolve('tiny')}", f"--port={port}"]
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        for _ in range(500):
            assert server.poll() is None, log.read_text()[-4000:]
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                    break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with suppress(ProcessLookupError):  # its engine is a process of the same group
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def settings(url, **options):
    given = {
        "model": "tiny",
        "prompts": ("lines",),
        "votes": 1,
        "canary": False,
        "attempts": 1,
        "max_tokens": 1400,
        "at_once": 16,
    }
    return LlmSettings(base_url=url, **given | options)


def collect(url, items, pool=None, honeypots=0, **options):
    machines = Machines([settings(url, **options)], 1)
    table, shown = machines.collect(items, pool or HoneypotPool([]), honeypots, NOW)
    machines.close()
    return table, shown, machines


def test_the_server_holds_a_random_model_to_one_label_for_each_line_that_was_asked(url):
    table, _, machines = collect(url, PROGRAMS, votes=2, price_in=1e6)
    assert sorted(zip(table["item_id"].to_pylist(), table["line"].to_pylist(), strict=True)) == [
        (one.item_id, line) for one in PROGRAMS for line in one.to_review
    ]
    assert machines.alerts() == []
    tokens = machines.spent["llm:tiny:lines"]["money"]
    assert tokens > 2 * len(PROGRAMS) * len(PROMPTS["lines"] + PROMPT), "every byte is a token of this model"


def test_a_program_whose_canary_a_random_model_misses_gets_no_marks(url):
    machines = Machines([settings(url, canary=True)], 1)
    (judge,) = machines.annotators
    reviews = judge.review([item(f"i-{n}", f"    return x + {n}") for n in range(8)])
    machines.close()
    assert {(review.note, len(review.labels)) for review in reviews} <= {("", 1), (MISSED, 0)}
    assert any(review.note == MISSED for review in reviews)


def test_honeypots_find_a_random_model_out(url, tmp_path):
    """By the run's own estimator, beside a judge that knows: what a mark adds to its line, in nats."""
    pots = [Honeypot(item(f"i-h{k}", "    y = x", f"    y += {k}", "    return y"), (1, 1, -1, 1)) for k in range(13)]
    pool = HoneypotPool(pots)
    table, shown, _ = collect(url, PROGRAMS, pool, len(pots))
    assert table.num_rows == 3 * len(pots) + 2 * len(PROGRAMS)
    truth = {(pot.item.item_id, line): label for pot in pots for line, label in enumerate(pot.truth)}
    knowing = table.set_column(
        table.column_names.index("label"),
        "label",
        pa.array(
            [truth.get((row["item_id"], row["line"]), 1) for row in table.to_pylist()], table.schema.field("label").type
        ),
    )

    def weight(name, marks):
        aggregator = Aggregator(tmp_path / name, None, AnnotationLog(tmp_path / f"{name}-marks"))
        aggregator.add_gold(pool.gold(shown))
        aggregator.ingest(marks)
        evidence = aggregator.consensus([one.item_id for one in PROGRAMS])["evidence"].to_numpy()
        aggregator.close()
        return np.abs(evidence).mean()

    # coins in its place: .15 nats in the median of 150 draws, .93 at most; the one that knows: 3.06
    assert weight("random", table) < weight("knowing", knowing) / 3


def test_a_program_that_does_not_fit_the_context_is_left_out_with_the_reason(url):
    long = item("i-long", *[f"    y{n} = x" for n in range(200)])
    table, _, machines = collect(url, [long])
    assert table.num_rows == 0
    assert "maximum context length is 2048 tokens" in str(machines.alerts()[0])
    assert "max_tokens=1400" in str(machines.alerts()[0])


def test_a_model_that_is_not_served_is_refused_by_name(url):
    endpoint = Endpoint(settings(url, model="large"))
    with pytest.raises(ConfigError, match="knows no model 'large'"):
        endpoint.ask("", "", {"type": "object"}, 0)
    endpoint.close()
