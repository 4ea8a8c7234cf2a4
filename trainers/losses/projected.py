"""What a loss reads and what it returns: the contract of built-in losses and of users' own.

Shape suffixes: N rows of this rank (view-major: row m·clips + b), D width of the head's output, C tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from data_shards.format.records import TextRows
from trainers.distributed.collectives import Group


@dataclass(frozen=True, kw_only=True)
class Projected:
    """The rows of this rank after the head."""

    z_ND: Tensor
    """Projections of any scale, or logits where the loss asks for an output a tag; float32."""
    clip_id_N: Tensor
    """int64; equal for rows of one clip, on every rank."""
    labels_NC: Tensor | None = None
    """bool; an all-False row is unlabelled."""
    num_views: int = 1
    """M: row m·(N/M) + b is view m of clip b."""
    texts: TextRows | None = None
    """Texts of the clips, for a loss of two towers; ``z_ND`` then ends with the rows of those that are there."""
    received: Mapping[str, Tensor] = field(default_factory=dict)
    """Which rows got which effect, bool (N,) on the host, by the effect's name."""
    group: Group = None
    """Ranks that form the global batch; None is the default group, or this process alone."""


class LossResult(NamedTuple):
    """The loss of the global batch, and metrics about it."""

    loss: Tensor
    """Scalar. Its gradient is W times this rank's part of the global one, since DDP averages over W ranks."""
    metrics: dict[str, Tensor]
    """0-dim tensors by name; the mean over ranks of each is the metric of the global batch."""
