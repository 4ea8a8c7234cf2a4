"""What is trained: an encoder, and the head and loss that pretraining needs and evaluation drops.

Shape suffixes: N views of this rank, C tags, E encoder width, D width of the head's output: projections or C logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_shards.format.records import SAMPLE_RATE
from trainers.distributed.batch_norm import convert_batch_norm, running_statistics
from trainers.draws import GeneratorStates
from trainers.encoders.branched import Branched
from trainers.encoders.config import INVARIANT, PROJECTION_WIDTH, EncoderConfig, HeadConfig
from trainers.encoders.encoder import Encoder
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.nfnet import SlowFastNfnet
from trainers.encoders.own import build_own
from trainers.encoders.sample_cnn import SampleCnn
from trainers.encoders.tune_plus import TunePlus
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import build_transform
from trainers.losses.config import LossConfig
from trainers.losses.objective import build_loss, head_outputs

ENCODERS: dict[str, type[Encoder]] = {
    "sample_cnn": SampleCnn,
    "tune_plus": TunePlus,
    "mel_cnn": MelCnn,
    "nfnet": SlowFastNfnet,
}


class Outputs(NamedTuple):
    """Of a step's views, float32."""

    z_ND: Tensor
    """Projections of any scale, of one head after the other, or logits: what the loss reads."""
    h_NE: Tensor
    """Embeddings: what evaluation will read."""


class Network(nn.Module):
    """What DDP wraps: an encoder, and what pretraining needs behind it."""

    encoder: Encoder

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16_products = False
        self.variant_heads = nn.ModuleDict()


class Projector(Network):
    """Encoder and heads.

    Args:
        encoder: from views to embeddings.
        hidden: width of each head's hidden layer.
        width: D of each head's output.
        variant: effects with a head of their own (`losses.variants`); their projections follow those of ``head``. A
            head reads its own part of the embedding where the encoder has one (`Encoder.spaces`), else all of it.
    """

    def __init__(self, encoder: Encoder, hidden: int, width: int, variant: Sequence[str] = ()) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        parts = [encoder.spaces.get(name, slice(0, encoder.width)) for name in (INVARIANT, *variant)]
        first, *others = (build_head(part.stop - part.start, hidden, width) for part in parts)
        self.head = first
        self.variant_heads = nn.ModuleDict(dict(zip(variant, others, strict=True)))
        self.parts = parts

    def forward(self, views: Tensor) -> Outputs:
        """Project views as the encoder reads them, (N, …); h and z come back as float32."""
        with torch.autocast(views.device.type, torch.bfloat16, enabled=self.bfloat16_products):
            h_NE: Tensor = self.encoder(views)
            if len(self.variant_heads) == 0:
                z_ND: Tensor = self.head(h_NE)
            else:
                heads = zip((self.head, *self.variant_heads.values()), self.parts, strict=True)
                z_ND = torch.cat([head(h_NE[:, part]) for head, part in heads], 1)
        return Outputs(z_ND.float(), h_NE.float())


def build_head(inside: int, hidden: int, width: int) -> nn.Sequential:
    """A head at its first weights: Linear, ReLU, Linear, no bias."""
    return nn.Sequential(
        nn.Linear(inside, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, width, bias=False)
    )


class ContrastiveModel(nn.Module):
    """All that is trained: the projector, and the loss with its temperature."""

    def __init__(self, projector: Network, loss: nn.Module) -> None:
        super().__init__()
        self.projector = projector
        self.loss = loss


def build_encoder(
    config: EncoderConfig,
    micro_rows: int | None = None,
    *,
    frontend: FrontendConfig | None = None,
    variant: Sequence[str] = (),
) -> Encoder:
    """A fresh encoder. Its first weights depend on torch's generator only.

    Args:
        config: which.
        micro_rows: rows of a micro-batch where ``batch_norm`` is micro; None takes each call for one.
        frontend: part of the encoder where it is trainable.
        variant: effects of ``head.variant``, which have blocks of their own where ``own_blocks`` > 0.
    """
    if config.is_own:
        encoder: Encoder = build_own(config)
    else:
        encoder = ENCODERS[config.name](**({} if config.channels is None else {"channels": config.channels}))
    if config.own_blocks:
        encoder = Branched(encoder, config.own_blocks, (INVARIANT, *variant))
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
    """A model at its first weights, the same for the same seed on every rank. A supervised head has ``num_tags``
    outputs, C; other arguments are those of `build_encoder`.
    """
    width = (head.width or PROJECTION_WIDTH) if head_outputs(loss) == "projections" else num_tags
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_encoder(encoder, micro_rows, frontend=frontend, variant=head.variant)
        projector = Projector(network, hidden=head.hidden, width=width, variant=head.variant)
        return ContrastiveModel(projector, build_loss(loss, head.variant))


class LearnedFrontend(Encoder):
    """nnAudio's kernels, then a network on the spectrogram they make; both are in gradients, snapshots and exports."""

    def __init__(self, frontend: nn.Module, network: Encoder) -> None:
        super().__init__()
        self.frontend, self.network = frontend, network
        self.width = network.width

    @property
    def spaces(self) -> Mapping[str, slice]:
        """Those of the network."""
        return self.network.spaces

    @property
    def body(self) -> nn.Module:
        """The network's: its blocks are the ones that checkpointing counts."""
        return self.network.body

    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed waves, float32 in [-1, 1], as (N, width); the transform stays in float32, whatever the products after
        it are.
        """
        with torch.autocast(wave_NT.device.type, enabled=False):
            spectrogram = self.frontend(wave_NT.float())
        h_NE: Tensor = self.network(spectrogram)
        return h_NE


def checkpoint_first(encoder: nn.Module, count: int) -> None:
    """Keep only the inputs of the encoder's first blocks, in place; names of weights stay.

    These blocks work at the full length of the audio and hold most of the activations; backward computes them again.
    Gradients, running statistics and random draws are those of the plain step, bit for bit on a CPU.

    Args:
        encoder: its blocks are its children in order, those of a Sequential of Sequentials one by one.
        count: blocks, ≥ 0.

    Raises:
        ValueError: if there are not so many.
    """
    blocks = list_blocks(encoder)
    if count > len(blocks):
        raise ValueError(f"checkpoint_blocks={count}: the encoder has {len(blocks)} blocks")
    for block in blocks[:count]:
        # On the instance: a wrapping module would rename every weight of the block.
        setattr(block, "forward", partial(_checkpointed, block, block.forward))  # noqa: B010  # mypy forbids the plain form


def list_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The encoder's blocks in the order in which it defines them."""
    blocks: list[nn.Module] = []
    for child in encoder.children():
        nested = isinstance(child, nn.Sequential | nn.ModuleList) and all(len(list(x.children())) for x in child)
        blocks += list(child.children()) if nested else [child]
    return blocks


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
        return nullcontext(), _second_forward(block, GeneratorStates(torch.device("cpu")))

    result: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _second_forward(block: nn.Module, states: GeneratorStates) -> Iterator[None]:
    """It sees the same batch again, for which running statistics have moved already, and draws the same numbers: torch
    brings its own generators back, but not those of NumPy and Python.
    """
    with running_statistics(block, "hold"), states.again():
        yield
