"""Does a run fit the devices that one means to rent? Told from the model's configuration; no weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crlhf_ray.config import Config
from crlhf_ray.errors import ConfigError
from crlhf_ray.memory import GIB, Shape, memory_of, shape_of, total
from crlhf_ray.policy.settings import LoraSettings

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
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*(?:\.\d+)?)", text)
        if found is None:
            raise ConfigError(f"devices {text!r}: give NODESxDEVICESxGIB, such as 2x8x80 for two nodes of eight 80 GiB")
        return cls(int(found[1]), int(found[2]), float(found[3]))

    @property
    def count(self) -> int:
        return self.nodes * self.each

    @property
    def room(self) -> int:
        """Bytes that tensors may take on one device."""
        return int(self.gib * USABLE * GIB)


def check_devices(settings: Any, config: Config, devices: Devices) -> None:
    """Raise ConfigError, with a setting that would help, where a run does not fit.

    settings: the model's transformers configuration. Each rank, and each process of a replica, has a device alone.
    """
    parts, learner = config.rollout.tensor_parallel, config.learner
    if parts > devices.each:
        raise ConfigError(
            f"rollout.tensor_parallel={parts}: a replica stays on one node, which has {devices.each} devices; set "
            f"rollout.tensor_parallel to {devices.each} or less"
        )
    needed = learner.ranks + config.rollout.most_replicas * parts
    if needed > devices.count:
        raise ConfigError(
            f"{learner.ranks} learner rank(s) and {config.rollout.most_replicas} replica(s) of {parts} process(es) "
            f"need {needed} devices, and there are {devices.count}; lower learner.ranks or rollout.replicas"
        )
    shapes = _Shapes(settings)
    for name, changes in (("replica", _for_replicas), ("rank", _for_ranks)):
        size = _size(shapes, config, name)
        if size <= devices.room:
            continue
        helps = "no setting of this model helps: larger devices are needed, or a smaller model"
        for change, other in changes(config, devices):
            if (smaller := _size(shapes, other, name)) <= devices.room:
                helps = f"with {change} it would take {_gib(smaller)}"
                break
        what = "a learner rank" if name == "rank" else f"a process of a replica (rollout.tensor_parallel={parts})"
        raise ConfigError(
            f"{what} takes {_gib(size)}, and a device of {devices.gib:g} GiB has room for {_gib(devices.room)}: {helps}"
        )


class _Shapes:
    """The model's numbers, in full and by LoRA; each is counted once."""

    def __init__(self, settings: Any):
        self._settings = settings
        self._found: dict[str, Shape] = {}

    def of(self, config: Config) -> Shape:
        lora = config.model.lora
        key = "full" if lora is None else lora.model_dump_json()
        if key not in self._found:
            self._found[key] = shape_of(self._settings, lora)
        return self._found[key]


def _size(shapes: _Shapes, config: Config, name: str) -> int:
    """Bytes of the largest process of that name."""
    return max(total(items) for title, _, items in memory_of(shapes.of(config), config) if name in title)


def _for_replicas(config: Config, devices: Devices) -> Iterator[tuple[str, Config]]:
    """Changes to try for a replica, from the cheapest on."""
    kinds = {config.rollout.dtype: "", "bfloat16": ", rollout.dtype=bfloat16"}
    free = (devices.count - config.learner.ranks) // config.rollout.most_replicas
    for dtype, said in kinds.items():
        for parts in (config.rollout.tensor_parallel, 2, 4, 8):
            if config.rollout.tensor_parallel <= parts <= min(devices.each, free):
                changed = {"dtype": dtype, "tensor_parallel": parts}
                yield (
                    f"rollout.tensor_parallel={parts}{said}",
                    config.model_copy(update={"rollout": config.rollout.model_copy(update=changed)}),
                )


def _for_ranks(config: Config, devices: Devices) -> Iterator[tuple[str, Config]]:
    """Changes to try for a rank, from the cheapest on: what is trained changes last."""
    free = devices.count - config.rollout.most_replicas * config.rollout.tensor_parallel
    adapters: list[tuple[LoraSettings | None, str]] = [(config.model.lora, "")]
    if config.model.lora is None:
        adapters.append((LoraSettings(), "model.lora={r: 8}"))
    for lora, said in adapters:
        for ranks in (config.learner.ranks, 2, 4, 8, 16, 32, 64):
            if not config.learner.ranks <= ranks <= free:
                continue
            for stage in sorted({config.learner.zero_stage, 3 if ranks > 1 else 0}):
                for again in (config.learner.checkpoint_activations, True):
                    changed = {"ranks": ranks, "zero_stage": stage, "checkpoint_activations": again}
                    new = {name: value for name, value in changed.items() if getattr(config.learner, name) != value}
                    yield (
                        ", ".join([said][: bool(said)] + [f"learner.{n}={str(v).lower()}" for n, v in new.items()]),
                        config.model_copy(
                            update={
                                "learner": config.learner.model_copy(update=changed),
                                "model": config.model.model_copy(update={"lora": lora}),
                            }
                        ),
                    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
