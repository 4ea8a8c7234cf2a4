import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from trainers.step import OptimConfig, alignment_and_uniformity, learning_rate


def test_the_rate_warms_up_linearly_then_falls_along_a_cosine_to_nothing() -> None:
    config = OptimConfig(steps=100, learning_rate=1.0, warmup_steps=10, schedule="cosine")
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    alignment, uniformity = alignment_and_uniformity(z, 2)
    unit = normalize(z, dim=1)
    first, second = unit[:5], unit[5:]
    pairs = [math.exp(-2 * float((first[i] - first[j]).square().sum())) for i in range(5) for j in range(5) if i != j]
    assert float(alignment) == pytest.approx(
        sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True)) / 5
    )
    assert float(uniformity) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_equal_views_are_aligned_and_one_point_is_not_uniform() -> None:
    z = torch.ones(8, 3)
    alignment, uniformity = alignment_and_uniformity(z, 2)
    assert float(alignment) == pytest.approx(0, abs=1e-6)
    assert float(uniformity) == pytest.approx(0, abs=1e-5)
