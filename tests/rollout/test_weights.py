"""The wire between learner and replica, both ends in this process."""

from __future__ import annotations

from threading import Thread

import pytest
import torch

from crlhf_ray.rollout.weights import REPLICA, GlooPair, Senders, connect_store, listen, read_meta

WEIGHTS = [
    ("embed.weight", torch.arange(12, dtype=torch.float32).reshape(3, 4)),
    ("norm.weight", torch.ones(4, dtype=torch.bfloat16)),
    ("tall.weight", torch.arange(6.0).reshape(2, 3).T),  # not contiguous
]


def meta(weights=WEIGHTS):
    return [(name, str(weight.dtype).removeprefix("torch."), tuple(weight.shape)) for name, weight in weights]


class Receiver(Thread):
    """A replica's end: meets the learner, then receives ``count`` weights (all announced, if None)."""

    def __init__(self, replica_id="0", count=None, seconds=20.0):
        super().__init__(daemon=True)
        self.store, self.spec = listen(replica_id, "gloo", "127.0.0.1", seconds)
        self.count, self.received = count, []
        self.start()

    def run(self):
        pair = GlooPair(self.spec, connect_store(self.spec), REPLICA)
        try:
            for name, dtype, shape in read_meta(self.store)[: self.count]:
                self.received.append((name, pair.receive(shape, getattr(torch, dtype))))
        except RuntimeError as error:
            self.error = error


def test_all_weights_reach_all_replicas_unchanged():
    receivers = [Receiver("0"), Receiver("1")]
    senders = Senders()
    assert senders.connect([receiver.spec for receiver in receivers], meta()) == {}
    assert senders.send(WEIGHTS) == {}
    for receiver in receivers:
        receiver.join(20)
        assert [name for name, _ in receiver.received] == [name for name, _ in WEIGHTS]
        for (_, sent), (_, got) in zip(WEIGHTS, receiver.received, strict=True):
            assert got.dtype == sent.dtype
            assert torch.equal(got, sent)


def test_a_replica_that_stops_taking_weights_is_named_with_the_weight_and_the_others_get_everything():
    big = [(f"layer.{k}", torch.full((1024, 4096), float(k))) for k in range(3)]  # more than any socket buffers
    leaver, stayer = Receiver("leaver", count=1, seconds=3.0), Receiver("stayer")
    senders = Senders()
    senders.connect([leaver.spec, stayer.spec], meta(big))
    failures = senders.send(big)
    stayer.join(20)
    assert list(failures) == ["leaver"]
    assert "layer.1" in failures["leaver"] or "layer.2" in failures["leaver"]
    assert len(stayer.received) == 3


def test_a_learner_that_leaves_ends_the_replicas_wait_at_once():
    receiver = Receiver("0", seconds=60.0)
    senders = Senders()
    senders.connect([receiver.spec], meta())
    senders.send(WEIGHTS[:1])
    receiver.join(20)
    assert not receiver.is_alive()
    assert "losed by peer" in str(receiver.error) or "reset by peer" in str(receiver.error)


def test_a_replica_that_nobody_reaches_is_named_within_the_time_limit():
    store, spec = listen("gone", "gloo", "127.0.0.1", 1.0)
    del store
    failures = Senders().connect([spec], meta())
    assert "replica gone" in failures["gone"]


def test_a_replica_that_never_joins_is_named_within_the_time_limit():
    store, spec = listen("silent", "gloo", "127.0.0.1", 1.0)
    failures = Senders().connect([spec], meta())
    assert "replica silent did not join the gloo group within 1 s" in failures["silent"]
    del store


def test_a_weight_other_than_announced_is_refused_by_name():
    receiver = Receiver("0", seconds=3.0)
    senders = Senders()
    senders.connect([receiver.spec], meta())
    failures = senders.send([("embed.weight", torch.zeros(3, 5))])
    assert "embed.weight" in failures["0"]
    assert "announced was ('embed.weight', 'float32', (3, 4))" in failures["0"]


def test_too_few_weights_are_an_error():
    receiver = Receiver("0", seconds=3.0)
    senders = Senders()
    senders.connect([receiver.spec], meta())
    assert senders.send(WEIGHTS[:2]) == {"0": "was sent 2 weights, announced were 3"}


def test_without_connections_the_weights_are_still_read_to_the_end():
    read = []
    assert Senders().send((name, read.append(name) or weight) for name, weight in WEIGHTS) == {}
    assert len(read) == 3


def test_a_learner_that_fails_while_it_sends_lets_go_of_the_replicas_at_once():
    receiver = Receiver("0", seconds=60.0)
    senders = Senders()
    senders.connect([receiver.spec], meta())

    def weights():
        yield WEIGHTS[0]
        raise ValueError("the learner broke")

    with pytest.raises(ValueError, match="the learner broke"):
        senders.send(weights())
    receiver.join(20)
    assert not receiver.is_alive()
