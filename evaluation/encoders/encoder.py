"""What an encoder must offer to be evaluated; its spaces; and the text tower of one that has one.

A space is some columns of the embedding by name, evaluated and searched by itself. Those of LOEV++ (arXiv:2412.18955)
lie side by side: `invariant`, and one an effect that it varies with. Those of LOEV are the whole `embedding` and, where
they are asked for, the outputs of its heads. What texts share with audio is a space beside the embedding. Any other
encoder has `embedding` alone. One pass through the encoder serves all spaces.

Shape suffixes: N chunks, T samples, E encoder width, k texts, d width of the space that texts share.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from cluster.settings import UserError
from evaluation.config import Task
from trainers.inference.spaces import ALL, WHOLE, no_text_tower

SUBJECT = "trained"
"""The encoder that is reported; all others are its baselines."""
ENCODER = "encoder"
"""An encoder's name in a pool of one."""


class Encoder(Protocol):
    """That of `trainers.inference.frozen.load_encoder`, or anyone's."""

    width: int
    rate: int
    """Hz of its input."""
    samples: int
    """Length of a chunk."""
    hash: str
    """Changes with the weights."""

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        """(N, T) float32 in [-1, 1] to (N, E)."""
        ...


def alike(encoders: Mapping[str, Encoder]) -> list[list[str]]:
    """Names of the encoders that read the same chunks: those of one rate and one length."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, encoder in encoders.items():
        groups.setdefault((encoder.rate, encoder.samples), []).append(name)
    return list(groups.values())


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


@runtime_checkable
class TextTower(Protocol):
    """What embeds texts."""

    def embed_text(self, texts: Sequence[str], /) -> Tensor:
        """Texts to unit vectors (k, d), in the encoder's space `JOINT`."""
        ...


def text_towers(encoders: Mapping[str, Encoder]) -> dict[str, TextTower]:
    """The encoders that have a text tower, by name."""
    return {name: encoder for name, encoder in encoders.items() if isinstance(encoder, TextTower)}


def without_towers(
    tasks: Mapping[str, Task], asking: Iterable[str], encoders: Mapping[str, Encoder], sources: Mapping[str, object]
) -> dict[str, str]:
    """Optional tasks about texts that the encoders cannot answer, and why.
    Raises UserError for one that is not optional, or if no task is left.
    """
    towers = text_towers(encoders)
    lacking = [name for name in encoders if name not in towers and name != "untrained"]
    if not lacking:
        return {}
    why = no_text_tower(sources.get(lacking[0]) or f"the encoder {lacking[0]}")
    found = {}
    for name in asking:
        if not tasks[name].optional:
            raise UserError(f"task {name}: {why}; or leave the task out with tasks.{name}.optional=true")
        found[name] = why
    if len(found) == len(tasks):
        raise UserError(f"none of the tasks can run: {why}")
    return found
