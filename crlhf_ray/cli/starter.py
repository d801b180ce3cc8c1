"""The settings file that ``crlhf init`` writes: for this machine and these problems, each line with a word on it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import yaml

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.problems.load import load_problems, load_splits
from crlhf_ray.problems.problem import Problem
from crlhf_ray.settings import validated

Reviewers = Literal["simulated", "people"]
#: Code has at least so many characters a token, with the tokenizers of small code models.
CHARACTERS_A_TOKEN = 2.5
#: Below so much free memory the KV cache is kept small.
SCARCE_GIB = 8

CROWD = """\
  source: in_process\t# a simulated crowd, to try things; web: people at `crlhf serve` (docs/annotation.md)
  crowd:
    annotators:\t# also: careless, always_correct, random, drifting
      - {kind: expert}
      - {kind: expert}
      - {kind: average}
      - {kind: average}
      - {kind: average}
      - {kind: adversary}"""
PEOPLE = """\
  source: web\t# people at `crlhf serve`; in_process: a simulated crowd, to try things
  web:
    url: http://127.0.0.1:8000
    token_file: annotation/token\t# `crlhf serve` writes it
    deadline_minutes: 240\t# a round waits so long for people"""
GPUS = {
    "model": "  dtype: bfloat16",
    "rollout": "  dtype: bfloat16\n  backend: nccl\n  gpus_per_replica: 1\t# one draws, another learns (docs/gpu.md)",
    "learner": "  gpus_per_rank: 1",
}


def write_starter(file: Path, model: str, problems: str, reviewers: Reviewers) -> None:
    """Write settings to check by `crlhf plan`. Raises ConfigError where the file exists, DataError for the problems.

    model: a preset, a folder or a hub id. problems: a source of problems with a training split.
    """
    text = starter(file, model, problems, reviewers)
    validated(Config, yaml.safe_load(text))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} already exists: name another file, or delete this one first") from None
    except NotADirectoryError:
        raise ConfigError(f"{file.parent} is a file: name a folder") from None


def starter(file: Path, model: str, problems: str, reviewers: Reviewers) -> str:
    """The text of that file."""
    heldout = problems if any(one.split == "heldout" for one in load_problems(problems)) else "starter"
    train, measured = load_splits(problems, heldout)
    tokens, context = room([*train, *measured])
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().available / 2**30
    gpus = GPUS if "vllm" in distributions() else {}
    path = shlex.quote(str(file))
    text = f"""\
# Written by `crlhf init` on a machine with {cores} cores and {memory:.0f} GiB of free memory.
#   crlhf plan  --config {path}     what it would do; starts nothing
#   crlhf train --config {path}     Ctrl-C stops it; --resume continues
# All settings: docs/settings.md. Editors complete them after `crlhf schema > crlhf.schema.json`, if the first line is
#   "# yaml-language-server: $schema=crlhf.schema.json"
run:
  dir: {_quoted(f"runs/{file.stem}")}
  rounds: 10\t# more teach more; may be raised when the run is resumed
  problems_per_round: {min(8 if reviewers == "simulated" else 5, len(train))}\t# of {len(train)} training problems
  samples_per_problem: 6\t# programs for each
problems:
  source: {_quoted(problems)}\t# or prose, compose:SEED:COUNT, mbpp:PATH, a JSONL file of your own (docs/problems.md)
evaluation:
  source: {_quoted(heldout)}\t# {len(measured)} held-out problems, measured before and after
  samples: 4\t# programs for each; more narrow the interval
model:
  name: {_quoted(model)}\t# a preset, a folder or a hub id (docs/models.md)
  lora: {{r: 16, alpha: 32}}\t# null trains all weights; take learner.lr 1.0e-5 then
{gpus.get("model", "")}
rollout:
  max_tokens: {tokens}\t# of a program at most, by the longest reference
  context: {context}\t# prompt and program together
  kv_cache_gib: {1.5 if memory > SCARCE_GIB else 0.5}\t# memory of each rollout replica beside the weights
{gpus.get("rollout", "")}
sandbox:
  slots: {cores}\t# programs checked at the same time: about one a core
feedback:
{CROWD if reviewers == "simulated" else PEOPLE}
  annotators: []\t# machines beside them, such as [{{kind: checks, tool: python}}] (docs/annotators.md)
reward:
  form: right\t# the probability that a program is right, from its lines
learner:
  algorithm: rloo\t# compares the programs for one problem; gae, the paper's, learns a value function
  epochs: 1
  lr: 3.0e-4
  kl: {{controller: fixed, coef: 0.02}}\t# the price of moving away from the model above
{gpus.get("learner", "")}
"""
    lines = [line.split("\t") for line in text.splitlines() if line]
    column = max(len(setting) for setting, *comment in lines if comment)
    return "".join(f"{setting:<{column}} {comment[0]}\n" if comment else f"{setting}\n" for setting, *comment in lines)


def distributions() -> set[str]:
    """The names of the installed packages."""
    return {(one.metadata["Name"] or "").lower() for one in metadata.distributions()}


def room(problems: Sequence[Problem]) -> tuple[int, int]:
    """Tokens for a program, and for prompt and program together, estimated from the longest of each."""
    longest = max((len(text) for one in problems for text in one.references), default=0)
    prompt = max(len(one.prompt) for one in problems)
    tokens = min(512, max(64, -(-round(longest / CHARACTERS_A_TOKEN) // 32) * 32))
    return tokens, max(1024, -(-round(prompt / CHARACTERS_A_TOKEN + tokens) // 256) * 256)


def _quoted(text: str) -> str:
    """As YAML takes it, in quotes where it must be."""
    return yaml.safe_dump(text, width=10_000).removesuffix("\n...\n").strip()
