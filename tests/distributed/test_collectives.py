"""Laws of trainers/distributed/collectives.py and of the pool that runs them."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.settings import RunError
from trainers.distributed import collectives

Ranks = Callable[..., list[Any]]
pytestmark = pytest.mark.dist


def gather_and_count() -> tuple[Tensor, int]:
    with collectives.counted() as traffic:
        gathered = collectives.all_gather(torch.full((2, 3), float(collectives.rank())))
    return gathered, traffic.total


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_gather_is_in_rank_order_and_sends_its_payload_to_each_other_rank(ranks: Ranks, world_size: int) -> None:
    expected = torch.arange(world_size).repeat_interleave(2)[:, None].expand(-1, 3).float()
    for gathered, num_bytes in ranks(world_size, gather_and_count):
        torch.testing.assert_close(gathered, expected)
        assert num_bytes == (world_size - 1) * 2 * 3 * 4


def gathered_words() -> list[Any]:
    return collectives.gather_json(["é" * collectives.rank(), {"rank": collectives.rank()}])


@pytest.mark.parametrize("world_size", [1, 3])
def test_words_of_any_length_are_gathered_in_rank_order(ranks: Ranks, world_size: int) -> None:
    expected = [["é" * rank, {"rank": rank}] for rank in range(world_size)]
    assert ranks(world_size, gathered_words) == [expected] * world_size


def reductions() -> tuple[float, float, float, float, int]:
    value = torch.tensor(float(collectives.rank() + 1))
    with collectives.counted() as traffic:
        total = collectives.all_reduce(value.clone())
        mean = collectives.all_reduce(value.clone(), "mean")
        largest = collectives.all_reduce(value.clone(), "max")
        first = collectives.broadcast(value, source=1)
    return total.item(), mean.item(), largest.item(), first.item(), traffic.total


def test_reductions_and_broadcast_agree_on_every_rank(ranks: Ranks) -> None:
    results = ranks(3, reductions)
    assert [result[:4] for result in results] == [(6.0, 2.0, 3.0, 2.0)] * 3
    each = 2 * 2 * 4 // 3
    assert [result[4] for result in results] == [3 * each, 3 * each + 4, 3 * each]


def gradient_through_gather() -> Tensor:
    x = torch.full((2,), float(collectives.rank() + 1), dtype=torch.float64, requires_grad=True)
    # Every rank weighs the whole gathered vector in its own way: a row's gradient is the sum over ranks.
    weight = torch.arange(1.0, 7.0, dtype=torch.float64) * (collectives.rank() + 1)
    torch.autograd.backward((weight * collectives.gather_rows(x) ** 2).sum())
    assert x.grad is not None
    return x.grad


def test_the_gradient_of_a_gather_is_summed_over_ranks(ranks: Ranks) -> None:
    for rank, gradient in enumerate(ranks(3, gradient_through_gather)):
        own = torch.arange(1.0, 7.0, dtype=torch.float64)[2 * rank : 2 * rank + 2]
        torch.testing.assert_close(gradient, own * (1 + 2 + 3) * 2 * (rank + 1))


def pass_on() -> tuple[list[Tensor], int]:
    mine, world = collectives.rank(), collectives.world_size()
    tensors = [torch.tensor([mine]), torch.empty(0, 4), torch.full((3,), mine / 2)]
    with collectives.counted() as traffic:
        received = collectives.exchange(tensors, to=(mine + 1) % world, source=(mine - 1) % world)
    return received, traffic.total


@pytest.mark.parametrize("world_size", [2, 3])
def test_an_exchange_hands_each_tensor_to_the_next_rank(ranks: Ranks, world_size: int) -> None:
    for rank, (received, num_bytes) in enumerate(ranks(world_size, pass_on)):
        behind = (rank - 1) % world_size
        assert received[0].tolist() == [behind]
        assert received[1].shape == (0, 4)
        assert received[2].tolist() == [behind / 2] * 3
        assert num_bytes == 8 + 3 * 4


def averaged() -> Tensor:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.full((2,), float(collectives.rank()))
    collectives.average_gradients([parameter, torch.nn.Parameter(torch.zeros(1))])
    return parameter.grad


def test_average_gradients_takes_the_mean_and_skips_parameters_without_one(ranks: Ranks) -> None:
    for gradient in ranks(4, averaged):
        assert gradient.tolist() == [1.5, 1.5]


def late_rank() -> str:
    try:
        if collectives.rank() != 2:
            collectives.barrier(timeout_s=1.0)
    except RunError as error:
        return str(error)
    return ""


def test_a_barrier_names_the_rank_that_did_not_come(ranks: Ranks) -> None:
    messages = ranks(3, late_rank)
    assert "rank 0: not every rank reached the barrier" in messages[0]
    assert "2" in messages[0].split("barrier: ")[1]


def everybody_comes() -> None:
    collectives.barrier(timeout_s=30.0)
    collectives.barrier()


def test_a_barrier_lets_everybody_through(ranks: Ranks) -> None:
    assert ranks(2, everybody_comes) == [None, None]


def everybody_comes_where_torch_refuses_mixed_groups() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("monitored_barrier is only implemented for GLOO backend.")  # as in torch 2.11

    dist.monitored_barrier, before = refuse, dist.monitored_barrier
    try:
        collectives.barrier(timeout_s=30.0)
    finally:
        dist.monitored_barrier = before


def test_a_barrier_does_not_need_torchs_check_of_the_groups_name(ranks: Ranks) -> None:
    assert ranks(2, everybody_comes_where_torch_refuses_mixed_groups) == [None, None]


def rank_one_raises() -> None:
    if collectives.rank() == 1:
        raise ArithmeticError("on purpose")


def test_the_pool_names_the_rank_that_raised_and_goes_on(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1 of 2: .*ArithmeticError: on purpose"):
        ranks(2, rank_one_raises)
    assert len(ranks(2, gather_and_count)) == 2


def rank_one_dies() -> None:
    if collectives.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_the_pool_names_the_rank_that_died_and_starts_afresh(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="rank 1 of 2: died with exit code -9"):
        ranks(2, rank_one_dies, timeout_s=5.0)
    assert len(ranks(2, gather_and_count)) == 2


def test_one_process_needs_no_group() -> None:
    x = torch.ones(2, requires_grad=True)
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert collectives.gather_rows(x) is x
    assert collectives.all_reduce(torch.ones(2), "mean").tolist() == [1, 1]
    assert collectives.reduce_scatter(torch.ones(2)).tolist() == [1, 1]
    assert collectives.broadcast(torch.ones(2)).tolist() == [1, 1]
    collectives.barrier(timeout_s=0.1)
