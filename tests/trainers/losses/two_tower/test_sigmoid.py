"""The logarithm of products: σ and softplus of a tile against the formulas, wherever float32 or float64 ends."""

import math

import pytest
import torch
from torch.nn import functional

from trainers.losses.two_tower.sigmoid import LARGEST, MOST_FOLDS, _folds, _sigmoid_and_softplus

SHAPES = [(1, 1), (3, 5), (7, 8), (16, 16), (32, 48)]


def tile(shape: tuple[int, int], centre: float, dtype: torch.dtype) -> torch.Tensor:
    return centre + 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("centre", [-700.0, -90.0, -30.0, -9.0, 0.0, 9.0, 20.0, 40.0, 70.0, 90.0, 800.0])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
def test_both_are_the_formulas_at_any_size(
    shape: tuple[int, int], centre: float, dtype: torch.dtype, rtol: float
) -> None:
    s_IJ = tile(shape, centre, dtype)
    exact = s_IJ.double()
    h_IJ, softplus = _sigmoid_and_softplus(s_IJ.clone(), torch.empty_like(s_IJ), with_sum=True)
    torch.testing.assert_close(h_IJ.double(), exact.sigmoid(), rtol=rtol, atol=1e-30)
    assert softplus.item() == pytest.approx(functional.softplus(exact, threshold=60).sum().item(), rel=rtol, abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_blocked_pair_adds_nothing(dtype: torch.dtype) -> None:
    s_IJ = torch.full((4, 4), -math.inf, dtype=dtype)
    s_IJ[1, 2] = 3.0
    h_IJ, softplus = _sigmoid_and_softplus(s_IJ, torch.empty_like(s_IJ), with_sum=True)
    assert softplus.item() == pytest.approx(math.log1p(math.exp(3)), rel=1e-6)
    assert h_IJ.count_nonzero() == 1


def test_small_terms_are_not_lost_beside_one() -> None:
    """1 + exp(−20) is 1 in float32: the logarithm of the sum would be 0, and the loss of ten thousand pairs too."""
    s_IJ = torch.full((128, 128), -20.0)
    _, softplus = _sigmoid_and_softplus(s_IJ, torch.empty_like(s_IJ), with_sum=True)
    assert softplus.item() == pytest.approx(128 * 128 * math.exp(-20), rel=1e-5)


def test_a_nan_score_is_nan() -> None:
    s_IJ = torch.zeros(4, 4)
    s_IJ[0, 0] = math.nan
    assert _sigmoid_and_softplus(s_IJ, torch.empty_like(s_IJ), with_sum=True)[1].isnan()


def test_a_tile_is_folded_only_as_far_as_float32_reaches() -> None:
    assert _folds(torch.full((16, 16), -5.0)) == MOST_FOLDS
    assert _folds(torch.full((16, 16), LARGEST)) is None
    assert _folds(torch.full((3, 5), -5.0)) == 0
    for largest in (1.0, 5.0, 11.0, 22.0, 45.0, 80.0):
        folds = _folds(torch.full((16, 16), largest))
        assert folds is not None
        assert (1 + math.exp(largest)) ** (2**folds) < torch.finfo(torch.float32).max
