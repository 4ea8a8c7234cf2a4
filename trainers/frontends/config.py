"""Keys ``frontend.*``: what an encoder reads. No torch here: a wrong key is refused before torch is imported."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cluster.entry_points import check_name, is_entry_point
from cluster.settings import Config

MelScale = Literal["slaney", "htk"]
MULE_RATE = 16_000
MULE: dict[str, Any] = {
    **{"n_fft": 2048, "window": 400, "hop": 160},
    **{"num_mels": 96, "min_hz": 0.0, "max_hz": 8000.0, "scale": "htk"},
}

KINDS = ("wave", "mel", "mule", "nnaudio_mel", "nnaudio_stft", "nnaudio_cqt")
UNREAD: dict[str, tuple[str, ...]] = {
    "wave": ("n_fft", "window", "hop", "num_mels", "min_hz", "max_hz", "scale", "compression"),
    "mule": ("n_fft", "window", "hop", "num_mels", "min_hz", "max_hz", "scale"),
    "nnaudio_stft": ("num_mels", "min_hz", "max_hz", "scale"),
    "nnaudio_cqt": ("n_fft", "window", "max_hz", "scale"),
}
"""Settings that have no effect on a kind."""


@dataclass(frozen=True, kw_only=True)
class FrontendConfig(Config):
    """The default mel is small enough for two CPU cores: 64 bands every 20 ms at 22,050 Hz."""

    kind: str = "wave"
    """``wave`` hands on the samples (SampleCNN, TUNe+), ``mel`` is a log-mel spectrogram, ``mule`` that of MULE with
    its own bands and lengths, ``nnaudio_mel``, ``nnaudio_stft`` and ``nnaudio_cqt`` are nnAudio's transforms, whose
    kernels may learn; or ``module:factory``, a transform of your own (docs/extending.md)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a transform of your own, checked against its factory's signature."""
    n_fft: int = 1024
    """Length of the transform, samples."""
    window: int | None = None
    """Length of the Hann window, samples, at most ``n_fft``; None for ``n_fft``."""
    hop: int = 441
    """Between frames, samples."""
    num_mels: int = 64
    """Bands; of ``nnaudio_cqt`` semitones."""
    min_hz: float = 0.0
    """Lower edge of the lowest band; the lowest tone of ``nnaudio_cqt``, C1 where this is 0."""
    max_hz: float | None = None
    """Upper edge of the highest band; None for half the sample rate."""
    scale: MelScale = "slaney"
    """``slaney``: linear below 1 kHz, bands of equal area; ``htk``: logarithmic, bands of height 1."""
    compression: float = 10_000.0
    """C of log(1 + C · power); the larger, the nearer to a logarithm."""
    trainable: bool = False
    """Learn the transform's kernels and mel bands; ``nnaudio_*`` only. The front-end is then part of the encoder: views
    are waves, and its kernels are in gradients, snapshots and exports."""

    def __post_init__(self) -> None:
        check_name("kind", self.kind, KINDS, self.settings)
        self.require("> 0", "n_fft", "hop", "num_mels", "compression")
        if self.window is not None and not 0 < self.window <= self.n_fft:
            raise ValueError(f"window must be in (0, n_fft = {self.n_fft}], got {self.window}")
        if self.trainable and not self.kind.startswith("nnaudio"):
            raise ValueError(f"trainable needs kind nnaudio_mel, nnaudio_stft or nnaudio_cqt, got {self.kind}")
        if self.min_hz < 0 or (self.max_hz is not None and self.max_hz <= self.min_hz):
            raise ValueError(f"min_hz and max_hz must be 0 <= min_hz < max_hz, got {self.min_hz} and {self.max_hz}")
        self._check_unread()

    @property
    def is_own(self) -> bool:
        """Whether the transform is the user's."""
        return is_entry_point(self.kind)

    def _check_unread(self) -> None:
        """Refuse a setting that the kind does not read: otherwise its value would look like part of the experiment."""
        given = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        own = [item.name for item in fields(self)[2:]] if self.is_own else []
        unread = [name for name in given if name in UNREAD.get(self.kind, own)]
        if unread:
            raise ValueError(f"kind={self.kind} does not read {', '.join(unread)}; leave it out")


def num_bands(config: FrontendConfig) -> int:
    """F of the configured transform."""
    if config.kind == "nnaudio_stft":
        return config.n_fft // 2 + 1
    bands: int = MULE["num_mels"] if config.kind == "mule" else config.num_mels
    return bands


def least_samples(config: FrontendConfig, rate: int, frames: int) -> int:
    """Samples of the shortest wave at ``rate`` Hz that a spectrogram's front-end turns into ``frames`` frames.

    >>> least_samples(FrontendConfig(kind="mel"), 22_050, 16), least_samples(FrontendConfig(kind="mule"), 22_050, 300)
    (6615, 65929)
    """
    if config.kind != "mule":
        return max(1, (frames - 1) * config.hop)
    needed: int = (frames - 1) * MULE["hop"]
    return max(1, 1 + (needed - 1) * rate // MULE_RATE)  # resampling rounds a length up
