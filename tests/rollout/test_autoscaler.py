"""The fleet on Ray's own autoscaler, which starts and ends real nodes on this machine as they are wanted."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.clusters import end_all_naming, free_port, ray_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
MOST_NODES = 3


def autoscaling(address: str) -> dict:
    """A cluster file: a head, and 0 to 3 nodes with one `rollout` each that leave after nine idle seconds."""
    return {
        "cluster_name": "elastic",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": 0.15,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1, "learner": 1}, "node_config": {}, "max_workers": 0},
            "rollout": {
                "resources": {"CPU": 1, "rollout": 1},
                "labels": {},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MOST_NODES,
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


@pytest.fixture(scope="module")
def seen():
    """Each step of `elastic_driver`, with what it saw."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: sockets live in it
    port = free_port()
    address = f"127.0.0.1:{port}"
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(autoscaling(address)))
    environment = ray_environment(secrets.token_hex(32)) | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    }
    head = environment | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_raylet_start_wait_time_s": "240",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--temp-dir={folder}"]
    command += [
        f"--port={port}",
        "--num-cpus=1",
        '--resources={"learner": 1}',
        "--include-dashboard=false",
        f"--autoscaling-config={file}",
    ]
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(command, env=head, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while b"Ray runtime started" not in (folder / "head.log").read_bytes() and time.monotonic() < deadline:
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.5)
        driver = subprocess.run(
            [sys.executable, "-m", "tests.rollout.elastic_driver", address, str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert driver.returncode == 0, driver.stderr[-3000:]
        rows = [json.loads(line) for line in driver.stdout.splitlines() if line.startswith('{"step"')]
        yield {row["step"]: row for row in rows} | {"warnings": driver.stderr}
    finally:
        end_all_naming(folder)
        process.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_without_nodes_gets_those_that_the_replicas_want(seen):
    assert seen["before any demand"]["nodes"] == 0
    assert (seen["one replica wanted"]["nodes"], seen["one replica wanted"]["replicas"]) == (1, 1)
    assert (seen["two replicas wanted"]["nodes"], seen["two replicas wanted"]["replicas"]) == (2, 2)


def test_a_node_lost_while_it_draws_costs_no_sample_and_no_round_waits_for_its_place(seen):
    step = seen["a node lost while it drew"]
    assert (step["samples"], step["replicas"], step["starting"]) == (24, 1, 1)


def test_the_place_of_a_lost_node_is_filled_in_the_background(seen):
    assert (seen["its place was filled"]["nodes"], seen["its place was filled"]["replicas"]) == (2, 2)


def test_the_node_of_a_replica_that_is_let_go_leaves(seen):
    assert (seen["one was let go"]["nodes"], seen["one was let go"]["replicas"]) == (1, 1)


def test_all_nodes_leave_when_nobody_samples(seen):
    assert seen["nobody samples"]["nodes"] == 0


def test_more_replicas_than_the_cluster_may_have_start_as_far_as_there_is_room_and_say_what_lacks(seen):
    step = seen["more wanted than the cluster may have"]
    assert (step["nodes"], step["replicas"] + step["starting"]) == (MOST_NODES, 4)
    assert 1 <= step["replicas"] <= MOST_NODES
    assert "replicas: 4 rollout replicas need 4 rollout (the cluster has 3)" in seen["warnings"]
