"""What a checkpoint holds of the policy, read without the engine that wrote it: any ZeRO stage, any number of ranks."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crlhf_ray.errors import DataError
from crlhf_ray.policy.checkpoints import SHAPE

POLICY = "policy."


@dataclass(frozen=True)
class Trained:
    """The policy of one checkpoint.

    weights: the trained parameters by their names in the policy; each is read by ``.contiguous()``.
    probe: log-probs in nats of `forward_check.probe`'s answer, as the learner computed them when it saved.
    """

    weights: Mapping[str, Any]
    probe: np.ndarray


def read_trained(checkpoint: Path) -> Trained:
    """Raises DataError where the folder is not a whole checkpoint."""
    try:
        stage = json.loads((checkpoint / SHAPE).read_text())["zero_stage"]
        first = "mp_rank_00_model_states.pt" if stage < 3 else "zero_pp_rank_0_mp_rank_00_model_states.pt"
        # Settings and counters are pickled beside the tensors, by DeepSpeed and by us.
        state = torch.load(checkpoint / first, mmap=True, map_location="cpu", weights_only=False)
        module = state["module"] if stage < 3 else _sharded(checkpoint)
        weights = {name.removeprefix(POLICY): weight for name, weight in module.items() if name.startswith(POLICY)}
        return Trained(weights, state["learner"]["probe"])
    except (OSError, KeyError, ValueError, RuntimeError, EOFError) as error:
        raise DataError(
            f"is not a whole checkpoint of this version ({type(error).__name__}: {error}); name another by "
            "--checkpoint",
            file=str(checkpoint),
        ) from error


def _sharded(checkpoint: Path) -> Mapping[str, Any]:
    """ZeRO-3's fp32 weights, each joined from all ranks' files when it is asked for."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the files are read on the CPU, wherever they were written
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.parent), tag=checkpoint.name, exclude_frozen_parameters=True, lazy_mode=True
        )
