"""What the loss refuses, and in which words."""

import math
from typing import Any

import pytest
import torch

from trainers.losses.loss_config import LossConfig
from trainers.losses.semi_supervised import semi_supervised_contrastive_loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"temperature": -0.1}, "temperature must be > 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be > 0, got nan"),
        ({"temperature": math.inf}, "temperature must be > 0, got inf"),
        ({"temperature": torch.tensor(-1.0)}, "temperature must be > 0, got -1"),
        ({"temperature": torch.ones(2)}, r"temperature must be one number, got a tensor of shape \(2,\)"),
        ({"criterion": 0}, "criterion must be >= 1, got 0"),
        ({"epsilon": -1e-6}, "epsilon must be >= 0, got -1e-06"),
        ({"tile": 0}, "tile must be >= 1, got 0"),
        ({"positives": "tags"}, "positives must be one of criterion, weighing, got 'tags'"),
        ({"normaliser": "sum"}, "normaliser must be one of mass, count, got 'sum'"),
        ({"exchange": "tree"}, "exchange must be one of gather, ring, got 'tree'"),
        ({"z": torch.ones(4)}, r"z must be \(rows, width\), neither of them 0, got \(4,\)"),
        ({"z": torch.ones(0, 3)}, r"z must be \(rows, width\), neither of them 0, got \(0, 3\)"),
        ({"z": torch.ones(4, 3, dtype=torch.bfloat16)}, "z must be float32 or float64, got torch.bfloat16; call z.flo"),
        ({"clip_id": torch.arange(3)}, r"clip_id must be int64 of shape \(4,\), got torch.int64 of shape \(3,\)"),
        ({"clip_id": torch.ones(4)}, r"clip_id must be int64 of shape \(4,\), got torch.float32"),
        ({"labels": torch.ones(3, 2, dtype=torch.bool)}, r"labels must be bool of shape \(4, tags\), .* \(3, 2\)"),
        ({"labels": torch.ones(4, 2)}, r"labels must be bool of shape \(4, tags\), got torch.float32"),
        ({"labels": torch.ones(4, dtype=torch.bool)}, r"labels must be bool of shape \(4, tags\), .* \(4,\)"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"z": torch.ones(4, 3), "clip_id": torch.arange(4), "labels": None} | change
    with pytest.raises(ValueError, match=message):
        semi_supervised_contrastive_loss(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0, got 0"),
        ({"criterion": -1}, "criterion must be >= 1, got -1"),
        ({"epsilon": math.nan}, "epsilon must be >= 0, got nan"),
        ({"tile": -4}, "tile must be >= 1, got -4"),
    ],
)
def test_a_configuration_checks_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**change)
