"""The cluster files are what Ray's launcher and the KubeRay operator accept, and say what the documentation says.

The operator's whole schema (its CustomResourceDefinition, 0.9 MB) is not kept here. Where CRLHF_KUBERAY_CRD names a
copy of ray.io_rayclusters.yaml, the manifest is checked against every field of it; the fields that matter always are.
"""

import importlib.metadata
import json
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from crlhf_ray.config import load_config
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.settings import read_settings

ROOT = Path(__file__).parents[2]
RAY_UP = yaml.safe_load((ROOT / "clusters" / "ray-up.yaml").read_text())
KUBERAY = yaml.safe_load((ROOT / "clusters" / "kuberay.yaml").read_text())
COMPOSE = yaml.safe_load((ROOT / "clusters" / "desk" / "compose.yaml").read_text())
RAY_VERSION = importlib.metadata.version("ray")


def closed(properties, *required):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
POD = {"type": "object", "properties": {"spec": {"type": "object", "required": ["containers"]}}, "required": ["spec"]}
RAYCLUSTER = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": closed(
            {
                "rayVersion": {"type": "string"},
                "authOptions": closed({"mode": {"enum": ["disabled", "token"]}}),
                "enableInTreeAutoscaling": {"type": "boolean"},
                "autoscalerOptions": closed(
                    {
                        "version": {"enum": ["v1", "v2"]},
                        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                        "idleTimeoutSeconds": COUNT,
                        "resources": {"type": "object"},
                    }
                ),
                "headGroupSpec": closed({"rayStartParams": TEXTS, "template": POD}, "template"),
                "workerGroupSpecs": {
                    "type": "array",
                    "items": closed(
                        {
                            "groupName": {"type": "string"},
                            "replicas": COUNT,
                            "minReplicas": COUNT,
                            "maxReplicas": COUNT,
                            "rayStartParams": TEXTS,
                            "template": POD,
                        },
                        "groupName",
                        "minReplicas",
                        "maxReplicas",
                        "template",
                    ),
                },
            },
            "headGroupSpec",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)


def unknown_fields(value, schema, path=""):
    """Fields that an openAPIV3Schema does not know, which a Kubernetes server drops or refuses."""
    if isinstance(value, list):
        return [field for item in value for field in unknown_fields(item, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, others = schema.get("properties"), schema.get("additionalProperties")
    if known is None:
        return [] if others or path.endswith("metadata") else [path]
    found = [f"{path}.{key}" for key in value if key not in known and not others]
    return found + [
        field for key in value if key in known for field in unknown_fields(value[key], known[key], f"{path}.{key}")
    ]


def test_ray_up_fits_the_schema_that_ray_ships():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(RAY_UP | {"cluster_synced_files": []})
    validate_config(prepare_config(RAY_UP))


def test_ray_up_refuses_a_misspelt_key():
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(RAY_UP | {"idle_timeout": 5, "cluster_synced_files": []})


def test_ray_up_fixes_learners_and_lets_rollouts_scale():
    types = RAY_UP["available_node_types"]
    assert types["learner"]["min_workers"] == types["learner"]["max_workers"]
    assert types["rollout"]["min_workers"] < types["rollout"]["max_workers"]
    assert [name for name, kind in types.items() if "rollout" in kind["resources"]] == ["rollout"]
    assert [name for name, kind in types.items() if "learner" in kind["resources"]] == ["learner"]
    assert types["head"]["resources"]["CPU"] == 0


def test_ray_up_has_room_for_every_worker_it_names():
    workers = [kind for name, kind in RAY_UP["available_node_types"].items() if name != RAY_UP["head_node_type"]]
    assert RAY_UP["max_workers"] == sum(kind["max_workers"] for kind in workers)


def test_ray_up_starts_every_node_with_the_token():
    commands = [*RAY_UP["head_start_ray_commands"], *RAY_UP["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)
    assert "/home/ray/.ray/auth_token" in RAY_UP["file_mounts"]


def test_ray_up_runs_the_pinned_ray():
    assert RAY_UP["docker"]["image"].startswith(f"rayproject/ray:{RAY_VERSION}-")


def test_kuberay_has_the_fields_of_a_raycluster():
    jsonschema.validate(KUBERAY, RAYCLUSTER)


def test_kuberay_fits_the_published_schema():
    path = os.environ.get("CRLHF_KUBERAY_CRD")
    if not path:
        pytest.skip("CRLHF_KUBERAY_CRD names no copy of KubeRay's ray.io_rayclusters.yaml")
    versions = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    schema = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    jsonschema.validate(KUBERAY, schema)
    assert unknown_fields(KUBERAY, schema) == []


def test_kuberay_scales_rollouts_with_autoscaler_v2():
    spec = KUBERAY["spec"]
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    learner, rollout = spec["workerGroupSpecs"]
    assert learner["minReplicas"] == learner["replicas"] == learner["maxReplicas"]
    assert rollout["minReplicas"] < rollout["maxReplicas"]


def test_kuberay_tells_the_groups_apart_by_resource():
    given = {
        group["groupName"]: json.loads(json.loads(group["rayStartParams"]["resources"]))
        for group in KUBERAY["spec"]["workerGroupSpecs"]
    }
    assert given == {"learner": {"learner": 4}, "rollout": {"rollout": 1}}


def test_kuberay_runs_the_pinned_ray():
    assert KUBERAY["spec"]["rayVersion"] == RAY_VERSION


def test_autoscaler_v2_pods_are_never_restarted_in_place():
    spec = KUBERAY["spec"]
    pods = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    assert {pod["spec"]["restartPolicy"] for pod in pods} == {"Never"}


def offered():
    """What each file can give at most: nodes of each kind, and one node's resources."""
    yield (
        "ray-up",
        {
            name: (kind["max_workers"], kind["resources"])
            for name, kind in RAY_UP["available_node_types"].items()
            if name != RAY_UP["head_node_type"]
        },
    )
    groups = {}
    for group in KUBERAY["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        own = json.loads(json.loads(group["rayStartParams"]["resources"]))
        node = {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"]), **own}
        groups[group["groupName"]] = (group["maxReplicas"], node)
    yield "kuberay", groups


@pytest.mark.parametrize("name, nodes", offered(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_clusters_job_asks_for_no_more_than_the_files_can_give(name, nodes):
    config = load_config(ROOT / "jobs" / "cluster.yaml")
    learner, rollout = config.learner, config.rollout
    count, node = nodes["learner"]
    ranks = {"CPU": learner.cpus_per_rank, "GPU": learner.gpus_per_rank, **learner.resources}
    assert all(learner.ranks * amount <= count * node[resource] for resource, amount in ranks.items())
    count, node = nodes["rollout"]
    replica = {"CPU": rollout.cpus_per_replica, "GPU": rollout.gpus_per_replica, **rollout.resources}
    assert all(amount <= node[resource] for resource, amount in replica.items())
    assert rollout.most_replicas <= count
    assert min(learner.resources_seconds, rollout.resources_seconds) > 0, "nodes take minutes to come"


def test_the_annotation_server_in_containers_gets_settings_that_it_knows_and_believes_its_proxy_alone():
    services = COMPOSE["services"]
    command, *arguments = services["desk"]["command"][1:]
    assert command == "serve"
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    changes = [value for name, value in zip(arguments[::2], arguments[1::2], strict=True) if name == "--set"]
    settings = read_settings(WebSettings, changes=changes)
    assert settings.trusted_proxies == (services["caddy"]["networks"]["front"]["ipv4_address"],)
    assert settings.secure_cookies
    assert settings.database is not None
    user, name = (services["postgres"]["environment"][key] for key in ("POSTGRES_USER", "POSTGRES_DB"))
    assert settings.database.startswith(f"postgresql+psycopg://{user}@")
    assert settings.database.endswith(f"@postgres/{name}")
    assert given["--host"] == "0.0.0.0"
    assert str(settings.dir) in [volume.split(":")[1] for volume in services["desk"]["volumes"]]
    caddyfile = (ROOT / "clusters" / "desk" / "Caddyfile").read_text()
    assert all(f"{{${name}:" in caddyfile for name in ("DOMAIN", "DESK"))
    assert (ROOT / services["desk"]["build"]["dockerfile"]).exists()
