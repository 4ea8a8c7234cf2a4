"""How wrong the usual gather schemes are, by numbers: the table of docs/numerics.md is what this test measures.

Every scheme runs on four ranks under DDP with a learnable temperature; the truth is one process with the whole batch.
To print the table afresh, delete its lines from docs/numerics.md and read this test's message.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from trainers.distributed import collectives
from trainers.losses.contrastive.loss import contrastive_loss

Ranks = Callable[..., list[Any]]
pytestmark = pytest.mark.dist
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"
WORLD, NUM_ROWS, WIDTH = 4, 96, 8


class Rows(NamedTuple):
    features: Tensor
    clip_id: Tensor
    labels: Tensor


def global_batch() -> Rows:
    """48 clips of two views that lie on different ranks; labelled clips stand together at the front."""
    g = torch.Generator().manual_seed(2)
    clips = NUM_ROWS // 2
    labels = (torch.rand(clips, 10, generator=g) < 0.2) & (torch.arange(clips) < 20)[:, None]
    order = torch.randperm(clips, generator=g)
    shared = torch.randn(clips, 6, generator=g, dtype=torch.float64)
    views = [shared + 0.7 * torch.randn(clips, 6, generator=g, dtype=torch.float64) for _ in range(2)]
    features = torch.cat([views[0], views[1][order]])
    rows = Rows(features, torch.cat([torch.arange(clips), order]), torch.cat([labels, labels[order]]))
    # A third of the rows loses its partner, so that ranks differ in how many anchors have a positive.
    lonely = (torch.arange(NUM_ROWS) >= clips) & (torch.arange(NUM_ROWS) % 3 == 0)
    clip_id = torch.where(lonely, 1000 + torch.arange(NUM_ROWS), rows.clip_id)
    return Rows(features, clip_id, rows.labels & ~lonely[:, None])


def anchor_losses(z: Tensor, rows: Rows, tau: Tensor, anchors: slice, visible: slice | None = None) -> Tensor:
    """Eq. 3 of some anchors of an (A, d) matrix by plain automatic differentiation; NaN without positives."""
    z = nn.functional.normalize(z, dim=1)
    score = z[anchors] @ z.T / tau
    tags = rows.labels.to(z.dtype)
    positive = ((tags[anchors] @ tags.T) >= 1) | (rows.clip_id[anchors, None] == rows.clip_id)
    own = torch.eye(len(z), dtype=torch.bool)[anchors]
    positive &= ~own
    if visible is not None:
        mask = torch.zeros(len(z), dtype=torch.bool)
        mask[visible] = True
        positive &= mask
    log_p = score - score.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    number = positive.sum(1)
    mean = -log_p.masked_fill(~positive, 0).sum(1) / number.clamp(min=1)
    return mean.where(number > 0, torch.nan)


def zero_mean(losses: Tensor) -> Tensor:
    return losses.nan_to_num(0).mean()


def detached(z: Tensor, mine: slice) -> Tensor:
    """The gather most code has: no gradient, and the own rows put back."""
    gathered = collectives.all_gather(z).clone()
    gathered[mine] = z
    return gathered


def exact(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return contrastive_loss(z, rows.clip_id[mine], rows.labels[mine], temperature=tau)


def local_only(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return zero_mean(anchor_losses(z, Rows(*(part[mine] for part in rows)), tau, slice(None)))


def detached_gather(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return zero_mean(anchor_losses(detached(z, mine), rows, tau, mine))


def no_factor(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return zero_mean(anchor_losses(detached(z, mine), rows, tau, slice(None)))


def factor_everywhere(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return WORLD * no_factor(z, rows, tau, mine)


def mean_of_means(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return anchor_losses(collectives.gather_rows(z), rows, tau, mine).nanmean()


def positives_at_home(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return zero_mean(anchor_losses(collectives.gather_rows(z), rows, tau, mine, visible=mine))


def gather_with_gradient(z: Tensor, rows: Rows, tau: Tensor, mine: slice) -> Tensor:
    return zero_mean(anchor_losses(collectives.gather_rows(z), rows, tau, mine))


SCHEMES = {
    exact: "Counterpoint",
    gather_with_gradient: "gather with gradient, own anchors, mean over all anchors",
    local_only: "no gather: every rank contrasts its own rows",
    detached_gather: "detached gather, own rows put back, own anchors",
    no_factor: "detached gather, loss of all anchors on every rank (no factor W)",
    factor_everywhere: "the same times W",
    mean_of_means: "gather with gradient, mean over a rank's anchors with positives",
    positives_at_home: "gather with gradient, positives sought on the own rank only",
}


def learn(scheme: str) -> tuple[float, Tensor, float]:
    """Mean loss over ranks, parameter gradient after DDP, and the temperature's gradient averaged likewise."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, WIDTH)).double()
    tau = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    world, share = collectives.world_size(), NUM_ROWS // collectives.world_size()
    mine = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
    rows = global_batch()
    wrapped = collectives.data_parallel(model)
    by_name = {function.__name__: function for function in SCHEMES}
    loss = by_name[scheme](wrapped(rows.features[mine]), rows, tau, mine)
    torch.autograd.backward(loss)
    collectives.average_gradients([tau])
    assert tau.grad is not None
    value = collectives.all_reduce(loss.detach().clone(), "mean").item()
    value = value / WORLD if scheme == "factor_everywhere" and world > 1 else value
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return value, gradient, tau.grad.item()


def table_line(ranks: Ranks, scheme: Callable[..., Tensor]) -> str:
    """One scheme against one process with the same definition of the mean."""
    truth = learn("mean_of_means" if scheme is mean_of_means else "gather_with_gradient")
    value, gradient, tau = ranks(WORLD, learn, scheme.__name__)[0]

    def shown(error: float) -> str:
        return "exact" if error < 1e-12 else f"{error:.1%}"

    length = gradient.norm() / truth[1].norm()
    angle = torch.rad2deg(torch.acos((gradient @ truth[1] / gradient.norm() / truth[1].norm()).clamp(max=1)))
    return (
        f"| {SCHEMES[scheme]} | {shown(abs(value / truth[0] - 1))} "
        f"| {shown(float((gradient - truth[1]).norm() / truth[1].norm()))} | {length:.3f} | {float(angle):.1f}° "
        f"| {shown(abs(tau / truth[2] - 1))} |"
    )


def test_the_audit_table_is_what_the_schemes_do(ranks: Ranks) -> None:
    lines = {scheme: table_line(ranks, scheme) for scheme in SCHEMES}
    assert lines[exact].endswith("| exact | exact | 1.000 | 0.0° | exact |")
    assert lines[gather_with_gradient].endswith("| exact | exact | 1.000 | 0.0° | exact |")
    wrong = [scheme for scheme, line in lines.items() if line.count("exact") < 3]
    assert len(wrong) == len(SCHEMES) - 2
    document = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    missing = [line for line in lines.values() if line not in document]
    assert not missing, f"{DOCUMENT.name} lacks:\n" + "\n".join(lines.values())
