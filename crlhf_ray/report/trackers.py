"""Trackers: who else is told the numbers of a run. ``metrics.jsonl`` stays the source of truth.

A tracker of your own is a class like those here, named in `run.tracking` as ``package.module:Name``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from crlhf_ray.errors import ConfigError
from crlhf_ray.output import write_whole
from crlhf_ray.parts import part

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

#: In a run's folder: under which id each tracker knows it, so that a resumed run goes to the same place.
IDS = "trackers.json"
#: The project, or experiment, of runs for which the environment names no other.
PROJECT = "crlhf"


class Tracker(Protocol):
    """Made as ``Name(run_dir, settings, resume_at)``: the run's folder, its settings as plain nested values without
    paths and addresses, and the round from which a resumed run repeats (0 for a new one)."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """step: the round. numbers: by path, such as ``learner/kl``, and ``heldout/pass_at_1`` of an evaluation."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], resume_at: int | None):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_at)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases, set by its own environment (WANDB_API_KEY, WANDB_PROJECT, WANDB_MODE ...); without a key the
    run is written to ``wandb/`` of the run's folder, for `wandb sync`."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], resume_at: int | None):
        import wandb

        known = "WANDB_MODE" in os.environ or wandb.api.api_key
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.name,
            id=_id(run_dir, "wandb", lambda: secrets.token_hex(8)),
            resume="allow",
            dir=str(run_dir),
            mode=None if known else "offline",
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric="round")  # its own steps cannot go back, as a resumed run does

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "round": step})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow, set by its own environment (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME ...); without a server the run
    is written to ``mlruns/`` of the run's folder."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], resume_at: int | None):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run_dir / "mlruns").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        self._run = _id(run_dir, "mlflow", lambda: self._new(run_dir.name))
        self._client.update_run(self._run, status="RUNNING")
        if not self._client.get_run(self._run).data.params:
            flat = dict(flatten(settings))
            params = [Param(_mlflow_name(name), str(value)[:500]) for name, value in flat.items()]
            for start in range(0, len(params), 100):  # as many as it takes at once
                self._client.log_batch(self._run, params=params[start : start + 100])

    def _new(self, name: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else self._client.create_experiment(title)
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_mlflow_name(name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Prometheus:
    """Gauges among Ray's own metrics, which every node of the cluster serves: ``ray_crlhf_learner_kl{run="..."}``.

    clusters/grafana.json draws them.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], resume_at: int | None):
        self._run = run_dir.name
        self._gauges: dict[str, Gauge] = {}

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in {**numbers, "round": step}.items():
            if name.startswith("pipeline/dropped/"):  # one by problem, of which there may be thousands
                continue
            if name not in self._gauges:
                self._gauges[name] = Gauge(re.sub(r"[^a-zA-Z0-9]+", "_", f"crlhf_{name}"), name, tag_keys=("run",))
            self._gauges[name].set(value, {"run": self._run})

    def close(self) -> None:
        """Ray shows each number until the driver's process ends."""


OURS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "prometheus": Prometheus,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError for one of ours whose package is not installed, before anything heavy starts."""
    for name in names:
        if name in OURS and name != "prometheus" and find_spec(name) is None:  # which is Ray's own
            raise ConfigError(f"run.tracking: {name} is not installed here; pip install 'crlhf-ray[{name}]'")


class Trackers:
    """Several at once. One that fails is told of and left out from then on: it stops no run."""

    def __init__(
        self,
        names: Sequence[str],
        run_dir: Path,
        settings: Mapping[str, Any],
        resume_at: int | None,
        say: Callable[[str], None],
    ):
        self._say = say
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._guarded(name, partial(self._begin, name, run_dir, settings, resume_at))

    def _begin(self, name: str, run_dir: Path, settings: Mapping[str, Any], resume_at: int | None) -> None:
        self._open[name] = part(OURS, name)(run_dir, settings, resume_at)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """row: as in ``metrics.jsonl``; its numbers go to every tracker."""
        numbers = {name: value for name, value in flatten(row) if isinstance(value, (bool, int, float))}
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, step, numbers))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)

    def _guarded(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # somebody's server, or somebody's code
            self._open.pop(name, None)
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            self._say(
                f"tracker {name} failed ({type(error).__name__}: {reason}) and gets no more numbers in this process; "
                "metrics.jsonl holds every number"
            )


def flatten(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested mappings by path, such as ("learner/kl", 0.01)."""
    found: list[tuple[str, Any]] = []
    for key, value in row.items():
        found += flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)


def _id(run_dir: Path, name: str, new: Callable[[], str]) -> str:
    """The id under which a tracker knows this run, made at first and kept."""
    file = run_dir / IDS
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if name not in known:
        known[name] = new()
        write_whole(file, json.dumps(known))
    return known[name]
