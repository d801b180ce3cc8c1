"""The process of one slot: holds problems and tests outside the jail, and says the verdicts.

Started by the judge as ``python -m crlhf_ray.evaluation.slot FD SETTINGS GROUPS``; speaks to it over that descriptor.
"""

from __future__ import annotations

import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from crlhf_ray.errors import EngineError
from crlhf_ray.evaluation.check import Check
from crlhf_ray.evaluation.jail import Jail, SlotLost
from crlhf_ray.evaluation.limits import JudgeSettings
from crlhf_ray.evaluation.verdict import Verdict
from crlhf_ray.problems.problem import Problem


class Slot:
    """Jails for one program at a time, one per set of packages that problems allow, started when first needed."""

    def __init__(self, settings: JudgeSettings, cgroups: tuple[Path, ...] = ()):
        self.settings, self.cgroups = settings, cgroups
        self.jails: dict[tuple[str, ...], Jail] = {}

    def jail(self, packages: tuple[str, ...]) -> Jail:
        """The jail in which these packages can be imported. Raises EngineError, or SlotLost if it died at its start."""
        if packages not in self.jails:
            weak = self.settings.isolation == "weak"
            self.jails[packages] = Jail(packages, weak=weak, cgroups=self.cgroups)
        return self.jails[packages]

    def check(self, problem: Problem, completion: str) -> Verdict:
        """One verdict; a lost jail is replaced and the program tried again."""
        reason = ""
        for _ in range(self.settings.attempts):
            try:
                jail = self.jail(problem.packages)
                return Check(jail, self.settings.limits).verdict(problem, completion)
            except SlotLost as error:
                reason = str(error)
                lost = self.jails.pop(problem.packages, None)
                if lost is not None:
                    lost.close()
        return Verdict("infra_error", detail=f"the sandbox was lost {self.settings.attempts} times: {reason}")

    def close(self) -> None:
        for jail in self.jails.values():
            jail.close()


def serve(connection: Connection, slot: Slot) -> None:
    """Answer jobs ``(key, problem or None, completion)`` with verdicts; None forgets all problems. Ends at EOF.

    A problem that comes for the first time is prepared, which may take long and is answered for by None.
    """
    problems: dict[int, Problem] = {}
    while True:
        job = connection.recv()
        if job is None:
            problems.clear()
            continue
        key, problem, completion = job
        try:
            if problem is not None:
                problems[key] = problem
                problem.checker.prepare(problem)
                connection.send(None)
            connection.send(slot.check(problems[key], completion))
        except EngineError as error:
            connection.send(error)
        except Exception:
            connection.send(EngineError(f"judging {problems[key].problem_id!r} failed: {traceback.format_exc()}"))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the judge's to handle; it closes the connection
    connection = Connection(int(sys.argv[1]))
    settings = JudgeSettings.model_validate_json(sys.argv[2])
    slot = Slot(settings, tuple(map(Path, sys.argv[3:])))
    try:
        slot.jail(())
        connection.send(None)
        serve(connection, slot)
    except EngineError as error:
        connection.send(error)
    except (EOFError, OSError, SlotLost):
        pass  # the judge is gone, or will start another slot
    finally:
        slot.close()


if __name__ == "__main__":
    main()
