"""The coefficient of the KL penalty, fixed or steered."""

from __future__ import annotations

from crlhf_ray.learner.settings import KLSettings


class KLController:
    """Holds ``coef``, in reward per nat.

    The adaptive form is the proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2):
    ``error = clip(kl / target - 1, -0.2, 0.2)``, ``coef *= 1 + error * samples / horizon``.
    """

    def __init__(self, settings: KLSettings):
        self.settings = settings
        self.coef = settings.coef

    def update(self, kl: float, samples: int) -> None:
        """After a batch of ``samples`` whose KL against the reference was ``kl`` nats a sample, on average."""
        if self.settings.controller == "adaptive":
            error = min(max(kl / self.settings.target - 1.0, -0.2), 0.2)
            self.coef *= 1.0 + error * samples / self.settings.horizon
