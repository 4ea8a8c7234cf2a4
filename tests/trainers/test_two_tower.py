"""Training of an audio and a text tower: what moves and what stays, resume, chunks, refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.settings import UserError
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.distributed.gradient_cache import backward_in_chunks
from trainers.loop import World, train
from trainers.losses.projected import Projected
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot
from trainers.step import StepTrainer
from trainers.two_tower import TowerInput, TowerProjector
from trainers.views.batches import open_batches
from trainers.views.views import ViewMaker, Views

MakeConfig = Callable[..., ExperimentConfig]
CPU = torch.device("cpu")


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


def run(config: ExperimentConfig, steps: int | None = None, **where: Any) -> Path:
    """Train here; the run's folder."""
    if steps is not None:
        config = replace(config, optim=replace(config.optim, steps=steps))
    if where:
        config = replace(config, run=replace(config.run, **where))
    check(config)
    assert train(config, World(), Quiet()) == 0
    return Path(config.run.dir)


def first_views(config: ExperimentConfig) -> Views:
    with open_batches(config) as loader:
        (batch,) = loader.batches(0, 1)
        return ViewMaker(config.views, config.augment, config.frontend).make(batch, step=0, seed=config.seed)


def test_towers_learn_to_find_each_other_and_say_how(make_towers: MakeConfig) -> None:
    folder = run(make_towers(optim__steps=40, optim__learning_rate=3e-3, run__snapshot_every=40))
    first, *_, last = read_metrics(folder / "metrics.jsonl")
    assert last["loss"] < 0.7 * first["loss"]
    assert last["loss"] == pytest.approx((last["loss/audio"] + last["loss/text"]) / 2, rel=1e-5)
    assert last["recall@1/text_to_audio"] > 2 / 8
    assert first["scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert last["scale"] != first["scale"]
    assert 0 < first["modality_gap"] <= 2
    assert last["swap/margin"] > first["swap/margin"]
    for name in ("swap/present", "swap/guarded", "texts/equal", "texts/truncated", "recall@1/audio_to_text"):
        assert 0 <= last[name] <= 1
    assert first["swap/present"] > 0.5


@pytest.mark.parametrize("pairs", ["softmax", "sigmoid"])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(make_towers: MakeConfig, tmp_path: Path, pairs: str) -> None:
    config = make_towers(loss__pairs=pairs, text__swap__ramp=0.0, optim__ema_decay=0.9)
    whole = run(config, dir=str(tmp_path / "whole"))
    run(config, 4, dir=str(tmp_path / "broken"))
    resumed = run(config, dir=str(tmp_path / "broken"))
    for name in ("model", "optimizer", "average"):
        files = [(open_snapshot(folder).path / f"{name}.safetensors").read_bytes() for folder in (whole, resumed)]
        assert files[0] == files[1], name


def test_the_scale_never_exceeds_its_limit(make_towers: MakeConfig) -> None:
    folder = run(make_towers(loss__max_scale=20.0, optim__learning_rate=0.3, optim__steps=10))
    scales = [row["scale"] for row in read_metrics(folder / "metrics.jsonl")]
    assert max(scales) <= 20 * (1 + 1e-6)
    assert len(set(scales)) > 2


def plain_run(make_config: MakeConfig, folder: Path) -> Path:
    """A contrastive run of the same encoder."""
    return run(make_config(optim__steps=2, run__dir=str(folder)))


@pytest.mark.parametrize("locked", [True, False])
def test_the_audio_tower_starts_from_a_run_without_texts_and_stays_there_when_locked(
    make_config: MakeConfig, make_towers: MakeConfig, tmp_path: Path, locked: bool
) -> None:
    initial = plain_run(make_config, tmp_path / "plain")
    before = open_snapshot(initial).model_state()
    config = make_towers(encoder__locked=locked, init_from=str(initial), run__quick_every=0)
    after = open_snapshot(run(config)).model_state()
    encoder = [name for name in before if name.startswith("projector.encoder.")]
    assert encoder
    same = [name for name in encoder if torch.equal(before[name], after[name])]
    if locked:
        assert same == encoder, "weights and the statistics of BatchNorm"
        moments = open_snapshot(config.run.dir).path / "optimizer.safetensors"
        assert b"projector.encoder." not in moments.read_bytes()
    else:
        assert not [name for name in same if before[name].ndim > 1]
    assert not [name for name in after if name.startswith("projector.head.")]


def test_a_locked_tower_stays_in_evaluation_mode_whatever_puts_it_into_another(
    make_config: MakeConfig, make_towers: MakeConfig, tmp_path: Path
) -> None:
    config = make_towers(encoder__locked=True, init_from=str(plain_run(make_config, tmp_path / "plain")))
    trainer = StepTrainer(config, num_tags=3, device=CPU)
    projector, views = trainer.model.projector, first_views(config)
    assert isinstance(projector, TowerProjector)
    projector.train()
    assert not projector.encoder.training
    projector.encoder.train()  # the quick score leaves its encoder so
    state = {name: value.clone() for name, value in projector.encoder.state_dict().items()}
    trainer.train_step(views, 0)
    assert all(torch.equal(value, state[name]) for name, value in projector.encoder.state_dict().items())
    assert all(weight.grad is None for weight in projector.encoder.parameters())
    assert projector.audio_projection.training


def test_a_run_of_two_towers_starts_another(make_towers: MakeConfig, tmp_path: Path) -> None:
    first = run(make_towers(optim__steps=2))
    config = make_towers(init_from=str(first), run__dir=str(tmp_path / "second"))
    trainer = StepTrainer(config, num_tags=3, device=CPU)
    trainer.load_weights(open_snapshot(first))
    saved = open_snapshot(first).model_state()
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("other", [{"head__width": 24}, {"text__hidden": 48}])
def test_a_run_of_two_towers_of_another_width_is_refused_with_what_it_was(
    make_towers: MakeConfig, tmp_path: Path, other: dict[str, int]
) -> None:
    first = run(make_towers(optim__steps=1))
    with pytest.raises(UserError, match=r"does not fit .* it was trained with .*text.encoder=words"):
        check(make_towers(init_from=str(first), run__dir=str(tmp_path / "second"), **other))


def test_the_text_encoder_has_a_rate_of_its_own_and_embeddings_do_not_decay(make_towers: MakeConfig) -> None:
    config = make_towers(text__rate=0.25, optim__learning_rate=0.1, optim__weight_decay=0.5, loss__pairs="sigmoid")
    trainer = StepTrainer(config, num_tags=3, device=CPU)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    kept = {name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])}
    assert "projector.text.pieces.weight" in kept
    assert {"loss.log_temperature", "loss.bias", "projector.text.norm.weight", "projector.text.norm.bias"} < kept
    decayed = before.keys() - kept
    assert "projector.text_projection.0.weight" in decayed
    assert all(before[name].ndim > 1 for name in decayed)
    trainer.train_step(first_views(config), 0)
    rates = {
        name: group["lr"]
        for group in trainer.optimizer.param_groups
        for name, parameter in trainer.model.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert {rate for name, rate in rates.items() if name.startswith("projector.text.")} == {0.025}
    assert {rate for name, rate in rates.items() if not name.startswith("projector.text.")} == {0.1}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_chunks_of_both_towers_have_the_gradient_of_the_whole(make_towers: MakeConfig, chunks: int, views: int) -> None:
    config = make_towers(views__count=views, text__swap__start=0.5, text__swap__share=0.5)
    made = first_views(config)
    assert made.texts is not None
    assert None in made.texts.hard
    trainer = StepTrainer(config, num_tags=3, device=CPU)
    projector = trainer.model.projector
    projector.eval()  # a BatchNorm of the whole batch cannot be chunked; micro ones are refused elsewhere
    trainer.model.double()
    given = projector.read(made.input_N.double(), made.texts)  # type: ignore[operator]
    assert isinstance(given, TowerInput)

    def loss(z: Tensor) -> Tensor:
        batch = Projected(z_ND=z.double(), clip_id_N=made.clip_id_N, num_views=views, texts=made.texts)
        value: Tensor = trainer.model.loss(batch).loss
        return value

    z_ND, h_NE = projector(given)
    whole = loss(z_ND)
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    expected = torch.autograd.grad(whole, weights)
    value, z_again, h_again = backward_in_chunks(projector, given, loss, num_clips=8, num_chunks=chunks)
    assert value.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close((z_again, h_again), (z_ND.detach(), h_NE.detach()), rtol=1e-5, atol=1e-7)
    for weight, gradient in zip(weights, expected, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_run_in_chunks_resumes_too(make_towers: MakeConfig, tmp_path: Path) -> None:
    config = make_towers(optim__micro_batch=4, encoder__batch_norm="micro")
    whole = run(config, dir=str(tmp_path / "whole"))
    run(config, 2, dir=str(tmp_path / "broken"))
    resumed = run(config, dir=str(tmp_path / "broken"))
    files = [(open_snapshot(folder).path / "model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert files[0] == files[1]


def test_vectors_of_a_locked_text_tower_are_kept_and_its_weights_stay(make_towers: MakeConfig, tmp_path: Path) -> None:
    config = make_towers(text__trained="projection", text__cache=str(tmp_path / "vectors"))
    trainer = StepTrainer(config, num_tags=3, device=CPU)
    text = {name: weight.clone() for name, weight in trainer.model.projector.text.named_parameters()}  # type: ignore[union-attr]
    trainer.train_step(first_views(config), 0)
    assert len(list((tmp_path / "vectors").glob("*.vectors"))) == 1
    for name, weight in trainer.model.projector.text.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(weight, text[name])
        assert weight.grad is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "compile": ({"optim__compile": True}, "optim.compile=true with loss.objective=music_text"),
    "locked": ({"encoder__locked": True}, "encoder.locked=true keeps the audio tower of init_from, and none is given"),
    "scale": ({"loss__temperature": 0.005}, r"above max_scale=100; take temperature >= 0.01"),
    "max_scale": ({"loss__max_scale": 0.5}, "max_scale must be from 1 to 10000, got 0.5"),
    "pairs": ({"loss__pairs": "hinge"}, "pairs"),
    "share": ({"loss__audio_share": -0.1}, "audio_share must be from 0 to 1"),
    "epsilon": ({"loss__epsilon": 0.1}, "epsilon is a setting of objective=contrastive; leave it out for music_text"),
    "one_clip": ({"data__batch": 1}, "a global batch of one clip has no negatives"),
    "one_number": ({"head__width": 1}, "head.width=1 with loss.objective=music_text"),
    "variant": ({"head__variant": ["gain"]}, "head.variant"),
    "own_text": ({"text__encoder": "nowhere:make"}, "nowhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_towers_cannot_do_is_refused_early(make_towers: MakeConfig, name: str) -> None:
    overrides, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        check(make_towers(**overrides))


def test_keys_of_towers_are_refused_without_them(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"text.p_cap: keys of a text tower, .* set loss.objective=music_text"):
        make_config(text__p_cap=0.25)
    with pytest.raises(UserError, match=r"encoder.locked=true is for loss.objective=music_text"):
        make_config(encoder__locked=True)
    with pytest.raises(UserError, match=r"pairs is a setting of objective=music_text; leave it out for contrastive"):
        make_config(loss__pairs="sigmoid")


def test_a_locked_tower_must_read_what_it_was_trained_on(
    make_config: MakeConfig, make_towers: MakeConfig, tmp_path: Path
) -> None:
    initial = str(plain_run(make_config, tmp_path / "plain"))
    with pytest.raises(UserError, match=r"was trained with frontend.num_mels=64, not 96; set frontend.num_mels"):
        check(make_towers(encoder__locked=True, init_from=initial, frontend__num_mels=96))
    with pytest.raises(UserError, match="does not fit this encoder"):
        check(make_towers(init_from=initial, encoder__channels=4))
