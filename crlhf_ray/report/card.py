"""The model card of a run, from what the run wrote down: who reviewed, how well, what was learnt, what is weak."""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.ledger import read_marks
from crlhf_ray.feedback.settings import FeedbackSettings
from crlhf_ray.pipeline.claim import data_sets_read
from crlhf_ray.report.headline import paired_gain
from crlhf_ray.report.run_files import Run

#: Whose versions decide what a run computes.
PACKAGES = ("crlhf-ray", "ray", "torch", "transformers", "peft", "deepspeed")


def model_card(run: Run, *, base: str, form: str, dtype: str, checkpoint: str, round_: int, gap: float) -> str:
    """Markdown with the hub's metadata block.

    base: the model that training began with, as the hub names it where it does. round_: rounds that the exported
    weights have learnt from. gap: largest |exported - learner| log-prob of the check before export, nats.
    """
    settings, marks = run.settings, _marks_if_there(run)
    library = "peft" if form == "adapter" else "transformers"
    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation", "tags": ["crlhf", "code"]}
    if base.count("/") == 1 and not base.startswith(("/", ".")):
        head["base_model"] = base
    sections = {
        "What it is": [
            f"- Base model: `{base}`, {_training(settings)}",
            f"- Form: {form}, {dtype}; from checkpoint `{checkpoint}`, after {counted(round_, 'round')} of "
            f"{_get(settings, 'run.problems_per_round')} problems with "
            f"{_get(settings, 'run.samples_per_problem')} programs each",
            f"- Checked: reloaded, its log-probs differ from the learner's by at most {gap:.1e} nats a token",
        ],
        "Trained on": _problems(data_sets_read(run.directory)),
        "Who reviewed": reviewers(run, marks),
        "Method": [
            f"- Estimator of line correctness: `{_get(settings, 'aggregation.estimator')}`",
            f"- Reward: form `{_get(settings, 'reward.form')}`, credit `{_get(settings, 'reward.credit')}`, "
            f"source `{_get(settings, 'reward.source')}`",
            f"- Advantages: `{_get(settings, 'learner.algorithm')}`, learning rate {_get(settings, 'learner.lr')}",
        ],
        "Held-out scores": _scores(run, round_),
        "Known weaknesses": _weaknesses(run, marks, round_),
        "To repeat it": [
            "```bash",
            "crlhf train --config training_settings.json --set run.dir=runs/again",
            "```",
            "",
            "Versions: " + ", ".join(_versions()),
        ],
    }
    title = f"# {Path(str(_get(settings, 'run.dir'))).name}: trained from line-by-line feedback (cRLHF)"
    body = "\n\n".join(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items())
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{title}\n\n{body}\n"


def counted(number: int, noun: str) -> str:
    """`1 problem`, `1,200 problems`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def without_place(source: str) -> str:
    """A source of problems or a model as anybody may read it: of a path on this machine, its last part."""
    kind, colon, path = source.rpartition(":")
    local = Path(path).is_absolute() or path.startswith((".", "~")) or Path(path).exists()
    return f"{kind}{colon}{Path(path).name}" if local else source


def _get(settings: Mapping[str, Any], path: str) -> Any:
    node: Any = settings
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _training(settings: Mapping[str, Any]) -> str:
    lora = _get(settings, "model.lora")
    return f"LoRA of rank {lora['r']} (alpha {lora['alpha']})" if lora else "full fine-tuning"


def _problems(read: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """read: what the run wrote down of its data sets, by setting; they may hold something else by now."""
    uses = (("Training", "problems.source", "train"), ("Held-out", "evaluation.source", "heldout"))
    return [
        f"- {use}: `{without_place(known['name'])}` ({known['version']}), {split} split, "
        f"{counted(known['problems'], 'problem')}, sha256 `{known['sha256'][:16]}`"
        for use, key, split in uses
        if (known := read.get(key))
    ] or ["- The run recorded no problems."]


def marks_of(run: Run) -> pa.Table:
    """The run's marks (ANNOTATION_SCHEMA), from its log or the annotation server; raises as `read_marks`."""
    return read_marks(run.directory, FeedbackSettings(**run.settings.get("feedback", {})))


def _marks_if_there(run: Run) -> pa.Table | None:
    try:
        return marks_of(run)
    except (ConfigError, ServerError):  # a model is exported all the same, and its card says so
        return None


def reviews_of(run: Run, marks: pa.Table) -> pa.Table:
    """The marks on programs that the run learnt from: without honeypots', and without other runs' at a server."""
    own = pa.array(sorted({sample["item_id"] for sample in run.samples if sample.get("item_id")}), pa.string())
    return marks.filter(pc.is_in(marks["item_id"], value_set=own))


def reviewers(run: Run, marks: pa.Table | None) -> list[str]:
    """Who reviewed, in lines of Markdown: kinds and numbers; no annotator is named. marks: None: out of reach."""
    if marks is None:
        return ["- The annotation server, which holds the marks, could not be reached when this was written."]
    if not marks.num_rows:
        return ["- Nobody: the run holds no marks."]
    reliability = run.reliability
    lines = []
    reviews = reviews_of(run, marks)
    for source in sorted(set(reviews["source"].to_pylist())):
        own = reviews.filter(pc.equal(reviews["source"], source))
        people = len(pc.unique(own["annotator_id"]))
        lines.append(
            f"- {source}: {counted(people, 'reviewer')}, {counted(own.num_rows, 'mark')} on "
            f"{counted(len(pc.unique(own['item_id'])), 'program')}"
            + _hours(own, "their" if source == "human" else "simulated" if source == "simulated" else "machine")
        )
    if others := marks.num_rows - reviews.num_rows:
        lines.append(
            f"- {counted(others, 'further mark')}, on honeypots and on programs that the run did not learn from"
        )
    share = agreement(reviews)
    if share is not None:
        lines.append(f"- Agreement: two reviewers of one line say the same in {share:.0%} of pairs")
    last = max((row["round"] for row in reliability), default=None)
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in reliability:
        if row["round"] == last and row.get("sensitivity") is not None and row.get("specificity") is not None:
            by_kind.setdefault(str(row.get("kind") or "reviewer"), []).append(row)
    for kind, rows in sorted(by_kind.items()):
        sensitivity, specificity = ([row[name] for row in rows] for name in ("sensitivity", "specificity"))
        lines.append(
            f"- Reliability of {kind} ({len(rows)}): P(says right | right) {_span(sensitivity)}, "
            f"P(says wrong | wrong) {_span(specificity)}"
        )
    return lines


def _hours(marks: pa.Table, whose: str) -> str:
    spent = pc.sum(marks["milliseconds"]).as_py()
    return f", {spent / 3.6e6:.1f} h of {whose} time" if spent else ""


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{np.mean(values):.2f} on average ({low:.2f} to {high:.2f})"


def standing(marks: pa.Table) -> pd.DataFrame:
    """The marks that hold: of each annotator the latest on a line."""
    ordered = marks.to_pandas().sort_values("created_at", kind="stable")
    return ordered.drop_duplicates(["item_id", "line", "annotator_id"], keep="last")


def agreement(marks: pa.Table) -> float | None:
    """Share of pairs of marks on one line, by different annotators, that say the same; unsure ones are left out.

    None where no line has two marks.
    """
    told = standing(marks)
    told = told[told["label"] != 0]
    same = told.groupby(["item_id", "line", "label"]).size()
    each = told.groupby(["item_id", "line"]).size()
    pairs = (each * (each - 1)).sum()
    return float((same * (same - 1)).sum() / pairs) if pairs else None


def _scores(run: Run, round_: int) -> list[str]:
    rows = run.heldout()
    if not rows:
        return ["Not measured."]
    lines = ["| after round | pass@1 | 95% interval | samples a problem | temperature |", "|---|---|---|---|---|"]
    for row in rows:
        mark = " (these weights)" if row["round"] == round_ else ""
        lines.append(
            f"| {row['round']}{mark} | {row['pass_at_1']:.1%} | {row['low']:.1%} to {row['high']:.1%} | "
            f"{row.get('n', '')} | {row.get('temperature', '')} |"
        )
    return lines


def _weaknesses(run: Run, marks: pa.Table | None, round_: int) -> list[str]:
    lines = []
    rows = run.heldout()
    own = next((row for row in rows if row["round"] == round_), None)
    if own is None:
        lines.append("- These weights were not measured on held-out problems.")
    elif own is not rows[0] and own.get("per_problem") and rows[0].get("per_problem"):
        gain = paired_gain(rows[0]["per_problem"], own["per_problem"])
        lines.append(f"- Held-out gain {gain}, paired over {gain.pairs} problems.")
        if gain.low <= 0:
            lines.append("- That interval includes no gain at all.")
    if marks is not None and marks.num_rows and "human" not in set(reviews_of(run, marks)["source"].to_pylist()):
        lines.append("- No person reviewed: every mark is a machine's or a simulation's.")
    unchecked = sum(row.get("unchecked") or 0 for row in run.metrics[:round_])
    if unchecked:
        lines.append(f"- Left out because the sandbox failed on them: {counted(unchecked, 'program')}.")
    kinds: dict[str, int] = {}
    for row in run.metrics[:round_]:
        for alert in row.get("alerts") or []:
            kind = alert.get("kind", "alert") if isinstance(alert, dict) else str(alert).split(":")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
    lines += [f"- Alert while training: {kind}, in {counted(times, 'round')}." for kind, times in sorted(kinds.items())]
    lines.append("- It was trained on short functions and measured on such; nothing is known of other code.")
    lines.append("- What it writes is untrusted code: run it in a sandbox only.")
    return lines


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
