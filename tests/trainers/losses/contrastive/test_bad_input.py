"""What the loss refuses, and in which words."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from trainers.losses.config import LossConfig
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.two_tower.loss import two_tower_loss
from trainers.losses.variants import variant_contrastive_loss


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
        contrastive_loss(**given)


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


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": np.ones((4, 3))}, TypeError, "z must be a torch tensor, got a ndarray; torch.as_tensor makes one"),
        ({"z": None}, TypeError, "z must be a torch tensor, got a NoneType"),
        ({"clip_id": [0, 1, 0, 1]}, TypeError, "clip_id must be a torch tensor, got a list"),
        ({"clip_id": None}, TypeError, "clip_id must be a torch tensor, got a NoneType"),
        ({"labels": [[True]] * 4}, TypeError, "labels must be a torch tensor, got a list"),
        ({"clip_id": torch.zeros(4, dtype=torch.int64, device="meta")}, ValueError, "clip_id must be a dense tensor"),
        ({"z": torch.eye(4).to_sparse()}, ValueError, "z must be a dense tensor that holds numbers, got torch.sparse"),
        ({"temperature": "0.1"}, ValueError, "temperature must be a number, got '0.1'"),
        ({"temperature": None}, ValueError, "temperature must be a number, got None"),
        ({"temperature": True}, ValueError, "temperature must be a number, got True"),
        ({"criterion": 1.5}, ValueError, "criterion must be a whole number >= 1, got 1.5"),
        ({"tile": "4"}, ValueError, "tile must be a whole number >= 1, got '4'"),
        ({"tile": True}, ValueError, "tile must be a whole number >= 1, got True"),
        ({"epsilon": None}, ValueError, "epsilon must be a number, got None"),
    ],
)
def test_an_argument_of_another_kind_is_named(change: Any, error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"z": torch.ones(4, 3), "clip_id": torch.arange(4), "labels": None} | change
    with pytest.raises(error, match=message):
        contrastive_loss(given.pop("z"), given.pop("clip_id"), given.pop("labels"), **given)


def test_numbers_of_numpy_are_numbers() -> None:
    z, clip_id = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    plain = contrastive_loss(z, clip_id, None, temperature=0.5, tile=2)
    assert torch.equal(plain, contrastive_loss(z, clip_id, None, temperature=np.float64(0.5), tile=int(np.int64(2))))
    assert torch.equal(plain, contrastive_loss(z, clip_id, None, temperature=0.5, tile=np.int64(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z_text": np.ones((4, 3))}, TypeError, "z_text must be a torch tensor, got a ndarray"),
        ({"hard": [False] * 4}, TypeError, "hard must be a torch tensor, got a list"),
        ({"z_text": torch.ones(4, 3, device="meta")}, ValueError, "z_text must be a dense tensor"),
        ({"pairs": "sigmoid", "bias": "x"}, ValueError, "bias must be a number, got 'x'"),
        ({"audio_share": None}, ValueError, "audio_share must be a number, got None"),
        ({"tile": 1.5}, ValueError, "tile must be a whole number >= 1, got 1.5"),
    ],
)
def test_the_two_tower_loss_names_an_argument_of_another_kind(
    change: Any, error: type[Exception], message: str
) -> None:
    rows = {"z_audio": torch.ones(4, 3), "z_text": torch.ones(4, 3)}
    given: dict[str, Any] = rows | {"clip_audio": torch.arange(4), "clip_text": torch.arange(4)} | change
    with pytest.raises(error, match=message):
        two_tower_loss(**given)


def test_the_heads_loss_names_flags_of_another_kind() -> None:
    with pytest.raises(TypeError, match="received must be a torch tensor, got a dict"):
        variant_contrastive_loss(torch.ones(4, 2, 3), torch.arange(4), {"pitch": True})  # type: ignore[arg-type]
