"""Encoders with a text tower: what texts share with their audio is a space beside the embedding.

Shape suffixes: k texts, d width of the shared space.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from cluster.settings import UserError
from evaluation.config import Task
from evaluation.encoders.encoder import Encoder
from trainers.inference.spaces import no_text_tower


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

    Raises:
        UserError: for a task that is not optional, or if no task is left.
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
