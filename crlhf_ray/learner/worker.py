"""One DeepSpeed rank. It knows nothing of Ray.

All public methods are collective: every rank is called with the same arguments.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from crlhf_ray.errors import EngineError
from crlhf_ray.learner.advantage import (
    Rewarded,
    algorithm_named,
    credited,
    explained_variance,
    normalised,
    penalised,
    signal,
)
from crlhf_ray.learner.batching import Experience, Packed, plan
from crlhf_ray.learner.forward import Frozen
from crlhf_ray.learner.forward_check import check_exact, check_names, probe
from crlhf_ray.learner.kl import KLController
from crlhf_ray.learner.linear import use_onednn
from crlhf_ray.learner.loading import load_actor
from crlhf_ray.learner.loss import policy_loss, value_loss
from crlhf_ray.learner.measures import Clock, gaps
from crlhf_ray.learner.policy_weights import PolicyWeights
from crlhf_ray.learner.schedule import lr_factor
from crlhf_ray.learner.settings import LearnerSettings
from crlhf_ray.learner.staleness import correct
from crlhf_ray.learner.zero import deepspeed_config, optimizer_of
from crlhf_ray.output import print_to
from crlhf_ray.policy.checkpoints import temporary_tag
from crlhf_ray.policy.model import ModelSettings
from crlhf_ray.process_group import join_group
from crlhf_ray.rollout.weights import Senders, TransferSpec, WeightMeta


class LearnerWorker:
    """Rank ``rank`` of ``settings.ranks``; `start` joins the group and loads the model.

    log_file: everything that is printed here (DeepSpeed, torch) goes to it, from the first moment on.
    """

    def __init__(self, settings: LearnerSettings, model: ModelSettings, rank: int, log_file: str | None = None):
        if log_file is not None:
            print_to(log_file)
        self.settings, self.model_settings, self.rank = settings, model, rank
        self.algorithm = algorithm_named(settings.algorithm)
        self.kl = KLController(settings.kl)
        self.step = 0
        self.senders = Senders()

    def start(self, endpoint: tuple[str, int]) -> None:
        """Join the process group at rank 0's address and port, load the model and build the DeepSpeed engine.

        Raises EngineError when packed log-probs differ from the plain model's (an architecture that treats positions
        or attention in its own way).
        """
        cuda = self.settings.gpus_per_rank > 0  # the CUDA branch was never run
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.settings.ranks),
            LOCAL_RANK="0",
            MASTER_ADDR=endpoint[0],
            MASTER_PORT=str(endpoint[1]),
        )
        if not cuda:
            os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is first imported
            torch.set_num_threads(
                self.settings.threads_per_rank or max(1, (os.cpu_count() or 1) // self.settings.ranks)
            )
        deepspeed = join_group(cuda=cuda, timeout_seconds=self.settings.timeout_seconds)
        module, expected = load_actor(self.model_settings, self.settings, needs_values=self.algorithm.needs_values)
        if cuda:
            module.to("cuda")
        else:
            use_onednn(module)
        optimizer = optimizer_of(module, self.settings)
        self._full_lr = [float(group["lr"]) for group in optimizer.param_groups]
        if self._clips_here:
            optimizer.register_step_pre_hook(self._clip)
        self.engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=deepspeed_config(self.settings, self.model_settings, module, clips=not self._clips_here),
        )
        self.module = module
        gathered = deepspeed.zero.GatheredParameters if self.settings.zero_stage == 3 else None
        self.weights = PolicyWeights(module, gathered)
        known: Any = module.policy.config
        check_names(known, self.weight_meta())
        self.probe = probe(known.vocab_size)
        check_exact(self.model_settings, known, expected, self.logprobs(self.probe))

    def update(self, batch: Sequence[Experience]) -> dict[str, float]:
        """One PPO update from a batch: see `LearnerGroup.update`."""
        settings, clock = self.settings, Clock()
        groups = [experience.group for experience in batch] if self.algorithm.needs_groups else None
        difference = signal([float(np.sum(experience.token_rewards)) for experience in batch], groups)
        rows = [
            minibatch[self.rank]
            for minibatch in plan(
                batch,
                minibatch_samples=settings.minibatch_samples,
                ranks=settings.ranks,
                micro_batch_tokens=settings.micro_batch_tokens,
                seed=[settings.seed, self.step],
            )
        ]
        with clock("reference"):
            frozen, reference, values = self._score_frozen(batch, rows)
        drawn = [np.asarray(experience.logprobs, dtype=np.float64) for experience in batch]
        old, weights, corrected = self._current(batch, drawn)
        kl_sums = np.array([(own - ref).sum() for own, ref in zip(old, reference, strict=True)])
        tokens = sum(len(own) for own in old)
        metrics = {
            "signal": difference,
            "skipped": float(difference < settings.signal_floor),
            "kl": float(kl_sums.sum() / tokens),
            "kl_per_sample": float(kl_sums.mean()),
            "kl_coef": self.kl.coef,
            "tokens": float(tokens),
        }
        if metrics["skipped"]:
            now = old if corrected else [one.astype(np.float64) for one in self.logprobs(batch)]
            metrics |= gaps(batch, now, drawn)
        else:
            advantages, returns = self._advantages(batch, old, reference, values)
            metrics |= self._steps(
                rows, frozen, list(zip(old, advantages, returns, values, weights, strict=True)), clock
            )
            if self.algorithm.needs_values:
                metrics["explained_variance"] = explained_variance(values, returns)
                metrics["value_mean"] = float(np.concatenate(values).mean())
            if corrected:  # the first step's gap is to what was found a moment ago, and shows nothing
                metrics = {name: value for name, value in metrics.items() if not name.startswith("logprob_gap")}
                metrics |= gaps(batch, old, drawn)
        metrics |= corrected
        self.kl.update(float(kl_sums.mean()), len(batch))
        self.step += 1
        metrics["step"] = float(self.step)
        return metrics | {f"seconds_{name}": seconds for name, seconds in clock.seconds.items()}

    def _current(
        self, batch: Sequence[Experience], drawn: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, float]]:
        """Log-probs of the policy as the update begins, each token's weight, and what the correction shows.

        Of a batch that the current weights drew they are those of the rollout, and nothing is computed.
        """
        if not any(experience.age for experience in batch):
            return list(drawn), [np.ones(len(one)) for one in drawn], {}
        current = [one.astype(np.float64) for one in self.logprobs(batch)]
        found = correct(current, drawn, self.settings.correction)
        return current, found.weights, found.metrics([experience.age for experience in batch])

    def _advantages(
        self,
        batch: Sequence[Experience],
        old: Sequence[np.ndarray],
        reference: Sequence[np.ndarray],
        values: Sequence[np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Advantages with their credit, and the value function's targets; [T] a sample."""
        settings = self.settings
        rewards = [np.asarray(experience.token_rewards, dtype=np.float64) for experience in batch]
        advantages = self.algorithm.estimate(
            Rewarded(
                penalised(rewards, old, reference, self.kl.coef),
                values,
                [experience.group for experience in batch],
                settings.gamma,
                settings.gae_lambda,
                settings.signal_floor,
            )
        )
        returns = [advantage + value for advantage, value in zip(advantages, values, strict=True)]
        if settings.whiten:
            advantages = normalised(advantages, centre=not self.algorithm.needs_groups, floor=settings.signal_floor)
        weights = [one.weights for one in batch]
        return credited(advantages, [one[0] for one in weights], [one[1] for one in weights]), returns

    def _steps(
        self,
        rows: Sequence[Sequence[Packed]],
        frozen: Sequence[Sequence[Frozen]],
        columns: Sequence[tuple[np.ndarray, ...]],
        clock: Clock,
    ) -> dict[str, float]:
        """The optimizer steps of one update, and what they showed."""
        settings = self.settings
        factor = lr_factor(
            self.step, warmup=settings.lr_warmup, schedule=settings.lr_schedule, updates=settings.lr_updates
        )
        for group, full in zip(self.engine.optimizer.param_groups, self._full_lr, strict=True):
            group["lr"] = full * factor
        sums: Counter[str] = Counter()
        first: Counter[str] = Counter()
        gap_max, norms, stopped = 0.0, [], False
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, self.step, epoch]).permutation(len(rows))
            for index in order:
                with clock("policy"):
                    part, worst = self._minibatch(rows[index], frozen[index], columns)
                if not first:
                    first, gap_max = part, worst
                with clock("step"):
                    self.engine.step()
                norms.append(self._grad_norm())
                sums.update(part)
                stopped = settings.stop_kl is not None and part["divergence"] / part["tokens"] > settings.stop_kl
                if stopped:
                    break
            if stopped:
                break
        seen = max(sums["tokens"], 1)
        loss = sums["policy"] + settings.value_coef * sums["value"] - settings.entropy_coef * sums["entropy"]
        return {
            "loss": loss / seen,
            "policy_loss": sums["policy"] / seen,
            "value_loss": sums["value"] / seen,
            "entropy": first["entropy"] / first["tokens"],
            "approx_kl": sums["divergence"] / seen,
            "clip_fraction": sums["clipped"] / seen,
            "logprob_gap_mean": first["gap"] / first["tokens"],
            "logprob_gap_max": gap_max,
            "grad_norm": float(np.mean(norms)) if norms else 0.0,
            "optimizer_steps": float(len(norms)),
            "stopped_early": float(stopped),
            "lr_factor": factor,
        }

    def _minibatch(
        self, rows: Sequence[Packed], frozen: Sequence[Frozen], columns: Sequence[tuple[np.ndarray, ...]]
    ) -> tuple[Counter[str], float]:
        """Forward and backward of one minibatch. Returns sums over its tokens on all ranks and the largest gap."""
        settings = self.settings
        own = sum(len(row.targets) for row in rows)
        tokens = float(self._sum(np.array([own]))[0])
        totals, gap_max = torch.zeros(6, dtype=torch.float64), 0.0
        for row, known in zip(rows, frozen, strict=True):
            scored = self.engine(row, "policy", known)
            if row.samples:
                data = [np.concatenate([columns[i][c] for i in row.samples]) for c in range(5)]
            else:
                data = [np.zeros(0)] * 5
            old, advantages, returns, values, weights = (torch.from_numpy(array).to(scored.logprobs) for array in data)
            surrogate, clipped, divergence = policy_loss(scored.logprobs, old, advantages, settings.clip, weights)
            squared = value_loss(scored.values, values, returns, settings.value_clip)
            entropy = scored.entropies.sum()
            loss = surrogate - settings.entropy_coef * entropy
            if self.algorithm.needs_values:
                loss = loss + settings.value_coef * squared
            self.engine.backward(loss * (settings.ranks / tokens))  # DeepSpeed averages gradients over the ranks
            with torch.no_grad():
                apart = (scored.logprobs - old).abs()
                totals += torch.stack([surrogate, squared, entropy, clipped, divergence, apart.sum()]).double().cpu()
                gap_max = max(gap_max, float(apart.max())) if len(apart) else gap_max
        names = ("policy", "value", "entropy", "clipped", "divergence", "gap")
        sums = Counter(dict(zip(names, self._sum(totals.numpy()).tolist(), strict=True)))
        sums["tokens"] = tokens  # type: ignore[assignment]
        return sums, max(self._gather(gap_max))

    @torch.no_grad()
    def _score_frozen(
        self, batch: Sequence[Experience], rows: Sequence[Sequence[Packed]]
    ) -> tuple[list[list[Frozen]], list[np.ndarray], list[np.ndarray]]:
        """What stays fixed within the update, and per sample the reference's log-probs and the values before it."""
        frozen = [[self.engine(row, "frozen") for row in minibatch] for minibatch in rows]
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for minibatch, states in zip(rows, frozen, strict=True):
            for row, state in zip(minibatch, states, strict=True):
                values = self.engine(row, "values", state)
                ends = np.cumsum([len(batch[i].token_ids) for i in row.samples])[:-1]
                logprobs = np.split(state.logprobs.double().cpu().numpy(), ends)
                for i, ref, value in zip(
                    row.samples, logprobs, np.split(values.double().cpu().numpy(), ends), strict=False
                ):
                    found[i] = (ref, value)
        scored = self._by_sample(found)
        return frozen, [reference for reference, _ in scored], [values for _, values in scored]

    @torch.no_grad()
    def logprobs(self, batch: Sequence[Experience]) -> list[np.ndarray]:
        """Log-probs of each sample's tokens under the current policy."""
        found: dict[int, np.ndarray] = {}
        cut = plan(
            batch,
            minibatch_samples=self.settings.minibatch_samples,  # rows no larger than those learnt from
            ranks=self.settings.ranks,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            seed=[0],
        )
        for minibatch in cut:
            for row in minibatch[self.rank]:
                scored = self.engine(row, "policy", None, False)
                ends = np.cumsum([len(batch[i].token_ids) for i in row.samples])[:-1]
                found.update(zip(row.samples, np.split(scored.logprobs.float().cpu().numpy(), ends), strict=False))
        return self._by_sample(found)

    def save(self, directory: str, client_state: dict[str, Any]) -> int:
        """Write this rank's part of a checkpoint under a temporary tag; `checkpoints.publish` makes it count.

        Frozen weights (the base under LoRA, the reference copy) are not written: they are the model's own.
        """
        state = {
            "learner": {
                "step": self.step,
                "kl_coef": self.kl.coef,
                "torch_rng": torch.get_rng_state(),
                "probe": self.logprobs(self.probe)[0],  # what an export must say too
            },
            "client": client_state,
        }
        self.engine.save_checkpoint(
            directory,
            tag=temporary_tag(self.step),
            client_state=state,
            save_latest=False,
            exclude_frozen_parameters=True,  # those that ZeRO shards; the others never reach the state
        )
        return self.step

    def load(self, directory: str, tag: str) -> dict[str, Any]:
        """Read a checkpoint back; returns the client state."""
        path, state = self.engine.load_checkpoint(directory, tag=tag, load_module_strict=False)
        if path is None:
            raise EngineError(f"rank {self.rank}: DeepSpeed found no checkpoint {Path(directory) / tag}")
        own = state["learner"]
        self.step, self.kl.coef = own["step"], own["kl_coef"]
        torch.set_rng_state(own["torch_rng"])
        return state["client"]

    def weight_meta(self) -> WeightMeta:
        """(name, dtype, shape) of each weight, in the order in which they are sent, without computing any."""
        return self.weights.meta()

    def connect(self, specs: Sequence[TransferSpec]) -> dict[str, str]:
        """Meet replicas, in place of older connections to the same. Returns what went wrong, by replica id."""
        return self.senders.connect(specs if self.rank == 0 else (), self.weight_meta())

    def send_weights(self, only: Collection[str] | None = None) -> dict[str, str]:
        """Stream all weights to the connected replicas, or some of them. Returns what went wrong, by replica id."""
        return self.senders.send(self.weights.whole(), only)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def _clips_here(self) -> bool:
        """DeepSpeed's plain fp32 path clips but keeps no norm to report."""
        return self.settings.zero_stage == 0 and self.model_settings.dtype == "float32"

    def _clip(self, optimizer: torch.optim.Optimizer, *unused: Any) -> None:
        """Runs between DeepSpeed's all-reduce and the step."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))

    def _grad_norm(self) -> float:
        return self._norm if self._clips_here else float(self.engine.get_global_grad_norm())

    def _gather(self, item: Any) -> list[Any]:
        if self.settings.ranks == 1:
            return [item]
        items: list[Any] = [None] * self.settings.ranks
        dist.all_gather_object(items, item)
        return items

    def _by_sample(self, found: dict[int, Any]) -> list[Any]:
        """What all ranks found, by the samples' places in the batch."""
        everything = {place: one for part in self._gather(found) for place, one in part.items()}
        return [everything[place] for place in range(len(everything))]

    def _sum(self, array: np.ndarray) -> np.ndarray:
        return np.sum(self._gather(array), axis=0)
