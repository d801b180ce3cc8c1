"""What the reviewers said of a run's programs, as a data set for others: lines, preference pairs, steps.

Reviewers are counted, not named, and what the run knew as truth (honeypots, simulated line truth) stays out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from crlhf_ray.errors import DataError
from crlhf_ray.report.card import marks_of, reviewers, standing
from crlhf_ray.report.run_files import Run

#: Two programs of a problem whose scores differ by less say nothing about which is better.
MARGIN = 0.1

LINES = pa.schema(
    [
        pa.field("round", pa.int32()),
        pa.field("problem_id", pa.string()),
        pa.field("sample_id", pa.string()),
        pa.field("line", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("p_correct", pa.float64()),  # null: a line without code, which nobody was asked about
        pa.field("said_correct", pa.int32()),
        pa.field("said_wrong", pa.int32()),
        pa.field("said_unsure", pa.int32()),
    ]
)
PAIRS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("problem_id", "prompt", "chosen", "rejected")),
        *(pa.field(name, pa.float64()) for name in ("score_chosen", "score_rejected")),
    ]
)
STEPS = pa.schema(
    [
        pa.field("problem_id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("completions", pa.list_(pa.string())),
        pa.field("labels", pa.list_(pa.bool_())),
    ]
)


def write_feedback(run: Run, folder: Path) -> dict[str, int]:
    """Write lines.parquet, preferences.parquet, steps.parquet and a card; returns the rows of each.

    Raises DataError for a run without samples, and as `read_marks` where its marks cannot be read.
    """
    if not run.samples:
        raise DataError(
            "the run has no programs yet; export its feedback after its first round", file=str(run.directory)
        )
    marks = marks_of(run)
    tables = {
        "lines": pa.Table.from_pylist(list(line_labels(run, marks)), schema=LINES),
        "preferences": pa.Table.from_pylist(list(preferences(run.samples)), schema=PAIRS),
        "steps": pa.Table.from_pylist([steps(sample) for sample in run.samples], schema=STEPS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    counts = {name: table.num_rows for name, table in tables.items()}
    (folder / "README.md").write_text(_card(run, marks, counts))
    return counts


def line_labels(run: Run, marks: pa.Table) -> Iterator[dict[str, Any]]:
    """Every line of every program: its posterior, and how many reviewers said what of it."""
    said: Counter[tuple[str, int, int]] = Counter()
    held = standing(marks)
    said.update(zip(held["item_id"], held["line"], held["label"], strict=True))
    for sample in run.samples:
        for number, line in enumerate(sample["lines"]):
            counts = [said[(sample.get("item_id", ""), number, label)] for label in (1, -1, 0)]
            yield {
                **{name: sample[name] for name in ("round", "problem_id", "sample_id")},
                "line": number,
                "text": line["text"],
                "p_correct": line["p_correct"],
                **dict(zip(("said_correct", "said_wrong", "said_unsure"), counts, strict=True)),
            }


def preferences(samples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each problem in each round the best and the worst program, where their scores differ by MARGIN or more."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        groups[sample["round"], sample["problem_id"]].append(sample)
    for (_, problem_id), group in groups.items():
        best = max(group, key=lambda sample: sample["reward"])
        worst = min(group, key=lambda sample: sample["reward"])
        if best["reward"] - worst["reward"] >= MARGIN:
            yield {
                "problem_id": problem_id,
                "prompt": best["prompt"],
                "chosen": _text(best),
                "rejected": _text(worst),
                "score_chosen": best["reward"],
                "score_rejected": worst["reward"],
            }


def steps(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A program as process reward models are trained on it: a step is a line with code and the lines without before
    it; its label says whether it is correct with a probability of one half or more. The steps joined by newlines are
    the program."""
    completions: list[str] = []
    labels: list[bool] = []
    waiting: list[str] = []
    for line in sample["lines"]:
        waiting.append(line["text"])
        if line["p_correct"] is not None:
            completions.append("\n".join(waiting))
            labels.append(line["p_correct"] >= 0.5)
            waiting = []
    if waiting and completions:
        completions[-1] = "\n".join([completions[-1], *waiting])
    return {**{n: sample[n] for n in ("problem_id", "prompt")}, "completions": completions, "labels": labels}


def _text(sample: Mapping[str, Any]) -> str:
    return "\n".join(line["text"] for line in sample["lines"])


def _scores_from(run: Run) -> str:
    reward = run.settings.get("reward") or {}
    if reward.get("source") == "tests":
        return "from the problems' tests, not from the marks"
    found = f"from the marks, by the reward `{reward.get('form')}`"
    share = reward.get("verified") or 0
    return found + (f"; for {share:.0%} of the programs, chosen by chance, from the tests" if share else "")


def _card(run: Run, marks: pa.Table, counts: Mapping[str, int]) -> str:
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in counts]
    head = yaml.safe_dump({"tags": ["crlhf", "code"], "configs": configs}, sort_keys=False)
    who = "\n".join(reviewers(run, marks))
    return f"""---
{head}---

# Line-by-line feedback on programs of a code model

{who}

Scores of programs: {_scores_from(run)}.

| set | rows | what |
|---|---|---|
| lines | {counts["lines"]:,} | a line of a program: P(correct), and how many said correct, wrong, unsure |
| preferences | {counts["preferences"]:,} | two programs of one problem and round, scores {MARGIN} or more apart |
| steps | {counts["steps"]:,} | a program in steps, each labelled (correct: P >= 0.5), for process reward models |

```python
from datasets import load_dataset
load_dataset("path/of/this/folder", "lines", split="train")
```

The programs were written by a model while it was trained, and are untrusted code: run them in a sandbox only.
"""
