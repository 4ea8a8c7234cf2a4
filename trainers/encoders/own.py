"""An encoder of the user's own: any `nn.Module` with a width and the input that it reads, checked against the contract.

Shape suffixes: N views, E encoder width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cluster.entry_points import create
from cluster.settings import UserError
from trainers.distributed import collectives
from trainers.encoders.config import EncoderConfig
from trainers.encoders.encoder import Encoder


class OwnEncoder(Encoder):
    """A user's network behind the interface of the built-in encoders; it has no front-end but the configured one.

    Args:
        name: ``module:factory``, for messages.
        network: with ``width`` (E), ``reads`` (``"wave"``, the name of a front-end, or a tuple of names) and a forward
            from views (N, …) to (N, E); optionally ``least_samples`` or ``least_frames``, the shortest view.

    Raises:
        UserError: names what is missing.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(f"encoder.name={name}: the factory returned a {type(network).__name__}, not an nn.Module")
        self.name, self.network = name, network
        self.width = self._positive("width")
        self.reads = self._names_read()
        self.least_samples = self._positive("least_samples", 1)
        self.least_frames = self._positive("least_frames", 1)

    @property
    def body(self) -> nn.Module:
        """The user's network, whose children are the blocks that checkpointing counts."""
        return self.network

    def forward(self, views: Tensor) -> Tensor:
        """Embed views (N, …) as (N, E).

        Raises:
            UserError: if the network returns anything else.
        """
        h_NE = self.network(views)
        if not isinstance(h_NE, Tensor) or h_NE.shape != (views.shape[0], self.width):
            got = f"shape {tuple(h_NE.shape)}" if isinstance(h_NE, Tensor) else f"a {type(h_NE).__name__}"
            raise UserError(
                f"encoder.name={self.name}: on rank {collectives.rank()}, its forward returned {got} for views of "
                f"shape {tuple(views.shape)}; its width is {self.width}, so it must return ({len(views)}, {self.width})"
            )
        return h_NE

    def _positive(self, attribute: str, default: int | None = None) -> int:
        value = getattr(self.network, attribute, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            got = "it has none" if value is None else f"got {value!r}"
            raise UserError(f"encoder.name={self.name}: its attribute {attribute} must be a whole number > 0, {got}")
        return value

    def _names_read(self) -> tuple[str, ...]:
        reads: Any = getattr(self.network, "reads", None)
        names = (reads,) if isinstance(reads, str) else reads
        if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(
                f'encoder.name={self.name}: its attribute reads must be "wave", the name of a front-end, or a tuple of '
                f"names, got {reads!r}"
            )
        return tuple(names)


def build_own(config: EncoderConfig) -> OwnEncoder:
    """The encoder that ``encoder.name=module:factory`` names.

    Raises:
        UserError: if it cannot be imported or made, or does not fit the contract.
    """
    return OwnEncoder(config.name, create(config.name, config.settings, "encoder.name"))


@torch.no_grad()
def try_encoder(encoder: OwnEncoder, views: Tensor) -> None:
    """Embed two views in evaluation mode before a run takes any resources.

    Raises:
        UserError: if the network raises, or its embeddings are not finite.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        h_NE = encoder(views)
    except UserError:
        raise
    except Exception as error:  # whatever a user's network does
        raise UserError(
            f"encoder.name={encoder.name}: its forward failed on views of shape {tuple(views.shape)} "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        encoder.train(was_training)
    if not torch.isfinite(h_NE).all():
        raise UserError(f"encoder.name={encoder.name}: its embedding of quiet noise is not finite")
