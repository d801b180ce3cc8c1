"""cRLHF on Ray: train code models from line-by-line crowd feedback (arXiv 2503.15129).

The names below are the public ones, with examples in docs/api.md. Each is imported when it is first used, so that
``import crlhf_ray`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "loop": ("train",),
    "config": ("Config", "load_config"),
    "problems.problem": ("Problem",),
    "problems.load": ("load_problems",),
    "sandbox.sandbox": ("Sandbox",),
    "sandbox.limits": ("Limits", "SandboxSettings"),
    "sandbox.verdict": ("Verdict",),
    "aggregation.marks": ("Item",),
    "aggregation.majority": ("Majority",),
    "aggregation.one_coin": ("OneCoin",),
    "aggregation.two_coin": ("TwoCoin",),
    "aggregation.hierarchical": ("Hierarchical",),
    "aggregation.dawid_skene": ("DawidSkene",),
    "aggregation.logistic_l1": ("LogisticL1",),
    "aggregation.calibrate": ("Calibrated",),
    "aggregation.batch": ("aggregate",),
    "feedback.annotators.base": ("Annotator", "Review"),
    "feedback.source": ("Feedback", "SimulatedFeedback"),
    "feedback.desk.source": ("WebFeedback",),
    "feedback.desk.client": ("AnnotationClient",),
    "reward": ("RewardSettings", "evidence_of", "program_score", "score_program"),
    "learner.advantage": ("Rewarded", "gae", "rloo", "grpo", "reinforce_pp"),
    "errors": ("ConfigError", "CrlhfError", "DataError", "EngineError", "ResourceError", "TransferError"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'crlhf_ray' has no attribute {name!r}")
    found = getattr(import_module(f"crlhf_ray.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
