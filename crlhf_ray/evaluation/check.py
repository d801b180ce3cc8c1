"""One check: a checker's tests against one program, and the verdict that follows from how it went."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from crlhf_ray.evaluation.jail import Ending, Jail, SlotLost
from crlhf_ray.evaluation.limits import Limits
from crlhf_ray.evaluation.program import Ended, Program, RemoteError, Stopped
from crlhf_ray.evaluation.verdict import Status, Verdict
from crlhf_ray.problems.problem import Problem

OUT_OF_MEMORY = 137  # as guest/worker.py ends a script
VERIFIER_SECONDS = 10.0  # CPU seconds for the trusted side of one check: comparing, not solving


@dataclass(frozen=True)
class Script:
    """What a whole program wrote to standard output (bytes beyond the file limit are lost) and its exit status."""

    stdout: str
    code: int


class Check:
    """What a checker is given: ways to run the program, and nothing of the program itself.

    test: the index of the test that runs now; a checker sets it before each test.
    """

    def __init__(self, jail: Jail, limits: Limits):
        self._jail, self._limits = jail, limits
        self._deadline = time.monotonic() + limits.wall_seconds
        self._cpu, self._memory_kb = 0.0, 0
        self._running = False
        self._program: Program | None = None
        self._channel: Any = None
        self.test: int | None = None

    def fail(self, detail: str) -> NoReturn:
        """The program gave a wrong answer to the current test."""
        raise Stopped("wrong", detail)

    def load(self, source: str, names: tuple[str, ...] = ()) -> tuple[Program, dict[str, Any]]:
        """Run the source in a fresh process; answers the program and what it bound to the names."""
        self._finish()
        self._channel = self._jail.spawn(self._limits, self._deadline)
        self._running = True
        self._program = Program(self._channel)
        return self._program, self._program.load(source, names)

    def script(self, source: str, stdin: str) -> Script:
        """Run the source as a whole program on this input, to its end."""
        self._finish()
        self._channel = self._jail.spawn(self._limits, self._deadline, script=True, stdin=stdin)
        self._running = True
        try:
            self._channel.send(source)
        except (OSError, ValueError, TimeoutError) as error:
            raise Stopped("error", f"cannot be sent: {error}") from None
        ending = self._finish(max(0.001, self._deadline - time.monotonic()))
        if ending is None or ending.signal:
            raise Ended("killed")
        if ending.code == OUT_OF_MEMORY:
            raise Stopped("out_of_memory", "MemoryError")
        return Script(self._jail.read(self._jail.stdout, self._limits.file_mb << 20), ending.code)

    def _finish(self, seconds: float = 0.0) -> Ending | None:
        if not self._running:
            return None
        self._running = False
        try:
            self.ending = self._jail.finish(seconds)
        finally:
            self._channel.sock.close()
        self._cpu += self.ending.cpu
        self._memory_kb = max(self._memory_kb, self.ending.memory_kb)
        return self.ending

    def verdict(self, problem: Problem, completion: str) -> Verdict:
        """Run the problem's checker on the completion. Raises SlotLost, which says nothing about the program."""
        status: Status = "passed"
        detail = ""
        signal.signal(signal.SIGVTALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_VIRTUAL, VERIFIER_SECONDS)
        try:
            problem.checker.verify(problem, problem.program(completion), self)
        except Stopped as stopped:
            status, detail = stopped.status, stopped.detail
            if isinstance(stopped, Ended):
                status, detail = self._how_it_ended()
        except RemoteError as error:
            status, detail = "error", f"{type(error).__name__.removeprefix('Remote')}: {error}"
        except ImportError as error:
            status, detail = "infra_error", f"the tests of {problem.problem_id} cannot run here: {error}"
        except SlotLost:
            raise
        except Exception as error:
            status, detail = "wrong", f"{type(error).__name__}: {error}".rstrip(": ")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if self._program is not None and self._program.stopped is not None and status != "infra_error":
            # A test may have swallowed the exception; the program's end stands all the same.
            last = self._program.stopped
            status, detail = self._how_it_ended() if isinstance(last, Ended) else (last.status, last.detail)
        self._finish()
        limit = self._limits.output_kb << 10
        output = self._jail.read(self._jail.stdout, limit)
        output += self._jail.read(self._jail.stderr, limit - len(output)) if len(output) < limit else ""
        return Verdict(
            status=status,
            failing_test=None if status == "passed" else self.test,
            detail=" ".join(detail[:300].split()),
            cpu_seconds=self._cpu,
            memory_mb=self._memory_kb / 1024,
            output=output,
            isolation=self._jail.isolation,
        )

    def _how_it_ended(self) -> tuple[Status, str]:
        ending = self._finish(1.0) or self.ending
        # The kernel's limit and its report of CPU time are two clocks, which differ by a tick now and then.
        if ending.signal == signal.SIGKILL and ending.cpu >= 0.5 * self._limits.cpu_seconds:
            return "timeout", f"{self._limits.cpu_seconds:g} s of CPU"
        if ending.signal == signal.SIGKILL and time.monotonic() >= self._deadline:
            return "timeout", f"{self._limits.wall_seconds:g} s of wall clock"
        if ending.signal == signal.SIGKILL and ending.memory_kb >= self._limits.memory_mb << 9:
            return "out_of_memory", "the slot's control group ran out of memory"
        if ending.signal:
            return "killed", f"the process died of signal {ending.signal}"
        return "error", f"the program ended its process with status {ending.code} before its tests had run"


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise Stopped("timeout", f"comparing the program's answers took {VERIFIER_SECONDS:g} s of CPU")
