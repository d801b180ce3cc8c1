"""How hard the problems are for a model: the share of its samples that pass, for each problem and family.

    python benchmarks/difficulty.py --n 16 --out difficulty.json

Samples n completions a problem from the bare prompt at temperature 1, judges them, and prints pass rates. The starter
set's `difficulty` labels come from this measurement (docs/problems.md).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import ray

from crlhf_ray.evaluation.judge import Judge, JudgeSettings
from crlhf_ray.policy.model import ModelSettings, load_tokenizer
from crlhf_ray.policy.prompts import encode
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.fleet import Fleet
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.rollout.shares import Request


def measure(problems: list[Problem], model: ModelSettings, n: int, temperature: float, max_tokens: int, seed: int):
    """One row a problem: pass rate and token counts."""
    tokenizer = load_tokenizer(model.name)
    requests = [
        Request(
            problem_id=problem.problem_id,
            prompt_token_ids=tuple(encode(problem, "bare", tokenizer)),
            stops=problem.stops,
            n=n,
        )
        for problem in problems
    ]
    fleet = Fleet(RolloutSettings(replicas=1, temperature=temperature, max_tokens=max_tokens), model)
    try:
        fleet.start()
        samples = fleet.generate(requests, temperature=temperature, max_tokens=max_tokens, seed=seed)
    finally:
        fleet.close()
    by_id = {problem.problem_id: problem for problem in problems}
    with Judge(JudgeSettings()) as judge:
        verdicts = judge.check([(by_id[sample.problem_id], sample.text) for sample in samples])
    judged = defaultdict(list)
    for sample, verdict in zip(samples, verdicts, strict=True):
        judged[sample.problem_id].append((sample, verdict))
    return [
        {
            "problem_id": problem.problem_id,
            "family": problem.family,
            "split": problem.split,
            "difficulty": problem.difficulty,
            "pass_rate": sum(verdict.passed for _, verdict in judged[problem.problem_id]) / n,
            "samples": n,
            "prompt_tokens": len(request.prompt_token_ids),
            "mean_tokens": sum(len(sample.token_ids) for sample, _ in judged[problem.problem_id]) / n,
        }
        for problem, request in zip(problems, requests, strict=True)
    ]


def summary(rows: list[dict]) -> str:
    groups = defaultdict(list)
    for row in rows:
        for group in (row["split"], f"{row['split']}/{row['difficulty']}", f"{row['split']}/{row['family']}"):
            groups[group].append(row["pass_rate"])
    lines = [f"{'group':24} problems  mean pass   10-60%    never"]
    for name, rates in sorted(groups.items()):
        within = sum(0.1 <= rate <= 0.6 for rate in rates) / len(rates)
        never = sum(rate == 0 for rate in rates) / len(rates)
        mean = sum(rates) / len(rates)
        lines.append(f"{name:24} {len(rates):8}  {mean:9.1%}  {within:7.1%}  {never:7.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="starter", help="problem source, as load_problems takes it")
    parser.add_argument("--split", choices=["train", "heldout"], help="default: both")
    parser.add_argument("--model", default="smollm2-135m", help="preset, hub id or directory")
    parser.add_argument("--n", type=int, default=16, help="samples a problem")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("difficulty.json"))
    args = parser.parse_args()

    problems = load_problems(args.source, args.split)
    began = time.monotonic()
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        rows = measure(problems, ModelSettings(name=args.model), args.n, args.temperature, args.max_tokens, args.seed)
    finally:
        ray.shutdown()
    for row in sorted(rows, key=lambda row: -row["pass_rate"]):
        print(f"{row['problem_id']:32} {row['pass_rate']:6.1%}  {row['prompt_tokens']:4} prompt tokens")
    print(summary(rows))
    print(f"longest prompt {max(row['prompt_tokens'] for row in rows)} tokens; {time.monotonic() - began:.0f} s in all")
    settings = {key: str(value) for key, value in vars(args).items()}
    args.out.write_text(json.dumps({"settings": settings, "problems": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
