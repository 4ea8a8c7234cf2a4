"""The end-to-end baselines: parity with the definitions, unlabelled rows, and the way from training to an encoder."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.inference.frozen import load_encoder, untrained_encoder
from trainers.loop import World, train
from trainers.losses.config import LossConfig
from trainers.losses.supervised import supervised_loss
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

MakeConfig = Callable[..., ExperimentConfig]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def rows(num: int = 7, tags: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    labels = torch.rand(num, tags, generator=g) < 0.4
    labels[0], labels[1:, 0] = False, True
    return torch.randn(num, tags, dtype=torch.float64, generator=g), labels


def naive(logits: Tensor, labels: Tensor, objective: str) -> float:
    """One row after another, from the definitions."""
    values = []
    for row, tags in zip(logits.tolist(), labels.tolist(), strict=True):
        if not any(tags):
            continue
        if objective == "bce":
            p = [1 / (1 + math.exp(-x)) for x in row]
            values.append(sum(-math.log(q if tag else 1 - q) for q, tag in zip(p, tags, strict=True)) / len(row))
        else:
            total = sum(math.exp(x) for x in row)
            values.append(
                sum(-math.log(math.exp(x) / total) for x, tag in zip(row, tags, strict=True) if tag) / sum(tags)
            )
    return sum(values) / len(values)


@pytest.mark.parametrize("objective", ["bce", "cross_entropy"])
def test_it_is_the_mean_of_the_definition_over_labelled_rows(objective: str) -> None:
    logits, labels = rows()
    assert supervised_loss(logits, labels, objective=objective).item() == pytest.approx(
        naive(logits, labels, objective), rel=1e-12
    )


@pytest.mark.parametrize("objective", ["bce", "cross_entropy"])
def test_a_row_without_labels_changes_nothing_and_gets_no_gradient(objective: str) -> None:
    logits, labels = rows()
    logits.requires_grad_()
    loss = supervised_loss(logits, labels, objective=objective)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == supervised_loss(logits[1:], labels[1:], objective=objective).item()
    assert (gradient[0] == 0).all()
    assert (gradient[1:] != 0).any(1).all()
    nothing = supervised_loss(logits, torch.zeros_like(labels), objective=objective)
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_bad_input_is_named() -> None:
    logits, labels = rows()
    with pytest.raises(ValueError, match="objective must be one of bce, cross_entropy, got 'mse'"):
        supervised_loss(logits, labels, objective="mse")
    with pytest.raises(ValueError, match=r"bool of the logits' shape \(7, 5\), got torch.bool of shape \(7, 4\)"):
        supervised_loss(logits, labels[:, :4])


def test_settings_of_the_contrastive_loss_are_refused_beside_another(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="temperature is a setting of objective=contrastive; leave it out for bce"):
        LossConfig(objective="bce", temperature=0.2)
    with pytest.raises(UserError, match=r"learns from labels alone; set data.b_s=1, got 0.5"):
        make_config(loss__objective="bce", head__width=None)
    with pytest.raises(UserError, match=r"leave head.width out"):
        make_config(loss__objective="bce", data__b_s=1)


@pytest.mark.parametrize(("objective", "column"), [("bce", "tags"), ("cross_entropy", "key")])
def test_a_supervised_run_learns_its_labels_and_leaves_an_encoder(
    make_config: MakeConfig, objective: str, column: str
) -> None:
    config = make_config(
        loss__objective=objective,
        head__width=None,
        data__b_s=1,
        data__vocabulary=column,
        augment__preset="none",
        optim__steps=30,
        optim__learning_rate=3e-3,
        run__snapshot_every=100,
    )
    assert train(config, World(), Quiet()) == 0
    found = list(read_metrics(Path(config.run.dir) / "metrics.jsonl"))
    values = [row["loss"] for row in found]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    assert "positives" not in found[-1]
    snapshot = open_snapshot(config.run.dir)
    assert len(snapshot.model_state()["projector.head.2.weight"]) == len(snapshot.vocabulary) > 1
    trained, first = load_encoder(config.run.dir), untrained_encoder(config.run.dir)
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 16_384)).astype(np.float32))
    assert trained(wave).shape == first(wave).shape == (2, trained.width)
    assert not torch.allclose(trained(wave), first(wave))


def test_a_head_of_another_vocabulary_does_not_start_a_run(make_config: MakeConfig, tmp_path: Path) -> None:
    first = make_config(optim__steps=1)
    train(first, World(), Quiet())
    other = make_config(
        loss__objective="bce",
        head__width=None,
        data__b_s=1,
        init_from=first.run.dir,
        run__dir=str(tmp_path / "other"),
    )
    with pytest.raises(UserError, match="does not fit this encoder and head"):
        train(replace(other, optim=replace(other.optim, steps=1)), World(), Quiet())
