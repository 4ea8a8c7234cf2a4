"""An encoder of the user's own: any `nn.Module` with a width and the input that it reads, checked against the contract.

Shape suffixes: N views, E encoder width.
"""

import reprlib
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from cluster.entry_points import create, failures_named
from cluster.settings import UserError
from trainers.distributed import collectives
from trainers.encoders.config import EncoderConfig
from trainers.encoders.encoder import Encoder


class OwnEncoder(Encoder):
    """A user's network behind the interface of the built-in encoders; it has no front-end but the configured one.

    Args:
        name: ``module:factory``, for messages.
        network: with ``width`` (E), ``reads`` (``"wave"``, the name of a front-end, or a tuple of names) and a forward
            from views (N, …) to (N, E); optionally ``least_samples`` or ``least_frames``, the shortest view, and
            ``split`` for ``encoder.own_blocks`` (`Encoder.split`).

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
        for parameter, value in network.named_parameters():
            if isinstance(value, UninitializedParameter):
                raise UserError(
                    f"encoder.name={name}: its parameter {parameter} has no shape before the first views (a lazy "
                    "layer); give that layer its sizes"
                )
        self.least_samples = self._positive("least_samples", 1)
        self.least_frames = self._positive("least_frames", 1)

    @property
    def body(self) -> nn.Module:
        """The user's network, whose children are the blocks that checkpointing counts."""
        return self.network

    def forward(self, views: Tensor) -> Tensor:
        """Embed views (N, …) as (N, E). Raises UserError if the network returns anything else."""
        h_NE = self.network(views)
        if not isinstance(h_NE, Tensor) or h_NE.shape != (views.shape[0], self.width):
            raise UserError(
                f"encoder.name={self.name}: on rank {collectives.rank()}, its forward returned {_shape(h_NE)} for "
                f"views of shape {tuple(views.shape)}; its width is {self.width}, so it must return ({len(views)}, "
                f"{self.width})"
            )
        return h_NE

    def split(self, own_blocks: int) -> nn.Module:
        """The user's ``split``: it takes the network's last blocks off and returns them.
        Raises UserError if the network has none, it raises a ValueError, or it returns no module.
        """
        split = getattr(self.network, "split", None)
        if not callable(split):
            raise self._cannot_split(own_blocks, "it has no method split; set encoder.own_blocks=0, or write one")
        try:
            end = split(own_blocks)
        except ValueError as error:
            raise self._cannot_split(own_blocks, f"its split refused: {error}") from error
        if not isinstance(end, nn.Module):
            raise self._cannot_split(own_blocks, f"its split returned a {type(end).__name__}, not an nn.Module")
        return _OwnEnd(self.name, self.width, end)

    def trunk(self, views: Tensor) -> Any:
        """What the network gives after ``split``."""
        return self.network(views)

    def _cannot_split(self, own_blocks: int, why: str) -> UserError:
        return UserError(f"encoder.own_blocks={own_blocks} with encoder.name={self.name}: {why}")

    def _positive(self, attribute: str, default: int | None = None) -> int:
        with failures_named(f"encoder.name={self.name}: its attribute {attribute} failed"):
            value = getattr(self.network, attribute, default)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            got = "it has none" if value is None else f"got {reprlib.repr(value)}"
            raise UserError(f"encoder.name={self.name}: its attribute {attribute} must be a whole number > 0, {got}")
        return int(value)

    def _names_read(self) -> tuple[str, ...]:
        reads: Any = getattr(self.network, "reads", None)
        names = (reads,) if isinstance(reads, str) else reads
        if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(
                f'encoder.name={self.name}: its attribute reads must be "wave", the name of a front-end, or a tuple of '
                f"names, got {reads!r}"
            )
        return tuple(names)


class _OwnEnd(nn.Module):
    """What a user's ``split`` returned, held to the contract."""

    def __init__(self, name: str, width: int, network: nn.Module) -> None:
        super().__init__()
        self.name, self.width, self.network = name, width, network

    def forward(self, x: Any) -> Tensor:
        """Embeddings (N, width) of what the trunk gives. Raises UserError if the module returns anything else."""
        h_NE = self.network(x)
        if not isinstance(h_NE, Tensor) or h_NE.ndim != 2 or h_NE.shape[1] != self.width:
            raise UserError(
                f"encoder.name={self.name}: on rank {collectives.rank()}, what its split returned gave {_shape(h_NE)}; "
                f"its width is {self.width}, so it must give (views, {self.width})"
            )
        return h_NE


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def build_own(config: EncoderConfig) -> OwnEncoder:
    """The encoder that ``encoder.name=module:factory`` names.
    Raises UserError if it cannot be imported or made, or does not fit the contract.
    """
    return OwnEncoder(config.name, create(config.name, config.settings, "encoder.name"))


def try_encoder(encoder: Encoder, name: str, views: Tensor) -> None:
    """Embed two views, in evaluation mode and for a gradient, before a run takes any resources.

    Args:
        encoder: the user's, or branches of it.
        name: ``module:factory``, for messages.
        views: two of them, as it reads them.

    Raises:
        UserError: if the network raises, changes its views, gives no finite embeddings of their type, or learns nothing
            though it has parameters to learn.
    """
    was_training, given = encoder.training, views.clone()
    encoder.eval()
    try:
        with failures_named(f"encoder.name={name}: its forward failed on views of shape {tuple(views.shape)}"):
            with torch.no_grad():
                h_NE = encoder(given)
            unchanged = torch.equal(given, views)
            learned_NE = encoder(given)
    finally:
        encoder.train(was_training)
    if not unchanged:
        raise UserError(f"encoder.name={name}: its forward changes its views in place; work on a copy")
    if h_NE.dtype != views.dtype or h_NE.device != views.device:
        raise UserError(
            f"encoder.name={name}: its forward returned {h_NE.dtype} on {h_NE.device} for views of {views.dtype} on "
            f"{views.device}; return what it was given (optim.precision decides about bfloat16)"
        )
    if not torch.isfinite(h_NE).all():
        raise UserError(f"encoder.name={name}: its embedding of quiet noise is not finite")
    if any(parameter.requires_grad for parameter in encoder.parameters()) and not learned_NE.requires_grad:
        raise UserError(
            f"encoder.name={name}: no parameter gets a gradient; take detach and no_grad out of its forward, or set "
            "requires_grad_(False) on parameters that are to stay"
        )
