"""What every encoder is: a module that knows how wide its embeddings are.

Shape suffixes: N views, E encoder width.
"""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Views (N, …) in, one embedding a view out.

    A base class, for a `typing.Protocol` cannot also be the `nn.Module` that DDP, the optimiser and a snapshot need.
    """

    width: int
    """E."""
    has_cpu_road = False
    """Whether a training step on a CPU takes operations of its own, which torch.compile cannot read."""

    @property
    def body(self) -> "Encoder":
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
