"""The judge: runs programs that a model wrote and says a verdict on each. Everything that runs code goes through it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import crlhf_ray
from crlhf_ray.errors import EngineError
from crlhf_ray.evaluation import cgroups
from crlhf_ray.evaluation.limits import JudgeSettings, Limits
from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.problems.problem import Problem

__all__ = ["Judge", "JudgeSettings", "Limits"]

START_SECONDS = 120.0
GRACE_SECONDS = 20.0  # beyond the wall-clock limit, for a verifier stuck in comparing
KNOWN_PROBLEMS = 512
SLOT_MEMORY_MB = 512  # beyond the programs' limit, for the zygote and shared pages


class _Lost(Exception):
    """The slot's process died, or had to be ended because it did not answer."""

    def __init__(self, hung: bool):
        self.hung = hung


class _SlotProcess:
    """The judge's end of one slot."""

    _count = 0

    def __init__(self, settings: JudgeSettings):
        self.settings = settings
        self.known: dict[int, Problem] = {}
        _SlotProcess._count += 1
        memory = (settings.limits.memory_mb + SLOT_MEMORY_MB) << 20
        name = f"{cgroups.PREFIX}{os.getpid()}-{_SlotProcess._count}"
        self.groups = cgroups.create(name, memory, settings.limits.processes + 16)
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "crlhf_ray.evaluation.slot", str(theirs.fileno()), settings.model_dump_json()]
        home = str(Path(crlhf_ray.__file__).parent.parent)
        self.process = subprocess.Popen(
            [*command, *map(str, self.groups)],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))},
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def await_ready(self) -> None:
        answer = self._receive(START_SECONDS)
        if isinstance(answer, EngineError):
            raise answer

    def check(self, problem: Problem, completion: str) -> Verdict:
        """Raises _Lost, or EngineError where the machine cannot run this problem."""
        try:
            if len(self.known) > KNOWN_PROBLEMS:
                self.known.clear()
                self.connection.send(None)
            # Problems are large and few: each is sent once, and known by its identity while it is kept here.
            fresh = id(problem) not in self.known
            self.known[id(problem)] = problem
            self.connection.send((id(problem), problem if fresh else None, completion))
        except OSError:
            raise _Lost(hung=False) from None
        answer = self._receive(START_SECONDS) if fresh else None
        if answer is None:
            answer = self._receive(self.settings.limits.wall_seconds + GRACE_SECONDS)
        if isinstance(answer, EngineError):
            raise answer
        return answer

    def _receive(self, seconds: float) -> Any:
        try:
            if not self.connection.poll(seconds):
                raise _Lost(hung=True)
            return self.connection.recv()
        except (EOFError, OSError):
            raise _Lost(hung=False) from None

    def close(self, *, kill: bool = False) -> None:
        self.connection.close()
        if kill:
            self.process.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        cgroups.remove(self.groups)


class Judge:
    """Judges programs in jails, a slot for each program at a time. Raises EngineError where the jail is forbidden.

    May be shared between threads; their calls take turns. As a Ray actor: ``ray.remote(Judge).remote(settings)``.
    """

    def __init__(self, settings: JudgeSettings | None = None):
        self.settings = settings or JudgeSettings()
        self._turn = threading.Lock()
        cgroups.sweep()
        self._slots = [_SlotProcess(self.settings) for _ in range(self.settings.slots)]
        self._threads = ThreadPoolExecutor(self.settings.slots, thread_name_prefix="judge")
        try:
            for number in range(len(self._slots)):
                self._await(number)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all slots; the judge cannot be used afterwards."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for slot in self._slots:
            slot.close()

    def check(self, jobs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict per (problem, completion), in the order of the jobs."""
        verdicts: list[Verdict | None] = [None] * len(jobs)
        with self._turn:
            queue = iter(enumerate(jobs))
            lock = threading.Lock()
            work = [self._threads.submit(self._drive, i, queue, lock, verdicts) for i in range(len(self._slots))]
            for future in work:
                future.result()
        return [verdict for verdict in verdicts if verdict is not None]

    def _drive(
        self,
        number: int,
        queue: Iterator[tuple[int, tuple[Problem, str]]],
        lock: threading.Lock,
        verdicts: list[Verdict | None],
    ) -> None:
        while True:
            with lock:
                job = next(queue, None)
            if job is None:
                return
            index, (problem, completion) = job
            verdicts[index] = self._check(number, problem, completion)

    def _await(self, number: int) -> None:
        """Wait until a slot is ready; replace it where it died on the way."""
        for _ in range(self.settings.attempts):
            try:
                return self._slots[number].await_ready()
            except _Lost:
                self._replace(number)
        raise EngineError(f"a slot of the sandbox ended {self.settings.attempts} times before it was ready")

    def _replace(self, number: int) -> None:
        self._slots[number].close(kill=True)
        self._slots[number] = _SlotProcess(self.settings)

    def _check(self, number: int, problem: Problem, completion: str) -> Verdict:
        for _ in range(self.settings.attempts):
            try:
                return self._slots[number].check(problem, completion)
            except _Lost as lost:
                self._replace(number)
                self._await(number)
                if lost.hung:
                    return Verdict("timeout", detail="comparing the program's answers did not end")
        return Verdict("infra_error", detail=f"the slot was lost {self.settings.attempts} times")
