"""Activation checkpointing is the plain step, with fewer activations alive between forward and backward."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.distributed.batch_norm import Kind, convert_batch_norm, running_statistics
from trainers.encoders.mel_cnn import MelCnn
from trainers.encoders.sample_cnn import SampleCnn
from trainers.model import checkpoint_first, list_blocks


def step(count: int, kind: Kind = "sync") -> tuple[nn.Module, Tensor, int]:
    """Encoder after one backward, its output, and the bytes that autograd kept."""
    torch.manual_seed(0)
    encoder = MelCnn(2)
    convert_batch_norm(encoder, kind, rows=4 if kind == "micro" else None)
    checkpoint_first(encoder, count)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    mel = torch.randn(8, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        h_NE = encoder(mel)
    torch.autograd.backward(h_NE.square().sum())
    return encoder, h_NE.detach(), sum(kept.values())


@pytest.mark.parametrize("kind", ["sync", "micro"])
@pytest.mark.parametrize("count", [1, 4])
def test_gradients_and_running_statistics_are_those_of_the_plain_step_bit_for_bit(count: int, kind: Kind) -> None:
    expected, h_expected, _ = step(0, kind)
    encoder, h_NE, _ = step(count, kind)
    assert torch.equal(h_NE, h_expected)
    for (name, a), (_, b) in zip(encoder.named_parameters(), expected.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), name
    for (name, moved), (_, buffer) in zip(encoder.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(moved, buffer), name
    assert list(encoder.state_dict()) == list(expected.state_dict())


class Shaken(nn.Module):
    """Draws from every global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale * (1 + random.random()) + np.random.rand() + torch.rand(())).square()


def test_a_block_that_is_computed_again_draws_the_same_numbers() -> None:
    gradients, after = [], []
    for count in (0, 2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        encoder = nn.Sequential(Shaken(), Shaken())
        checkpoint_first(encoder, count)
        torch.autograd.backward(encoder(torch.ones(3)).sum())
        gradients.append([weight.grad for weight in encoder.parameters()])
        after.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert gradients[0] == gradients[1]
    assert after[0] == after[1]


def test_fewer_activations_are_kept_the_more_blocks_are_checkpointed() -> None:
    kept = [step(count)[2] for count in (0, 1, 2)]
    assert kept[1] < 0.6 * kept[0]
    assert kept[2] < kept[1]


def test_statistics_that_are_collected_are_collected_once() -> None:
    encoders = []
    for count in (0, 2):
        torch.manual_seed(0)
        encoder = MelCnn(2)
        convert_batch_norm(encoder, "micro")
        checkpoint_first(encoder, count)
        with running_statistics(encoder, "collect"):
            for _ in range(3):
                torch.autograd.backward(encoder(torch.randn(4, 64, 32)).sum())
        encoders.append(encoder)
    for a, b in zip(encoders[0].buffers(), encoders[1].buffers(), strict=True):
        assert torch.equal(a, b)


def test_blocks_are_counted_in_order_and_no_more_are_asked_for() -> None:
    assert len(list_blocks(SampleCnn())) == 11
    with pytest.raises(ValueError, match="checkpoint_blocks=5: the encoder has 4 blocks"):
        checkpoint_first(MelCnn(2), 5)
