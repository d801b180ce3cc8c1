"""The sandbox: runs programs that a model wrote, with a verdict on each. Everything that runs code goes through it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import crlhf_ray
from crlhf_ray.errors import EngineError
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox import cgroups
from crlhf_ray.sandbox.limits import Limits, SandboxSettings
from crlhf_ray.sandbox.slot import CANARY, CANARY_COMPLETION
from crlhf_ray.sandbox.verdict import Status, Verdict

__all__ = ["Limits", "Sandbox", "SandboxSettings"]

START_SECONDS = 120.0
GRACE_SECONDS = 1.0  # beyond a program's limits, for saying that it reached them
LOOK_SECONDS = 0.25  # between two looks at a verifier that has not answered
KNOWN_PROBLEMS = 512
SLOT_MEMORY_MB = 512  # beyond the programs' limit, for the zygote and shared pages
FRUGAL = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
FRUGAL["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # its own would reserve a GiB of the address space that is limited


class _Lost(Exception):
    """The slot's process died, or had to be ended.

    hung: because it was busy with the program's answers beyond the program's limits.
    started: while it had to do with a program, and not with what precedes one.
    """

    def __init__(self, *, hung: bool = False, started: bool = True):
        self.hung, self.started = hung, started


class _SlotProcess:
    """The sandbox's end of one slot."""

    _count = 0

    def __init__(self, settings: SandboxSettings):
        self.settings = settings
        self.known: dict[int, Problem] = {}
        self.ready = False
        _SlotProcess._count += 1
        memory = (settings.limits.memory_mb + SLOT_MEMORY_MB) << 20
        name = f"{cgroups.PREFIX}{os.getpid()}-{_SlotProcess._count}"
        self.groups = cgroups.create(name, memory, settings.limits.processes + 16)
        # Without a jail, programs write to the disk: here, so that it can be removed even when the slot was killed.
        self.folder = tempfile.mkdtemp(prefix="crlhf-sandbox-") if settings.isolation == "weak" else ""
        ours, theirs = socket.socketpair()
        # Whose other end is ours alone: it closes with this process, however that ends, and the slot ends with it.
        ends, self._life = os.pipe()
        command = [sys.executable, "-m", "crlhf_ray.sandbox.slot", str(theirs.fileno())]
        command.append(settings.model_copy(update={"limits": settings.limits.from_now()}).model_dump_json())
        home = str(Path(crlhf_ray.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [*command, *map(str, self.groups)],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), ends),
            env={**os.environ, **FRUGAL, "PYTHONPATH": path, **({"TMPDIR": self.folder} if self.folder else {})},
        )
        theirs.close()
        # The kernel sends SIGIO, which ends the slot, as soon as this process is gone, be the slot ever so young.
        fcntl.fcntl(ends, fcntl.F_SETOWN, self.process.pid)
        fcntl.fcntl(ends, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.close(ends)
        self.connection = Connection(ours.detach())

    def await_ready(self) -> None:
        if not self.ready:
            answer = self._receive(START_SECONDS)
            if isinstance(answer, EngineError):
                raise answer
            self.ready = True

    def check(self, problem: Problem, completion: str) -> Verdict:
        """Raises _Lost, or EngineError where the machine cannot run this problem."""
        try:
            if len(self.known) > KNOWN_PROBLEMS:
                self.known.clear()
                self.connection.send(None)
            # Problems are large and few: each is sent once, and known by its identity while it is kept here.
            fresh = id(problem) not in self.known
            self.known[id(problem)] = problem
            limits = self.settings.limits.from_now()
            self.connection.send((id(problem), problem if fresh else None, completion, limits.model_dump()))
        except OSError:
            raise _Lost(started=False) from None
        answer = self._receive(START_SECONDS) if fresh else None
        while answer is None:
            answer = self._watch(limits)
        if isinstance(answer, EngineError):
            raise answer
        return answer

    def _receive(self, seconds: float) -> Any:
        try:
            if not self.connection.poll(seconds):
                raise _Lost(started=False)
            return self.connection.recv()
        except (EOFError, OSError):
            raise _Lost(started=False) from None

    def _watch(self, limits: Limits) -> Any:
        """What the slot says next of the program that it has begun with.

        A verifier may be within one long step of the interpreter, such as the sum of a range, which none of its own
        limits ends. Looking at it costs nothing where the answer comes at once.
        """
        deadline = time.monotonic() + limits.wall() + GRACE_SECONDS
        cpu: float | None = None
        try:
            while not self.connection.poll(LOOK_SECONDS):
                now = self._cpu_seconds()
                cpu = now - LOOK_SECONDS if cpu is None else cpu
                if now - cpu > limits.cpu_seconds + GRACE_SECONDS or time.monotonic() > deadline:
                    raise _Lost(hung=True)
            return self.connection.recv()
        except (EOFError, OSError):
            raise _Lost from None

    def _cpu_seconds(self) -> float:
        """That the verifier has used since its start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self, *, kill: bool = False) -> None:
        self.connection.close()
        if kill:
            self.process.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._life)
        cgroups.remove(self.groups)
        for _ in range(50):  # a program that has not been ended yet may write there still
            if not os.path.exists(self.folder):
                break
            shutil.rmtree(self.folder, ignore_errors=True)
            time.sleep(0.02)


class Sandbox:
    """Sandboxes programs in jails, a slot for each program at a time. Raises EngineError where the jail is forbidden.

    May be shared between threads; their calls take turns. As a Ray actor: ``ray.remote(Sandbox).remote(settings)``.
    """

    def __init__(self, settings: SandboxSettings | None = None):
        self.settings = settings or SandboxSettings()
        self._turn = threading.Lock()
        cgroups.sweep()
        self._slots = [_SlotProcess(self.settings) for _ in range(self.settings.slots)]
        self._threads = ThreadPoolExecutor(self.settings.slots, thread_name_prefix="sandbox")
        try:
            for number in range(len(self._slots)):
                self._await(number)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all slots; the sandbox cannot be used afterwards."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for slot in self._slots:
            slot.close()

    def check(
        self, jobs: Sequence[tuple[Problem, str]], each: Callable[[int, Verdict], None] = lambda index, verdict: None
    ) -> list[Verdict]:
        """One verdict per (problem, completion), in the order of the jobs.

        each: is told the index and verdict of every program as it is known, one at a time.
        """
        verdicts: list[Verdict | None] = [None] * len(jobs)
        with self._turn:
            queue = iter(enumerate(jobs))
            lock = threading.Lock()
            work = [self._threads.submit(self._drive, i, queue, lock, verdicts, each) for i in range(len(self._slots))]
            for future in work:
                future.result()
        return [verdict for verdict in verdicts if verdict is not None]

    def _drive(
        self,
        number: int,
        queue: Iterator[tuple[int, tuple[Problem, str]]],
        lock: threading.Lock,
        verdicts: list[Verdict | None],
        each: Callable[[int, Verdict], None],
    ) -> None:
        while True:
            with lock:
                job = next(queue, None)
            if job is None:
                return
            index, (problem, completion) = job
            verdict = verdicts[index] = self._check(number, problem, completion)
            with lock:
                each(index, verdict)

    def _await(self, number: int) -> None:
        """Wait until a slot is ready, if it is not; replace it where it died on the way."""
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
        bound: Literal["control group", "watch"] = "control group" if self._slots[number].groups else "watch"
        said = functools.partial(Verdict, isolation=self.settings.isolation, memory_by=bound)
        started = True
        for _ in range(self.settings.attempts):
            self._await(number)
            try:
                return self._slots[number].check(problem, completion)
            except _Lost as lost:
                self._replace(number)
                if lost.hung:
                    return said("timeout", detail="comparing the program's answers did not end")
                started = started and lost.started
        status: Status = "killed" if started and self._is_well(number) else "infra_error"
        return said(status, detail=f"the slot was lost {self.settings.attempts} times")

    def _is_well(self, number: int) -> bool:
        """Whether a new slot lets the simplest program pass: then it was a program that ended the others."""
        self._await(number)
        try:
            return self._slots[number].check(CANARY, CANARY_COMPLETION).passed
        except _Lost:
            self._replace(number)
            return False
