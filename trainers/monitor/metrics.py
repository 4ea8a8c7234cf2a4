"""Metrics of a training step besides the loss: how projections and embeddings lie in their spaces.

Every metric is of the global batch, reads `CLIPS` clips at most and is computed on the device, so it is always on.

Shape suffixes: N rows of this rank (view-major: row m·clips + b), R clips that are read, V = min(M, 2) views of
each, D width, E encoder width, S rows of a metric.
"""

import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainers.distributed import collectives

CLIPS = 512
"""Clips that a metric reads, at most; at least one of every rank."""


def watched(rows_ND: Tensor, num_views: int) -> Tensor:
    """The first two views of evenly spaced clips, as many of every rank: the same on all of them.

    Evenly spaced, for the first clips of a batch are the labelled ones. While a batch has no more than `CLIPS` clips
    all are there, so any number of ranks sees the same rows, though in another order.

    Args:
        rows_ND: projections or embeddings of this rank, view-major.
        num_views: M, views a clip.

    Returns:
        Shape (R, V, D), float32.
    """
    clips = len(rows_ND) // num_views
    share = max(1, CLIPS // collectives.world_size())
    rows_VRD = rows_ND.detach().float().view(num_views, clips, -1)[:2, :: -(-clips // share)]
    return collectives.all_gather(rows_VRD.transpose(0, 1))


def alignment_and_uniformity(z_RVD: Tensor) -> tuple[Tensor, Tensor]:
    """How close the views of a clip are, and how evenly first views cover the sphere.

    Args:
        z_RVD: projections of any scale.

    Returns:
        Mean ‖a − b‖² over first and second views of a clip, and log mean exp(−2‖a − b‖²) over pairs of first views.

    Source: Wang and Isola 2020 (arXiv:2005.10242), with α = 2 and t = 2.
    """
    z_RVD = normalize(z_RVD, dim=2)
    first, second = z_RVD[:, 0], z_RVD[:, -1]
    alignment = (first - second).square().sum(1).mean()
    # On the unit sphere ‖a − b‖² = 2 − 2a·b; the diagonal is left out by hand, it would count as 1.
    similar = (4 * (first @ first.T) - 4).exp()
    pairs = max(1, len(first) * (len(first) - 1))
    return alignment, ((similar.sum() - similar.diagonal().sum()) / pairs).clamp_min(1e-30).log()


def alignment_of(z_RVD: Tensor, share_R: Tensor) -> Tensor:
    """How close the views of some clips are: the mean of ‖a − b‖² over clips weighted by ``share_R``; 0 for none."""
    z_RVD = normalize(z_RVD, dim=2)
    distance_R = (z_RVD[:, 0] - z_RVD[:, -1]).square().sum(1)
    return (distance_R * share_R).sum() / share_R.sum().clamp_min(1)


def effective_rank(h_SE: Tensor) -> Tensor:
    """Effective number of dimensions of the embeddings: 1 when all lie on a line, E when they fill the space evenly.

    exp of the entropy of the singular values, as shares of their sum, of the centred rows. They are the roots of the
    covariance's eigenvalues, which are found on the smaller side: rows or columns.

    Args:
        h_SE: embeddings of any scale.

    Returns:
        0-dim float64 in [1, min(S − 1, E)]; 1 for rows that are all the same.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", Definition 1.

    >>> effective_rank(torch.cat([torch.eye(3), -torch.eye(3)])).round(decimals=4)
    tensor(3., dtype=torch.float64)
    """
    h_SE = h_SE.double()  # the roots of float32's rounding errors would count as dimensions
    h_SE = h_SE - h_SE.mean(0)
    gram = h_SE @ h_SE.T if h_SE.shape[0] <= h_SE.shape[1] else h_SE.T @ h_SE
    # Rows that are not finite would make the solver raise; their metric is NaN.
    finite = torch.isfinite(gram).all()
    singular = torch.linalg.eigvalsh(gram.where(finite, 0)).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp().where(finite, torch.nan)


class PhaseClock:
    """Marks the ends of a step's phases: the host's clock on a CPU, events of the current stream on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks = [("", self._now())]

    def mark(self, phase: str) -> None:
        """End a part of ``phase``, which began at the last mark; the parts of a phase add up."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; on a GPU read it only after the metrics of the step."""
        total: dict[str, float] = {}
        for (_, began), (phase, ended) in zip(self._marks, self._marks[1:], strict=False):
            total[phase] = total.get(phase, 0.0) + self._between(began, ended)
        return total

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record()
        return event

    def _between(self, began: "float | torch.cuda.Event", ended: "float | torch.cuda.Event") -> float:
        if isinstance(began, float) and isinstance(ended, float):
            return ended - began
        assert isinstance(began, torch.cuda.Event)
        assert isinstance(ended, torch.cuda.Event)
        return float(began.elapsed_time(ended)) / 1e3
