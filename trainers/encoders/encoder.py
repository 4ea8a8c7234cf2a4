"""What every encoder is: a module that knows how wide its embeddings are.

Shape suffixes: N views, E encoder width.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """Views (N, …) in, one embedding a view out.

    A base class, for a `typing.Protocol` cannot also be the `nn.Module` that DDP, the optimiser and a snapshot need.
    """

    width: int
    """E."""
    has_cpu_kernels = False
    """Whether a training step on a CPU takes operations of its own, which torch.compile cannot read."""

    @property
    def spaces(self) -> Mapping[str, slice]:
        """Parts of the embedding by name, in their order: the whole one, but for an encoder with branches."""
        return {"embedding": slice(0, self.width)}

    @property
    def body(self) -> nn.Module:
        """What holds the blocks: the encoder itself, but for one that learns its front-end."""
        return self

    def forward(self, views: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            views: what the encoder's front-end gives, wave (N, T) or mel (N, F, S).

        Returns:
            h_NE, shape (N, ``width``).
        """
        raise NotImplementedError

    def split(self, own_blocks: int) -> nn.Module:
        """Take off the last blocks, and what follows them; from then on only `trunk` may be called.

        Args:
            own_blocks: how many, ≥ 1.

        Returns:
            A module from what `trunk` gives to embeddings (N, ``width``).

        Raises:
            ValueError: if there are not so many that may be taken off.
        """
        raise NotImplementedError

    def trunk(self, views: Tensor) -> Any:
        """What the blocks that were not taken off give."""
        raise NotImplementedError
