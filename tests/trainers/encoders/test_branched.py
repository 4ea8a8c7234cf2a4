"""LOEV++: last blocks that every space has of its own, in all encoders."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.encoders.config import OWN_BLOCKS, EncoderConfig, HeadConfig
from trainers.encoders.encoder import Encoder
from trainers.frontends.config import FrontendConfig
from trainers.losses.config import LossConfig
from trainers.losses.projected import Projected
from trainers.model import ContrastiveModel, build_encoder, build_model, checkpoint_first, list_blocks
from trainers.step import StepTrainer
from trainers.views.views import Views

MakeConfig = Callable[..., ExperimentConfig]

EFFECTS = ("pitch", "stretch")
SPACES = ("invariant", *EFFECTS)
SMALLEST: dict[str, dict[str, Any]] = {
    "sample_cnn": {},
    "tune_plus": {},
    "mel_cnn": {"channels": 2},
    "nfnet": {"channels": 48},
}
ONE_MORE_BRANCH = {
    "sample_cnn": (787_968, 1_182_720, 1_380_096),
    "tune_plus": (542_208, 914_976, 1_287_744),
    "mel_cnn": (73_984, 92_544, 97_216),
    "nfnet": (7_802_210, 13_204_804, 23_366_310),
}
"""Parameters of a further branch with 1, 2 and 3 own blocks, counted from the layers' shapes."""


def made(name: str, own_blocks: int, seed: int = 0, **settings: Any) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = EncoderConfig(name=name, own_blocks=own_blocks, **settings)
        return build_encoder(config, variant=EFFECTS if own_blocks else ())


def views(name: str, rows: int = 4) -> Tensor:
    shape = (59_049,) if name in ("sample_cnn", "tune_plus") else (64, 48)
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("own_blocks", [1, 2, 3])
@pytest.mark.parametrize("name", ONE_MORE_BRANCH)
def test_a_branch_has_the_parameters_of_its_blocks(name: str, own_blocks: int) -> None:
    with torch.device("meta"):
        plain, branched = made(name, 0), made(name, own_blocks)
    assert num_parameters(branched) - num_parameters(plain) == 2 * ONE_MORE_BRANCH[name][own_blocks - 1]
    assert branched.width == 3 * plain.width
    assert dict(branched.spaces) == {
        space: slice(place * plain.width, (place + 1) * plain.width) for place, space in enumerate(SPACES)
    }
    assert dict(plain.spaces) == {"embedding": slice(0, plain.width)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("own_blocks", [1, 2, 3])
@pytest.mark.parametrize("name", SMALLEST)
def test_branches_start_as_the_plain_encoder_bit_for_bit(name: str, own_blocks: int, training: bool) -> None:
    plain, branched = (made(name, blocks, **SMALLEST[name]).train(training) for blocks in (0, own_blocks))
    if name == "nfnet":  # a fresh block is its shortcut: let stochastic depth matter
        for model in (plain, branched):
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("skip_gain"):
                    nn.init.ones_(parameter)
    h, parts = plain(views(name, 2)), branched(views(name, 2))
    for columns in branched.spaces.values():
        assert torch.equal(parts[:, columns], h)


def model(own_blocks: int, name: str, variant: tuple[str, ...] = EFFECTS, **settings: Any) -> ContrastiveModel:
    config = EncoderConfig(name=name, own_blocks=own_blocks, **SMALLEST[name], **settings)
    return build_model(config, HeadConfig(hidden=16, width=8, variant=variant), LossConfig(), seed=3)


@pytest.mark.parametrize("own_blocks", [0, 2])
def test_heads_are_drawn_after_the_encoder_and_the_first_head(own_blocks: int) -> None:
    plain = model(0, "mel_cnn", variant=()).state_dict()
    variant = model(own_blocks, "mel_cnn").state_dict()
    if own_blocks == 0:
        assert all(torch.equal(variant[name], weight) for name, weight in plain.items())
        added = {name for name in variant if name not in plain}
        assert added == {f"projector.variant_heads.{name}.{layer}.weight" for name in EFFECTS for layer in (0, 2)}
    for layer in (0, 2):
        assert torch.equal(variant[f"projector.head.{layer}.weight"], plain[f"projector.head.{layer}.weight"])
    assert not torch.equal(variant["projector.variant_heads.pitch.0.weight"], variant["projector.head.0.weight"])


@pytest.mark.parametrize("name", ["mel_cnn", "nfnet"])
def test_equal_branches_and_heads_without_treated_rows_are_one_branch(name: str) -> None:
    plain, branched = model(0, name, variant=()).double(), model(2, name).double()
    for head in branched.projector.variant_heads.children():
        head.load_state_dict(plain.get_submodule("projector.head").state_dict())
    clip_id = torch.arange(4).repeat(2)
    none = {effect: torch.zeros(8, dtype=torch.bool) for effect in EFFECTS}
    losses = []
    for each in (plain, branched):
        z_ND, _ = each.projector(views(name, 8).double())
        losses.append(each.loss(Projected(z_ND=z_ND.double(), clip_id_N=clip_id, received=none)).loss)
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    expected = {key: p.grad for key, p in plain.projector.encoder.named_parameters()}
    trunk = [(key, p) for key, p in branched.projector.encoder.named_parameters() if key.startswith("network.")]
    assert len(trunk) > 4
    for key, parameter in trunk:
        wanted = expected[key.removeprefix("network.")]
        assert wanted is not None
        # h and z are float32 between encoder and loss, whose last digits three branches add in another order.
        assert (parameter.grad - wanted).norm() <= 2e-5 * wanted.norm() + 1e-9, key  # type: ignore[operator]
    branches = [dict(branch.named_parameters()) for branch in branched.projector.encoder.branches.values()]  # type: ignore[operator]
    for first, *others in zip(*(branch.values() for branch in branches), strict=True):
        for other in others:
            torch.testing.assert_close(other.grad, first.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.medium
def test_sample_cnn_s_branches_take_its_cpu_kernels_and_have_the_plain_layers_gradients() -> None:
    fast, plain = made("sample_cnn", 3), made("sample_cnn", 3)
    assert fast.has_cpu_kernels
    x, above = views("sample_cnn"), torch.randn(4, 1536, generator=torch.Generator().manual_seed(5))
    (fast(x) * above).sum().backward()
    (plain.double()(x.double()) * above).sum().backward()
    for (key, got), wanted in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if "conv" in key or wanted.grad is None or wanted.grad.abs().max() < 1e-6:
            continue
        assert (got.grad.double() - wanted.grad).norm() <= 2e-2 * wanted.grad.norm() + 1e-5, key  # type: ignore[union-attr]


def test_checkpointing_counts_the_trunk_alone() -> None:
    assert len(list_blocks(made("mel_cnn", 1).body)) == 3
    assert len(list_blocks(made("sample_cnn", 2).body)) == 9
    with pytest.raises(ValueError, match="checkpoint_blocks=4: the encoder has 3 blocks"):
        checkpoint_first(made("mel_cnn", 1).body, 4)


def test_a_front_end_that_learns_passes_the_spaces_on() -> None:
    config = EncoderConfig(name="mel_cnn", channels=2, own_blocks=1)
    frontend = FrontendConfig(kind="nnaudio_mel", trainable=True)
    encoder = build_encoder(config, frontend=frontend, variant=EFFECTS)
    assert tuple(encoder.spaces) == SPACES
    assert len(list_blocks(encoder.body)) == 3


def noise_views(clips: int = 8, count: int = 4) -> Views:
    g = torch.Generator().manual_seed(0)
    n = clips * count
    received = {effect: torch.rand(n, generator=g) < 0.4 for effect in EFFECTS}
    clip_id = torch.arange(clips).repeat(count)
    mel = torch.randn(n, 64, 32, generator=g)
    return Views(mel, clip_id, torch.zeros(n, 3, dtype=torch.bool), None, received)  # type: ignore[arg-type]  # unused here


def losses(config: ExperimentConfig, num: int = 3) -> list[dict[str, float]]:
    trainer = StepTrainer(config, num_tags=3, device=torch.device("cpu"))
    results = [trainer.train_step(noise_views(), step).metrics for step in range(num)]
    return [{name: float(value) for name, value in metrics.items()} for metrics in results]


VARIANT = {
    "head__variant": EFFECTS,
    "augment__preset": "loev",
    "views__count": 4,
}


@pytest.mark.parametrize("own_blocks", [0, 2])
def test_a_step_reports_every_head(make_config: MakeConfig, own_blocks: int) -> None:
    first, *_, last = losses(make_config(**VARIANT, encoder__own_blocks=own_blocks))
    heads = [first[f"loss/{space}"] for space in SPACES]
    assert first["loss"] == pytest.approx(sum(heads) / 3, rel=1e-6)
    for effect in EFFECTS:
        assert 0 < first[f"anchors/{effect}"] < 1
        assert first[f"alignment/{effect}"] > 0
    assert last["loss"] < first["loss"]
    assert last["finite"] == 1


@pytest.mark.parametrize("own_blocks", [0, 2])
def test_checkpointed_blocks_leave_every_bit_of_every_head(make_config: MakeConfig, own_blocks: int) -> None:
    config = {**VARIANT, "encoder__own_blocks": own_blocks}
    assert losses(make_config(**config, optim__checkpoint_blocks=2)) == losses(make_config(**config))


@pytest.mark.parametrize("own_blocks", [0, 3])
def test_chunks_of_gradient_caching_have_the_losses_of_one(make_config: MakeConfig, own_blocks: int) -> None:
    """K chunks of 4 clips against one chunk of 8 whose BatchNorm has the same micro-batches."""
    config = {**VARIANT, "encoder__own_blocks": own_blocks, "encoder__batch_norm": "micro"}
    found = losses(make_config(**config, optim__micro_batch=4))
    trainer = StepTrainer(make_config(**config, optim__micro_batch=4), num_tags=3, device=torch.device("cpu"))
    trainer.optim = make_config(**VARIANT).optim  # the same network, its rows all at once
    whole = [trainer.train_step(noise_views(), step).metrics for step in range(3)]
    for chunked, plain in zip(found, whole, strict=True):
        for name in ("loss", *(f"loss/{space}" for space in SPACES)):
            assert chunked[name] == pytest.approx(float(plain[name]), rel=2e-5)


@pytest.mark.parametrize("own_blocks", [0, 2])
def test_bfloat16_products_leave_the_losses_close(make_config: MakeConfig, own_blocks: int) -> None:
    config = {**VARIANT, "encoder__own_blocks": own_blocks}
    for half, plain in zip(
        losses(make_config(**config, optim__precision="bfloat16")), losses(make_config(**config)), strict=True
    ):
        for space in SPACES:
            assert half[f"loss/{space}"] == pytest.approx(plain[f"loss/{space}"], rel=0.03)


@pytest.mark.parametrize("name", OWN_BLOCKS)
def test_blocks_beyond_the_encoder_s_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"own_blocks must be <= 3 for {name}, got 4"):
        EncoderConfig(name=name, own_blocks=4)
    with pytest.raises(ValueError, match="own_blocks must be >= 0, got -1"):
        EncoderConfig(name=name, own_blocks=-1)


class Splittable(nn.Module):
    """An encoder of one's own as docs/extending.md has it."""

    reads, width = "mel", 6

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv1d(64, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3))

    def forward(self, mel: Tensor) -> Tensor:
        x: Tensor = self.blocks(mel)
        return x.mean(2) if len(self.blocks) == 3 else x

    def split(self, own_blocks: int) -> nn.Module:
        if own_blocks > 1:
            raise ValueError("it has one block to give")
        last = self.blocks[-1]
        self.blocks = self.blocks[:-1]
        return nn.Sequential(last, nn.AdaptiveAvgPool1d(1), nn.Flatten())


class Whole(nn.Module):
    reads, width = "mel", 4

    def forward(self, mel: Tensor) -> Tensor:
        return mel.mean(2)[:, :4]


class Nothing(Splittable):
    def split(self, own_blocks: int) -> Any:
        return own_blocks


class Wide(Splittable):
    def split(self, own_blocks: int) -> nn.Module:
        super().split(own_blocks)
        return nn.Identity()


def own(factory: str, own_blocks: int = 1) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        name = f"tests.trainers.encoders.test_branched:{factory}"
        return build_encoder(EncoderConfig(name=name, own_blocks=own_blocks), variant=EFFECTS if own_blocks else ())


def test_an_own_encoder_with_the_hook_gives_every_space_its_last_blocks() -> None:
    plain, branched = own("Splittable", 0), own("Splittable")
    x = views("mel_cnn")
    assert branched.width == 18
    for part in branched(x).chunk(3, 1):
        torch.testing.assert_close(part, plain(x))


@pytest.mark.parametrize(
    ("factory", "own_blocks", "message"),
    [
        ("Whole", 1, "it has no method split; set encoder.own_blocks=0, or write one"),
        ("Splittable", 2, "its split refused: it has one block to give"),
        ("Nothing", 1, "its split returned a int, not an nn.Module"),
    ],
)
def test_an_own_encoder_that_cannot_be_split_is_refused(factory: str, own_blocks: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        own(factory, own_blocks)
    assert str(refused.value).startswith(f"encoder.own_blocks={own_blocks} with encoder.name=")


def test_what_an_own_split_returned_is_held_to_the_width() -> None:
    with pytest.raises(UserError, match=r"what its split returned gave shape \(4, 4, 46\); its width is 6"):
        own("Wide")(views("mel_cnn"))
