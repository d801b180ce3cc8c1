"""What a run does on a cluster that grows and shrinks; run as a program, because a token is one process's own.

Prints one JSON line a step, of what was seen.
"""

import json
import os
import signal
import sys
import time

import psutil
import ray

from crlhf_ray.policy.model import ModelSettings, load_tokenizer
from crlhf_ray.rollout.fleet import Fleet, Request, RolloutSettings
from tests.rollout.test_fleet import PROMPTS, STOPS, StandIn

SMALL = {"threads": 1, "kv_cache_gib": 0.25, "cpus_per_replica": 0.5, "resources": {"rollout": 1}}


def nodes() -> int:
    """Rollout nodes that are alive."""
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("rollout"))


def told(step: str, **seen: object) -> None:
    print(json.dumps({"step": step, "nodes": nodes(), **seen}), flush=True)


def wait_for_nodes(wanted: int, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while nodes() != wanted and time.monotonic() < end:
        time.sleep(0.5)


def asked(n: int) -> list[Request]:
    tokenizer = load_tokenizer("tiny")
    return [Request(name, tuple(tokenizer.encode(prompt)), STOPS, n) for name, prompt in PROMPTS.items()]


def lose_a_node(temp_dir: str) -> None:
    """Kill one rollout node as a machine that fails does: its raylet and all that it has started."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line and line[0].endswith("/raylet") and temp_dir in " ".join(line) and "rollout" in " ".join(line):
            for child in process.children(recursive=True):
                child.kill()
            os.kill(process.pid, signal.SIGKILL)
            return
    raise RuntimeError("no rollout node is running")


def rounds_until_two(fleet: Fleet, learner: StandIn, seconds: float = 120.0) -> None:
    """Rounds that go on until two replicas serve."""
    end = time.monotonic() + seconds
    while len(fleet.replicas()) < 2 and time.monotonic() < end:
        time.sleep(2.0)
        fleet.sync(learner, fleet.version + 1)


def main(address: str, temp_dir: str) -> None:
    ray.init(address=address, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules["tests.rollout.test_fleet"])
    told("before any demand")
    fleet = Fleet(RolloutSettings(replicas=1, resources_seconds=120, **SMALL), ModelSettings(name="tiny"))
    fleet.start()
    told("one replica wanted", replicas=len(fleet.replicas()))
    fleet.resize(2)
    learner = StandIn("tiny", resources={"learner": 1})  # on the head, which stays
    rounds_until_two(fleet, learner)
    told("two replicas wanted", replicas=len(fleet.replicas()))
    lost: list[str] = []

    def lose_one(_: int) -> None:
        if not lost:
            lost.append("one")
            lose_a_node(temp_dir)

    samples = fleet.generate(asked(8), seed=1, max_tokens=100, progress=lose_one)
    fleet.sync(learner, fleet.version + 1)
    told(
        "a node lost while it drew",
        samples=len(samples),
        replicas=len(fleet.replicas()),
        starting=len(fleet.starting()),
    )
    rounds_until_two(fleet, learner)
    told("its place was filled", replicas=len(fleet.replicas()))
    fleet.resize(1)
    wait_for_nodes(1)
    told("one was let go", replicas=len(fleet.replicas()))
    fleet.close()
    ray.kill(learner.rank)
    wait_for_nodes(0)
    told("nobody samples")
    fleet = Fleet(RolloutSettings(replicas=4, resources_seconds=25, **SMALL), ModelSettings(name="tiny"))
    fleet.start()
    told("more wanted than the cluster may have", replicas=len(fleet.replicas()), starting=len(fleet.starting()))
    fleet.close()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
