"""``crlhf judge-train``: a judge of one's own, fine-tuned on lines whose truth the sandbox knows.

Its lessons are honeypots of *training* problems: each is asked about as a run will ask, canary included, in both orders
of its lines, and the answer to imitate has the true labels. Held-out problems are never among them. What the judge is
worth is not read off its loss but off the honeypots of the run that uses it, as for every annotator.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from crlhf_ray.feedback.annotators.prompts import PROMPTS, question
from crlhf_ray.feedback.annotators.settings import JudgeTrainSettings
from crlhf_ray.feedback.honeypots import Honeypot, build_honeypots
from crlhf_ray.parts import part
from crlhf_ray.policy.model import load_tokenizer
from crlhf_ray.policy.sft import run_sft
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Sandbox

_LABELS = {1: "correct", -1: "wrong"}


def lessons(honeypots: Sequence[Honeypot], prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """Prompts and completions, two for each honeypot: its lines first to last and last to first."""
    system, found = part(PROMPTS, prompt), []
    for honeypot in honeypots:
        for order in ("forward", "backward"):
            asked = question(honeypot.item, order, canary=True, salt="train")
            messages = [{"role": "system", "content": system}, {"role": "user", "content": asked.text}]
            answer = {
                str(k): {"reason": "", "label": _LABELS[honeypot.truth[asked.numbers[k]] if k in asked.numbers else -1]}
                for k in asked.asked
            }
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            found.append({"prompt": str(text), "completion": json.dumps(answer)})
    return found


def train_judge(settings: JudgeTrainSettings, *, resume: bool, console: Console) -> Path:
    """Make the lessons, train, and return the folder of the model, to be served by `vllm serve`."""
    sft = settings.sft
    file = sft.dir.absolute() / "lessons.jsonl"
    if not (resume and file.exists()):
        problems = load_problems(settings.problems, "train")
        with Sandbox(settings.sandbox) as sandbox:
            honeypots = build_honeypots(problems, sandbox, sft.seed, settings.per_problem)
        rows = lessons(honeypots, settings.prompt, load_tokenizer(sft.model.name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        console.print(f"{len(rows):,} lessons from {len(honeypots):,} programs for {len(problems)} problems: {file}")
    return run_sft(sft.model_copy(update={"data": f"pairs:{file}"}), resume=resume, console=console)
