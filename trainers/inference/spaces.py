"""Names of the spaces of an encoder, from its configuration alone. No torch here: a wrong name is refused at once."""

from collections.abc import Mapping

from trainers.config import ExperimentConfig
from trainers.encoders.config import INVARIANT

WHOLE = "embedding"
"""The space that is the whole embedding."""
JOINT = "music_text"
"""The space that texts share, of two towers: unit vectors of every chunk."""


def head_names(config: ExperimentConfig) -> tuple[str, ...]:
    """Heads of LOEV in their order, whose outputs are spaces beside the embedding; none for any other encoder."""
    return (INVARIANT, *config.head.variant) if config.head.variant and not config.encoder.own_blocks else ()


def space_names(config: ExperimentConfig) -> tuple[str, ...] | None:
    """Spaces of the encoder that a configuration trains; None where a network of the user's own decides."""
    if config.encoder.own_blocks:
        return (INVARIANT, *config.head.variant)
    return None if config.encoder.is_own else (WHOLE, *head_names(config))


def no_text_tower(source: object) -> str:
    """Why an encoder cannot be asked by text, with the remedy."""
    return (
        f"{source} has no text tower; train one on it with `counterpoint pretrain conf/pretrain/music_text.yaml "
        f"data.labelled=SHARDS init_from={source}`, its encoder.* and frontend.* as in {source}"
    )


def spaces_tree(spaces: Mapping[str, slice]) -> dict[str, list[int]]:
    """Columns of every space as JSON has them: first, and one behind the last.

    >>> spaces_tree({"embedding": slice(0, 512)})
    {'embedding': [0, 512]}
    """
    return {name: [place.start, place.stop] for name, place in spaces.items()}
