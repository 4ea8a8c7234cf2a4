"""Draws of users' own networks: a function of their key, and nothing that others draw from is moved."""

import random

import numpy as np
import torch

from trainers.draws import keyed_draws

CPU = torch.device("cpu")


def drawn(*key: int) -> tuple[float, float, float]:
    with keyed_draws(*key, device=CPU):
        return torch.rand(()).item(), np.random.rand(), random.random()


def test_draws_depend_on_seed_step_and_rank_and_on_nothing_else() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    first = [drawn(*key) for key in keys]
    torch.manual_seed(9)
    random.seed(9)
    np.random.seed(9)
    assert [drawn(*key) for key in keys] == first
    for of_one_generator in zip(*first, strict=True):
        assert len(set(of_one_generator)) == len(keys)


def test_the_generators_of_others_stay_where_they_are_whatever_happens_inside() -> None:
    before = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))
    try:
        with keyed_draws(3, device=CPU):
            torch.rand(3)
            random.random()
            np.random.rand()
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]
