"""An encoder whose last blocks every head has of its own: LOEV++ (arXiv:2412.18955).

The trunk reads a view once; each branch turns what it gives into an embedding of its own, and the embedding is theirs
side by side. The branches start as copies of one another, so that trunk and branches have the first weights of the
plain encoder.

Shape suffixes: N views, E width of a branch.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainers.encoders.encoder import Encoder


class Branched(Encoder):
    """A network, which is taken apart, without its last ``own_blocks`` ≥ 1, and those once for every space, in the
    order of their columns. Raises ValueError if the network has not so many blocks to give.
    """

    def __init__(self, network: Encoder, own_blocks: int, names: Sequence[str]) -> None:
        super().__init__()
        end = network.split(own_blocks)
        self.network = network
        self.branches = nn.ModuleDict({name: copy.deepcopy(end) for name in names})
        self.width = len(names) * network.width
        self.has_cpu_kernels = network.has_cpu_kernels

    @property
    def spaces(self) -> Mapping[str, slice]:
        """E columns a branch, by its name."""
        each = self.network.width
        return {name: slice(place * each, (place + 1) * each) for place, name in enumerate(self.branches)}

    @property
    def body(self) -> nn.Module:
        """The trunk: checkpointing counts its blocks alone."""
        return self.network.body

    def forward(self, views: Tensor) -> Tensor:
        """Embed a batch, (N, number of branches · E)."""
        x = self.network.trunk(views)
        return torch.cat([branch(x) for branch in self.branches.values()], 1)
