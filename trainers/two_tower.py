"""Two towers that are trained together: an audio encoder and a text encoder, each with a projection to a joint space.

Under DDP they are one module. A locked tower stays in evaluation mode, BatchNorm and dropout too, and has no gradient.

Shape suffixes: N audio rows of this rank (row m·clips + b), B clips, R = B + H texts, H hard ones (those of a clip
beside each other), P texts that are there, E width of an encoder, D width of the joint space, k rows of a chunk.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from cluster.settings import UserError, flatten, to_tree
from data_shards.format.records import TextRows
from trainers.config import ExperimentConfig
from trainers.distributed.gradient_cache import Chunk
from trainers.encoders.config import PROJECTION_WIDTH
from trainers.encoders.encoder import Encoder
from trainers.losses.music_text import MusicTextLoss
from trainers.model import ContrastiveModel, Network, Outputs, build_encoder, build_head
from trainers.text.build import build_text_encoder
from trainers.text.cache import SentenceVectors
from trainers.text.encoder import TextEncoder, Tokens
from trainers.views.views import Views

if TYPE_CHECKING:  # a machine that only measures steps needs no safetensors
    from trainers.state.snapshot import Snapshot


class TowerInput(NamedTuple):
    """What both towers read at a step."""

    views_N: Tensor
    """As the audio encoder reads them."""
    clip_P: Tensor
    """Which clip of this rank each text is of, int64 on the host."""
    num_clips: int
    tokens: Tokens | None
    """The texts, for an encoder that is trained."""
    vectors_PE: Tensor | None
    """Their embeddings, of one that is not."""
    truncated: float = 0.0
    """Share of the texts of which a part was cut off."""

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.views_N.device

    def __len__(self) -> int:
        return len(self.views_N)

    def split(self, num_chunks: int) -> list[Chunk]:
        """Chunk k holds the clips k::K: their views, and their texts."""
        return [self._part(chunk, num_chunks) for chunk in range(num_chunks)]

    def _part(self, chunk: int, num_chunks: int) -> Chunk:
        text_k = (self.clip_P % num_chunks == chunk).nonzero()[:, 0]
        rows_k = torch.arange(chunk, len(self.views_N), num_chunks)
        on_device = text_k.to(self.device)
        part = TowerInput(
            self.views_N[chunk::num_chunks],
            self.clip_P[text_k] // num_chunks,
            self.num_clips // num_chunks,
            None if self.tokens is None else Tokens(self.tokens.ids_kL[on_device], self.tokens.mask_kL[on_device]),
            None if self.vectors_PE is None else self.vectors_PE[on_device],
        )
        return Chunk(part, torch.cat([rows_k, len(self.views_N) + text_k]).to(self.device))


class TowerProjector(Network):
    """Both encoders and both projections: what DDP wraps.

    Args:
        encoder: from views to embeddings.
        text: from texts to vectors.
        hidden: widths of the hidden layers of the audio and the text projection; 0 is a linear projection.
        width: D of the joint space.
        locked: the audio encoder is not trained.
        cache: folder where vectors of a text encoder that is not trained are kept.
    """

    def __init__(
        self,
        encoder: Encoder,
        text: TextEncoder,
        *,
        hidden: tuple[int, int],
        width: int,
        locked: bool = False,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.text = text
        self.audio_projection = _projection(encoder.width, hidden[0], width)
        self.text_projection = _projection(text.width, hidden[1], width)
        self.locked = locked
        self.kept = SentenceVectors(text, cache) if text.is_locked else None
        """Vectors of a text encoder that is not trained."""
        self._truncated: dict[str, bool] = {}
        if locked:
            encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "TowerProjector":
        """Set the mode of what is trained; what is locked stays in evaluation mode."""
        super().train(mode)
        if self.locked:
            self.encoder.eval()
        return self

    def read(self, views_N: Tensor, texts: TextRows) -> TowerInput:
        """What the towers read of a step: texts become tokens, or the vectors that were kept of them."""
        there = [text for text in (*texts.text, *texts.hard) if text is not None]
        clips, each = len(texts.text), len(texts.hard) // max(len(texts.text), 1)
        clip_R = torch.cat([torch.arange(clips), torch.arange(clips).repeat_interleave(each)])
        clip_P = clip_R[texts.present_R.cpu()]
        if self.kept is None:
            tokens = self.text.tokenize(there).to(self.text.device)
            return TowerInput(views_N, clip_P, clips, tokens, None, tokens.truncated / len(there))
        truncated = sum(map(self._is_truncated, there)) / len(there)
        return TowerInput(views_N, clip_P, clips, None, self.kept.encode(there), truncated)

    def _is_truncated(self, text: str) -> bool:
        """Of a text whose vector is kept: it is cut into tokens when it is first seen."""
        if text not in self._truncated:
            self._truncated[text] = self.text.tokenize([text]).truncated > 0
        return self._truncated[text]

    def forward(self, given: TowerInput) -> Outputs:
        """Project both: the audio rows, and behind them the texts that are there; all comes back as float32."""
        if self.locked and self.encoder.training:  # a score of the encoder alone leaves it in training mode
            self.encoder.eval()
        with torch.autocast(given.views_N.device.type, torch.bfloat16, enabled=self.bfloat16_products):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
                h_NE: Tensor = self.encoder(given.views_N)
            text_PE = given.vectors_PE if given.tokens is None else self.text(given.tokens)
            assert text_PE is not None
            audio_ND, text_PD = self.audio_projection(h_NE), self.text_projection(text_PE)
        return Outputs(torch.cat([audio_ND.float(), text_PD.float()]), h_NE.float())


def _projection(inside: int, hidden: int, width: int) -> nn.Sequential:
    if hidden == 0:
        return nn.Sequential(nn.Linear(inside, width, bias=False))
    return build_head(inside, hidden, width)


def build_towers(config: ExperimentConfig) -> ContrastiveModel:
    """Both towers and their loss at their first weights, the same for the same seed on every rank.

    The audio encoder's are drawn first, and so are those of the same encoder in any run of this seed.
    Raises UserError if the text encoder's files are missing or do not fit.
    """
    width = config.head.width or PROJECTION_WIDTH
    text = build_text_encoder(config.text, seed=config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder, config.micro_rows, frontend=config.frontend)
        projector = TowerProjector(
            encoder,
            text,
            hidden=(config.head.hidden, config.text.hidden),
            width=width,
            locked=config.encoder.locked,
            cache=config.text.cache,
        )
    clips = config.data.batch
    loss = MusicTextLoss(config.loss, scope=config.text.swap.scope, num_texts=clips * (1 + config.text.swap.each))
    return ContrastiveModel(projector, loss)


def read_step(model: ContrastiveModel, views: Views) -> Tensor | TowerInput:
    """What the network of a model reads of a step's views."""
    if not isinstance(model.projector, TowerProjector):
        return views.input_N
    assert views.texts is not None
    return model.projector.read(views.input_N, views.texts)


def example_input(model: ContrastiveModel, views_N: Tensor) -> Tensor | TowerInput:
    """An input of the network made of views alone, each with one text."""
    if not isinstance(model.projector, TowerProjector):
        return views_N
    count = len(views_N)
    no_tags = torch.zeros(count, 0, dtype=torch.bool)
    texts = TextRows(("a slow piece",) * count, (), no_tags, no_tags, torch.zeros(count, dtype=torch.int64))
    return model.projector.read(views_N, texts)


PREFIX = "projector."
ENCODER = f"{PREFIX}encoder."


def has_towers(state: Mapping[str, Tensor]) -> bool:
    """Whether a snapshot's weights are those of two towers."""
    return any(name.startswith(f"{PREFIX}text_projection.") for name in state)


def has_head(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are a whole network's: an exported encoder has no head."""
    return any(name.startswith(PREFIX) and not name.startswith(ENCODER) for name in state)


def load_audio_tower(projector: Network, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Start the audio encoder from one with another kind of head, which stays behind.
    Raises RuntimeError if it is another encoder's.
    """
    prefix = ENCODER
    encoder = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    projector.encoder.load_state_dict(encoder, assign=assign)
    if isinstance(projector, TowerProjector) and projector.locked:
        projector.encoder.requires_grad_(False)


def check_locked(config: ExperimentConfig, initial: "Snapshot") -> None:
    """Refuse a locked audio tower that would read something else than what it was trained on."""
    if not config.encoder.locked:
        return
    there, here = flatten(initial.config), flatten(to_tree(config))
    known = flatten(to_tree(ExperimentConfig()))
    for key in sorted(here):
        fixed = key.startswith(("frontend.", "encoder.")) and key not in ("encoder.locked", "encoder.batch_norm")
        if fixed and here[key] != there.get(key, known.get(key)):
            raise UserError(
                f"encoder.locked=true keeps the audio tower of init_from={config.init_from}, which was trained with "
                f"{key}={there.get(key, known.get(key))}, not {here[key]}; set {key} to that, or encoder.locked=false"
            )
