"""The training loop in one process, without Ray: what it keeps, what it refuses, and how it ends."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import UserError, to_tree
from data_shards.build.build import BuildConfig, build
from data_shards.format.problems import ClipError, Problem
from data_shards.read.reader import ShardSet
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.checks.dry_run import plan
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.loop import STOP_FILE, DivergedError, World, train
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics
from trainers.state.optim import build_optimizer
from trainers.state.snapshot import open_snapshot
from trainers.step import StepResult, StepTrainer

MakeConfig = Callable[..., ExperimentConfig]


class Listener:
    def __init__(self) -> None:
        self.steps: list[float] = []

    def report(self, metrics: Any) -> None:
        self.steps.append(metrics["step"])


def losses(folder: Path | str) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(Path(folder) / "metrics.jsonl")]


def weights(folder: Path | str) -> bytes:
    return (open_snapshot(folder).path / "model.safetensors").read_bytes()


def test_a_run_leaves_snapshots_a_link_and_a_row_a_step(make_config: MakeConfig) -> None:
    config = make_config(run__keep=2)
    listener = Listener()
    assert train(config, World(), listener) == 0
    folder = Path(config.run.dir)
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in (folder / "snapshots").iterdir()) == ["last", "step-4", "step-6"]
    assert listener.steps == [6]
    row = next(read_metrics(folder / "metrics.jsonl"))
    assert {"loss", "grad_norm", "alignment", "uniformity", "data_wait_s", "clips_per_s"} <= row.keys()


def test_training_lowers_the_loss(make_config: MakeConfig) -> None:
    config = make_config(
        optim__steps=40, optim__learning_rate=3e-3, augment__preset="none", data__b_s=0, run__snapshot_every=100
    )
    train(config, World(), Listener())
    values = [loss for _, loss in losses(config.run.dir)]
    assert sum(values[-10:]) < 0.8 * sum(values[:10])


SEVEN = ("row 1", "snapshot 2", "row 3", "row 5", "snapshot 6", "row 8", "snapshot 10")


@pytest.mark.parametrize(
    "moments",
    [("row 3", "snapshot 8"), pytest.param(SEVEN, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
    ids=["twice", "seven times"],
)
def test_a_run_killed_and_started_again_ends_with_the_same_bits(
    make_config: MakeConfig, tmp_path: Path, moments: tuple[str, ...]
) -> None:
    whole = make_config(run__dir=str(tmp_path / "whole"), optim__steps=12)
    pretrain(whole)
    broken = replace(whole, run=replace(whole.run, dir=str(tmp_path / "broken")))
    for moment in moments:
        assert _run_until(signal.SIGKILL, broken, moment, tmp_path) == -signal.SIGKILL
    assert open_snapshot(broken.run.dir).step == int(moments[-1].partition(" ")[2])
    pretrain(broken)
    assert weights(broken.run.dir) == weights(whole.run.dir)
    assert losses(broken.run.dir) == losses(whole.run.dir)


def test_sigterm_ends_a_run_with_a_snapshot_and_143_and_it_goes_on_with_the_same_bits(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    whole = make_config(run__dir=str(tmp_path / "whole"), run__snapshot_every=100)
    pretrain(whole)
    stopped = replace(whole, run=replace(whole.run, dir=str(tmp_path / "stopped")))
    assert _run_until(signal.SIGTERM, stopped, "row 2", tmp_path) == 143
    assert open_snapshot(stopped.run.dir).step == losses(stopped.run.dir)[-1][0] < 6
    assert pretrain(stopped) == 0
    assert losses(stopped.run.dir) == losses(whole.run.dir)
    assert weights(stopped.run.dir) == weights(whole.run.dir)


def _run_until(number: signal.Signals, config: ExperimentConfig, moment: str, tmp_path: Path) -> int:
    """Exit code of a run that gets a signal right after a row or a snapshot is written; SIGKILL leaves no clean-up."""
    script = f"""
import json, os, sys
from cluster.settings import validate
from trainers import loop
from trainers.config import ExperimentConfig
from trainers.pretrain import pretrain
from trainers.state import background

def die_after(owner, name, kind, step_of):
    original = getattr(owner, name)
    def wrapped(*args, **options):
        original(*args, **options)
        if {moment!r} == f"{{kind}} {{step_of(args, options)}}":
            os.kill(os.getpid(), {number:d})
    setattr(owner, name, wrapped)

die_after(loop.MetricsLog, "write", "row", lambda args, options: args[1]["step"])
die_after(background, "write_snapshot", "snapshot", lambda args, options: options["step"])
sys.exit(pretrain(validate(ExperimentConfig, json.loads({json.dumps(json.dumps(to_tree(config)))}), "test")))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode != 1, done.stderr
    return done.returncode


def test_a_request_to_stop_leaves_a_snapshot_and_143_and_the_run_goes_on(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    whole = make_config(run__dir=str(tmp_path / "whole"), run__snapshot_every=100)
    train(whole, World(), Listener())
    config = make_config(run__snapshot_every=100, run__report_every=1)
    folder = Path(config.run.dir)

    class StopAtTwo(Listener):
        def report(self, metrics: Any) -> None:
            if metrics["step"] == 2:
                (folder / STOP_FILE).touch()

    assert train(config, World(), StopAtTwo()) == 143
    assert open_snapshot(folder).step == losses(folder)[-1][0] < 6
    assert train(config, World(), Listener()) == 0
    assert losses(folder) == losses(whole.run.dir)
    assert weights(folder) == weights(whole.run.dir)


def test_a_request_while_workers_start_stops_the_run_and_one_of_an_earlier_start_does_not(
    make_config: MakeConfig,
) -> None:
    config = make_config(run__snapshot_every=100)
    folder = Path(config.run.dir)
    folder.mkdir()
    (folder / STOP_FILE).touch()
    assert train(config, World(), Listener()) == 143
    assert open_snapshot(folder).step <= 2
    assert not (folder / STOP_FILE).exists()
    (folder / STOP_FILE).touch()  # and then the driver was killed
    assert pretrain(config) == 0


def test_a_finished_run_is_left_alone(make_config: MakeConfig) -> None:
    config = make_config(optim__steps=2)
    pretrain(config)
    before = {p: p.stat().st_mtime_ns for p in Path(config.run.dir).rglob("*")}
    assert pretrain(config) == 0
    assert {p: p.stat().st_mtime_ns for p in Path(config.run.dir).rglob("*")} == before


def test_more_steps_continue_a_finished_run(make_config: MakeConfig) -> None:
    pretrain(make_config(optim__steps=2))
    pretrain(make_config(optim__steps=4))
    assert [step for step, _ in losses(make_config().run.dir)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("loss__temperature", 0.2), ("data__batch", 4), ("augment__pitch__p", 0.0)]
)
def test_a_folder_refuses_another_experiment_by_its_keys(make_config: MakeConfig, key: str, value: object) -> None:
    pretrain(make_config(optim__steps=2))
    with pytest.raises(UserError, match=rf"{key.replace('__', '.')}: .* there, .* now"):
        pretrain(make_config(optim__steps=4, **{key: value}))


def test_a_cosine_that_would_jump_is_refused_unless_the_steps_may_differ_and_is_then_described(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    cosine = {"optim__schedule": "cosine", "optim__learning_rate": 1e-3}
    pretrain(make_config(**cosine, optim__steps=2))
    assert pretrain(make_config(**cosine, optim__steps=2)) == 0
    assert pretrain(make_config(**cosine, optim__steps=1)) == 0  # it has been done
    jump = r"the learning rate of step 3 goes from 0 to 0\.0005 and reaches 0 at step 4"
    for refuse in (check, pretrain, plan):
        with pytest.raises(
            UserError, match=rf"optim.steps: 2 there, 4 now; .*{jump}.*may_differ='\[\"optim.steps\"\]'"
        ):
            refuse(make_config(**cosine, optim__steps=4))
    assert not caplog.messages
    assert pretrain(make_config(**cosine, optim__steps=4, run__may_differ=["optim.steps"])) == 0
    (line,) = caplog.messages
    assert re.search(jump, line)
    rates = [row["learning_rate"] for row in read_metrics(Path(make_config().run.dir) / "metrics.jsonl")]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 1e-3 * 0.5 * (1 - 2**-0.5)])


def test_a_constant_rate_goes_on_with_more_steps(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    warm = {"optim__warmup_steps": 3}
    pretrain(make_config(**warm, optim__steps=2))
    assert pretrain(make_config(**warm, optim__steps=4)) == 0
    assert not caplog.messages


def test_a_folder_resumes_as_another_experiment_where_run_may_differ_allows_it(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    pretrain(make_config(optim__steps=2))
    changed = {"optim__steps": 4, "loss__temperature": 0.2, "augment__pitch__p": 0.0}
    with pytest.raises(UserError, match=r'run.may_differ=\'\["augment.pitch.p", "loss.temperature"\]\''):
        pretrain(make_config(**changed))
    with pytest.raises(UserError, match=r"augment.pitch.p: 0.6 there, 0.0 now\)"):
        pretrain(make_config(**changed, run__may_differ=["loss."]))
    assert pretrain(make_config(**changed, run__may_differ=["loss.", "augment.pitch.p"])) == 0
    assert open_snapshot(make_config().run.dir).config["loss"]["temperature"] == 0.2
    with pytest.raises(UserError, match=r"unknown key loss.temprature; did you mean loss.temperature\?"):
        make_config(run__may_differ=["loss.temprature"])


def test_a_folder_refuses_other_shards_but_not_the_same_elsewhere(
    make_config: MakeConfig, tiny_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    pretrain(make_config(optim__steps=2))
    other = corpus(SyntheticConfig(tracks=12, seconds=6.0, valid_share=0.0, test_share=0.0, seed=2))
    build(other, tmp_path / "other", BuildConfig(workers=1))
    with pytest.raises(UserError, match="the shards have changed"):
        pretrain(make_config(optim__steps=3, data__unlabelled=str(tmp_path / "other")))
    allowed = {"data__unlabelled": str(tmp_path / "other"), "run__may_differ": ["data.manifest"]}
    assert pretrain(make_config(optim__steps=3, **allowed)) == 0
    shutil.rmtree(make_config().run.dir)
    pretrain(make_config(optim__steps=2))
    shutil.copytree(tiny_sets[1], tmp_path / "moved")
    assert pretrain(make_config(optim__steps=3, data__unlabelled=str(tmp_path / "moved"))) == 0


def test_a_loss_that_is_not_finite_changes_nothing_and_stops_the_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    learn = StepTrainer.train_step
    seen: list[dict[str, torch.Tensor]] = []

    def poisoned(trainer: StepTrainer, views: Any, step: int, **options: Any) -> StepResult:
        if len(seen) == 2:
            views.input_N[0] = torch.nan
        result = learn(trainer, views, step, **options)
        seen.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        return result

    monkeypatch.setattr(StepTrainer, "train_step", poisoned)
    with pytest.raises(DivergedError, match=r"step 3: the loss or its gradient is not finite"):
        train(config, World(), Listener())
    for name, value in seen[1].items():
        assert torch.equal(value, seen[2][name]), name
    assert open_snapshot(config.run.dir).step == 2
    dumped = json.loads((Path(config.run.dir) / "nonfinite-step-3-rank-0.json").read_text())
    assert len(dumped["clip_ids"]) == 8


def test_a_row_counts_the_damaged_clips_that_were_replaced(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, damaged = ShardSet.read_into, iter([True])

    def read_once_damaged(self: ShardSet, row: int, start: int, out: Any) -> None:
        if next(damaged, False):
            raise ClipError(Problem("shard-00000.tar", "a", 512, "the checksum disagrees"))
        read(self, row, start, out)

    monkeypatch.setattr(ShardSet, "read_into", read_once_damaged)
    config = make_config(optim__steps=2)
    pretrain(config)
    assert [row["replaced"] for row in read_metrics(Path(config.run.dir) / "metrics.jsonl")][-1] == 1


def test_a_seed_that_no_generator_takes_is_refused(make_config: MakeConfig) -> None:
    for seed in (-1, 1 << 63):
        with pytest.raises(UserError, match=f"seed must be >= 0 and < 2\\^63, got {seed}"):
            make_config(seed=seed)


def test_a_warm_start_takes_the_weights_and_begins_at_step_one(make_config: MakeConfig, tmp_path: Path) -> None:
    first = make_config(optim__steps=2)
    pretrain(first)
    second = make_config(optim__steps=1, run__dir=str(tmp_path / "second"), init_from=first.run.dir, seed=5)
    pretrain(second)
    assert [step for step, _ in losses(second.run.dir)] == [1]
    old, new = (open_snapshot(c.run.dir).model_state()["projector.head.0.weight"] for c in (first, second))
    assert 0 < (old - new).abs().max() < 5e-3


def test_gradient_caching_and_a_batch_norm_that_is_not_micro_are_refused_together(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="go together"):
        make_config(optim__micro_batch=4)
    config = make_config(optim__micro_batch=3, encoder__batch_norm="micro")
    with pytest.raises(UserError, match=r"micro_batch=3 does not divide a worker's 8 clips; take 2"):
        pretrain(config)


def test_a_missing_set_is_named_before_anything_is_written(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(data__unlabelled=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        pretrain(config)
    assert not Path(config.run.dir).exists()


def test_the_optimiser_is_fused_so_that_an_update_can_be_masked(make_config: MakeConfig) -> None:
    model = torch.nn.Linear(2, 2)
    assert build_optimizer(model, make_config().optim).defaults["fused"]
