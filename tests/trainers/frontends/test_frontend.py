"""Front-ends against librosa and nnAudio."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from torch import Tensor

from trainers.config import ExperimentConfig
from trainers.encoders.config import EncoderConfig
from trainers.frontends import frontend as frontend_module
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import build_frontend, build_transform
from trainers.inference.frozen import load_encoder, untrained_encoder
from trainers.model import build_encoder
from trainers.pretrain import pretrain

RATE = 22_050


@pytest.fixture
def wave() -> Tensor:
    return 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))


def power(config: FrontendConfig, wave: Tensor, rate: int = RATE) -> Tensor:
    """Undo log(1 + C · x)."""
    out: Tensor = build_transform(config, rate)(wave)
    return torch.expm1(out.double()) / config.compression


def librosas_mel(wave: Tensor, config: FrontendConfig, rate: int) -> np.ndarray[Any, Any]:
    """librosa's melspectrogram, transcribed: its filters on the power of centred frames.

    The function itself asks numba for half of librosa, which takes long; ``-m slow`` compares with it.
    """
    filters = pytest.importorskip("librosa.filters")
    length, window = config.n_fft, config.window or config.n_fft
    hann = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), (length - window) // 2)
    padded = np.pad(wave.numpy().astype(np.float64), ((0, 0), (length // 2, length // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length, axis=-1)[:, :: config.hop]
    spectrum = np.fft.rfft(frames * hann)
    settings: dict[str, Any] = {"fmin": config.min_hz, "fmax": config.max_hz, "htk": config.scale == "htk"}
    bands_FK = filters.mel(sr=rate, n_fft=length, n_mels=config.num_mels, norm="slaney", **settings)
    if config.scale == "htk":  # norm=None: the norm is undone here, since librosa compiles 15 s to apply none
        edges = filters.mel_frequencies(config.num_mels + 2, **settings)
        bands_FK = bands_FK * ((edges[2:] - edges[:-2]) / 2)[:, None]
    found: np.ndarray[Any, Any] = bands_FK @ np.moveaxis(np.abs(spectrum) ** 2, 1, 2)
    return found


TRANSFORMS = pytest.mark.parametrize(("n_fft", "window", "hop"), [(1024, None, 441), (2048, 400, 160)])
SCALES = pytest.mark.parametrize("scale", ["slaney", "htk"])


def mel_config(scale: Any, n_fft: int, window: int | None, hop: int) -> FrontendConfig:
    return FrontendConfig(
        kind="mel", scale=scale, n_fft=n_fft, window=window, hop=hop, num_mels=40, min_hz=30, max_hz=8000
    )


@SCALES
@TRANSFORMS
def test_mel_is_librosas(scale: Any, n_fft: int, window: int | None, hop: int, wave: Tensor) -> None:
    config = mel_config(scale, n_fft, window, hop)
    theirs = librosas_mel(wave, config, RATE)
    ours = power(config, wave)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-4, atol=1e-6 * theirs.max())


@pytest.mark.slow
@SCALES
@TRANSFORMS
def test_the_transcription_of_librosa_is_librosa(
    scale: Any, n_fft: int, window: int | None, hop: int, wave: Tensor
) -> None:
    librosa = pytest.importorskip("librosa")
    config = mel_config(scale, n_fft, window, hop)
    theirs = librosa.feature.melspectrogram(
        y=wave.numpy(), sr=RATE, n_fft=n_fft, hop_length=hop, win_length=window, n_mels=40, fmin=30, fmax=8000,
        htk=scale == "htk", norm="slaney" if scale == "slaney" else None, pad_mode="constant",
    )  # fmt: skip
    np.testing.assert_allclose(librosas_mel(wave, config, RATE), theirs, rtol=1e-4, atol=1e-6 * theirs.max())


@pytest.mark.parametrize("kind", ["mel", "mule"])
def test_a_batch_has_the_bits_of_its_rows_whatever_the_cache_holds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FrontendConfig(kind=kind)
    waves = 0.1 * torch.randn(7, 9000, generator=torch.Generator().manual_seed(0))
    frontend = build_frontend(config, 22_050)
    whole = []
    for rows in (7, 3, 1):
        monkeypatch.setattr(frontend_module, "CACHED_ROWS", rows)
        whole.append(frontend(waves))
    assert torch.equal(whole[0], whole[1])
    assert torch.equal(whole[0], whole[2])


def test_the_wave_is_handed_on(wave: Tensor) -> None:
    assert torch.equal(build_transform(FrontendConfig(), RATE)(wave), wave)


def test_mules_mel_is_librosas_at_16_khz() -> None:
    second = torch.arange(3 * RATE) / RATE
    hz = torch.tensor([[220.0], [1000.0], [3000.0]])
    wave = 0.1 * torch.sin(2 * torch.pi * hz * second).sum(0, keepdim=True)
    ours = power(FrontendConfig(kind="mule"), wave)
    assert ours.shape == (1, 96, 301)
    resampled = torch.from_numpy(soxr.resample(wave[0].numpy(), RATE, 16_000, quality="HQ"))[None]
    mule = FrontendConfig(kind="mel", scale="htk", n_fft=2048, window=400, hop=160, num_mels=96, min_hz=0, max_hz=8000)
    theirs = librosas_mel(resampled, mule, 16_000)
    loud = theirs > 1e-3 * theirs.max()
    inner = np.zeros_like(loud)
    inner[..., 20:-20] = True
    np.testing.assert_allclose(ours.numpy()[loud & inner], theirs[loud & inner], rtol=0.05)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_nnaudios_mel_is_ours(scale: Any, wave: Tensor) -> None:
    pytest.importorskip("nnAudio")
    settings: dict[str, Any] = {"scale": scale, "num_mels": 40, "max_hz": 8000.0}
    ours = build_transform(FrontendConfig(kind="mel", **settings), RATE)(wave)
    theirs = build_transform(FrontendConfig(kind="nnaudio_mel", **settings), RATE)(wave)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-2)


def test_nnaudios_stft_is_torchs(wave: Tensor) -> None:
    pytest.importorskip("nnAudio")
    config = FrontendConfig(kind="nnaudio_stft")
    spectrum = torch.stft(
        wave, 1024, 441, window=torch.hann_window(1024), pad_mode="constant", return_complex=True
    ).abs()
    torch.testing.assert_close(power(config, wave).sqrt().float(), spectrum, rtol=1e-2, atol=2e-2)


def test_a_cqt_finds_the_note() -> None:
    pytest.importorskip("nnAudio")
    second = torch.arange(RATE) / RATE
    note = torch.sin(2 * torch.pi * 440 * second)[None]
    out = build_transform(FrontendConfig(kind="nnaudio_cqt", num_mels=84), RATE)(note)
    assert out.shape[1] == 84
    assert int(out[0].mean(1).argmax()) == 45  # A4 lies 45 semitones above C1


@pytest.mark.parametrize("kind", ["nnaudio_mel", "nnaudio_stft", "nnaudio_cqt"])
def test_kernels_learn_when_asked(kind: Any, wave: Tensor) -> None:
    pytest.importorskip("nnAudio")
    bands: dict[str, Any] = {} if kind == "nnaudio_stft" else {"num_mels": 24}
    fixed = build_transform(FrontendConfig(kind=kind, **bands), RATE)
    assert not [p for p in fixed.parameters() if p.requires_grad]
    learned = build_transform(FrontendConfig(kind=kind, trainable=True, **bands), RATE)
    learned(wave).sum().backward()
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in learned.parameters())


def test_a_front_end_that_learns_is_the_encoders_and_its_kernels_move_are_kept_and_judged(
    make_config: Callable[..., ExperimentConfig],
) -> None:
    config = make_config(frontend__kind="nnaudio_mel", frontend__trainable=True, optim__checkpoint_blocks=1)
    assert pretrain(config) == 0
    first, learned = untrained_encoder(config.run.dir), load_encoder(config.run.dir)
    moved = {
        name
        for (name, old), (_, new) in zip(
            first.encoder.named_parameters(), learned.encoder.named_parameters(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert {name.partition(".")[0] for name in moved} == {"frontend", "network"}
    wave_NT = 0.1 * torch.randn(2, config.views.samples, generator=torch.Generator().manual_seed(1))
    assert learned(wave_NT).shape == (2, 64)
    assert not torch.allclose(learned(wave_NT), first(wave_NT))


def test_a_front_end_that_could_learn_starts_as_the_one_that_cannot(wave: Tensor) -> None:
    fixed, learned = (
        FrontendConfig(kind="nnaudio_mel", num_mels=64, trainable=trainable) for trainable in (False, True)
    )
    torch.manual_seed(0)
    apart = build_encoder(EncoderConfig(name="mel_cnn"), frontend=fixed).eval()
    torch.manual_seed(0)
    joined = build_encoder(EncoderConfig(name="mel_cnn"), frontend=learned).eval()
    assert torch.equal(build_frontend(learned, RATE)(wave), wave)
    torch.testing.assert_close(joined(wave), apart(build_frontend(fixed, RATE)(wave)))


@pytest.mark.parametrize("kind", ["nnaudio_stft", "nnaudio_cqt"])
def test_nnaudios_transforms_train_an_encoder(kind: str, make_config: Callable[..., ExperimentConfig]) -> None:
    bands: dict[str, Any] = {"frontend__num_mels": 64} if kind == "nnaudio_cqt" else {}
    assert pretrain(make_config(frontend__kind=kind, optim__steps=1, **bands)) == 0


@pytest.mark.parametrize("kind", ["mel", "mule", "nnaudio_mel", "nnaudio_stft"])
def test_silence_is_finite_and_zero(kind: Any) -> None:
    out = build_transform(FrontendConfig(kind=kind), RATE)(torch.zeros(1, RATE))
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop": 0}, "hop must be > 0, got 0"),
        ({"window": 4096}, "window must be in"),
        ({"min_hz": 500.0, "max_hz": 400.0}, "0 <= min_hz < max_hz"),
        ({"kind": "mel", "trainable": True}, "trainable needs kind nnaudio_mel"),
        ({"compression": 5.0, "hop": 220}, "kind=wave does not read hop, compression; leave it out"),
        ({"kind": "mule", "num_mels": 17}, "kind=mule does not read num_mels"),
    ],
)
def test_a_contradiction_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrontendConfig(**settings)


def test_a_band_above_half_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="max_hz must be <= 11025"):
        build_transform(FrontendConfig(kind="mel", max_hz=12_000.0), RATE)


def test_mel_is_differentiable(wave: Tensor) -> None:
    wave.requires_grad_()
    build_transform(FrontendConfig(kind="mel"), RATE)(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
