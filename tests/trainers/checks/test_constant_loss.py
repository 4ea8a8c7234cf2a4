"""Runs that cannot learn are refused: by their settings, by their data, or by a gradient that stays 0."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.sampling.sampler import chosen_share
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers import loop
from trainers.checks.dry_run import plan
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.loop import NothingToLearnError, World, train
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.pretrain import pretrain
from trainers.step import StepTrainer

MakeConfig = Callable[..., ExperimentConfig]
WAVE = {"encoder__name": "sample_cnn", "encoder__channels": None, "frontend__kind": "wave", "views__samples": 59_049}
MICRO = {"encoder__batch_norm": "micro", "optim__micro_batch": 1}


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def labelled_set(folder: Path, tags: Sequence[Sequence[str]]) -> str:
    """One track for each entry, with those tags."""
    tracks = corpus(SyntheticConfig(tracks=len(tags), seconds=4.0, valid_share=0.0, test_share=0.0, seed=3))
    clips = [
        replace(clip, multilabel={"tags": tuple(own)}, categorical={}, numeric={})
        for clip, own in zip(tracks, tags, strict=True)
    ]
    build(clips, folder, BuildConfig(workers=1))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views__count": 1, "data__b_s": 0}, r"views.count=1 with data.b_s=0: .* always 0; take views.count >= 2"),
        ({"views__count": 1, "data__b_s": 0.125}, r"views.count=1 with data.b_s=0.125 .*data.b_s >= 0.25"),
        ({"data__batch": 1, "data__b_s": 0}, r"data.batch=1 with loss.objective=contrastive: .* no negatives"),
        ({"data__batch": 1, "data__b_s": 1}, r"data.batch=1 .* no negatives"),
        ({"data__batch": 1, "data__b_s": 0, "views__count": 4}, r"data.batch=1 .* no negatives"),
        ({"loss__temperature": 1e-9}, r"loss.temperature=1e-09 with loss.objective"),
        ({"loss__temperature": 1e9}, r"loss.temperature=1e\+09 with loss.objective"),
        ({"loss__epsilon": 1e6}, r"loss.epsilon=1e\+06 with loss.objective"),
        ({"head__width": 1}, r"head.width=1 with loss.objective"),
        ({"head__hidden": 1}, r"head.hidden=1 with loss.objective"),
        ({"optim__learning_rate": 0.0}, r"learning_rate must be > 0"),
        ({"optim__learning_rate": 1e-30}, r"optim.learning_rate=1e-30 with optim.warmup_steps=0"),
        ({"optim__warmup_steps": 10**9}, r"optim.learning_rate=0.001 with optim.warmup_steps=1000000000"),
        ({"optim__max_grad_norm": 1e-20}, r"optim.max_grad_norm=1e-20 with optim.learning_rate"),
        ({**WAVE, **MICRO}, r"optim.micro_batch=1 with views.count=2: .*BatchNorm.* take optim.micro_batch >= 2"),
        ({**WAVE, **MICRO, "views__count": 1}, r"optim.micro_batch=1 with views.count=1: .* optim.micro_batch >= 4"),
        (
            {**WAVE, "data__batch": 1, "data__b_s": 1, "loss__objective": "bce", "head__width": None},
            r"data.batch=1 with views.count=2: .*take data.batch >= 2",
        ),
    ],
)
def test_settings_that_leave_nothing_to_learn_are_refused_with_both_keys(
    make_config: MakeConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"data__batch": 2, "data__b_s": 0},
        {"data__batch": 2, "data__b_s": 0.5, "resources__num_workers": 2},  # a clip a worker: negatives are global
        {"views__count": 1},
        {"views__count": 1, "data__b_s": 1, "loss__positives": "weighing"},
        {"data__b_s": 1},
        {"data__batch": 1, "data__b_s": 1, "loss__objective": "bce", "head__width": None},
        {"loss__temperature": 1e-3},
        {"loss__temperature": 100.0},
        {"optim__warmup_steps": 100},
        {"encoder__batch_norm": "micro", "optim__micro_batch": 1},
        {**WAVE, **MICRO, "optim__micro_batch": 2},
    ],
)
def test_settings_at_the_edge_that_can_learn_are_taken(make_config: MakeConfig, change: dict[str, Any]) -> None:
    check(make_config(**change))


def test_the_loss_is_constant_in_what_is_refused_and_not_at_the_edge_of_what_is_taken() -> None:
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pair = torch.arange(3).repeat(2)

    def gradient(rows: torch.Tensor, clip_id: torch.Tensor, temperature: float = 0.1) -> float:
        loss = contrastive_loss(rows, clip_id, None, temperature=temperature)
        (found,) = torch.autograd.grad(loss, z)
        return float(found.norm())

    assert gradient(z, torch.arange(6)) == 0  # one view, no labels
    assert gradient(z[:2], torch.zeros(2, dtype=torch.int64)) < 1e-8  # one clip
    assert gradient(z[:, :1], pair) < 1e-4 * gradient(z, pair)  # width 1: cosines of ±1
    assert gradient(z, pair) > 1e-2
    assert gradient(z, pair, 1e3) > 1e-6


@pytest.mark.parametrize(
    ("tags", "change", "message"),
    [
        ([["a"]] * 6, {"data__b_s": 1}, r"data.b_s=1 with data.vocabulary=tags and loss.criterion=1: all labelled"),
        ([["a"]] * 6, {"data__b_s": 1, "loss__positives": "weighing"}, r"data.b_s=1 with data.vocabulary=tags"),
        ([["a", "b"], ["a", "c"], ["a"]], {"data__b_s": 1}, r"none is a negative"),
        ([["a"], ["b"], ["c"], ["d"]], {"views__count": 1}, r"views.count=1 with data.vocabulary=tags .*no two"),
        ([["a"], ["a"], ["b"]], {"views__count": 1, "loss__criterion": 2}, r"and loss.criterion=2: no two labelled"),
        ([["a"]], {"data__b_s": 1}, r"data.labelled=.* one training clip .* data.b_s=1 and data.p_s=1"),
        (
            [["a"]] * 3,
            {"data__b_s": 1, "loss__objective": "cross_entropy", "head__width": None},
            r"data.vocabulary=tags with loss.objective=cross_entropy: .*same labels \(a\)",
        ),
        (
            [["a", "b"]] * 3,
            {"data__b_s": 1, "loss__objective": "bce", "head__width": None},
            r"data.vocabulary=tags with loss.objective=bce: .*same labels \(a, b\)",
        ),
    ],
)
def test_data_that_leave_nothing_to_learn_are_refused_before_anything_starts(
    make_config: MakeConfig, tmp_path: Path, tags: list[list[str]], change: dict[str, Any], message: str
) -> None:
    config = make_config(data__labelled=labelled_set(tmp_path / "set", tags), **change)
    for refuse in (check, plan, pretrain):
        with pytest.raises(UserError, match=message):
            refuse(config)
    assert not Path(config.run.dir).exists()


@pytest.mark.parametrize(
    ("tags", "change"),
    [
        ([["a"]] * 6, {}),  # the unlabelled clips are negatives
        ([["a"], ["a"], ["b"]], {"data__b_s": 1}),
        ([["a", "b"], ["a", "b"], ["a"]], {"data__b_s": 1, "loss__criterion": 2}),
        ([["a", "b"], ["a"]], {"data__b_s": 1, "loss__positives": "weighing"}),
        ([["a", "b"], ["a", "b"], ["c"]], {"views__count": 1, "loss__criterion": 2}),
        ([["a", "b", "c"], ["a", "b", "d"]], {"views__count": 1, "loss__criterion": 2}),
        ([["a"], ["b"], ["b"]], {"data__b_s": 1, "loss__objective": "cross_entropy", "head__width": None}),
    ],
)
def test_data_with_one_pair_that_differs_are_taken(
    make_config: MakeConfig, tmp_path: Path, tags: list[list[str]], change: dict[str, Any]
) -> None:
    check(make_config(data__labelled=labelled_set(tmp_path / "set", tags), **change))


def test_an_objective_of_the_users_own_needs_no_labels(make_config: MakeConfig) -> None:
    check(make_config(loss__objective="examples.own_loss:VicReg", data__b_s=0.0))


def test_a_share_that_leaves_one_labelled_clip_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    place = labelled_set(tmp_path / "set", [["a"], ["b"], ["c"], ["d"]])
    ids = read_index(Path(place)).id_hash
    share = next(share for share in np.linspace(0.05, 1, 200) if chosen_share(ids, share).sum() == 1)
    with pytest.raises(UserError, match=r"one training clip to draw from with data.b_s=1 and data.p_s=0\.\d+"):
        check(make_config(data__labelled=place, data__b_s=1, data__p_s=float(share)))


def test_a_gradient_that_stays_0_ends_the_run_and_one_that_comes_late_does_not(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = StepTrainer.train_step
    still = 3

    def frozen(self: Any, views: Any, step: int, **options: Any) -> Any:
        made = learn(self, views, step, **options)
        if step < still:
            made.metrics["grad_norm"] = torch.zeros(())
        return made

    monkeypatch.setattr(StepTrainer, "train_step", frozen)
    assert train(make_config(optim__steps=4, run__dir=make_config().run.dir + "-late"), World(), Quiet()) == 0
    monkeypatch.setattr(loop, "STILL_STEPS", 3)
    with pytest.raises(NothingToLearnError, match=r"step 3: the gradient has been 0 .* for 3 steps"):
        train(make_config(optim__steps=4), World(), Quiet())
    monkeypatch.setattr(loop, "STILL_STEPS", 100)
    whole = make_config(optim__steps=3, run__dir=make_config().run.dir + "-whole")
    with pytest.raises(NothingToLearnError, match=r"step 3: .* for 3 steps"):
        train(whole, World(), Quiet())
    assert not (Path(whole.run.dir) / "snapshots/step-3").exists()
