"""One check: a checker's tests against one program, and the verdict that follows from how it went."""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from crlhf_ray.problems.faults import fault
from crlhf_ray.problems.names import Given
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.exchange import NO_ANSWER
from crlhf_ray.sandbox.jail import Ending, Jail, SlotLost
from crlhf_ray.sandbox.program import Ended, Program, Refused, Stopped, is_of_the_program
from crlhf_ray.sandbox.verdict import Status, Verdict

if TYPE_CHECKING:
    from crlhf_ray.sandbox.limits import Limits

OUT_OF_MEMORY = 137  # as guest/script.py ends one
LOOK_SECONDS = 0.2  # between two looks at what a program and its processes use
VERIFIER_MB = 1024  # MiB of address space beyond what it has: an answer may be made to unfold (`range(10**10)`)

ADDRESS_SPACE = resource.getrlimit(resource.RLIMIT_AS)


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
        self._wall = limits.wall_seconds or limits.wall()  # which the sandbox has settled by the load of its machine
        self._deadline = time.monotonic() + self._wall
        self._cpu, self._most_cpu, self._seen_cpu, self._memory_kb = 0.0, 0.0, 0.0, 0
        self._began = 0.0
        self._running = False
        self._program: Program | None = None
        self._channel: Any = None
        self._overtime: Stopped | None = None
        self.test: int | None = None

    def fail(self, detail: str) -> NoReturn:
        """The program gave a wrong answer to the current test."""
        raise Stopped("wrong", detail)

    def load(
        self, source: str, names: tuple[str, ...] = (), given: Given | None = None
    ) -> tuple[Program, dict[str, Any]]:
        """Run the source in a fresh process; answers the program and what it bound to the names."""
        if self._program is not None and self._program.stopped is not None:
            raise self._program.stopped
        self._spawn()
        self._program = Program(self._channel, self._jail.libraries, given)
        return self._program, self._program.load(source, names)

    def script(self, source: str, stdin: str) -> Script:
        """Run the source as a whole program on this input, to its end."""
        self._spawn(script=True, stdin=stdin)
        try:
            self._channel.send(source)
        except (OSError, ValueError, TimeoutError) as error:
            raise Stopped("error", f"cannot be sent: {error}") from None
        ending = self._finish(max(0.001, self._deadline - time.monotonic()))
        if ending is None or ending.signal:
            raise Ended("killed")
        if ending.code == OUT_OF_MEMORY:
            raise Stopped("out_of_memory", "MemoryError")
        return Script(self._jail.stdout(self._limits.file_mb << 20), ending.code)

    def _spawn(self, **options: Any) -> None:
        self._finish()
        if time.monotonic() >= self._deadline:
            raise Stopped("timeout", self._wall_clock())
        try:
            self._channel = self._jail.spawn(self._limits, self._deadline, **options)
        except Stopped as stopped:  # our own time limit: nobody knows how far the start had come
            raise SlotLost(f"a process was not started in time: {stopped.detail}") from None
        self._began, self._seen_cpu = time.monotonic(), 0.0
        self._running = True

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Stop a program whose processes together use more than one may, whatever this process is at just now."""
        if not self._running:
            return
        memory = self._limits.memory_mb + 16
        cpu, taken = self._jail.usage(memory)
        self._seen_cpu = max(self._seen_cpu, cpu)
        if self._is_too_much(cpu):
            self._over("timeout", self._too_much())
        if taken > memory:
            self._over("out_of_memory", f"more than {self._limits.memory_mb} MiB, of all its processes together")

    def _is_too_much(self, cpu: float) -> bool:
        return cpu > math.ceil(self._limits.cpu_seconds) + 0.5

    def _too_much(self) -> str:
        return f"{self._limits.cpu_seconds:g} s of CPU, of all its processes together"

    def _over(self, status: Status, detail: str) -> NoReturn:
        self._overtime = self._overtime or Stopped(status, detail)
        if self._program is not None:
            self._program.stopped = self._program.stopped or self._overtime
        raise self._overtime

    def _finish(self, seconds: float = 0.0) -> Ending | None:
        """How the program ended; it is ended unless it does so by itself within so many seconds."""
        if not self._running:
            return None
        if seconds:
            self._jail.wait(seconds)
        self._running = False
        if self._is_too_much((time.monotonic() - self._began) * (os.cpu_count() or 1)):
            self._seen_cpu = max(self._seen_cpu, self._jail.usage(math.inf)[0])
        try:
            self.ending = self._jail.finish()
        except Stopped as stopped:  # our own time limit: the zygote's report is still on its way
            raise SlotLost(f"the program's end was not reported in time: {stopped.detail}") from None
        finally:
            self._channel.sock.close()
        cpu = max(self.ending.cpu, self._seen_cpu)  # children that are ended with it are in no report
        self._cpu += cpu
        self._most_cpu = max(self._most_cpu, cpu)
        self._memory_kb = max(self._memory_kb, self.ending.memory_kb)
        return self.ending

    def verdict(self, problem: Problem, completion: str) -> Verdict:
        """Run the problem's checker on the completion. Raises SlotLost, which says nothing about the program."""
        try:
            status, detail = self._run(problem, completion)
        except Stopped as stopped:  # our own time limit, while what went wrong was put into words
            status, detail = stopped.status, stopped.detail
        except MemoryError:
            status, detail = "out_of_memory", f"comparing the program's answers took more than {VERIFIER_MB} MiB"
        finally:
            _lift_our_limits()
        # A test may have swallowed the exception; the end stands all the same.
        last = (self._program and self._program.stopped) or self._overtime
        if last is not None:
            status, detail = self._told(problem, last)
        self._finish()
        if status == "passed" and self._is_too_much(self._most_cpu):
            status, detail = "timeout", self._too_much()
        return Verdict(
            status=status,
            failing_test=None if status == "passed" else self.test,
            # The program's words: one line, and nothing that a table, a database or a terminal would choke on.
            detail="".join(
                c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(detail[:300].split())
            ),
            cpu_seconds=self._cpu,
            memory_mb=self._memory_kb / 1024,
            output=self._jail.output(self._limits.output_kb << 10),
            isolation=self._jail.isolation,
            memory_by=self._jail.memory_by,
        )

    def _run(self, problem: Problem, completion: str) -> tuple[Status, str]:
        """How the checker ended, in one word and in some. Within our own limits: errors may hold answers."""
        try:
            _limit_ourselves(self._limits.cpu_seconds, self._out_of_time, self._look)
            problem.checker.verify(problem, problem.program(completion), self)
        except Stopped as stopped:
            return self._told(problem, stopped)
        except (SlotLost, MemoryError):
            raise
        except BaseException as error:
            if is_of_the_program(error):
                return "error", told(error)
            if (place := fault(problem, error)) is not None:
                return "infra_error", f"the tests of {problem.problem_id} cannot run here: {place}: {told(error)}"
            return "wrong", told(error)
        return "passed", ""

    def _told(self, problem: Problem, stopped: Stopped) -> tuple[Status, str]:
        if isinstance(stopped, Ended):
            return self._how_it_ended()
        if isinstance(stopped, Refused):
            if stopped.answered and not problem.references:  # which would show whether it is the tests' fault
                return "error", stopped.detail
            place = fault(problem, stopped)
            return "infra_error", f"the tests of {problem.problem_id} cannot run here: {place}: {stopped.detail}"
        return stopped.status, self._wall_clock() if stopped.detail == NO_ANSWER else stopped.detail

    def _wall_clock(self) -> str:
        return f"{self._wall:g} s of wall clock"

    def _out_of_time(self, number: int, frame: FrameType | None) -> None:
        self._over("timeout", "comparing the program's answers took more CPU time than a program may")

    def _how_it_ended(self) -> tuple[Status, str]:
        ending = self._finish(1.0) or self.ending
        # The kernel's limit and its report of CPU time are two clocks, which differ by a tick now and then.
        if ending.signal == signal.SIGKILL and ending.cpu >= 0.5 * self._limits.cpu_seconds:
            return "timeout", f"{self._limits.cpu_seconds:g} s of CPU"
        if ending.signal == signal.SIGKILL and time.monotonic() >= self._deadline:
            return "timeout", self._wall_clock()
        large = ending.memory_kb >= self._limits.memory_mb << 9
        if ending.signal == signal.SIGKILL and (large or self._jail.ran_out_of_memory()):
            return "out_of_memory", "the slot's control group ran out of memory"
        if ending.signal:
            return "killed", f"the process died of signal {ending.signal}"
        return "error", f"the program ended its process with status {ending.code} before its tests had run"


def told(error: BaseException) -> str:
    """The error in words, or only its kind: its text may be an answer, which need not let itself be read."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except BaseException:
        return type(error).__name__


Handler = Callable[[int, FrameType | None], None]


def _limit_ourselves(cpu_seconds: float, out_of_time: Handler, look: Handler) -> None:
    """Bound what this process itself uses for comparing, whatever the program's answers make the tests do.

    look: called now and then meanwhile.
    """
    signal.signal(signal.SIGVTALRM, out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    with open("/proc/self/statm", "rb") as statm:
        memory = int(statm.read().split()[0]) * resource.getpagesize() + (VERIFIER_MB << 20)
    hard = ADDRESS_SPACE[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))


def _lift_our_limits() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    resource.setrlimit(resource.RLIMIT_AS, ADDRESS_SPACE)
