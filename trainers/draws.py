"""What users' own networks and losses draw at random, as a function of seed, step and rank: a snapshot holds no
generator state, and a resumed run draws what an unbroken one draws.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from data_shards.sampling.permutation import hash_key


class GeneratorStates:
    """The global generators of torch, NumPy and Python, as they are when it is made.

    Args:
        device: whose generator of torch belongs to them besides the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.host = device, torch.get_rng_state()
        self.accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.numpy, self.python = np.random.get_state(), random.getstate()

    def restore(self) -> None:
        """Set the generators back."""
        torch.set_rng_state(self.host)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again inside the block; behind it the generators are as they were before it."""
        before = GeneratorStates(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()


@contextmanager
def keyed_draws(*key: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside the block; behind it they are as they were.

    Args:
        key: what decides the draws.
        device: whose generator of torch is seeded besides the CPU's.

    >>> with keyed_draws(0, 3, device=torch.device("cpu")):
    ...     first = torch.rand(1), np.random.rand(), random.random()
    >>> with keyed_draws(0, 3, device=torch.device("cpu")):
    ...     first == (torch.rand(1), np.random.rand(), random.random())
    True
    """
    with GeneratorStates(device).again():
        seed = hash_key("draws", *key)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        random.seed(seed)
        yield
