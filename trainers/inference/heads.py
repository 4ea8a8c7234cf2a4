"""An encoder of LOEV with the outputs of its heads behind the embedding: spaces that are computed where they are asked.

LOEV (arXiv:2412.18955, ``encoder.own_blocks=0``) has one embedding for all heads. What each head keeps of it shows in
the head's output, which evaluation drops otherwise.

Shape suffixes: N clips or chunks, T samples, E encoder width, D width of a head's output.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainers.model import build_head

if TYPE_CHECKING:
    from trainers.inference.frozen import FrozenEncoder

FIRST, VARIANT = "projector.head.", "projector.variant_heads."
"""Of the heads' weights in a snapshot: the invariant one's, and those by effect."""


def heads_of_snapshot(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Weights of the heads as ``NAME.PLACE.weight``; none without names."""
    found: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        prefix = f"{VARIANT}{name}." if place else FIRST
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        found |= {f"{name}.{key}": value for key, value in own.items()}
    return found


class EncoderWithHeads(nn.Module):
    """A frozen encoder whose output goes on with those of its heads."""

    def __init__(self, frozen: "FrozenEncoder", state: Mapping[str, Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self.frozen = frozen
        sizes = [(state[f"{name}.0.weight"].shape, len(state[f"{name}.2.weight"])) for name in names]
        heads = [build_head(inside, hidden, width) for (hidden, inside), width in sizes]
        self.heads = nn.ModuleDict(dict(zip(names, heads, strict=True)))
        self.heads.load_state_dict(dict(state))
        self.rate, self.samples, self.hash = frozen.rate, frozen.samples, frozen.hash
        self.may_be_shared, self.frontend_key = frozen.may_be_shared, frozen.frontend_key
        self.cpu_rows = frozen.cpu_rows
        self.provenance: dict[str, Any] = frozen.provenance
        spaces, end = dict(frozen.spaces), frozen.width
        for name, (_, width) in zip(names, sizes, strict=True):
            spaces[name], end = slice(end, end + width), end + width
        self.spaces: Mapping[str, slice] = spaces
        self.width = end
        self.requires_grad_(False)

    @torch.inference_mode()
    def forward(self, wave_NT: Tensor) -> Tensor:
        """Embed mono audio; shape (N, E and D of every head)."""
        return self.embed_views(self.make_views(wave_NT))

    def make_views(self, wave_NT: Tensor) -> Tensor:
        """The encoder's views of audio."""
        return self.frozen.make_views(wave_NT)

    @torch.inference_mode()
    def embed_views(self, views: Tensor) -> Tensor:
        """Embed what the front-end made of audio; shape (N, E and D of every head)."""
        h_NE = self.frozen.embed_views(views)
        return torch.cat([h_NE, *(head(h_NE) for head in self.heads.values())], 1)
