"""Fixed pools of replicas and an elastic one, with people at work: a simulation of days, by the run's own rules.

    python benchmarks/elastic.py --data ../shared/data/crowd/faultloc [--days 5] [--seeds 5] [--json table.json]

Who may begin what and what is learnt from next is `pipeline.buffer.Buffer`, how many replicas there are is
`rollout.scaling.Autoscaler`; neither is copied. Simulated are the replicas' speed, the people and the learner. How long
a review takes is drawn from ``duration_s`` of the data's ``labels.csv``, cut at ten minutes; `World` has the rest, all
of it assumed. Printed: programs learnt from, hours of replicas (from asked for to let go) for a thousand of them, the
share of that time in which a replica had nothing to draw, and of people's shifts in which they had nothing to review;
mean over the seeds, and the standard deviation between them.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from crlhf_ray.pipeline.buffer import Buffer
from crlhf_ray.rollout.scaling import Autoscaler, Load
from crlhf_ray.rollout.settings import AutoscaleSettings

HOUR = 3600.0


@dataclass(frozen=True)
class World:
    """Times in seconds, shifts in hours of the day. A replica draws ``at_once`` programs in ``draw_seconds``."""

    people: int = 24
    shifts: tuple[tuple[float, float], ...] = ((9, 13), (14, 18))
    reviews: int = 3  # a program
    groups: int = 64  # an update
    programs: int = 8  # a group
    at_once: int = 64
    draw_seconds: float = 40.0
    start_seconds: float = 180.0
    update_seconds: float = 300.0
    tick: float = 15.0


@dataclass
class Days:
    """A simulation under way. replicas: when each can draw; pool: a fixed number, or the settings of an elastic one."""

    world: World
    pool: int | AutoscaleSettings
    staleness: int
    durations: np.ndarray
    rng: np.random.Generator
    to_draw: deque[int] = field(default_factory=deque)  # a group's number for each of its programs
    to_review: deque[int] = field(default_factory=deque)  # and for each of its reviews
    drawn: dict[int, int] = field(default_factory=dict)
    reviewed: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    updates: int = 0
    seen: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("pool", "pool idle", "shift", "idle"), 0.0))

    def __post_init__(self) -> None:
        self.buffer = Buffer(self.world.groups, self.staleness)
        elastic = isinstance(self.pool, AutoscaleSettings)
        self.scaler = Autoscaler(self.pool, self.world.at_once) if elastic else None
        self.replicas = [self.world.start_seconds] * (self.scaler.wanted if self.scaler else self.pool)
        self.people: list[tuple[float, int]] = [(0.0, -1)] * self.world.people  # free from, the group of the review
        self._capacity, self._learnt_at = 0.0, 0.0

    def run(self, days: float) -> dict[str, float]:
        for now in np.arange(0.0, days * 24 * HOUR, self.world.tick):
            self._draw(now)
            self._review(now)
            if now >= self._learnt_at:  # the driver waits for an update
                self._drive(now)
        programs, seen = self.updates * self.world.groups * self.world.programs, self.seen
        return {
            "programs": programs,
            "replica-hours per 1,000": seen["pool"] / HOUR / max(programs, 1) * 1000,
            "replicas idle": seen["pool idle"] / seen["pool"],
            "people idle": seen["idle"] / seen["shift"],
        }

    def _draw(self, now: float) -> None:
        ready = sum(since <= now for since in self.replicas)
        self.seen["pool"] += len(self.replicas) * self.world.tick
        self.seen["pool idle"] += (len(self.replicas) - (ready if self.to_draw else 0)) * self.world.tick
        self._capacity += ready * self.world.at_once * self.world.tick / self.world.draw_seconds
        while self.to_draw and self._capacity >= 1:
            self._capacity -= 1
            group = self.to_draw.popleft()
            self.drawn[group] += 1
            if self.drawn[group] == self.world.programs:  # people see whole groups
                self.to_review.extend([group] * (self.world.reviews * self.world.programs))
        self._capacity = min(self._capacity, 1.0)

    def _review(self, now: float) -> None:
        on_shift = any(begin <= now / HOUR % 24 < end for begin, end in self.world.shifts)
        for number, (free, group) in enumerate(self.people):
            if now < free:
                continue
            if group >= 0:
                self.reviewed[group] += 1
                if self.reviewed[group] == self.world.reviews * self.world.programs:
                    self.buffer.ready([group])
            group = self.to_review.popleft() if on_shift and self.to_review else -1
            self.people[number] = (now + float(self.rng.choice(self.durations)) if group >= 0 else now, group)
            self.seen["idle"] += self.world.tick * (on_shift and group < 0)
        self.seen["shift"] += on_shift * len(self.people) * self.world.tick

    def _drive(self, now: float) -> None:
        batch = self.buffer.take(self.updates)
        if batch is not None:
            self._learnt_at = now + self.world.update_seconds
            self._begin(self.updates, self.updates + 1)
            self.updates += 1
            for group in batch:
                del self.drawn[group], self.reviewed[group]
            return
        self._begin(self.updates, self.updates)
        if self.scaler is not None:
            each = self.world.reviews
            under_review = sum(  # programs of groups that are drawn, less those that are reviewed
                self.world.programs - self.reviewed[group] // each
                for group, count in self.drawn.items()
                if count == self.world.programs
            )
            if (change := self.scaler.decide(Load(len(self.to_draw), under_review), now)) is not None:
                new = [now + self.world.start_seconds] * (change.after - change.before)
                self.replicas = [*self.replicas[: change.after], *new]

    def _begin(self, version: int, update: int) -> None:
        for _ in range(self.buffer.room(version, update, last=10**9)):
            self.buffer.begin(self.begun, version)
            self.drawn[self.begun] = self.reviewed[self.begun] = 0
            self.to_draw.extend([self.begun] * self.world.programs)
            self.begun += 1


POOLS: dict[str, int | AutoscaleSettings] = {
    "1 replica": 1,
    "4 replicas": 4,
    "1 to 4": AutoscaleSettings(least=1, most=4),
    "0 to 4": AutoscaleSettings(least=0, most=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--days", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    durations = pd.read_csv(arguments.data / "labels.csv")["duration_s"].clip(upper=600).to_numpy()
    print(f"{len(durations)} reviews' durations, median {np.median(durations):.0f} s, mean {durations.mean():.0f} s")
    rows = []
    for staleness in (0, 1):
        for name, pool in POOLS.items():
            runs = [
                Days(World(), pool, staleness, durations, np.random.default_rng(seed)).run(arguments.days)
                for seed in range(arguments.seeds)
            ]
            table = pd.DataFrame(runs)
            mean, spread = table.mean(), table.std(ddof=0)
            rows.append({"pool": name, "max_staleness": staleness, **mean, **{f"sd {k}": v for k, v in spread.items()}})
            cells = [f"{key} {mean[key]:,.4g} (sd {spread[key]:.2g})" for key in table]
            print(f"max_staleness {staleness}  {name:>10}  " + "  ".join(cells), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
