"""The cluster's files are valid by Ray's own rules, keep the token on, and ship no data."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.settings import ROOT, UserError
from cluster.submit import NEVER_SHIPPED, check_size

LAUNCHED = [
    ROOT / "ray_cluster.yaml",
    ROOT / "cluster" / "examples" / "aws.yaml",
    ROOT / "cluster" / "examples" / "gcp.yaml",
]
RAYJOB = ROOT / "cluster" / "examples" / "rayjob.yaml"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def validated(tree: dict[str, Any]) -> Any:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(deepcopy(tree))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.stem)
def test_a_cluster_is_valid_by_rays_own_schema(path: Path) -> None:
    prepared = validated(load(path))

    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.stem)
def test_the_schema_would_have_seen_a_mistake(path: Path) -> None:
    mistakes: list[dict[str, Any]] = [{"file_mount": {}}, {"max_workers": "many"}, {"provider": {"type": "slurm"}}]
    for mistake in mistakes:
        with pytest.raises(Exception, match=r".+"):  # jsonschema's or Ray's own
            validated(load(path) | mistake)


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.stem)
def test_every_node_demands_the_token_and_the_dashboard_stays_on_loopback(path: Path) -> None:
    tree = load(path)
    starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in tree[key]]
    starting = [line for line in starts if "ray start" in line]

    assert len(starting) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starting)
    assert "--dashboard-host=127.0.0.1" in starting[0]
    assert "~/.ray/auth_token" in tree["file_mounts"]
    assert {".gitignore", ".rayignore"} == set(tree["rsync_filter"])


def test_the_kuberay_job_has_what_its_operator_needs() -> None:
    """There is no offline validator for KubeRay: the fields that it needs, one Ray version, the token from a secret."""
    tree = load(RAYJOB)
    spec = tree["spec"]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]

    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["entrypoint"].startswith("counterpoint pretrain")
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"working_dir": "/app"}
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry for entry in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "value" not in environment["RAY_AUTH_TOKEN"]
        mounted = {entry["name"] for entry in container["volumeMounts"]}
        assert mounted == {entry["name"] for entry in group["template"]["spec"]["volumes"]}


def test_one_ray_version_everywhere() -> None:
    import ray

    texts = [path.read_text() for path in (*LAUNCHED, RAYJOB)]
    assert all(f"ray:{ray.__version__}-" in text for text in texts if "rayproject/ray:" in text)
    assert load(RAYJOB)["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_checkout_is_small_enough_to_ship() -> None:
    assert check_size(ROOT) < 10 << 20


def test_shards_and_results_are_never_shipped_whatever_the_ignore_files_say(tmp_path: Path) -> None:
    for name in ("outputs/run/weights", "shards/shard-00000.tar", "mlflow.db", ".venv/lib", ".git/pack"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0" * 1000)
    (tmp_path / "counterpoint.py").write_text("x" * 10)

    assert check_size(tmp_path) == 10
    assert NEVER_SHIPPED


def test_a_checkout_over_the_limit_names_what_is_large(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "small.yaml").write_bytes(b"0" * 100)
    (tmp_path / "music").mkdir()
    for clip in ("a.wav", "b.wav"):
        (tmp_path / "music" / clip).write_bytes(b"0" * (1 << 20))

    with pytest.raises(UserError, match=r"2 MiB would be shipped, at most 1 are; the largest are music \(2 MiB\)"):
        check_size(tmp_path, limit_bytes=1 << 20)
