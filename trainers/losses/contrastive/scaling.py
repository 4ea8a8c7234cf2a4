"""Rows scaled so that a product of two is a score, and the way back to the gradients of what the caller gave.

Shape suffixes: n rows of the caller, R of them in the order of a block, D projection width.
"""

import torch
from torch import Tensor


def scaled_rows(z_nD: Tensor, order_R: Tensor, inverse_temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in an order, brought to norm √(1/τ), and their norms before; a zero-norm row stays zero and has norm +∞."""
    # Dividing by the largest entry first keeps squares from overflowing or vanishing.
    peak_R1 = torch.linalg.vector_norm(z_nD, torch.inf, dim=1, keepdim=True)[order_R]
    zero_R1 = peak_R1 < torch.finfo(z_nD.dtype).tiny
    scaled_RD = z_nD[order_R].div_(peak_R1.masked_fill(zero_R1, 1))
    length_R1 = torch.linalg.vector_norm(scaled_RD, dim=1, keepdim=True)
    scaled_RD.mul_((inverse_temperature.sqrt() / length_R1).masked_fill_(zero_R1, 0))
    return scaled_RD, (peak_R1 * length_R1).masked_fill_(zero_R1, torch.inf)


def unscaled_gradient(
    pull_RD: Tensor, scaled_RD: Tensor, norm_R1: Tensor, inverse_temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """From Σ_j H_ij·√(1/τ)ẑ_j, which is overwritten, to the gradients of the rows before `scaled_rows`.

    Returns:
        The gradients, (R, D); and Σ_ij H_ij·s_ij over these rows, a scalar: τ times it is their part of ∂L/∂(1/τ).
    """
    radial_R1 = torch.linalg.vecdot(scaled_RD, pull_RD)[:, None]
    total = radial_R1.double().sum().to(pull_RD.dtype)
    # The normalisation ẑ = z/‖z‖ passes only what is at right angles to ẑ, divided by ‖z‖.
    pull_RD.addcmul_(scaled_RD, radial_R1 / inverse_temperature, value=-1).mul_(inverse_temperature.sqrt() / norm_R1)
    return pull_RD, total
