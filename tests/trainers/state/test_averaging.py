import pytest
import torch
from torch import nn

from trainers.state.optim import WeightAverage


def stepped(decay: float, values: list[float]) -> WeightAverage:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    average = WeightAverage(model, decay)
    for step, value in enumerate(values):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        average.update(step)
    return average


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_mean_of_constant_weights_is_the_constant(decay: float) -> None:
    for tensor in stepped(decay, [3.0] * 20).state.values():
        torch.testing.assert_close(tensor.double(), torch.full_like(tensor.double(), 3.0), rtol=1e-12, atol=0)


def test_after_k_steps_it_is_the_weighted_mean_of_them_all() -> None:
    values, decay = [5.0, -1.0, 2.0, 7.0], 0.9
    shares = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    expected = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    state = stepped(decay, values).state
    assert state["0.weight"].flatten().tolist() == pytest.approx([expected] * 4, rel=1e-12)
    assert state["1.running_mean"].tolist() == pytest.approx([expected] * 2, rel=1e-12)
    assert state["1.num_batches_tracked"] == 7, "whole numbers are not averaged"


def test_a_saved_mean_goes_on_as_if_unbroken() -> None:
    whole = stepped(0.9, [1.0, 2.0, 4.0])
    part = stepped(0.9, [1.0, 2.0])
    again = stepped(0.9, [])
    again.load(part.state)
    for tensor in again.model.state_dict().values():
        tensor.fill_(4.0)
    again.update(2)
    assert all(torch.equal(value, whole.state[name]) for name, value in again.state.items())
