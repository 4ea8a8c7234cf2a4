"""Augmentations of the user's own, after the built-in chain: batched functions of rows and of numbers drawn for them.

The numbers come from the counter-based generator of the chain, keyed by (seed, step, slot, view): an own augmentation
is the same for any number of ranks and after any kill, as long as it draws nothing itself.

Shape suffixes: n rows, T samples, F bands, S frames, K numbers a row, E own augmentations.
"""

import random
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.entry_points import create, failures_named
from cluster.settings import UserError
from trainers.augment.parameters import ExtraConfig
from trainers.augment.philox import uniforms

Reads = Literal["wave", "spectrogram"]
MOST_DRAWS = 1 << 20
"""Uniform numbers of a row: one for each of a million samples."""
EXTREMES = 1e-6
"""How near to 0 and to 1 an own augmentation is tried."""


class ExtraDraws(NamedTuple):
    """What was drawn for n rows, on the host."""

    received_nE: Tensor
    """bool: which rows get which augmentation."""
    uniform_nK: Tensor
    """float32 in (0, 1): the numbers of all augmentations beside each other."""

    def rows(self, index: Tensor | slice) -> "ExtraDraws":
        """The draws of some rows."""
        return ExtraDraws(self.received_nE[index], self.uniform_nK[index])


class OwnAugmentation:
    """A user's augmentation: ``call(rows, uniform) -> rows``, of the same shape.
    Raises UserError if it cannot be made or does not fit the contract.
    """

    def __init__(self, config: ExtraConfig, key: str) -> None:
        self.config, self.key = config, f"{key}={config.name}"
        self.call = create(config.name, config.settings, f"{key}.name")
        with failures_named(f"{self.key}: its attributes reads and num_draws failed"):
            self.reads = getattr(self.call, "reads", "wave")
            num_draws: Any = getattr(self.call, "num_draws", None)
        if not callable(self.call):
            raise UserError(f"{self.key}: the factory returned a {type(self.call).__name__} that cannot be called")
        whole = isinstance(num_draws, Integral) and not isinstance(num_draws, bool)
        if not whole or not 0 <= num_draws <= MOST_DRAWS:
            raise UserError(
                f"{self.key}: its attribute num_draws, the uniform numbers it wants a row, must be a whole number from "
                f"0 to {MOST_DRAWS:,}, got {num_draws!r}"
            )
        self.num_draws = int(num_draws)
        if self.reads not in get_args(Reads):
            raise UserError(f"{self.key}: its attribute reads must be wave or spectrogram, got {self.reads!r}")

    def apply(self, rows: Tensor, uniform_nK: Tensor) -> Tensor:
        """Augment rows (n, …) by their numbers (n, K) on the same device.
        Raises UserError if the result has another shape or type.
        """
        out = self.call(rows, uniform_nK)
        if not isinstance(out, Tensor) or out.shape != rows.shape or out.dtype != rows.dtype:
            got = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise UserError(f"{self.key}: it returned {got} for {rows.dtype} of shape {tuple(rows.shape)}")
        return out


class OwnAugmentations:
    """All own augmentations of a configuration, in their order."""

    def __init__(self, configs: Sequence[ExtraConfig]) -> None:
        self.steps = [OwnAugmentation(config, f"augment.extra.{place}") for place, config in enumerate(configs)]
        self.names = tuple(config.effect for config in configs)

    def draw(self, slots: NDArray[np.int64], *, step: int, seed: int, view: int) -> ExtraDraws:
        """Which rows get what, and the numbers for it: a function of (seed, step, slot, view) alone."""
        count = len(self.steps) + sum(step.num_draws for step in self.steps)
        drawn_nK = torch.from_numpy(
            uniforms(slots, seed=seed, step=step, view=view, count=count, purpose="own augmentation")
        )
        coin_nE, uniform_nK = drawn_nK[:, : len(self.steps)], drawn_nK[:, len(self.steps) :]
        p_E = torch.tensor([step.config.p for step in self.steps], dtype=torch.float64)
        return ExtraDraws(coin_nE < p_E, uniform_nK.float())

    def apply(self, rows: Tensor, drawn: ExtraDraws, reads: Reads) -> Tensor:
        """Apply those that read waves, or those that read spectrograms, to the rows that received them."""
        first = 0
        for place, step in enumerate(self.steps):
            columns = slice(first, first + step.num_draws)
            first = columns.stop
            index = drawn.received_nE[:, place].nonzero()[:, 0]
            if step.reads != reads or len(index) == 0:
                continue
            there = index.to(rows.device, non_blocking=True)
            numbers = drawn.uniform_nK[index, columns].to(rows.device, non_blocking=True)
            rows = rows.index_copy(0, there, step.apply(rows.index_select(0, there), numbers))
        return rows


@torch.no_grad()
def try_augmentation(step: OwnAugmentation, rows: Tensor) -> None:
    """Run an own augmentation twice on the same rows and numbers before a run takes any resources.
    Raises UserError if it raises, changes the shape, gives what is not finite, differs between the two calls, draws
    from a global generator, or mixes rows.
    """
    generator = torch.Generator().manual_seed(0)
    uniform_nK = torch.rand(len(rows), step.num_draws, generator=generator)
    states = _global_states()
    with failures_named(f"{step.key}: it failed on rows of shape {tuple(rows.shape)}"):
        first, second = (step.apply(rows.clone(), uniform_nK.clone()) for _ in range(2))
        alone = torch.cat(
            [step.apply(rows[n : n + 1].clone(), uniform_nK[n : n + 1].clone()) for n in range(len(rows))]
        )
        ends = [step.apply(rows.clone(), torch.full_like(uniform_nK, end)) for end in (EXTREMES, 1 - EXTREMES)]
    drawn = _global_states() != states
    if not all(torch.isfinite(out).all() for out in (first, *ends)):
        raise UserError(f"{step.key}: it turned finite {step.reads}s into NaN or Inf")
    if drawn or not torch.equal(first, second):
        why = (
            "it draws numbers of its own, from a global generator of torch, NumPy or Python"
            if drawn
            else ("two calls with the same rows and numbers differ, so it draws numbers of its own")
        )
        raise UserError(
            f"{step.key}: {why}; use the uniform numbers that it is given (num_draws of them), or a resumed run would "
            "have other views"
        )
    if not torch.allclose(alone, first, rtol=1e-3, atol=1e-4 * float(first.abs().max())):
        raise UserError(
            f"{step.key}: a row's result depends on the rows beside it, which are others on another number of ranks; "
            "compute each row from itself and its own numbers"
        )


def _global_states() -> tuple[bytes, str, object]:
    """States of the generators that anybody may draw from."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()
