"""``crlhf plan``: what a run would do, printed before anything starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from transformers import AutoConfig

from crlhf_ray.config import Config
from crlhf_ray.devices import USABLE, Devices, check_devices
from crlhf_ray.feedback.annotators.settings import LlmSettings
from crlhf_ray.feedback.simulate import Crowd
from crlhf_ray.memory import GIB, Item, Memory, memory_of, shape_of, sync_items, total
from crlhf_ray.pipeline.problems import questions
from crlhf_ray.policy.model import load_tokenizer, resolve
from crlhf_ray.policy.support import check_config
from crlhf_ray.report.trackers import check_trackers

#: A judge's tokens: what it is told before a program, and what it answers to one line of so many tokens.
INSTRUCTIONS, ANSWER_A_LINE, TOKENS_A_LINE = 300, 30, 8


def batch_arithmetic(config: Config) -> list[tuple[str, str]]:
    """How many of what, in samples: the one unit of batch sizes. Raises as `questions` where it cannot be asked."""
    notes: list[str] = []
    problems, measured = questions(config, load_tokenizer(config.model.name), notes.append)
    train, heldout = len(problems), len(measured)
    untested = sum(not problem.tested for problem in problems)
    per_round = config.run.problems_per_round * config.run.samples_per_problem
    minibatch = min(config.learner.minibatch_samples, per_round)
    steps = -(-per_round // minibatch) * config.learner.epochs
    reviewing = _reviewing(config)
    epochs = config.run.rounds * config.run.problems_per_round / train
    evaluations = 2 + ((config.run.rounds - 1) // config.evaluation.every if config.evaluation.every else 0)
    return [
        ("training problems", f"{train}, each seen {epochs:.1f} times in {config.run.rounds} rounds"),
        *(("note", note) for note in notes),
        *([("people alone decide", f"{untested} of them, which have no tests")] if untested else []),
        (
            "samples a round",
            f"{config.run.problems_per_round} problems x {config.run.samples_per_problem} samples = {per_round}",
        ),
        ("optimizer steps a round", f"{steps}: {config.learner.epochs} x {per_round} samples in steps of {minibatch}"),
        ("samples in all", f"{per_round * config.run.rounds:,}"),
        *reviewing,
        *_machines(config),
        (
            "held-out evaluation",
            f"{evaluations} times {heldout} problems x {config.evaluation.samples} samples "
            f"= {evaluations * heldout * config.evaluation.samples:,} samples",
        ),
    ]


def warnings(config: Config) -> list[str]:
    """What a run may do and had better not: it biases what is learnt."""
    found = []
    if config.rollout.top_p < 1:
        found.append(
            f"rollout.top_p={config.rollout.top_p:g}: tokens are drawn from a cut distribution, which PPO does not "
            "know; its probability ratios are biased. Use 1 to train"
        )
    if config.model.lora is None and config.learner.lr > 5e-5:
        found.append(
            f"learner.lr={config.learner.lr:g} suits LoRA; full fine-tuning moves every weight: use about 1e-5"
        )
    return found


def _reviewing(config: Config) -> list[tuple[str, str]]:
    feedback = config.feedback
    if feedback.source == "in_process":
        people = len(Crowd(feedback.crowd).annotator_ids)
        return [
            ("reviews a program", f"{feedback.labels_per_item or people} of {people} annotators, each of its lines"),
            ("honeypots", f"{_honeypots(config)} programs for each annotator over the run"),
        ]
    if feedback.source == "simulated":
        queue = feedback.web.queue
        return [("reviews a program", f"{queue.labels_least} to {queue.labels_most}, until its lines are sure")]
    if feedback.source != "web":
        return [("reviews a program", f"as {feedback.source} decides")]
    return [
        ("reviews a program", f"as {feedback.web.url} decides, until its lines are sure"),
        ("longest wait for people", f"{feedback.web.deadline_minutes:g} minutes a round"),
    ]


def _honeypots(config: Config) -> int:
    return config.feedback.first_honeypots + config.feedback.honeypots_per_round * (config.run.rounds - 1)


def _machines(config: Config) -> list[tuple[str, str]]:
    """What machine annotators are expected to do and to cost. A token is taken as four characters of a prompt."""
    run, found = config.run, []
    programs = run.problems_per_round * run.samples_per_problem * run.rounds + _honeypots(config)
    for one in config.feedback.annotators:
        if not isinstance(one, LlmSettings):
            found.append((one.kind, f"{programs:,} programs" if one.kind != "tests" else "every program, as a whole"))
            continue
        requests = programs * one.votes * len(one.prompts)
        tokens_in = INSTRUCTIONS + 2 * config.rollout.max_tokens  # the task, and the program in JSON
        tokens_out = min(one.max_tokens, ANSWER_A_LINE * max(1, config.rollout.max_tokens // TOKENS_A_LINE))
        money = requests * (tokens_in * one.price_in + tokens_out * one.price_out) / 1e6
        limit = "" if one.budget.money is None else f", budget {one.budget.money:g}"
        cost = f", {money:,.2f} in money{limit}" if one.price_in or one.price_out else ", no prices set"
        text = f"{requests:,} requests, at most about {requests * (tokens_in + tokens_out):,} tokens{cost}"
        found.append((f"llm {one.model}", text))
    return found


def on_one_machine(parts: Memory) -> int:
    """Bytes of all processes: a rank is counted once, at its highest point."""
    replica, learning, starting, *others = (count * total(items) for _, count, items in parts)
    return replica + max(learning, starting) + sum(others)


def _up_to(config: Config) -> str:
    """What stands before a number of replicas."""
    return "up to " if config.rollout.autoscale else ""


def _arithmetic(title: str, items: Sequence[Item], *, summed: bool = True) -> Table:
    """Item, how it is reckoned, size."""
    table = Table(title=title, title_justify="left", show_header=False)
    for item in items:
        table.add_row(item.name, item.formula, f"{item.bytes / GIB:.2f} GiB")
    if summed:
        table.add_row("together", "", f"{total(items) / GIB:.2f} GiB")
    return table


def print_memory(settings: Any, config: Config, console: Console) -> Memory:
    """Print what each process holds and what a weight transfer sends; settings: the model's configuration."""
    shape = shape_of(settings, config.model.lora)
    parts = memory_of(shape, config)
    for name, count, items in parts:
        if len(items) > 1:
            most = _up_to(config) if "replica" in name else ""
            console.print(_arithmetic(f"Memory of each {name} ({most}{count} in all)", items))
    console.print(_arithmetic("Weight transfer after each update", sync_items(shape, config), summed=False))
    return parts


def print_devices(config: Config, text: str, console: Console) -> None:
    """Print memory and transfers, and whether the run fits such devices: NODESxDEVICESxGIB. The model's config.json is
    enough: prompts are not tokenised. Raises ConfigError where it does not fit, or this model cannot be trained."""
    devices, name = Devices.parse(text), config.model.name
    settings = AutoConfig.from_pretrained(resolve(name))
    print_memory(settings, config, console)
    check_config(settings, name, context=config.rollout.context, shards=config.rollout.tensor_parallel)
    check_devices(settings, config, devices)
    console.print(f"Each process fits a device of {devices.gib:g} GiB, of which tensors may take {USABLE:.0%}.")


def print_plan(config: Config, console: Console) -> None:
    """Print settings, batch arithmetic, resources and memory."""
    check_trackers(config.run.tracking)
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    console.print(Syntax(settings, "yaml", background_color="default"))
    batches = Table(title="Batches (unit: samples)", title_justify="left", show_header=False)
    for name, value in batch_arithmetic(config):
        batches.add_row(name, value)
    console.print(batches)
    for warning in warnings(config):
        console.print(f"[yellow]warning:[/yellow] {warning}")
    parts = print_memory(AutoConfig.from_pretrained(resolve(config.model.name)), config, console)
    needed, (_, others, items) = on_one_machine(parts) / GIB, parts[-1]
    console.print(f"All on one machine: {needed:.1f} GiB, with {others * total(items) / GIB:.1f} for driver and Ray.")
    have = psutil.virtual_memory().available / GIB
    verdict = (
        "fits"
        if needed < have
        else "does NOT fit: lower rollout.kv_cache_gib or learner.micro_batch_tokens, or set "
        "learner.checkpoint_activations"
    )
    console.print(
        f"This machine: {os.cpu_count()} cores, {have:.1f} GiB free. On it alone the run [bold]{verdict}[/bold]."
    )
    rollout_cpus = config.rollout.most_replicas * config.rollout.cpus_per_replica
    learner_cpus = config.learner.ranks * config.learner.cpus_per_rank
    console.print(
        f"Ray bundles: {_up_to(config)}{config.rollout.most_replicas} x {config.rollout.cpus_per_replica:g} CPU for "
        f"rollouts, {config.learner.ranks} x {config.learner.cpus_per_rank:g} CPU and "
        f"{config.learner.gpus_per_rank:g} GPU for learning: {rollout_cpus + learner_cpus:g} CPU reserved in all; Ray "
        "Data needs at least one more."
    )
