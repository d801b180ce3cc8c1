"""Does a run fit the devices that one means to rent? Told from the model's configuration; no weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.learner.settings import OFFLOADS_FROM
from crlhf_ray.memory import GIB, Shape, cached_token, memory_of, shape_of, total
from crlhf_ray.policy.settings import LoraSettings
from crlhf_ray.policy.support import divides

#: Of a device's memory, what tensors may take: the rest is for the runtime, fragments and libraries. Assumed; nothing
#: was measured on a GPU.
USABLE = 0.9


@dataclass(frozen=True)
class Devices:
    """So many nodes with so many devices of so many GiB each."""

    nodes: int
    each: int
    gib: float

    @classmethod
    def parse(cls, text: str) -> Devices:
        """From NODESxDEVICESxGIB, such as 2x8x80. Raises ConfigError."""
        found = re.fullmatch(r"([1-9]\d{,5})x([1-9]\d{,5})x([1-9]\d{,5}(?:\.\d{1,6})?)", text)
        if found is None:
            raise ConfigError(
                f"devices {text!r}: give NODESxDEVICESxGIB, such as 2x8x80 for two nodes of eight 80 GiB, each number "
                "below a million"
            )
        return cls(int(found[1]), int(found[2]), float(found[3]))

    @property
    def count(self) -> int:
        return self.nodes * self.each

    @property
    def room(self) -> int:
        """Bytes that tensors may take on one device."""
        return int(self.gib * USABLE * GIB)


def check_devices(settings: Any, config: Config, devices: Devices) -> None:
    """Raise ConfigError, with settings that would help, where a run does not fit.

    settings: the model's transformers configuration. Each rank, and each process of a replica, has a device alone;
    replicas of which rollout.gpus_per_replica is below 1 share one.
    """
    shapes, rollout, parts = _Shapes(settings), config.rollout, config.rollout.tensor_parallel
    if parts > devices.each:
        fitting = [str(count) for count in range(1, min(parts, devices.each + 1)) if shapes.divides(count)]
        raise ConfigError(
            f"rollout.tensor_parallel={parts}: a replica stays on one node, which has {devices.each} devices; set "
            f"rollout.tensor_parallel to {' or '.join(fitting)}"
        )
    needed = config.learner.ranks + _for_all_replicas(config)
    if needed > devices.count:
        shared = f", {_sharing(config)} of which share a device," if _sharing(config) > 1 else ""
        raise ConfigError(
            f"{config.learner.ranks} learner rank(s) and {rollout.most_replicas} replica(s) of {parts} process(es)"
            f"{shared} need {needed} devices, and there are {devices.count}; lower learner.ranks or rollout.replicas"
        )
    for name, changes in (("replica", _for_replicas), ("rank", _for_ranks)):
        size, room = _size(shapes, config, name), _room(config, devices, name)
        if size <= room:
            continue
        helps = "no setting of this model helps: larger devices are needed, or a smaller model"
        for change, other in changes(config, devices, shapes):
            if (smaller := _size(shapes, other, name)) <= _room(other, devices, name):
                helps = f"with {change} it would take {_gib(smaller)}"
                break
        what = "a learner rank" if name == "rank" else f"a process of a replica (rollout.tensor_parallel={parts})"
        shared = f", shared by {_sharing(config)}," if room < devices.room else ""
        raise ConfigError(
            f"{what} takes {_gib(size)}, and a device of {devices.gib:g} GiB{shared} has room for {_gib(room)}: {helps}"
        )


def _sharing(config: Config) -> int:
    """Replicas that share a device."""
    part = config.rollout.gpus_per_replica
    return int(1 / part + 1e-6) if 0 < part < 1 else 1


def _for_all_replicas(config: Config) -> int:
    """Devices of all replicas together."""
    return ceil(config.rollout.most_replicas / _sharing(config)) * config.rollout.tensor_parallel


def _room(config: Config, devices: Devices, name: str) -> int:
    """Bytes that tensors of a process of that name may take."""
    return devices.room // (_sharing(config) if name == "replica" else 1)


class _Shapes:
    """The model's numbers, in full and by LoRA; each is counted once."""

    def __init__(self, settings: Any):
        self._settings = settings
        self._found: dict[str, Shape] = {}

    def divides(self, parts: int) -> bool:
        """Whether a replica can have so many processes."""
        return divides(self._settings.get_text_config(), parts)

    def of(self, config: Config) -> Shape:
        lora = config.model.lora
        key = "full" if lora is None else lora.model_dump_json()
        if key not in self._found:
            self._found[key] = shape_of(self._settings, lora)
        return self._found[key]


def _size(shapes: _Shapes, config: Config, name: str) -> int:
    """Bytes of the largest process of that name."""
    return max(total(items) for title, _, items in memory_of(shapes.of(config), config) if name in title)


def _for_replicas(config: Config, devices: Devices, shapes: _Shapes) -> Iterator[tuple[str, Config]]:
    """Changes to try for a replica, from the cheapest on: more processes, a smaller KV cache, a narrower type."""
    rollout = config.rollout
    most = min(devices.each, (devices.count - config.learner.ranks) // rollout.most_replicas)
    more = [parts for parts in range(rollout.tensor_parallel + 1, min(most, 64) + 1) if shapes.divides(parts)]
    for dtype in dict.fromkeys((rollout.dtype, "bfloat16")):
        kv = rollout.kv_cache_gib
        while True:
            for parts in (rollout.tensor_parallel, *more):
                gpus = rollout.gpus_per_replica
                if gpus and parts != rollout.tensor_parallel:
                    gpus = float(parts)
                changes = {"tensor_parallel": parts, "gpus_per_replica": gpus, "kv_cache_gib": kv, "dtype": dtype}
                change, other = _changed(config, rollout=changes)
                if kv * GIB >= rollout.context * cached_token(shapes.of(other), other):  # or vLLM does not start
                    yield change, other
            kv /= 2
            if kv * GIB < rollout.context:
                break


def _for_ranks(config: Config, devices: Devices, shapes: _Shapes) -> Iterator[tuple[str, Config]]:
    """Changes to try for a rank, from the cheapest on: what is trained changes last."""
    learner, free = config.learner, devices.count - _for_all_replicas(config)
    tokens = [learner.micro_batch_tokens]
    while tokens[-1] > max(16, 2 * config.rollout.max_tokens):  # about a prompt and one answer
        tokens.append(max(16, tokens[-1] // 2))
    for lora in [config.model.lora] + [LoraSettings()] * (config.model.lora is None):
        for dtype, away in product(
            dict.fromkeys((config.model.dtype, "bfloat16")), dict.fromkeys((learner.offload, *OFFLOADS_FROM))
        ):
            for ranks in sorted({learner.ranks, *(2**n for n in range(1, 7) if learner.ranks < 2**n <= free)}):
                stages = sorted({learner.zero_stage, 3 if ranks > 1 or away != "none" else 0})
                for stage, again, most in product(
                    stages, dict.fromkeys((learner.checkpoint_activations, True)), tokens
                ):
                    changes = {
                        "ranks": ranks,
                        "zero_stage": stage,
                        "offload": away,
                        "checkpoint_activations": again,
                        "micro_batch_tokens": most,
                    }
                    if stage >= OFFLOADS_FROM[away]:
                        yield _changed(config, model={"dtype": dtype, "lora": lora}, learner=changes)


def _changed(config: Config, **groups: dict[str, Any]) -> tuple[str, Config]:
    """What differs, as one would set it, and the settings with it."""
    said, new = [], {}
    for group, values in groups.items():
        before = getattr(config, group)
        for name, value in values.items():
            if getattr(before, name) != value:
                text = f"{{r: {value.r}}}" if isinstance(value, LoraSettings) else str(value).lower()
                said.append(f"{group}.{name}={text.removesuffix('.0')}")
        new[group] = before.model_copy(update=values)
    return ", ".join(said), config.model_copy(update=new)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
