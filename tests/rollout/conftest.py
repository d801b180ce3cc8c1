"""A Ray cluster of this machine's own for the fleet; one that runs already is used and left running."""

import pytest
import ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The folder of the replicas' logs."""
    started = not ray.is_initialized()
    if started:
        environment = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    yield tmp_path_factory.mktemp("logs")
    if started:
        ray.shutdown()
