"""Seconds for one round: this package's whole loop beside TRL's GRPOTrainer, same machine, model, prompts and lengths.

A round is 32 samples (4 problems x 8) of up to 96 tokens and one optimizer step on them, in fp32, with the same LoRA,
and with the KL term against the start model, so that both compute reference log-probs. Completions run to their
end-of-sequence token or the limit on both sides; stop strings are off, because TRL has none.

- Ours: vLLM samples, the sandbox runs the tests, ten simulated annotators review the lines, the aggregation actor finds
  the consensus, DeepSpeed learns, vLLM gets the weights: `crlhf_ray.loop.play_round` as it is.
- TRL: transformers samples (on CPU it has no vLLM), the same sandbox is the reward. Gradient checkpointing, on by
  default, is off in its favour; micro-batches of 8 keep its activations within the memory.

Each side has a process of its own, one after the other; the first round of each warms up and is not counted. TRL gets
the very prompts of our rounds, in their order.

    python benchmarks/step.py            5 rounds of ours, 3 of TRL's: prints the table, writes runs/step/step.json
    python benchmarks/step.py --full     full fine-tuning instead of LoRA
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS, SAMPLES, TOKENS = 4, 8, 96
LORA = {"r": 16, "alpha": 32}
LR = 2e-4
KL = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of ours")
    parser.add_argument("--trl-rounds", type=int, default=3, help="counted rounds of TRL's; 0: none")
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "step")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if options.side:
        (run_ours if options.side == "ours" else run_trl)(options, out)
        return
    for name in ("ours", "trl"):
        (out / f"{name}.json").unlink(missing_ok=True)
    for side in ["ours"] + ["trl"] * (options.trl_rounds > 0):
        with (out / f"{side}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--side", side],
                stdout=log,
                stderr=log,
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"},
            )
        if done.returncode:
            sys.exit(f"{side} failed; the end of {log.name}:\n{Path(log.name).read_text()[-3000:]}")
    report(out, options)


def run_ours(options: argparse.Namespace, out: Path) -> None:
    """Warm-up and rounds of the loop; writes ours.json and, for TRL, prompts.json."""
    import shutil

    from crlhf_ray.config import Config
    from crlhf_ray.loop import play_round
    from crlhf_ray.pipeline.trainer import Run
    from crlhf_ray.policy.prompts import render
    from crlhf_ray.report.console import Display
    from crlhf_ray.report.metrics import MetricsLog

    problems = out / "problems.jsonl"
    starter = (resources.files("crlhf_ray.problems") / "starter.jsonl").read_text()
    problems.write_text("".join(json.dumps(json.loads(line) | {"stops": []}) + "\n" for line in starter.splitlines()))
    run_dir = out / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    config = Config.model_validate(
        {
            "run": {
                "dir": run_dir,
                "rounds": options.rounds + 2,  # never the last one, which would write a checkpoint
                "problems_per_round": PROBLEMS,
                "samples_per_problem": SAMPLES,
                "checkpoint_every": 10**6,
            },
            "problems": {"source": str(problems)},
            "model": {"name": options.model, "lora": None if options.full else LORA},
            "rollout": {"max_tokens": TOKENS},
            "learner": {
                "algorithm": "rloo",
                "epochs": 1,
                "minibatch_samples": PROBLEMS * SAMPLES,
                "lr": LR,
                "kl": {"controller": "fixed", "coef": KL},
            },
        }
    )
    rounds, prompts = [], []
    with Display() as display, Run(config, resume=False, display=display, metrics=MetricsLog) as run:
        for _ in range(options.rounds + 1):
            prompts += [
                {"problem_id": problem.problem_id, "prompt": render(problem, "bare", run.tokenizer)}
                for problem in run.problems_of_round()
            ]
            begun = time.monotonic()
            play_round(run)
            rounds.append({"seconds": time.monotonic() - begun})
        for row, metrics in zip(rounds, run.metrics.rows(), strict=True):
            row |= {"phases": metrics["seconds"], "tokens": metrics["tokens_per_sample"], "learner": metrics["learner"]}
    (out / "prompts.json").write_text(json.dumps(prompts))
    (out / "ours.json").write_text(json.dumps(rounds[1:]))


def run_trl(options: argparse.Namespace, out: Path) -> None:
    """The same rounds by GRPOTrainer; writes trl.json."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from crlhf_ray.policy.model import load_tokenizer, resolve
    from crlhf_ray.problems.load import load_problems
    from crlhf_ray.sandbox.sandbox import Sandbox, SandboxSettings

    torch.set_num_threads(os.cpu_count() or 1)
    known = {problem.problem_id: problem for problem in load_problems("starter")}
    prompts = json.loads((out / "prompts.json").read_text())[: PROBLEMS * (options.trl_rounds + 1)]
    rounds: list[dict[str, Any]] = []
    clock: dict[str, float] = {}

    class Timed(GRPOTrainer):
        def _generate(self, *args: Any, **keywords: Any) -> Any:
            begun = time.monotonic()
            made = super()._generate(*args, **keywords)
            clock["generate"] = clock.get("generate", 0.0) + time.monotonic() - begun
            return made

        def _generate_and_score_completions(self, *args: Any, **keywords: Any) -> Any:
            begun = time.monotonic()
            made = super()._generate_and_score_completions(*args, **keywords)
            clock["tokens"] = float(made["completion_mask"].sum()) / (PROBLEMS * SAMPLES)
            spent = time.monotonic() - begun - clock["generate"] - clock["reward"]
            clock["log-probs"] = spent
            return made

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *args: Any, **keywords: Any) -> None:
            clock.clear()
            clock["begun"] = time.monotonic()

        def on_step_end(self, *args: Any, **keywords: Any) -> None:
            seconds = time.monotonic() - clock["begun"]
            phases = {name: clock[name] for name in ("generate", "reward", "log-probs")}
            phases["learn"] = seconds - sum(phases.values())
            rounds.append({"seconds": seconds, "phases": phases, "tokens": clock["tokens"]})

    with Sandbox(SandboxSettings()) as sandbox:

        def passes(completions: list[str], problem_id: list[str], **_: Any) -> list[float]:
            begun = time.monotonic()
            verdicts = sandbox.check([(known[name], text) for name, text in zip(problem_id, completions, strict=True)])
            clock["reward"] = time.monotonic() - begun
            return [float(verdict.passed) for verdict in verdicts]

        trainer = Timed(
            model=resolve(options.model),
            processing_class=load_tokenizer(options.model),
            reward_funcs=passes,
            train_dataset=Dataset.from_list(prompts),
            peft_config=None
            if options.full
            else LoraConfig(task_type="CAUSAL_LM", r=LORA["r"], lora_alpha=LORA["alpha"], target_modules="all-linear"),
            callbacks=[Stopwatch()],
            args=GRPOConfig(
                output_dir=str(out / "trl"),
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                model_init_kwargs={"dtype": "float32"},
                per_device_train_batch_size=8,
                gradient_accumulation_steps=PROBLEMS * SAMPLES // 8,
                num_generations=SAMPLES,
                max_completion_length=TOKENS,
                temperature=1.0,
                beta=KL,
                learning_rate=LR,
                num_train_epochs=1,
                shuffle_dataset=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
        )
        trainer.train()
    (out / "trl.json").write_text(json.dumps(rounds[1:]))


def report(out: Path, options: argparse.Namespace) -> None:
    """Print both sides, their ratio, and where our time goes; write step.json."""
    console = Console()
    sides = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in ("ours", "trl")
        if (out / f"{name}.json").exists()
    }
    mode = "full fine-tuning" if options.full else f"LoRA r={LORA['r']}"
    table = Table(title=f"One round of {PROBLEMS} x {SAMPLES} samples, {options.model}, {mode}, {os.cpu_count()} cores")
    for heading in ("", "rounds", "seconds (median)", "lowest to highest", "tokens a sample"):
        table.add_column(heading)
    spent = []
    for side, rounds in sides.items():
        seconds = [row["seconds"] for row in rounds]
        means = {name: statistics.mean(row["phases"].get(name, 0.0) for row in rounds) for name in rounds[0]["phases"]}
        spent.append(
            f"{side}, seconds by phase (mean): " + ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())
        )
        table.add_row(
            side,
            str(len(rounds)),
            f"{statistics.median(seconds):.1f}",
            f"{min(seconds):.1f} to {max(seconds):.1f}",
            f"{statistics.mean(row['tokens'] for row in rounds):.0f}",
        )
    console.print(table)
    for line in spent:
        console.print(line, highlight=False, soft_wrap=True)
    result: dict[str, Any] = {"mode": mode, "model": options.model, "load": os.getloadavg(), **sides}
    if len(sides) == 2:
        ours, trl = ([row["seconds"] for row in sides[name]] for name in ("ours", "trl"))
        result["ratio"] = statistics.median(ours) / statistics.median(trl)
        result["ratio_range"] = [min(ours) / max(trl), max(ours) / min(trl)]
        console.print(
            f"Ours takes [bold]{result['ratio']:.2f}[/bold] of TRL's time "
            f"({result['ratio_range'][0]:.2f} to {result['ratio_range'][1]:.2f} between extreme rounds)."
        )
    if (load := os.getloadavg()[0]) > 1.5 * (os.cpu_count() or 1):
        console.print(
            f"[yellow]The machine was busy with other work (load {load:.1f}); run again when it is quiet.[/yellow]"
        )
    (out / "step.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
