"""How far a run is: time left, what was measured, curves in a line of text. Pure: rows in, numbers and text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crlhf_ray.report.headline import paired_gain
from crlhf_ray.report.run_files import round_seconds

#: Rounds that an estimate of the next ones looks back on.
RECENT = 5
_BARS = "▁▂▃▄▅▆▇█"


def seconds_left(rows: Sequence[Mapping[str, Any]], rounds: int, every: int) -> float | None:
    """Seconds until the last evaluation has ended, at the pace of the last rounds and the last evaluation.

    rows: of metrics.jsonl. rounds, every: `run.rounds` and `evaluation.every`. None before the first round has ended.
    """
    if not rows:
        return None
    done = rows[-1]["round"] + 1
    recent = [round_seconds(row) for row in rows[-RECENT:]]
    measured = [
        seconds
        for row in rows
        for name, seconds in (row.get("seconds") or {}).items()
        if name.startswith("evaluate") and seconds
    ]
    evaluations = sum(number == rounds or (every > 0 and number % every == 0) for number in range(done + 1, rounds + 1))
    evaluations += done == rounds  # the last one comes after the last round
    return sum(recent) / len(recent) * max(rounds - done, 0) + (measured[-1] if measured else 0) * evaluations


def measured_line(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The last of a run's evaluations as one line, with the gain since its first; 95% intervals."""
    first, last = evaluations[0], evaluations[-1]
    learnt = last["round"]
    when = f"after round {learnt}" if learnt else "before the first round"
    parts = [f"held-out pass@1 {when}: {last['pass_at_1']:.1%}"]
    if last.get("low") is not None and last.get("high") is not None:
        parts.append(f"[{last['low']:.1%}, {last['high']:.1%}]")
    before, after = first.get("per_problem") or {}, last.get("per_problem") or {}
    if learnt != first["round"] and before.keys() & after.keys():
        parts.append(f"since the beginning {paired_gain(before, after)}")
    return "  ".join(parts)


def spark(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line, from its lowest value to its highest; of more than `width` values the last ones."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)
