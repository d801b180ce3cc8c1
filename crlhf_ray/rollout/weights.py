"""Weight transfer from the learner to the replicas: the wire, used by both sides. vLLM is not imported here.

One two-member process group per replica, so that a replica can die and be replaced while the others stay connected.
The replica opens a store on a free port of its own node and hands out a `TransferSpec`; the learner's rank 0 builds a
`Sender` from it and puts what it is going to send (names, types, shapes) into the store. Then, at each sync, the sender
streams every weight in that order, whole, one message a weight.

Backends: ``gloo`` (CPU memory) and ``nccl`` (GPU memory; not tested).
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist

from crlhf_ray.errors import TransferError

Backend = Literal["gloo", "nccl"]

#: (Hugging Face name, dtype as "float32", shape) of each weight, in the order in which it is sent.
WeightMeta = list[tuple[str, str, tuple[int, ...]]]

LEARNER, REPLICA = 0, 1


@dataclass(frozen=True)
class TransferSpec:
    """Where a replica waits for the learner.

    host, port: the store that the replica serves, on its own node.
    timeout_seconds: the longest wait for the other side, at the rendezvous and for each single weight.
    shards: processes of the replica (tensor parallelism). Over gloo the first meets the learner and hands on what it
    gets; over nccl all do.
    """

    replica_id: str
    backend: Backend
    host: str
    port: int
    timeout_seconds: float
    shards: int = 1


def listen(
    replica_id: str, backend: Backend, host: str, timeout_seconds: float, shards: int = 1
) -> tuple[dist.TCPStore, TransferSpec]:
    """Open the replica's store on a free port. The store lives as long as the returned object."""
    store = dist.TCPStore(
        host, 0, 2, is_master=True, timeout=timedelta(seconds=timeout_seconds), wait_for_workers=False
    )
    return store, TransferSpec(replica_id, backend, host, store.port, timeout_seconds, shards)


def connect_store(spec: TransferSpec) -> dist.TCPStore:
    """A client of the replica's store. Raises TransferError when it does not answer in time."""
    try:
        return dist.TCPStore(
            spec.host,
            spec.port,
            is_master=False,
            timeout=timedelta(seconds=spec.timeout_seconds),
            wait_for_workers=False,
        )
    except (dist.DistError, RuntimeError) as error:
        raise TransferError(
            f"replica {spec.replica_id}: its store at {spec.host}:{spec.port} did not answer within "
            f"{spec.timeout_seconds:.0f} s ({_first_line(error)}); is the port reachable from the learner's node?"
        ) from error


def read_meta(store: dist.TCPStore) -> WeightMeta:
    """What the learner announced that it sends. Waits for it as long as the store's timeout."""
    return [(name, dtype, tuple(shape)) for name, dtype, shape in json.loads(store.get("weights"))]


def read_nccl_id(store: dist.TCPStore) -> str:
    """The NCCL unique id that the learner minted, in base64."""
    return store.get("nccl_id").decode()


class GlooPair:
    """A gloo process group of the learner and one replica, apart from any default process group."""

    def __init__(self, spec: TransferSpec, store: dist.TCPStore, rank: int):
        self.timeout = timedelta(seconds=spec.timeout_seconds)
        # Without a named interface gloo takes whatever the host name resolves to, which may be the loopback device.
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=_address_towards(spec.host))]
        options._timeout = self.timeout
        self.group: Any = gloo(dist.PrefixStore("gloo", store), rank, 2, options)

    def start_send(self, tensor: torch.Tensor) -> Any:
        """Send to the replica; the returned work is waited for with ``wait(self.timeout)``."""
        return self.group.send([tensor], REPLICA, 0)

    def receive(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """The next tensor from the learner."""
        tensor = torch.empty(tuple(shape), dtype=dtype)
        self.group.recv([tensor], LEARNER, 0).wait(self.timeout)
        return tensor


class Sender:
    """The learner's end of one replica's connection; lives in the learner's rank 0.

    Raises TransferError, naming the replica, when it cannot be reached within the spec's timeout.
    """

    def __init__(self, spec: TransferSpec, meta: WeightMeta):
        self.replica_id, self.meta = spec.replica_id, meta
        self._store: Any = connect_store(spec)
        self._store.set("weights", json.dumps(meta))
        self._pair: Any
        try:
            if spec.backend == "gloo":
                self._pair = GlooPair(spec, self._store, LEARNER)
            else:
                self._pair = _NcclPair(self._store, spec.shards)
        except RuntimeError as error:
            raise TransferError(
                f"replica {spec.replica_id} did not join the {spec.backend} group within {spec.timeout_seconds:.0f} s: "
                f"{_first_line(error)}"
            ) from error

    def start_send(self, index: int, name: str, tensor: torch.Tensor) -> Any:
        """Begin to send weight ``index``; checks it against what was announced, else both sides would lose step."""
        found = (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if index >= len(self.meta) or self.meta[index] != found:
            expected = self.meta[index] if index < len(self.meta) else "nothing more"
            raise TransferError(f"weight {index} to replica {self.replica_id} is {found}, announced was {expected}")
        return self._pair.start_send(tensor)

    def finish_send(self, work: Any) -> None:
        """Wait, bounded, until the replica has taken the weight."""
        if work is not None:
            work.wait(self._pair.timeout)

    def close(self) -> None:
        """Leave the group, so that the replica's side fails at once instead of timing out."""
        self._pair = self._store = None


class Learner(Protocol):
    """What the fleet needs of a learner group: both return object references, one a rank.

    The ranks' answers are mappings from replica id to what went wrong, empty where all went well.
    """

    def connect(self, specs: list[TransferSpec]) -> Sequence[Any]: ...

    def send_weights(self, only: Collection[str] | None = None) -> Sequence[Any]: ...


class Senders:
    """The connections of a learner rank: rank 0 holds one a replica, the other ranks none."""

    def __init__(self) -> None:
        self._senders: dict[str, Sender] = {}

    def connect(self, specs: Sequence[TransferSpec], meta: WeightMeta) -> dict[str, str]:
        """Meet the replicas of ``specs``; returns what went wrong, by replica id."""
        failures: dict[str, str] = {}
        for spec in specs:
            self._drop(spec.replica_id)
            try:
                self._senders[spec.replica_id] = Sender(spec, meta)
            except TransferError as error:
                failures[spec.replica_id] = str(error)
        return failures

    def send(self, weights: Iterable[tuple[str, torch.Tensor]], only: Collection[str] | None = None) -> dict[str, str]:
        """Stream all weights to the replicas in one pass; returns what went wrong, by replica id. only: None means all.

        weights: whole tensors in the announced order; one is read no more once the next is asked for. The iterable is
        always exhausted, because under ZeRO-3 every rank takes part in each step of it: a replica that fails is left
        out from then on, and the others get everything.
        """
        failures: dict[str, str] = {}
        count = 0
        try:
            for name, weight in weights:
                failures |= self._send_one(count, name, weight.detach().contiguous(), only)
                count += 1
        except BaseException:
            for replica in list(self._senders):  # else every replica would wait for its time limit
                self._drop(replica)
            raise
        for replica, sender in self._chosen(only):
            if count != len(sender.meta):
                failures[replica] = f"was sent {count} weights, announced were {len(sender.meta)}"
                self._drop(replica)
        return failures

    def _chosen(self, only: Collection[str] | None) -> list[tuple[str, Sender]]:
        return [(replica, sender) for replica, sender in self._senders.items() if only is None or replica in only]

    def _send_one(self, index: int, name: str, tensor: torch.Tensor, only: Collection[str] | None) -> dict[str, str]:
        """Send one weight to the replicas side by side."""
        failures: dict[str, str] = {}
        started: list[tuple[str, Any]] = []
        for replica, sender in self._chosen(only):
            try:
                started.append((replica, sender.start_send(index, name, tensor)))
            except (RuntimeError, TransferError) as error:
                failures[replica] = f"failed when {name} was sent to it: {_first_line(error)}"
                self._drop(replica)
        for replica, work in started:
            try:
                self._senders[replica].finish_send(work)
            except RuntimeError as error:
                failures[replica] = f"did not take {name}: {_first_line(error)}"
                self._drop(replica)
        return failures

    def _drop(self, replica: str) -> None:
        sender = self._senders.pop(replica, None)
        if sender is not None:
            sender.close()


class _NcclPair:
    """The learner's end over NCCL. Not tested: it needs a GPU."""

    timeout: timedelta | None = None

    def __init__(self, store: dist.TCPStore, shards: int):
        from crlhf_ray.rollout.engine import nccl_communicator, nccl_unique_id

        unique_id = nccl_unique_id()
        store.set("nccl_id", base64.b64encode(unique_id).decode())
        self._communicator = nccl_communicator(unique_id, rank=LEARNER, members=1 + shards)

    def start_send(self, tensor: torch.Tensor) -> None:
        stream = torch.cuda.current_stream()
        self._communicator.broadcast(tensor, src=LEARNER, stream=stream)
        stream.synchronize()  # the tensor is only valid until the next one is asked for


def _address_towards(host: str) -> str:
    """This node's address on the interface that leads to ``host``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        probe.connect((host, 9))
        return probe.getsockname()[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
