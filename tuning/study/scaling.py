"""What a step costs on W workers: a model fitted to measured steps, and its projection beyond the machine.

    seconds = views · (clips a worker · M)  +  pairs · (rows a worker · N)  +  bytes · sent(W)  +  fixed

The four prices are found by non-negative least squares on relative errors, so that short steps are met as well as long
ones. A run with more workers than the machine has cores or GPUs shares them; it is shown and left out of the fit.

Symbols: B clips a step over all ranks, M views a clip, N = B·M rows, W ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cluster.files.tables import markdown_table

WORLDS = (8, 32, 128, 512, 1024)
"""Sizes that are projected."""
TERMS = ("views", "pairs", "bytes", "fixed")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A measured or projected step."""

    world: int
    batch: int
    views: int
    width: int
    """D, projection width."""
    parameters: int
    """Trained weights: DDP averages their gradients."""
    seconds: float = float("nan")

    @property
    def terms(self) -> NDArray[np.float64]:
        """Views of a worker, pairs of a worker, bytes it sends, and 1."""
        rows = self.batch * self.views
        mine = rows / self.world
        return np.array([mine, mine * rows, sent_bytes(self), 1.0])


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Prices in seconds: of a view, of a pair of rows, of a byte sent, of a step."""

    prices: NDArray[np.float64]
    worst: float
    """Largest relative error on the steps it was fitted to."""
    fitted: int
    """Steps it was fitted to."""

    def seconds(self, step: Step) -> float:
        """What a step would take."""
        return float(self.prices @ step.terms)


def sent_bytes(step: Step) -> float:
    """Bytes a rank sends in one step: projections to all others, gradients around a ring, both float32."""
    others = step.world - 1
    rows = step.batch * step.views / step.world
    return others * rows * step.width * 4 + 2 * others / step.world * step.parameters * 4


def fit(steps: Sequence[Step], *, places: int) -> CostModel:
    """Fit the prices. Raises ValueError if no step ran within the machine."""
    inside = [step for step in steps if step.world <= places]
    if not inside:
        raise ValueError(f"no measured step has at most {places} workers")
    seconds = np.array([step.seconds for step in inside])
    relative = np.stack([step.terms for step in inside]) / seconds[:, None]
    scale = relative.max(0)
    scale[scale == 0] = 1.0  # nothing is sent where every run has one worker
    prices = nnls(relative / scale, np.ones(len(inside)))[0] / scale
    worst = float(np.abs(relative @ prices - 1).max())
    return CostModel(prices=prices, worst=worst, fitted=len(inside))


def project(steps: Sequence[Step], *, places: int) -> dict[str, object]:
    """The fitted model, its errors, and weak and strong scaling to `WORLDS` as plain JSON types: ``prices``,
    ``worst_error``, ``measured``, ``projected``, and ``markdown`` for the table.
    """
    model = fit(steps, places=places)
    largest = max(steps, key=lambda step: step.batch)
    each = max(step.batch // step.world for step in steps)
    measured = [
        {
            "world": s.world,
            "batch": s.batch,
            "seconds": s.seconds,
            "model": model.seconds(s),
            "inside": s.world <= places,
        }
        for s in steps
    ]
    projected = []
    for world in WORLDS:
        for kind, batch in (("weak", each * world), ("strong", max(largest.batch, world))):
            step = Step(
                world=world, batch=batch, views=largest.views, width=largest.width, parameters=largest.parameters
            )
            shares = model.prices * step.terms
            seconds = float(shares.sum())
            projected.append(
                {"scaling": kind, "world": world, "batch": batch, "seconds": seconds, "clips_per_s": batch / seconds}
                | dict(zip(TERMS, shares.tolist(), strict=True))
            )
    tree: dict[str, object] = {
        "prices": dict(zip(TERMS, model.prices.tolist(), strict=True)),
        "worst_error": model.worst,
        "places": places,
        "measured": measured,
        "projected": projected,
    }
    return tree | {"markdown": _markdown(model, measured, projected, places)}


def _markdown(
    model: CostModel, measured: list[dict[str, float]], projected: list[dict[str, object]], places: int
) -> str:
    view, pair, byte, fixed = model.prices
    lines = [
        "## Measured, fitted, projected",
        "",
        f"A step takes {view * 1e3:.3g} ms a view of a worker, {pair * 1e9:.3g} ns a pair of rows, "
        f"{byte * 1e9:.3g} ns a byte sent and {fixed * 1e3:.3g} ms besides; fitted to {model.fitted} runs on a machine "
        f"that runs {places} workers at once, largest error {100 * model.worst:.0f} %.",
        "",
    ]
    rows = []
    for row in measured:
        note = "" if row["world"] <= places else "more workers than places: not fitted"
        rows.append([f"{row['world']}", f"{row['batch']}", f"{row['seconds']:.3f}", f"{row['model']:.3f}", note])
    lines += [
        *markdown_table(["W", "B", "measured s", "model s", ""], rows),
        "",
        "Projection, not a measurement. It assumes that every worker has a place like the ones measured here, links "
        "like those between them (on one machine: its memory), `gather` exchange, and that nothing overlaps.",
        "",
    ]
    head = ["scaling", "W", "B", "step s", "clips/s", "of it views", "pairs", "bytes", "fixed"]
    forms = {"scaling": "", "world": ",", "batch": ",", "seconds": ".3g", "clips_per_s": ",.0f"}
    forms |= dict.fromkeys(TERMS, ".3g")
    rows = [[format(found[name], form) for name, form in forms.items()] for found in projected]
    return "\n".join([*lines, *markdown_table(head, rows)])
