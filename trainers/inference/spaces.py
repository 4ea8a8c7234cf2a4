"""Names of the spaces of an encoder, from its configuration alone. No torch here: a wrong name is refused at once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cluster.entry_points import is_entry_point
from cluster.settings import UserError, validate
from cluster.validation.messages import nearest
from trainers.config import ExperimentConfig
from trainers.encoders.config import INVARIANT
from trainers.state.places import ABOUT, STATE, find_snapshot, locate

WHOLE = "embedding"
"""The space that is the whole embedding."""
JOINT = "music_text"
"""The space that texts share, of two towers: unit vectors of every chunk."""
ALL = "all"
"""Not a space: what a search calls all of them."""
TOWERS = "towers.safetensors"
"""Weights of the text tower and of both projections in an exported folder."""


class OnDisk(NamedTuple):
    """What the JSON of an encoder on disk says of it."""

    spaces: tuple[str, ...] | None
    """Names of its spaces, those of heads included; None where a network of the user's own decides."""
    texts: bool
    """Whether it has a text tower."""


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
    if is_entry_point(str(source)) and not Path(str(source)).exists():
        return (
            f"{source} has no text tower; what its factory returns needs a method embed_text(texts) and a space "
            f"{JOINT}, the columns of its embedding that texts are compared with"
        )
    return (
        f"{source} has no text tower; train one on it with `counterpoint pretrain conf/pretrain/music_text.yaml "
        f"data.labelled=SHARDS init_from={source}`, its encoder.* and frontend.* as in {source}"
    )


def space_in(spaces: Mapping[str, slice], name: str, key: str) -> slice:
    """Columns of one space. The UserError names the key and the spaces there are."""
    if name not in spaces:
        others = "" if len(spaces) > 1 else "; pretraining with head.variant=[pitch,stretch] gives it others"
        remedy = nearest(name, spaces) or others
        raise UserError(f"{key}: the encoder has no space {name}; it has {', '.join(spaces)}{remedy}")
    return spaces[name]


def on_disk(source: Path) -> OnDisk | None:
    """What can be known of a snapshot, a run's folder or an exported encoder without its weights; None: nothing."""
    try:
        place = locate(source)
        exported = (place / ABOUT).is_file()
        file = place / ABOUT if exported else find_snapshot(place) / STATE
        config = validate(ExperimentConfig, json.loads(file.read_text(encoding="utf-8"))["config"], str(file))
    except (UserError, OSError, ValueError, TypeError, KeyError, RecursionError):  # who opens it says what is wrong
        return None
    texts = config.reads_texts and (not exported or (place / TOWERS).is_file())
    return OnDisk((WHOLE, JOINT) if texts else space_names(config), texts)


def spaces_tree(spaces: Mapping[str, slice]) -> dict[str, list[int]]:
    """Columns of every space as JSON has them: first, and one behind the last.

    >>> spaces_tree({"embedding": slice(0, 512)})
    {'embedding': [0, 512]}
    """
    return {name: [place.start, place.stop] for name, place in spaces.items()}
