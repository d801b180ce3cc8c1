"""`write_report`: one self-contained HTML file from a run folder's files alone.

Nothing in it is fetched and nothing in it runs: no script, a content policy that forbids both, plots as inline SVG.
Generated programs are hostile text: the template escapes them, and characters that could hide or reorder code are
shown as escapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from crlhf_ray.output import write_whole
from crlhf_ray.page import page
from crlhf_ray.report import figures
from crlhf_ray.report.headline import headline
from crlhf_ray.report.run_files import Run, alert_text, read_run, round_seconds
from crlhf_ray.visible import visible


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    Raises:
        DataError: the folder is no run folder, or one of its files cannot be read.
    """
    run = read_run(run_dir)
    path = run.directory / "report.html"
    write_whole(path, render(run))
    return path


def render(run: Run) -> str:
    """The report as HTML text."""
    return page("report/template.html").render(
        name=run.directory.resolve().name,
        subtitle=_subtitle(run.settings),
        headline=headline(run),
        plots=_plots(run),
        alerts=_alerts(run),
        samples=[_sample(row) for row in choose_samples(run.samples)],
        numbers=_numbers(run.metrics),
        settings=yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True) if run.settings else "",
    )


def choose_samples(rows: list[dict[str, Any]], count: int = 3) -> list[dict[str, Any]]:
    """Programs of the latest round that show most: the best, the worst and the one nearest the middle by score.

    Another problem is preferred to a second program for the same one.
    """
    latest = max((row["round"] for row in rows), default=None)
    pool = [row for row in rows if row["round"] == latest]
    pool.sort(key=lambda row: (row.get("reward") or 0.0, row.get("sample_id") or ""))
    chosen: list[dict[str, Any]] = []
    for wanted in (len(pool) - 1, 0, len(pool) // 2, *range(len(pool))):
        fresh = [i for i, row in enumerate(pool) if row not in chosen]
        if len(chosen) == count or not fresh:
            break
        seen = {row.get("problem_id") for row in chosen}
        chosen.append(pool[min(fresh, key=lambda i: (pool[i].get("problem_id") in seen, abs(i - wanted)))])
    return chosen


def _plots(run: Run) -> list[dict[str, Any]]:
    metrics = run.metrics
    plots = [
        ("pass@1", "Share of programs that pass their tests. Held-out problems were never trained on.",
         figures.pass_at_1(metrics, run.heldout()), False),
        ("Reward", "Correction rate of the round's programs, from the posteriors of their lines.",
         figures.reward(metrics), False),
        ("KL to the reference", "How far the policy has moved from the model it started as.",
         figures.single(metrics, "learner/kl", "nats a token", "KL to the reference over rounds"), False),
        ("KL coefficient", "Weight of the KL penalty; an adaptive controller moves it.",
         figures.single(metrics, "learner/kl_coef", "coefficient", "KL coefficient over rounds", 2), False),
        ("Annotators", "What the aggregation believes of each annotator after the last round, most reliable on top.",
         figures.annotators(run.reliability), True),
        ("Consensus", "Agreement with line truth, which the aggregation never sees except on honeypots.",
         figures.consensus(metrics), False),
        ("Rollout against learner", "Difference of the two engines' log-probs for the same tokens; near 0 is right.",
         figures.logprob_gap(metrics), False),
        ("Time", "Where each round's seconds went.", figures.seconds(metrics), True),
    ]  # fmt: skip
    return [{"title": title, "text": text, "svg": Markup(svg), "wide": wide} for title, text, svg, wide in plots if svg]


def _numbers(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The main metrics as a table of text; columns that no round has are left out."""
    columns = [
        ("reward", "reward/mean", ".3f"),
        ("training pass rate", "train_pass_rate", ".3f"),
        ("KL", "learner/kl", ".4f"),
        ("KL coefficient", "learner/kl_coef", ".4f"),
        ("loss", "learner/loss", ".4f"),
        ("consensus accuracy", "aggregation/consensus_accuracy", ".3f"),
        ("gap, mean", "learner/logprob_gap_mean", ".1e"),
        ("gap, largest", "learner/logprob_gap_max", ".1e"),
    ]
    found = [(title, dict(figures.points(metrics, path)), form) for title, path, form in columns]
    shown = [entry for entry in found if entry[1]]
    return {
        "titles": ["round", *(title for title, _, _ in shown), "seconds"],
        "rows": [
            [
                row["round"],
                *(format(values[row["round"]], form) if row["round"] in values else "–" for _, values, form in shown),
                f"{round_seconds(row):.1f}",
            ]
            for row in metrics
        ],
    }


def _subtitle(settings: Mapping[str, Any]) -> str:
    def value(group: str, key: str) -> Any:
        return (settings.get(group) or {}).get(key)

    parts = [
        value("model", "name"),
        f"{value('problems', 'source')} problems" if value("problems", "source") else None,
        f"{value('aggregation', 'estimator')} aggregation" if value("aggregation", "estimator") else None,
        f"seed {value('run', 'seed')}" if value("run", "seed") is not None else None,
    ]
    return " · ".join(str(part) for part in parts if part is not None)


def _alerts(run: Run) -> list[dict[str, Any]]:
    """One a kind: as it was last said, and in which rounds."""
    said: dict[str, tuple[str, dict[int, None]]] = {}
    for row in run.metrics:
        for text in map(alert_text, row.get("alerts") or ()):
            kind = text.partition(":")[0]
            rounds = said[kind][1] if kind in said else {}
            said[kind] = text, {**rounds, row["round"]: None}
    return [{"text": visible(text), "rounds": list(rounds)} for text, rounds in said.values()]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    lines = []
    for number, line in enumerate(row.get("lines") or (), start=1):
        p, truth = line.get("p_correct"), line.get("truth")
        to_review = bool(line.get("to_review")) and p is not None
        says_correct = to_review and p >= 0.5
        lines.append(
            {
                "number": number,
                "text": visible(line.get("text") or ""),
                "p": f"{p:.2f}" if to_review else "",
                "says": ("correct" if says_correct else "wrong") if to_review else "",
                "tint": round(min(0.42, abs(p - 0.5) * 0.84), 3) if to_review else 0,
                "truth": {1: "correct", -1: "wrong"}.get(truth, "") if to_review else "",
                "mistaken": to_review and truth in (1, -1) and says_correct != (truth == 1),
            }
        )
    return {
        "problem_id": visible(str(row.get("problem_id") or "")),
        "sample_id": visible(str(row.get("sample_id") or "")),
        "round": row["round"],
        "prompt": visible(row.get("prompt") or ""),
        "lines": lines,
        "rate": row.get("reward"),
        "passed": row.get("passed"),
    }
