"""What others attach to a torch optimiser holds for ours: hooks, closures, schedulers, names in a profile."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import profile

from trainers.state.optim import build_optimizer
from trainers.state.optim_config import OptimConfig

DECAYS = pytest.mark.parametrize("decay", [0.0, 0.1])


def made(decay: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model(torch.ones(4, 3)).square().sum().backward()
    return model, build_optimizer(model, OptimConfig(learning_rate=1e-2, weight_decay=decay))


@DECAYS
def test_hooks_are_called_once_a_step_also_after_another_optimiser_was_made(decay: float) -> None:
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    kind([nn.Parameter(torch.zeros(1))])  # torch wraps the methods of a class when its first object is made
    _, optimizer = made(decay)
    calls: list[str] = []
    hooks: list[Any] = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("every")),
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append("after")),
        optimizer.register_state_dict_post_hook(lambda *_: calls.append("state")),
        optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load")),
    ]
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    for hook in hooks:
        hook.remove()
    assert sorted(calls) == sorted(["every", "before", "after", "state", "load"])


@DECAYS
def test_a_closure_has_gradients_and_its_loss_is_returned(decay: float) -> None:
    model, optimizer = made(decay)

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().sum()
        loss.backward()
        return float(loss.detach())

    before = [weight.detach().clone() for weight in model.parameters()]
    assert (optimizer.step(closure) or 0) > 0
    assert not any(map(torch.equal, before, model.parameters()))
    assert torch.is_grad_enabled()


@DECAYS
def test_a_scheduler_sees_its_steps_and_a_profile_has_torchs_names(decay: float) -> None:
    _, optimizer = made(decay)
    scheduler = StepLR(optimizer, 1, 0.5)
    with profile() as found:
        optimizer.step()
        optimizer.zero_grad()
    scheduler.step()  # it warns, an error here, where it was not told of the step
    assert scheduler.get_last_lr() == [5e-3] * len(optimizer.param_groups)
    kind = "AdamW" if decay else "Adam"
    names = [event.name for event in found.events() or []]
    assert f"Optimizer.step#{kind}.step" in names
    assert f"Optimizer.zero_grad#{kind}.zero_grad" in names
