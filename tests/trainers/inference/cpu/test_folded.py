"""Encoders for a CPU compute what their plain layers compute."""

import copy
import pickle
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from cluster.settings import load_config
from trainers.config import ExperimentConfig
from trainers.distributed.batch_norm import convert_batch_norm
from trainers.encoders.branched import Branched
from trainers.encoders.encoder import Encoder
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.nfnet import SlowFastNfnet
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import TunePlus
from trainers.inference.cpu import winograd
from trainers.inference.cpu.build import CpuPath, fold_encoder
from trainers.inference.cpu.folding import fold
from trainers.inference.cpu.winograd import WinogradConv, empty_frames
from trainers.inference.frozen import FrozenEncoder

M = TypeVar("M", bound=nn.Module)
# One frame at the end, the released code's crop, and lengths that leave one and two frames over at several levels.
LENGTHS = (59_049, 59_535, 61_111, 70_001)


def trained(encoder: M) -> M:
    """With statistics and affine parameters of either sign, as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    module: Any
    for module in encoder.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            nn.init.normal_(module.weight, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
    return encoder.eval()


def waves(rows: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))


def make(name: str) -> Encoder:
    torch.manual_seed(1)
    made: dict[str, type[Encoder]] = {"sample_cnn": SampleCnn, "tune_plus": TunePlus, "mel_cnn": MelCnn}
    return trained(made[name]())


def assert_equal(encoder: Encoder, views: Tensor) -> None:
    """Exact in float64, and in float32 as near to float64 as 1e-5 of the greatest number."""
    with torch.no_grad():
        expected = copy.deepcopy(encoder).double()(views.double())
        exact, folded = fold_encoder(encoder, torch.float64), fold_encoder(encoder)
        assert exact is not None
        assert folded is not None
        scale = float(expected.abs().max())
        torch.testing.assert_close(exact(views.double()), expected, rtol=0, atol=1e-12 * scale)
        torch.testing.assert_close(folded(views).double(), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("name", ["sample_cnn", "tune_plus"])
def test_a_folded_encoder_of_waves_is_its_plain_layers(name: str, samples: int) -> None:
    assert_equal(make(name), waves(3, samples))


@pytest.mark.parametrize(("bands", "frames"), [(64, 134), (65, 47), (80, 16)])
def test_a_folded_mel_cnn_is_its_plain_layers(bands: int, frames: int) -> None:
    views = torch.rand(5, bands, frames, generator=torch.Generator().manual_seed(0)) * 4
    assert_equal(make("mel_cnn"), views)


@pytest.mark.parametrize("name", ["sample_cnn", "tune_plus", "mel_cnn"])
def test_one_folded_encoder_takes_any_length_number_and_layout_of_views(name: str) -> None:
    encoder = make(name)
    folded = fold_encoder(encoder)
    assert folded is not None
    shapes = [(1, 61_111), (3, 59_049), (2, 60_021)] if name != "mel_cnn" else [(1, 64, 134), (3, 65, 47), (2, 80, 16)]
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        dense = torch.rand(*shape, generator=generator)
        for views in (dense, dense.mT.contiguous().mT, torch.cat([dense, dense])[::2]):
            with torch.no_grad():
                expected = encoder(views)
                atol = 1e-5 * float(expected.abs().max())
                torch.testing.assert_close(folded(views), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["sample_cnn", "tune_plus", "mel_cnn"])
def test_a_row_takes_nothing_from_its_neighbours(name: str) -> None:
    folded = fold_encoder(make(name))
    assert folded is not None
    views = waves(4, 59_049) if name != "mel_cnn" else waves(4, 64 * 40).view(4, 64, 40)
    alone = torch.cat([folded(view[None]) for view in views])
    torch.testing.assert_close(folded(views), alone, rtol=0, atol=1e-6 * float(alone.abs().max()))
    views[1] *= 1e4
    torch.testing.assert_close(folded(views)[[0, 2, 3]], alone[[0, 2, 3]], rtol=0, atol=1e-6 * float(alone.abs().max()))


@pytest.mark.parametrize("own_blocks", [1, 3])
@pytest.mark.parametrize("name", ["sample_cnn", "tune_plus", "mel_cnn"])
def test_an_encoder_with_branches_folds_too(name: str, own_blocks: int) -> None:
    encoder = trained(Branched(make(name), own_blocks, ["invariant", "pitch", "stretch"]))
    views = waves(2, 59_049) if name != "mel_cnn" else waves(2, 64 * 40).view(2, 64, 40)
    assert_equal(encoder, views)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fold_encoder(make("sample_cnn"), torch.float64)
    assert folded is not None
    wave_NT = waves(2, 61_111).double()
    whole = folded(wave_NT)
    monkeypatch.setattr(winograd, "PIECE_BYTES", 70_000)
    torch.testing.assert_close(folded(wave_NT), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", range(1, 20))
def test_the_fast_convolution_is_the_plain_one_at_every_length(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    conv, norm = nn.Conv1d(3, 5, 3, padding=1).double(), nn.BatchNorm1d(5).double().eval()
    fast = WinogradConv(*fold(nn.Sequential(conv, norm)), torch.float64)
    x_NCL = torch.randn(2, 3, length, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = norm(conv(x_NCL)).relu()
        frames = empty_frames(2, length, 3, x_NCL).fill(x_NCL.mT)
        torch.testing.assert_close(frames.linear(), x_NCL.mT)
        torch.testing.assert_close(fast.full(frames).linear(), expected.mT)
        if length >= 3:
            pooled = nn.functional.max_pool1d(expected, 3)
            torch.testing.assert_close(fast.pooled(frames).linear(), pooled.mT)


def test_folding_reads_norms_of_either_kind_with_and_without_parameters() -> None:
    conv = nn.Conv2d(2, 3, 3, bias=False)
    for norm in (nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3), nn.BatchNorm2d(3)):
        layers = trained(nn.Sequential(conv, norm)) if norm.affine else nn.Sequential(conv, norm).eval()
        converted = convert_batch_norm(copy.deepcopy(layers), "sync")
        x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
        kernel, bias = fold(converted)
        with torch.no_grad():
            torch.testing.assert_close(nn.functional.conv2d(x.double(), kernel, bias).float(), layers(x))


def frozen(name: str = "mel_cnn") -> FrozenEncoder:
    kind = {"mel_cnn": "mel", "nfnet": "mule"}.get(name, "wave")
    keys = [f"encoder.name={name}", f"frontend.kind={kind}"] + ["encoder.channels=48"] * (name == "nfnet")
    return FrozenEncoder(load_config(ExperimentConfig, None, keys), None, hash="", provenance={})


def test_a_frozen_encoder_follows_its_weights() -> None:
    encoder, wave_NT = frozen(), waves(2, 59_049)
    before = encoder(wave_NT)
    encoder.encoder.load_state_dict(trained(copy.deepcopy(encoder.encoder)).state_dict())
    after = encoder(wave_NT)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, encoder.encoder(encoder.frontend(wave_NT)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["sample_cnn", "tune_plus", "mel_cnn"])
def test_what_is_not_finite_stays_so(name: str, broken: float) -> None:
    encoder, wave_NT = frozen(name), waves(2, 59_049)
    wave_NT[1, 1_000] = broken
    assert encoder(wave_NT).isfinite().all(1).tolist() == [True, False]
    assert encoder(waves(2, 59_049)).isfinite().all()
    first, *_ = (module for module in encoder.encoder.modules() if isinstance(module, nn.Conv1d | nn.Conv2d))
    with torch.no_grad():
        first.weight.view(-1)[0] = torch.nan
    assert not encoder(waves(2, 59_049)).isfinite().all(1).any()


def test_other_types_compilation_and_short_views_take_the_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make("sample_cnn")
    path = CpuPath(encoder, nn.Identity())
    assert path.network(waves(1, 59_049)) is not encoder
    assert path.network(waves(1, 59_049).double()) is encoder
    assert path.network(waves(1, 59_048)) is encoder
    with torch.autocast("cpu", torch.bfloat16):
        assert path.network(waves(1, 59_049)) is encoder
    with pytest.raises(ValueError, match="T ≥ 59049"):
        path.network(waves(1, 100))(waves(1, 100))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as while a program is exported
    assert path.network(waves(1, 59_049)) is encoder


def test_a_frozen_encoder_says_how_many_chunks_a_cpu_takes_at_once() -> None:
    assert [frozen(name).cpu_rows for name in ("mel_cnn", "sample_cnn", "tune_plus", "nfnet")] == [8, 8, 16, 4]


def test_a_frozen_encoder_embeds_the_views_that_it_makes() -> None:
    encoder, wave_NT = frozen(), waves(3, 59_049)
    views = encoder.make_views(wave_NT)
    torch.testing.assert_close(views, encoder.frontend(wave_NT), rtol=0, atol=1e-5)
    assert torch.equal(encoder.embed_views(views), encoder(wave_NT))


def test_an_encoder_without_an_equivalent_stays_as_it_is() -> None:
    encoder = SlowFastNfnet(channels=48)
    assert fold_encoder(encoder) is None
    assert CpuPath(encoder, nn.Identity()).network(torch.zeros(1, 96, 300)) is encoder


def test_a_used_encoder_can_be_copied_and_sent_to_workers() -> None:
    encoder, wave_NT = frozen(), waves(2, 59_049)
    expected = encoder(wave_NT)
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(wave_NT), expected)  # noqa: S301
    assert torch.equal(copy.deepcopy(encoder)(wave_NT), expected)
