"""The judge: runs programs that a model wrote and says a verdict on each. Everything that runs code goes through it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.problems.problem import Problem
from crlhf_ray.settings import Settings


class Limits(Settings):
    """What one program may use."""

    cpu_seconds: float = 5.0
    """CPU seconds for the program and all its tests. CPU time, so that a busy machine does not change verdicts."""
    wall_seconds: float = 30.0
    """Seconds of wall clock before the program is stopped: a backstop for programs that sleep."""
    memory_mb: int = 512
    """MiB of address space: stops a program that grows without bound before the machine swaps."""
    file_mb: int = 8
    """MiB for the largest file a program may write."""


class JudgeSettings(Settings):
    """How the judge runs."""

    limits: Limits = Limits()
    """What one program may use."""
    slots: int = 2
    """Programs judged at the same time; about one per core."""


_HARNESS = textwrap.dedent(
    """
    import json, math, os, resource, sys
    job = json.loads(sys.stdin.buffer.read())
    soft = max(1, math.ceil(job["cpu_seconds"]))
    resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_mb"] << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_mb"] << 20,) * 2)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)
    dumps = json.dumps

    def say(status, failing_test=None, detail=""):
        used = resource.getrusage(resource.RUSAGE_SELF)
        out.write(dumps([status, failing_test, detail[:300], used.ru_utime + used.ru_stime]))
        out.flush()
        os._exit(0)

    namespace = {"__name__": "__main__"}
    test = None
    try:
        exec(compile(job["program"], "<program>", "exec"), namespace)
        exec(compile(job["setup"], "<setup>", "exec"), namespace)
        for test, code in enumerate(job["tests"]):
            exec(compile(code, "<test>", "exec"), namespace)
    except MemoryError as error:
        say("out_of_memory", test, repr(error))
    except AssertionError as error:
        say("wrong" if test is not None else "error", test, repr(error))
    except BaseException as error:
        say("error", test, repr(error))
    say("passed")
    """
)


class Judge:
    """Judges programs in separate processes with limits on CPU time, memory and files."""

    def __init__(self, settings: JudgeSettings | None = None):
        self.settings = settings or JudgeSettings()
        self._threads = ThreadPoolExecutor(self.settings.slots, thread_name_prefix="judge")

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the judge cannot be used afterwards."""
        self._threads.shutdown()

    def check(self, jobs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict per (problem, completion), in the order of the jobs."""
        return list(self._threads.map(lambda job: self._check(*job), jobs))

    def _check(self, problem: Problem, completion: str) -> Verdict:
        limits = self.settings.limits
        if not problem.checker.tests:
            return Verdict("infra_error", detail=f"problem {problem.problem_id!r} has no tests")
        job = {
            "program": problem.program(completion),
            "setup": problem.checker.setup,
            "tests": problem.checker.tests,
            **limits.model_dump(),
        }
        with tempfile.TemporaryDirectory(prefix="judge-") as home:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _HARNESS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=home,
                env={"HOME": home, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                said, _ = process.communicate(json.dumps(job).encode(), timeout=limits.wall_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return Verdict("timeout", detail=f"{limits.wall_seconds} s of wall clock")
        if process.returncode in (-24, -9):
            return Verdict("timeout", detail=f"{limits.cpu_seconds} s of CPU", cpu_seconds=limits.cpu_seconds)
        if process.returncode < 0:
            return Verdict("killed", detail=f"signal {-process.returncode}")
        try:
            status, failing_test, detail, cpu_seconds = json.loads(said)
        except ValueError:
            return Verdict("error", detail="the program ended the process before its tests had run")
        return Verdict(status, failing_test, detail, cpu_seconds)
