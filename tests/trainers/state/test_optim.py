"""The optimiser is torch's own, bit by bit, and brings no compiler."""

import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from cluster.settings import ROOT
from trainers.state.optim import build_optimizer
from trainers.state.optim_config import OptimConfig

TRAINED = """
import sys, torch
from trainers.state.optim import build_optimizer
from trainers.state.optim_config import OptimConfig
model = torch.nn.Linear(3, 2)
optimizer = build_optimizer(model, OptimConfig())
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x_ND = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        model(x_ND).square().sum().backward()
        optimizer.step()


def equal(one: Any, other: Any) -> bool:
    """Nested states, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_steps_and_keeps_its_state_as_torchs_own(decay: float) -> None:
    ours, theirs = network(), network()
    optimizer = build_optimizer(ours, OptimConfig(learning_rate=1e-2, weight_decay=decay))
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    groups = [{**group, "params": []} for group in optimizer.param_groups]
    by_identity = dict(zip(map(id, ours.parameters()), theirs.parameters(), strict=True))
    for group, source in zip(groups, optimizer.param_groups, strict=True):
        group["params"] = [by_identity[id(parameter)] for parameter in source["params"]]
    plain = kind(groups, lr=1e-2, fused=True)
    for model, one in ((ours, optimizer), (theirs, plain)):
        train(model, one, range(5))
    assert equal(ours.state_dict(), theirs.state_dict())
    assert equal(optimizer.state_dict(), plain.state_dict())

    again = network()
    again.load_state_dict(theirs.state_dict())
    resumed = build_optimizer(again, OptimConfig(learning_rate=1e-2, weight_decay=decay))
    resumed.load_state_dict(deepcopy(plain.state_dict()))  # torch shares the tensors
    train(again, resumed, range(5, 8))
    train(theirs, plain, range(5, 8))
    assert equal(again.state_dict(), theirs.state_dict())


def test_training_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINED], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
