"""What a person watches besides the loss: how projections and embeddings lie in their spaces.

Every figure looks at `ROWS` rows at most and is computed on the device, so that it may always be on.

Shape suffixes: N rows of this rank (view-major: row m·clips + b), R ≤ `ROWS` of them, D projection width, E encoder
width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 512
"""Rows that a figure looks at, at most."""


def alignment_and_uniformity(z_ND: Tensor, num_views: int) -> tuple[Tensor, Tensor]:
    """How close the views of a clip are, and how evenly all rows cover the sphere.

    Args:
        z_ND: projections of any scale, view-major.
        num_views: M, views a clip.

    Returns:
        Mean ‖a − b‖² over first and second views of a clip, and log mean exp(−2‖a − b‖²) over pairs of rows.

    Source: Wang and Isola 2020 (arXiv:2005.10242), with α = 2 and t = 2.
    """
    z_ND = normalize(z_ND.float(), dim=1)
    clips = len(z_ND) // num_views
    rows = min(clips, ROWS)
    first, second = z_ND[:rows], z_ND[clips : clips + rows] if num_views > 1 else z_ND[:rows]
    alignment = (first - second).square().sum(1).mean()
    # On the unit sphere ‖a − b‖² = 2 − 2a·b; the diagonal is left out by hand, it would count as 1.
    similar = (4 * (first @ first.T) - 4).exp()
    pairs = max(1, rows * (rows - 1))
    return alignment, ((similar.sum() - similar.diagonal().sum()) / pairs).clamp_min(1e-30).log()


def effective_rank(h_NE: Tensor) -> Tensor:
    """How many dimensions the embeddings really use: 1 when all lie on a line, E when they fill the space evenly.

    exp of the entropy of the singular values, as shares of their sum, of the centred rows. They are the roots of the
    covariance's eigenvalues, which are found on the smaller side: rows or columns.

    Args:
        h_NE: embeddings of any scale.

    Returns:
        0-dim float64 in [1, min(R − 1, E)]; 1 for rows that are all the same.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", Definition 1.

    >>> effective_rank(torch.cat([torch.eye(3), -torch.eye(3)])).round(decimals=4)
    tensor(3., dtype=torch.float64)
    """
    # Evenly spaced rows: the first ones of a batch are the labelled clips.
    step = -(-len(h_NE) // ROWS)
    h_RE = h_NE[::step].double()  # the roots of float32's rounding errors would count as dimensions
    h_RE = h_RE - h_RE.mean(0)
    gram = h_RE @ h_RE.T if h_RE.shape[0] <= h_RE.shape[1] else h_RE.T @ h_RE
    # Rows that are not finite would make the solver raise; their figure is NaN.
    finite = torch.isfinite(gram).all()
    singular = torch.linalg.eigvalsh(gram.where(finite, 0)).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp().where(finite, torch.nan)
