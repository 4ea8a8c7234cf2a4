"""Spaces of an encoder: columns of its embedding by name, each evaluated and searched by itself.

Those of LOEV++ (arXiv:2412.18955) lie side by side: `invariant`, and one an effect that it varies with. Those of LOEV
are the whole `embedding` and, where they are asked for, the outputs of its heads. Any other encoder has `embedding`
alone. One pass through the encoder serves all spaces.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.settings import UserError
from evaluation.encoders.encoder import SUBJECT, Encoder
from trainers.inference.spaces import ALL, WHOLE


def spaces_of(encoder: Encoder) -> dict[str, slice]:
    """Columns of every space by name; `WHOLE` alone for an encoder that names none."""
    found: Mapping[str, slice] = getattr(encoder, "spaces", None) or {WHOLE: slice(0, encoder.width)}
    return dict(found)


def check_spaces(encoder: Any, source: str) -> None:
    """Refuse spaces of a user's encoder that are no columns of its embedding. The UserError names the space."""
    spaces = getattr(encoder, "spaces", None)
    if spaces is None:
        return
    if not isinstance(spaces, Mapping):
        raise UserError(f"{source}: spaces must map names to slices of the embedding, got {spaces!r}")
    for name, place in spaces.items():
        inside = isinstance(place, slice) and place.step is None and isinstance(place.start, int)
        if not inside or not isinstance(place.stop, int) or not 0 <= place.start < place.stop <= encoder.width:
            raise UserError(
                f"{source}: space {name!r} must be a slice(first, end) within its width {encoder.width}, got {place!r}"
            )
        if not isinstance(name, str) or not all(sign.isalnum() or sign in "_-" for sign in name) or name == ALL:
            raise UserError(f"{source}: a space's name is of letters, digits, _ and -, and not {ALL}, got {name!r}")


def with_heads(encoder: Any) -> Any:
    """The same encoder with the outputs of its heads behind its embedding, as further spaces, where it has any."""
    extended = getattr(encoder, "with_heads", None)
    return extended() if callable(extended) else encoder


def models_of(name: str, encoder: Encoder, spaces: Sequence[str]) -> dict[str, slice]:
    """Models that an encoder is evaluated as, and their columns."""
    found = spaces_of(encoder)
    models = {name: found.get(WHOLE, slice(0, encoder.width))}
    return models | ({f"{name}/{space}": found[space] for space in spaces} if name == SUBJECT else {})
