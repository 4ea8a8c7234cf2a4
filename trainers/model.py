"""What is trained: an encoder, and the projection head and loss that pretraining needs and evaluation drops.

Shape suffixes: N views of this rank, C tags, E encoder width, D projection width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cluster.settings import Config
from trainers.batch_norm import convert_batch_norm
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.sample_cnn import SampleCnn
from trainers.losses.semi_supervised import ContrastiveLoss, LossConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Which network embeds a view."""

    name: Literal["sample_cnn", "mel_cnn"] = "sample_cnn"
    """SampleCNN reads the waveform, Mel-CNN a log-mel spectrogram (see trainers/encoders)."""
    channels: int | None = None
    """Mel-CNN only: channels of its first block, 16 unless given; its width is 32 times this."""
    batch_norm: Literal["sync", "micro"] = "sync"
    """Statistics of the global batch, or of fixed-size micro-batches (SCIENCE §3)."""

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be >= 1, got {self.channels}")
        if self.channels is not None and self.name != "mel_cnn":
            raise ValueError(f"channels is a setting of mel_cnn; leave it out for {self.name}")

    @property
    def reads(self) -> Literal["wave", "mel"]:
        """The front-end that the network needs."""
        return "mel" if self.name == "mel_cnn" else "wave"


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The projection head: Linear, ReLU, Linear, no bias (SCIENCE §3)."""

    hidden: int = 512
    """Width of the hidden layer."""
    width: int = 128
    """Width D of the projections that the loss compares."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.width < 1:
            raise ValueError(f"hidden and width must be >= 1, got {self.hidden} and {self.width}")


class Projector(nn.Module):
    """Encoder and projection head: what DDP wraps."""

    def __init__(self, encoder: SampleCnn | MelCnn, head: HeadConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(encoder.width, head.hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(head.hidden, head.width, bias=False),
        )

    def forward(self, views: Tensor) -> Tensor:
        """Views as the encoder reads them, (N, …), to projections z_ND of any scale."""
        z_ND: Tensor = self.head(self.encoder(views))
        return z_ND


class ContrastiveModel(nn.Module):
    """All that is trained: the projector, and the loss with its temperature."""

    def __init__(self, projector: Projector, loss: ContrastiveLoss) -> None:
        super().__init__()
        self.projector = projector
        self.loss = loss


def build_encoder(config: EncoderConfig, micro_rows: int | None = None) -> SampleCnn | MelCnn:
    """A fresh encoder. Its first weights depend on torch's generator only.

    Args:
        config: which.
        micro_rows: rows of a micro-batch where ``batch_norm`` is micro; None takes each call for one.
    """
    encoder = SampleCnn() if config.name == "sample_cnn" else MelCnn(config.channels or 16)
    convert_batch_norm(encoder, config.batch_norm, rows=micro_rows if config.batch_norm == "micro" else None)
    return encoder


def build_model(
    encoder: EncoderConfig, head: HeadConfig, loss: LossConfig, *, seed: int, micro_rows: int | None = None
) -> ContrastiveModel:
    """A model at its first weights, the same for the same seed on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ContrastiveModel(Projector(build_encoder(encoder, micro_rows), head), ContrastiveLoss(loss))
