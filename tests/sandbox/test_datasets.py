"""The sandbox on the field's own data: references pass, and recorded verdicts of real model samples come out again."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.samples import cut
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

DATA = os.environ.get("CRLHF_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set CRLHF_DATA to the folder of public data sets")
CODE = Path(DATA or "") / "code"
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")  # what those samples were cut at when they were checked


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SandboxSettings(slots=3, limits=Limits(cpu_seconds=10, wall_seconds=90))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def roomy():
    """The heaviest reference takes 9 CPU seconds on a machine without AVX-512 whose cores are busy."""
    with Sandbox(SandboxSettings(slots=3, limits=Limits(cpu_seconds=40, wall_seconds=240))) as sandbox:
        yield sandbox


@pytest.fixture
def busy_cores():
    """A CPU hog on every core."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def failures(sandbox, source: str) -> list:
    jobs = [(problem, reference) for problem in load_problems(source) for reference in problem.references]
    verdicts = zip(jobs, sandbox.check(jobs), strict=True)
    return [(problem.problem_id, verdict) for (problem, _), verdict in verdicts if not verdict.passed]


@pytest.mark.parametrize("source", ["starter", "humaneval"])
def test_references_pass(sandbox, source):
    assert failures(sandbox, source) == []


@needs_data
@pytest.mark.parametrize(
    "source, count",
    [
        ("mbpp:mbpp/mbpp.jsonl", 974),
        ("mbpp:mbpp/sanitized-mbpp.json", 427),
        ("humanevalplus:humanevalplus/HumanEvalPlus.jsonl.gz", 164),
    ],
)
def test_references_pass_with_every_core_busy(roomy, busy_cores, source, count):
    kind, _, path = source.partition(":")
    source = f"{kind}:{CODE / path}"
    assert len(load_problems(source)) == count
    assert failures(roomy, source) == []


@needs_data
def test_real_samples_get_their_recorded_verdicts(sandbox):
    """CodeGen-16B on HumanEval. The file lists completions by the problems' names in alphabetical order but verdicts in
    numerical order, under the same ids; the 18 problems that appear in both orders can be put together again."""
    by_place = defaultdict(list)
    for line in (CODE / "codegen16b_humaneval" / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        by_place[row["task_id"]].append(row)
    problems = {problem.problem_id: problem for problem in load_problems("humaneval")}
    jobs, recorded = [], []
    for place, name in enumerate(sorted(problems)):
        if f"HumanEval/{place}" in by_place and name in by_place:
            problem = problems[name]
            jobs += [(problem, "\n" + cut(row["completion"], STOPS)) for row in by_place[f"HumanEval/{place}"]]
            recorded += [row["passed"] for row in by_place[name]]
    assert len(jobs) == 540
    assert [verdict.passed for verdict in sandbox.check(jobs)] == recorded
