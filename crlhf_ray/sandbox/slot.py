"""The process of one slot: holds problems and tests outside the jail, and says the verdicts.

Started by the sandbox as ``python -m crlhf_ray.sandbox.slot FD SETTINGS GROUPS``; speaks to it over this descriptor.
Settings are plain objects here: the library that reads and checks them takes longer to import than all else.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from crlhf_ray.errors import EngineError
from crlhf_ray.problems.checkers import AssertChecker
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.check import Check, told
from crlhf_ray.sandbox.jail import Jail, SlotLost
from crlhf_ray.sandbox.verdict import Status, Verdict

if TYPE_CHECKING:
    from crlhf_ray.sandbox.limits import Limits, SandboxSettings

#: Passes wherever anything can: tells a program that ends its sandbox from a sandbox that does not work.
CANARY, CANARY_COMPLETION = Problem("canary", "", "f", AssertChecker(("assert f() == 1",)), ()), "def f(): return 1\n"


class Slot:
    """Jails for one program at a time, one per set of packages that problems allow, started when first needed.

    on_start: called before every attempt at a program, and before a jail is replaced: what a time is counted from.
    """

    def __init__(
        self, settings: SandboxSettings, cgroups: tuple[Path, ...] = (), on_start: Callable[[], None] = lambda: None
    ):
        self.settings, self.cgroups, self.on_start = settings, cgroups, on_start
        self.jails: dict[tuple[str, ...], Jail] = {}
        self.sound: dict[int, tuple[Problem, bool]] = {}

    def jail(self, packages: tuple[str, ...]) -> Jail:
        """The jail in which these packages can be imported. Raises EngineError, or SlotLost if it died at its start."""
        if packages not in self.jails:
            weak = self.settings.isolation == "weak"
            self.jails[packages] = Jail(packages, weak=weak, cgroups=self.cgroups)
            for name in self.jails[packages].libraries:
                # Here and now: under the limits of a check it might not get the memory, and would stay half imported.
                importlib.import_module(name)
        return self.jails[packages]

    def check(self, problem: Problem, completion: str, limits: Limits | None = None) -> Verdict:
        """One verdict. A lost jail is replaced and the program tried again; one that loses every jail is killed."""
        reason = ""
        for attempt in range(self.settings.attempts):
            try:
                if attempt:
                    self.on_start()
                limits = limits or self.settings.limits
                verdict = Check(self.jail(problem.packages), limits).verdict(problem, completion)
                if verdict.status == "infra_error" and self._a_reference_passes(problem, limits):
                    return replace(verdict, status="wrong", detail=f"though a reference passes: {verdict.detail}")
                return verdict
            except EngineError:
                raise
            except Exception as error:
                reason = told(error)
                if not isinstance(error, SlotLost):
                    traceback.print_exc()
            self.on_start()
            if self._drop(problem.packages):
                detail = "the slot's control group ran out of memory"
                return self.verdict("out_of_memory", detail)
        status: Status = "killed" if self._is_well(problem.packages) else "infra_error"
        detail = f"the sandbox was lost {self.settings.attempts} times: {reason}"
        return self.verdict(status, detail)

    def verdict(self, status: Status, detail: str) -> Verdict:
        """What is said where no check came to an end."""
        bound: Literal["control group", "watch"] = "control group" if self.cgroups else "watch"
        return Verdict(status, detail=detail, isolation=self.settings.isolation, memory_by=bound)

    def _a_reference_passes(self, problem: Problem, limits: Limits) -> bool:
        """Whether the tests can be passed here: then what keeps them from running is the program's answers."""
        if id(problem) not in self.sound:
            passed = False
            for reference in problem.references:
                self.on_start()
                passed = passed or Check(self.jail(problem.packages), limits).verdict(problem, reference).passed
            self.sound[id(problem)] = problem, passed
        return self.sound[id(problem)][1]

    def _is_well(self, packages: tuple[str, ...]) -> bool:
        """Whether a new jail lets the simplest program pass."""
        self.on_start()
        try:
            return Check(self.jail(packages), self.settings.limits).verdict(CANARY, CANARY_COMPLETION).passed
        except SlotLost:
            return False
        finally:
            self._drop(packages)

    def _drop(self, packages: tuple[str, ...]) -> bool:
        """End a jail; whether it had run out of memory."""
        jail = self.jails.pop(packages, None)
        if jail is None:
            return False
        starved = jail.ran_out_of_memory()
        jail.close()
        return starved

    def close(self) -> None:
        for jail in self.jails.values():
            jail.close()


def serve(connection: Connection, slot: Slot) -> None:
    """Answer jobs ``(key, problem or None, completion, limits)`` with verdicts; None forgets all problems. Ends at EOF.

    A problem that comes for the first time is prepared, which may take long and is answered for by None. So is every
    further attempt at a program: the time of one is counted from there.
    """
    problems: dict[int, Problem] = {}
    unprepared: dict[int, str] = {}
    while True:
        job = connection.recv()
        if job is None:
            problems.clear()
            slot.sound.clear()
            unprepared.clear()
            continue
        key, problem, completion, limits = job
        try:
            if problem is not None:
                problems[key] = problem
                try:
                    problem.checker.prepare(problem)
                except Exception as error:
                    unprepared[key] = f"the tests of {problem.problem_id} could not be prepared: {told(error)}"
                slot.jail(problem.packages)
                connection.send(None)
            if key in unprepared:
                connection.send(slot.verdict("infra_error", unprepared[key]))
            else:
                connection.send(slot.check(problems[key], completion, _plain(limits)))
        except EngineError as error:
            connection.send(error)


def _plain(fields: dict[str, Any]) -> Any:
    return SimpleNamespace(**fields)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sandbox's to handle; it closes the connection
    connection = Connection(int(sys.argv[1]))
    settings = json.loads(sys.argv[2], object_hook=_plain)
    slot = Slot(settings, tuple(map(Path, sys.argv[3:])), on_start=lambda: connection.send(None))
    try:
        slot.jail(())
        connection.send(None)
        serve(connection, slot)
    except EngineError as error:
        connection.send(error)
    except (EOFError, OSError, SlotLost):
        pass  # the sandbox is gone, or will start another slot
    finally:
        slot.close()


if __name__ == "__main__":
    main()
