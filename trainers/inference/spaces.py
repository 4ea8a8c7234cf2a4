"""Names of the spaces of an encoder, from its configuration alone. No torch here: a wrong name is refused at once."""

from trainers.config import ExperimentConfig

WHOLE, INVARIANT = "embedding", "invariant"
"""The whole embedding; and the space, or head, that is invariant to every effect."""
JOINT = "music_text"
"""The space that texts share, of two towers: unit vectors of every chunk."""


def head_names(config: ExperimentConfig) -> tuple[str, ...]:
    """Heads of LOEV in their order, whose outputs are spaces beside the embedding; none for any other encoder."""
    effects, own_blocks = _effects(config)
    return (INVARIANT, *effects) if effects and not own_blocks else ()


def space_names(config: ExperimentConfig) -> tuple[str, ...] | None:
    """Spaces of the encoder that a configuration trains; None where a network of the user's own decides."""
    effects, own_blocks = _effects(config)
    if own_blocks:
        return (INVARIANT, *effects)
    return None if config.encoder.is_own else (WHOLE, *head_names(config))


def _effects(config: ExperimentConfig) -> tuple[tuple[str, ...], int]:
    return getattr(config.head, "variant", ()), getattr(config.encoder, "own_blocks", 0)
