"""`Replica`: one vLLM engine that knows which weights it holds. A plain class; the fleet makes it a Ray actor."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import ray

from crlhf_ray.errors import ConfigError, EngineError
from crlhf_ray.output import print_to
from crlhf_ray.policy.model import ModelSettings, load_tokenizer, resolve
from crlhf_ray.rollout.lines import cut_at_stop, split_lines
from crlhf_ray.rollout.sample import Sample
from crlhf_ray.rollout.settings import RolloutSettings
from crlhf_ray.rollout.tasks import Task
from crlhf_ray.rollout.weights import TransferSpec, listen

#: Time for the error that tells why to reach the caller before the process ends.
LAST_WORDS_SECONDS = 2.0


def end_process() -> None:
    """End this process soon, without asking: what is left of a dead engine may hang in any clean-up."""
    timer = threading.Timer(LAST_WORDS_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()


class Replica:
    """One engine, its weight version and its connection to the learner.

    A fresh replica is stale (version None) and refuses to draw until `adopt_base` or `receive`. An engine that fails
    once is never used again: the error names the replica, and the process ends, so that no live actor holds a dead one.

    Args:
        log_file: where everything that the engine and its libraries print goes; None leaves it on the terminal.
        on_death: called when the engine has failed.
    """

    def __init__(
        self,
        replica_id: str,
        settings: RolloutSettings,
        model: ModelSettings,
        log_file: str | None = None,
        on_death: Callable[[], None] = end_process,
    ):
        self.replica_id, self.settings, self.log_file, self._on_death = replica_id, settings, log_file, on_death
        if log_file is not None:
            print_to(log_file)
        # Imported after the output was turned away, because vllm prints while it is imported.
        from crlhf_ray.rollout.engine import Engine, EngineOptions

        self.version: int | None = None
        self._failed = False
        self._more: deque[Task] = deque()
        self.tokenizer = load_tokenizer(model.name)
        self.engine = Engine(
            resolve(model.name),
            EngineOptions(
                context=settings.context,
                kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
                max_num_seqs=settings.max_num_seqs,
                dtype=settings.dtype,
                backend=settings.backend,
                tensor_parallel=settings.tensor_parallel,
                on_update=settings.on_update,
            ),
        )

    def pid(self) -> int:
        """The process id; answers once the engine is loaded."""
        return os.getpid()

    def adopt_base(self) -> None:
        """Declare the weights as loaded from disk to be version 0. Only right while the learner has not learnt yet."""
        self.version = 0

    def add(self, tasks: Sequence[Task]) -> None:
        """Hand over more to the `draw` under way, beside which this is called in another thread, or to the next."""
        self._more.extend(tasks)

    def draw(self, version: int, tasks: Sequence[Task]) -> Iterator[Sample]:
        """Draw the tasks, and those that are added meanwhile, with the weights of ``version``; each as it is finished.

        Raises EngineError when the replica holds other weights, or when its engine fails. Where updates do not wait,
        one may come at any time, and a replica that is let go gets none: samples say what they are of.
        """
        if self.version is None or (self.settings.on_update == "finish" and self.version != version):
            held = "no synced weights" if self.version is None else f"version {self.version}"
            raise EngineError(f"replica {self.replica_id} holds {held}, wanted is version {version}: sync it first")
        self._more.extend(tasks)
        with self._fatal("draw"):
            for task, drawn in self.engine.draw(self._handed_over):
                kept, stop = cut_at_stop(drawn.token_ids, task.stops, self.tokenizer)
                text, lines = split_lines(drawn.token_ids[:kept], self.tokenizer)
                yield Sample(
                    sample_id=task.sample_id,
                    problem_id=task.problem_id,
                    prompt_token_ids=task.prompt_token_ids,
                    token_ids=drawn.token_ids[:kept],
                    logprobs=drawn.logprobs[:kept],
                    text=text,
                    lines=lines,
                    weight_version=drawn.versions[0][0],
                    finish_reason=drawn.finish_reason if stop is None else "stop",
                    replica_id=self.replica_id,
                    newer=tuple((version, first) for version, first in drawn.versions[1:] if first < kept),
                )

    def _handed_over(self) -> list[Task]:
        return [self._more.popleft() for _ in range(len(self._more))]

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probs of each token after the first of each sequence, under the weights that the replica holds."""
        with self._fatal("logprobs"):
            return self.engine.logprobs(sequences)

    def open_transfer(self) -> TransferSpec:
        """Open the place at which the learner and this replica's engine meet."""
        self._store, spec = listen(
            self.replica_id,
            self.settings.backend,
            ray.util.get_node_ip_address(),
            self.settings.transfer_seconds,
            self.settings.tensor_parallel,
        )
        self._spec = spec
        return spec

    def join(self) -> None:
        """Meet the learner there; it must come within the transfer's time limit."""
        with self._fatal("join"):
            self.engine.join(self._spec)

    def receive(self, version: int) -> None:
        """Take the learner's weights, which are of ``version``; beside a `draw` too, see `Engine.receive`."""
        with self._fatal("receive"):
            self.engine.receive(version)
            if self._failed:
                raise EngineError("it failed in another call")
            self.version = version

    @contextmanager
    def _fatal(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (ConfigError, GeneratorExit):
            raise
        except Exception as error:
            self.version, self._failed = None, True
            traceback.print_exc()
            sys.stderr.flush()
            self._on_death()
            log = f"; its log is {self.log_file}" if self.log_file else ""
            raise EngineError(f"replica {self.replica_id} failed in {doing}: {error}{log}") from error
