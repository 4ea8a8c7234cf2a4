"""The user's own encoder, loss and augmentation, from a folder outside the checkout, through the whole product."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cluster import entry_points
from cluster.settings import ROOT, UserError, load_config, to_tree
from tests.distributed.training import train_own_rank
from trainers.config import ExperimentConfig
from trainers.inference.export import export_encoder
from trainers.inference.frozen import load_encoder
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

pytestmark = [pytest.mark.ray, pytest.mark.dist, pytest.mark.timeout(600)]

UNNEEDED = ("ray::_Autoscaling", "ray::Placement", "ray::Preemption", "ray.dashboard.dashboard")
"""What Ray starts by itself, and a run on one machine has no use for."""
PARTS = ("own_encoder", "own_loss", "own_augmentation")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is no part of the checkout, with copies of the examples under other names."""
    for name in PARTS:
        shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path / f"users_{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})
    yield tmp_path
    for name in PARTS:
        sys.modules.pop(f"users_{name}", None)


@pytest.fixture
def music(tmp_path: Path) -> Path:
    from data_shards.build.build import BuildConfig, build
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    build(corpus(SyntheticConfig(tracks=40, seconds=4.0, seed=0)), tmp_path / "shards", BuildConfig(workers=1))
    return tmp_path / "shards"


def test_own_parts_train_on_ray_through_a_kill_bit_for_bit_and_then_evaluate_embed_and_export(
    ranks: Callable[..., list[Any]], outside: Path, music: Path, running_below: Callable[[str], list[int]]
) -> None:
    def experiment(name: str) -> ExperimentConfig:
        keys = {
            "data.labelled": str(music),
            "data.unlabelled": str(music),
            "data.batch": 8,
            "data.b_s": 0.0,
            "views.samples": 16_384,
            "frontend.kind": "mel",
            "encoder.name": "users_own_encoder:TinyNet",
            "encoder.settings.hidden": 24,
            "loss.objective": "users_own_loss:VicReg",
            "loss.settings.variance": 10,
            "augment.extra": [{"name": "users_own_augmentation:SpecAugment", "p": 0.7, "settings": {"frames": 9}}],
            "optim.steps": 8,
            "resources.num_workers": 2,
            "resources.threads_per_worker": 1,
            "resources.use_gpu": "no",
            "tracking.enabled": False,
            "run.dir": str(outside / name),
            "run.snapshot_every": 2,
        }
        return load_config(ExperimentConfig, None, keys)

    killed, unneeded = threading.Event(), list[str]()

    def kill_a_worker(row: Mapping[str, Any]) -> None:
        if row["step"] >= 3 and not killed.is_set():
            killed.set()
            unneeded.extend(name for name in UNNEEDED if running_below(name))
            os.kill(running_below("RayTrainWorker")[-1], signal.SIGKILL)

    unbroken, broken = experiment("unbroken"), experiment("broken")
    assert ranks(2, train_own_rank, to_tree(unbroken), str(outside), timeout_s=120) == [0, 0]
    assert pretrain(broken, watch=kill_a_worker) == 0
    assert killed.is_set()
    assert not unneeded
    rows = [list(read_metrics(Path(config.run.dir) / "metrics.jsonl")) for config in (unbroken, broken)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert all(row["vicreg/variance"] > 0 for row in rows[1])
    one, other = (open_snapshot(config.run.dir).path / "model.safetensors" for config in (unbroken, broken))
    assert one.read_bytes() == other.read_bytes()
    _use(broken.run.dir, music, outside)


def _use(run: str, music: Path, out: Path) -> None:
    """Evaluate, embed and export a snapshot of own code, each refused without trust."""
    import soundfile
    from typer.testing import CliRunner

    from evaluation.config import EvaluationConfig
    from evaluation.evaluate import evaluate

    quick = {"data.shards": str(music), "confidence.resamples": 100, "tasks.tags.max_epochs": 3}
    config = load_config(EvaluationConfig, ROOT / "conf" / "evaluation" / "tiny.yaml", quick)
    with pytest.raises(UserError, match=r"users_own_encoder:TinyNet.*--trust-code"):
        evaluate(run, config, out / "report")
    report = evaluate(run, config, out / "report", trust_code=True)
    assert "untrained" in report.tree["baselines"]
    soundfile.write(out / "song.wav", 0.1 * torch.randn(44_100).numpy(), 22_050)
    from commands.app import app

    command = ["embed", run, str(out / "song.wav"), "--out", str(out / "song.parquet")]
    assert isinstance(CliRunner().invoke(app, command).exception, UserError)
    assert CliRunner().invoke(app, [*command, "--trust-code"], catch_exceptions=False).exit_code == 0
    assert len(pq.read_table(out / "song.parquet")["embedding"][0]) == 24
    exported = export_encoder(run, out / "exported", trust_code=True)
    assert exported
    with pytest.raises(UserError, match="--trust-code"):
        load_encoder(out / "exported")
    wave_NT = 0.1 * torch.randn(2, 16_384, generator=torch.Generator().manual_seed(1))
    first, second = (load_encoder(source, trust_code=True)(wave_NT) for source in (run, out / "exported"))
    assert torch.equal(first, second)
