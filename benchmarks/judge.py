"""What a served model is worth as a judge, on honeypots of the starter set's training problems.

    python benchmarks/judge.py MODEL [--url http://127.0.0.1:8000/v1] [--honeypots 40] [--prompt review] [--canary]

Each honeypot is asked about once. Printed: how many were answered, and why others were not; its labels of right and of
wrong lines; the rates that a run would learn from them, with 95% intervals, and what a mark then adds to its line.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from datetime import UTC, datetime
from math import log
from pathlib import Path

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.annotators.settings import LlmSettings
from crlhf_ray.feedback.honeypots import HoneypotPool, build_honeypots
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.limits import SandboxSettings
from crlhf_ray.sandbox.sandbox import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as the endpoint calls it")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--honeypots", type=int, default=40)
    parser.add_argument("--prompt", default="review")
    parser.add_argument("--canary", action="store_true")
    given = parser.parse_args()

    problems = list(load_problems("starter", "train"))
    random.Random(0).shuffle(problems)
    with Sandbox(SandboxSettings()) as sandbox:
        honeypots = build_honeypots(problems[: -(-given.honeypots // 3)], sandbox, 0, 3)[: given.honeypots]
    pool = HoneypotPool(honeypots)
    settings = LlmSettings(
        model=given.model,
        base_url=given.url,
        prompts=(given.prompt,),
        votes=1,
        canary=given.canary,
        max_tokens=1500,
        attempts=2,
        at_once=16,
    )
    machines = Machines([settings], 1)
    marks, shown = machines.collect([], pool, len(honeypots), datetime.now(UTC))
    machines.close()
    (spent,) = machines.spent.values()
    print(f"{spent['programs'] - spent['abstained']} of {spent['programs']} honeypots answered")
    for alert in machines.alerts():
        print(alert)

    truth = {(pot.item.item_id, line): pot.truth[line] for pot in honeypots for line in pot.item.to_review}
    said = Counter((truth[row["item_id"], row["line"]], row["label"]) for row in marks.to_pylist())
    for side, name in (1, "right"), (-1, "wrong"):
        print(f"{name} lines: {said[side, 1]} correct, {said[side, -1]} wrong, {said[side, 0]} unsure")

    with tempfile.TemporaryDirectory() as folder:
        aggregator = Aggregator(Path(folder) / "state", None, AnnotationLog(Path(folder) / "marks"))
        aggregator.add_gold(pool.gold(shown))
        aggregator.ingest(marks)
        for row in aggregator.reliability().to_pylist():
            for name in ("sensitivity", "specificity"):
                print(f"{name} {row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})")
            right, wrong = row["sensitivity"], row["specificity"]
            print(f"nats: correct {log(right / (1 - wrong)):+.2f}, wrong {log((1 - right) / wrong):+.2f}")
        aggregator.close()


if __name__ == "__main__":
    main()
