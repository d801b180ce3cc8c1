"""How many rollout replicas are wanted. Pure: no Ray, no clock; the time is an argument.

The rule [ours]. Replicas are wanted for what people review, and to fill their queue to what they review while a
replica starts twice; no more than can draw, while one replica starts, what the staleness bound leaves to draw. While
people review nothing although something is queued, the minimum is enough. Where the queue stays empty although
something may be drawn, the estimate was too low, and all replicas are wanted before one could have started. More are
wanted at most once in ``scale_up_seconds``; fewer only after fewer were enough for the whole of ``scale_down_seconds``.

What is wanted does not depend on what there is: a replica that is lost, as on a spot node, is still wanted.
Nothing asks this policy yet: the fleet keeps `rollout.replicas`, and refills the slots that it loses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from crlhf_ray.settings import Settings


class ScalingSettings(Settings):
    """Between which numbers, and how fast, the pool of replicas grows and shrinks. Times are in seconds."""

    min_replicas: int = Field(1, ge=0)
    """Kept while nobody reviews. 0: none."""
    max_replicas: int = Field(1, ge=1)
    """Never more; the limit of what an hour can cost."""
    start_seconds: float = Field(120.0, gt=0)
    """From asking for a replica to its first sample: its node, its engine, its weights."""
    scale_up_seconds: float = Field(30.0, gt=0)
    """Shortest time between a change and the next one upwards."""
    scale_down_seconds: float = Field(300.0, gt=0)
    """How long fewer must be enough before fewer are wanted."""
    silence_seconds: float = Field(600.0, gt=0)
    """After so long without a review, nobody is taken to be there."""

    @model_validator(mode="after")
    def _ordered(self) -> ScalingSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}; lower the first or "
                "raise the second"
            )
        if self.scale_up_seconds > self.start_seconds:
            raise ValueError(
                f"scale_up_seconds={self.scale_up_seconds:g} is above start_seconds={self.start_seconds:g}: people "
                "would wait for the rule, not for a replica; lower the first"
            )
        return self


@dataclass(frozen=True)
class Demand:
    """What the policy sees. Groups are those of `pipeline.buffer`.

    per_minute: groups reviewed a minute; last_review: its time, or that of the run's start; queued: groups drawn that
    wait for people; room: groups that may be drawn still, begun or not; speed: groups a minute of one replica, None
    before it is known.
    """

    per_minute: float
    last_review: float
    queued: int
    room: int
    speed: float | None = None


class Scaling:
    """The number of replicas wanted, from call to call of `decide`."""

    def __init__(self, settings: ScalingSettings):
        self.settings = settings
        self.wanted = settings.min_replicas
        self._changed = -math.inf
        self._empty_since: float | None = None
        self._fewer_since: float | None = None
        self._enough = 0  # the most that was needed since then

    def decide(self, demand: Demand, now: float) -> int:
        """Replicas wanted at the time ``now``, in seconds, which never falls from call to call."""
        settings, need = self.settings, self._need(demand, now)
        if need >= self.wanted:
            self._fewer_since = None
            if need > self.wanted and now - self._changed >= settings.scale_up_seconds:
                self.wanted, self._changed = need, now
            return self.wanted
        if self._fewer_since is None:
            self._fewer_since, self._enough = now, need
        self._enough = max(self._enough, need)
        if now - self._fewer_since >= settings.scale_down_seconds:
            self.wanted, self._changed, self._fewer_since = self._enough, now, None
        return self.wanted

    def _need(self, demand: Demand, now: float) -> int:
        """Replicas that would do now, were changes free."""
        settings = self.settings
        starved = demand.queued == 0 and demand.room > 0
        if not starved:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        if self._empty_since is not None:
            if now - self._empty_since >= settings.start_seconds - settings.scale_up_seconds:
                return settings.max_replicas
        elif demand.room == 0 or now - demand.last_review > settings.silence_seconds:
            return settings.min_replicas
        need = 1 if starved else 0
        if demand.speed:
            start = settings.start_seconds / 60
            missing = max(0.0, 2 * start * demand.per_minute - demand.queued)
            rate = min(demand.per_minute + missing / start, demand.room / start)
            need = max(need, math.ceil(rate / demand.speed))
        return min(max(need, settings.min_replicas), settings.max_replicas)
