"""Tables by model from tables by encoder: the spaces of one embedding, none of them embedded again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluation.embeddings.embed import EmbeddingTable
from evaluation.encoders.encoder import Encoder, models_of, spaces_of, text_towers
from trainers.inference.spaces import JOINT


def split_tables(
    tables: Mapping[str, EmbeddingTable], encoders: Mapping[str, Encoder], spaces: Sequence[str]
) -> dict[str, EmbeddingTable]:
    """A table a model."""
    return {
        model: columns(table, place)
        for name, table in tables.items()
        for model, place in models_of(name, encoders[name], spaces).items()
    }


def joint_tables(tables: Mapping[str, EmbeddingTable], encoders: Mapping[str, Encoder]) -> dict[str, EmbeddingTable]:
    """Tables of the space that texts share, of the encoders that have a text tower."""
    return {name: columns(tables[name], spaces_of(encoders[name])[JOINT]) for name in text_towers(encoders)}


def columns(table: EmbeddingTable, place: slice) -> EmbeddingTable:
    """The table of some columns; the mean of a clip's chunks is that of each column."""
    return replace(table, h_KE=table.h_KE[:, place], chunks_PE=table.chunks_PE[:, place])
