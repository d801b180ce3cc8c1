"""How hard the problems are for a model: the share of its samples that pass, for each problem and family.

    python benchmarks/difficulty.py --n 16 --out difficulty.json

Samples n completions a problem from the bare prompt at temperature 1, checks them, and prints pass rates. The starter
set's `difficulty` labels come from this measurement (docs/problems.md). Results are written as they come: a run that
was cut off goes on where it stopped when started again with the same --out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import ray

from crlhf_ray.policy.model import ModelSettings, load_tokenizer
from crlhf_ray.policy.prompts import encode
from crlhf_ray.problems.load import load_problems
from crlhf_ray.problems.problem import Problem
from crlhf_ray.rollout.fleet import Fleet
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.rollout.tasks import Request
from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

#: Problems sampled together: enough sequences to fill the engine, few enough that a cut-off run loses little.
CHUNK = 16


def measure(problems: list[Problem], fleet: Fleet, sandbox: Sandbox, tokenizer, n: int, seed: int) -> list[dict]:
    """One row a problem: pass rate and token counts."""
    requests = [
        Request(
            problem_id=problem.problem_id,
            prompt_token_ids=tuple(encode(problem, "bare", tokenizer)),
            stops=problem.stops,
            n=n,
        )
        for problem in problems
    ]
    samples = fleet.generate(requests, seed=seed)
    verdicts = sandbox.check([(problems[position // n], sample.text) for position, sample in enumerate(samples)])
    return [
        {
            "problem_id": problem.problem_id,
            "prompt": problem.prompt,
            "family": problem.family,
            "split": problem.split,
            "difficulty": problem.difficulty,
            "samples": n,
            "pass_rate": sum(verdict.passed for verdict in verdicts[i * n : (i + 1) * n]) / n,
            "mean_tokens": sum(len(sample.token_ids) for sample in samples[i * n : (i + 1) * n]) / n,
            "prompt_tokens": len(requests[i].prompt_token_ids),
            "texts": [sample.text for sample in samples[i * n : (i + 1) * n]],
        }
        for i, problem in enumerate(problems)
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
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("out", "split")}
    rows = {}
    if args.out.exists():
        kept = json.loads(args.out.read_text())
        if kept["settings"] != settings:
            parser.error(f"{args.out} was made with other settings; name another --out or delete it")
        rows = {row["prompt"]: row for row in kept["problems"]}
    todo = [problem for problem in problems if problem.prompt not in rows]

    if todo:
        model = ModelSettings(name=args.model)
        tokenizer = load_tokenizer(args.model)
        ray.init(include_dashboard=False, log_to_driver=False)
        fleet = Fleet(RolloutSettings(temperature=args.temperature, max_tokens=args.max_tokens), model)
        try:
            fleet.start()
            with Sandbox(SandboxSettings()) as sandbox:
                for first in range(0, len(todo), CHUNK):
                    began = time.monotonic()
                    for row in measure(todo[first : first + CHUNK], fleet, sandbox, tokenizer, args.n, args.seed):
                        rows[row["prompt"]] = row
                    args.out.write_text(json.dumps({"settings": settings, "problems": list(rows.values())}, indent=1))
                    print(
                        f"{min(first + CHUNK, len(todo))} of {len(todo)}, {time.monotonic() - began:.0f} s", flush=True
                    )
        finally:
            fleet.close()
            ray.shutdown()

    measured = [rows[problem.prompt] | {"difficulty": problem.difficulty} for problem in problems]
    for row in sorted(measured, key=lambda row: -row["pass_rate"]):
        print(f"{row['problem_id']:32} {row['pass_rate']:6.1%}  {row['mean_tokens']:5.1f} tokens")
    print(summary(measured))
    print(f"longest prompt {max(row['prompt_tokens'] for row in measured)} tokens")


if __name__ == "__main__":
    main()
