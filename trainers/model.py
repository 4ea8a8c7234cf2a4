"""What is trained: an encoder, and the head and loss that pretraining needs and evaluation drops.

Shape suffixes: N views of this rank, C tags, E encoder width, D width of the head's output: projections or C logits.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cluster.settings import Config
from data_shards.records import SAMPLE_RATE
from trainers.batch_norm import convert_batch_norm
from trainers.encoders.encoder import Encoder
from trainers.encoders.learned_frontend import LearnedFrontend
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.nfnet import SlowFastNfnet, check_channels
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import TunePlus
from trainers.frontend import FrontendConfig, build_transform
from trainers.losses.objective import ContrastiveLoss, LossConfig, SupervisedLoss, build_loss

ENCODERS: dict[str, type[Encoder]] = {
    "sample_cnn": SampleCnn,
    "tune_plus": TunePlus,
    "mel_cnn": MelCnn,
    "nfnet": SlowFastNfnet,
}
_NNAUDIO = ("nnaudio_mel", "nnaudio_stft", "nnaudio_cqt")
FRONTENDS: dict[str, tuple[str, ...]] = {
    "sample_cnn": ("wave",),
    "tune_plus": ("wave",),
    "mel_cnn": ("mel", "mule", *_NNAUDIO),
    "nfnet": ("mule", "mel", *_NNAUDIO),
}
"""The front-ends that an encoder can read, its own first."""
SIZED = ("mel_cnn", "nfnet")
"""Encoders whose channels may be chosen."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Which network embeds a view."""

    name: Literal["sample_cnn", "tune_plus", "mel_cnn", "nfnet"] = "sample_cnn"
    """SampleCNN and TUNe+ read the waveform, Mel-CNN and SlowFast NFNet a log-mel spectrogram (docs/encoders.md)."""
    channels: int | None = None
    """Channels of the first block (mel_cnn: 16 unless given, width 32 times this) or stage (nfnet: 256, a multiple of
    16 and at least 48, width 6.75 times this); the other encoders have one size."""
    batch_norm: Literal["sync", "micro"] = "sync"
    """Statistics of the global batch, or of fixed-size micro-batches (docs/training.md)."""

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be >= 1, got {self.channels}")
        if self.channels is not None and self.name not in SIZED:
            raise ValueError(f"channels is a setting of {' and '.join(SIZED)}; leave it out for {self.name}")
        if self.channels is not None and self.name == "nfnet":
            check_channels(self.channels)

    @property
    def reads(self) -> Literal["wave", "mel"]:
        """What the network reads: waves (N, T) or spectrograms (N, F, S)."""
        return "wave" if "wave" in self.frontends else "mel"

    @property
    def shortest(self) -> tuple[int, ...]:
        """Least size of a view: its samples, or its bands and frames."""
        return ENCODERS[self.name].shortest

    @property
    def frontends(self) -> tuple[str, ...]:
        """The front-ends that the network can read, its own first."""
        return FRONTENDS[self.name]


PROJECTION_WIDTH = 128
"""D of the paper's head."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The head: Linear, ReLU, Linear, no bias (arXiv:2407.13840). A supervised one ends in an output a tag."""

    hidden: int = 512
    """Width of the hidden layer."""
    width: int | None = None
    """Contrastive only: width D of the projections that the loss compares, 128 unless given."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or (self.width is not None and self.width < 1):
            raise ValueError(f"hidden and width must be >= 1, got {self.hidden} and {self.width}")


class Projected(NamedTuple):
    """What a step needs of its views, float32."""

    z_ND: Tensor
    """Projections of any scale, or logits: what the loss reads."""
    h_NE: Tensor
    """Embeddings: what evaluation will read."""


class Projector(nn.Module):
    """Encoder and head: what DDP wraps."""

    def __init__(self, encoder: Encoder, hidden: int, width: int) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(encoder.width, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width, bias=False),
        )
        self.bfloat16_products = False

    def forward(self, views: Tensor) -> Projected:
        """Project views as the encoder reads them, (N, …); h and z come back as float32."""
        with torch.autocast(views.device.type, torch.bfloat16, enabled=self.bfloat16_products):
            h_NE: Tensor = self.encoder(views)
            z_ND: Tensor = self.head(h_NE)
        return Projected(z_ND.float(), h_NE.float())


class ContrastiveModel(nn.Module):
    """All that is trained: the projector, and the loss with its temperature."""

    def __init__(self, projector: Projector, loss: ContrastiveLoss | SupervisedLoss) -> None:
        super().__init__()
        self.projector = projector
        self.loss = loss


def build_encoder(
    config: EncoderConfig, micro_rows: int | None = None, *, frontend: FrontendConfig | None = None
) -> Encoder:
    """A fresh encoder. Its first weights depend on torch's generator only.

    Args:
        config: which.
        micro_rows: rows of a micro-batch where ``batch_norm`` is micro; None takes each call for one.
        frontend: part of the encoder where it is trainable.
    """
    encoder = ENCODERS[config.name](**({} if config.channels is None else {"channels": config.channels}))
    convert_batch_norm(encoder, config.batch_norm, rows=micro_rows if config.batch_norm == "micro" else None)
    if frontend is not None and frontend.trainable:
        return LearnedFrontend(build_transform(frontend, SAMPLE_RATE), encoder)
    return encoder


def build_model(
    encoder: EncoderConfig,
    head: HeadConfig,
    loss: LossConfig,
    *,
    seed: int,
    num_tags: int = 0,
    micro_rows: int | None = None,
    frontend: FrontendConfig | None = None,
) -> ContrastiveModel:
    """A model at its first weights, the same for the same seed on every rank.

    Args:
        encoder: which network.
        head: its hidden width, and the width of projections.
        loss: the objective; a supervised one decides the head's outputs.
        seed: of the first weights.
        num_tags: C, outputs of a supervised head.
        micro_rows: as for `build_encoder`.
        frontend: as for `build_encoder`.
    """
    width = (head.width or PROJECTION_WIDTH) if loss.objective == "contrastive" else num_tags
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = Projector(build_encoder(encoder, micro_rows, frontend=frontend), hidden=head.hidden, width=width)
        return ContrastiveModel(projector, build_loss(loss))
