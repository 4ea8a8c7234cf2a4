"""A run over machines with addresses of their own: submitted from a fourth, a node lost in its middle."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import ROOT
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 60
Whole = Callable[[], None]


@pytest.fixture
def words(tiny_sets: tuple[Path, Path]) -> Callable[..., list[str]]:
    """``words(folder, key=value)``: ``pretrain`` and its overrides for a run of seconds, two workers of one thread."""

    def make(folder: Path, **overrides: Any) -> list[str]:
        labelled, unlabelled = tiny_sets
        keys = {
            "data.labelled": labelled, "data.unlabelled": unlabelled, "data.batch": 12, "views.samples": 16_384,
            "encoder.channels": 4, "head.hidden": 32, "head.width": 16, "optim.steps": STEPS,
            "optim.schedule": "constant",
            "resources.num_workers": 2, "resources.threads_per_worker": 1, "resources.network_interface": "eth0",
            "resources.start_timeout_s": 10, "run.dir": folder, "run.snapshot_every": 5, "tracking.enabled": "false",
        }  # fmt: skip
        keys |= {key.replace("__", "."): value for key, value in overrides.items()}
        return ["pretrain", "conf/pretrain/quickstart.yaml", *(f"{key}={value}" for key, value in keys.items())]

    return make


@pytest.fixture
def unbroken(words: Callable[..., list[str]], tmp_path: Path) -> Path:
    """The same run by torchrun, two processes side by side on loopback, nothing lost."""
    folder = tmp_path / "unbroken"
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "counterpoint"]
    changed = {"resources__num_workers": 0, "resources__network_interface": '""'}
    done = subprocess.run(
        [sys.executable, *command, *words(folder, **changed)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(folder / "metrics.jsonl")]


def weights(folder: Path) -> bytes:
    return (open_snapshot(folder).path / "model.safetensors").read_bytes()


def await_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    file = folder / "metrics.jsonl"
    while not (file.exists() and any(found >= step for found, _ in losses(folder))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no step {step}:\n{process.communicate()[0]}")
        time.sleep(0.05)


def place(folder: Path, rank: int) -> Any:
    return json.loads((folder / "workers" / f"rank-{rank}.json").read_text())


def test_a_node_killed_in_mid_run_changes_no_number(
    nodes: Any, whole: Whole, words: Callable[..., list[str]], unbroken: Path, tmp_path: Path
) -> None:
    """Faults 33 between machines; also: the exit code, the output and the working directory of a submitted job."""
    whole()
    folder = tmp_path / "broken"
    job = nodes.popen("desk", ["counterpoint", "submit", "--cluster", nodes.url, "--", *words(folder)])
    await_step(folder, 12, job)
    addresses = {place(folder, rank)["node"] for rank in (0, 1)}
    nodes.kill("two")
    left = len(losses(folder))
    nodes.start("two")
    output, _ = job.communicate(timeout=400)

    assert job.returncode == 0, output
    assert addresses == {"10.77.0.11", "10.77.0.12"}
    assert left < STEPS
    assert f"{folder}/snapshots/last" in output
    assert losses(folder) == losses(unbroken)
    assert weights(folder) == weights(unbroken)


def test_an_elastic_run_goes_on_with_the_node_that_is_left_and_grows_again(
    nodes: Any, whole: Whole, words: Callable[..., list[str]], unbroken: Path, tmp_path: Path
) -> None:
    """Faults 38 under Ray: 2 → 1 → 2 workers, the same global batches."""
    whole()
    folder = tmp_path / "elastic"
    changed = {"resources__min_workers": 1, "resources__resize_every_s": 5, "optim__steps": 5000}
    job = nodes.popen("desk", ["counterpoint", "submit", "--cluster", nodes.url, "--", *words(folder, **changed)])
    await_step(folder, 12, job)
    nodes.kill("two")
    await_world(folder, 1, job)
    await_step(folder, losses(folder)[-1][0] + 20, job)
    nodes.start("two")
    nodes.await_nodes(3)
    await_world(folder, 2, job)
    (folder / "stop").touch()  # what a SIGTERM at the driver leaves; the workers have only begun to start
    output, _ = job.communicate(timeout=300)

    assert job.returncode == 143, output
    mine, theirs = dict(losses(folder)), dict(losses(unbroken))
    both = sorted(mine.keys() & theirs.keys())
    assert both == list(range(1, STEPS + 1))
    assert [mine[step] for step in both] == pytest.approx([theirs[step] for step in both], rel=0.05)
    assert mine[1] == theirs[1]


def await_world(folder: Path, size: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while place(folder, 0)["world"] != size:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"never {size} workers:\n{process.communicate()[0]}")
        time.sleep(0.5)


@pytest.mark.parametrize("token", ["", "f" * 64], ids=["no token", "wrong token"])
def test_a_submission_without_the_token_is_refused_in_one_message(nodes: Any, tmp_path: Path, token: str) -> None:
    """Faults 48, from another machine."""
    shown = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    done = nodes.run("desk", ["counterpoint", "submit", "--cluster", nodes.url, "--", "doctor"], **shown)

    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert line.startswith("error ")
    assert ".ray/auth_token" in line


def test_a_run_started_on_a_machine_of_the_cluster_uses_them_all(
    nodes: Any, whole: Whole, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    """No job: `RAY_ADDRESS` and the token are all it needs."""
    whole()
    done = nodes.run("head", ["counterpoint", *words(tmp_path / "run", optim__steps=3)], RAY_ADDRESS=nodes.gcs)

    assert done.returncode == 0, done.stdout
    assert {place(tmp_path / "run", rank)["node"] for rank in (0, 1)} == {"10.77.0.11", "10.77.0.12"}


def test_a_job_is_listed_and_stopped_from_the_desk_and_resumes(
    nodes: Any, whole: Whole, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    whole()
    folder = tmp_path / "stopped"
    there = ["counterpoint", "submit", "--cluster", nodes.url]
    job = nodes.popen("desk", [*there, "--", *words(folder, optim__steps=5000)])
    await_step(folder, 6, job)
    listed = nodes.run("desk", [*there, "list"]).stdout.splitlines()
    name, status = next(line.split()[:2] for line in listed if line.startswith("pretrain-") and "RUNNING" in line)
    stopped = nodes.run("desk", [*there, "stop", name])
    output, _ = job.communicate(timeout=120)

    assert (status, stopped.stdout.strip()) == ("RUNNING", "STOPPED")
    assert job.returncode == 143
    assert open_snapshot(folder).step == losses(folder)[-1][0]
    logs = nodes.run("desk", [*there, "logs", name]).stdout
    assert "the same command resumes" in logs
    assert "the same command resumes" in output
    missing = nodes.run("desk", [*there, "logs", "no-such-job"])
    assert (missing.returncode, missing.stdout.count("\n")) == (2, 1)
