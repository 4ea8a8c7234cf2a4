"""Activation checkpointing: the first blocks of an encoder are computed twice, and their activations are not kept.

The first blocks work at the full length of the audio and hold most of the activations. Gradients, running statistics
and random draws are those of the plain step, bit for bit on a CPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers.distributed.batch_norm import running_statistics


def checkpoint_first(encoder: nn.Module, count: int) -> None:
    """Keep only the inputs of the encoder's first blocks, in place; names of weights stay.

    Args:
        encoder: its blocks are its children in order, those of a Sequential of Sequentials one by one.
        count: blocks, ≥ 0.

    Raises:
        ValueError: if there are not so many.
    """
    blocks = list_blocks(encoder)
    if count > len(blocks):
        raise ValueError(f"checkpoint_blocks={count}: the encoder has {len(blocks)} blocks")
    for block in blocks[:count]:
        # On the instance: a wrapping module would rename every weight of the block.
        setattr(block, "forward", partial(_checkpointed, block, block.forward))  # noqa: B010  # mypy forbids the plain form


def list_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The encoder's blocks in the order in which it defines them."""
    blocks: list[nn.Module] = []
    for child in encoder.children():
        nested = isinstance(child, nn.Sequential | nn.ModuleList) and all(len(list(x.children())) for x in child)
        blocks += list(child.children()) if nested else [child]
    return blocks


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
        # The second forward sees the same batch again: running statistics have moved for it already.
        return nullcontext(), running_statistics(block, "hold")

    result: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
    return result
