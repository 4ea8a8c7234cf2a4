"""Encoders with a text tower: their audio is embedded into a space that texts share, as a space beside the embedding.

Shape suffixes: k texts, d width of the shared space.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from evaluation.encoders.encoder import Encoder

JOINT = "music_text"
"""The space of an encoder that texts share: unit vectors of every chunk."""


class TextTower(Protocol):
    """What embeds texts."""

    def embed_text(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Texts to unit vectors (k, d) of the space `JOINT`."""
        ...


def with_text_tower(source: object, encoder: Any, asked_by: str) -> Any:
    """The encoder with the space `JOINT` behind its embedding, and ``embed_text``.

    Args:
        source: of the encoder, for messages.
        encoder: which.
        asked_by: the option or task that needs texts.

    Raises:
        UserError: if it has no text tower.
    """
    extended = getattr(encoder, "with_text_tower", None)
    found = extended() if callable(extended) else None
    if found is None:
        raise UserError(
            f"{asked_by}: {source} has no text tower; train one on it with `counterpoint pretrain "
            f"conf/pretrain/music_text.yaml data.labelled=SHARDS init_from={source}`"
        )
    return found


def towers_of(encoders: Mapping[str, Encoder]) -> dict[str, TextTower]:
    """The text towers of encoders that have one, by the encoder's name."""
    return {name: encoder for name, encoder in encoders.items() if hasattr(encoder, "embed_text")}
