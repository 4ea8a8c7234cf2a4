from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.config import Task
from evaluation.probes import training as probes
from evaluation.probes.heads import Adam, backward, draw_words, forward, loss_gradient, losses, lowest
from evaluation.probes.training import ORDER, Head, ProbeData, TrainedHeads, train_heads

HEADS = [Head(model, seed) for model in range(2) for seed in range(3)]


def task(**changes: Any) -> Task:
    defaults: dict[str, Any] = {
        "column": "x",
        "kind": "class",
        "probe": True,
        "hidden": 16,
        "patience": 4,
        "max_epochs": 40,
    }
    return Task(**(defaults | {"batch": 16, "learning_rate": 3e-3} | changes))


@pytest.fixture
def data() -> tuple[ProbeData, ProbeData]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 90, 8, generator=g)
    y = (x[0, :, :4] + 0.7 * torch.randn(90, 4, generator=g)).argmax(1)
    return ProbeData(x[:, :60], y[:60]), ProbeData(x[:, 60:], y[60:])


@pytest.mark.medium
@pytest.mark.parametrize(("head", "learning_rate"), [("mlp", 3e-3), ("linear", 3e-2)])
def test_a_head_among_others_equals_the_head_on_its_own(
    data: tuple[ProbeData, ProbeData], head: str, learning_rate: float
) -> None:
    train, valid = data
    config = task(head=head, learning_rate=learning_rate)
    together = train_heads(config, train, valid, 4, HEADS)
    alone = [train_heads(config, train, valid, 4, [one]) for one in HEADS]
    assert together.epochs == tuple(one.epochs[0] for one in alone)
    assert len(set(together.epochs)) > 1  # heads stopped at different times, so the stack was thinned
    assert together.ran == tuple(one.ran[0] for one in alone)
    pairs = zip(alone, HEADS, strict=True)
    expected = torch.cat([one.predict(head.model, valid.x_AKE[head.model]) for one, head in pairs])
    torch.testing.assert_close(answers(together, valid), expected, atol=1e-4, rtol=1e-4)


def answers(trained: TrainedHeads, valid: ProbeData) -> Tensor:
    """Of all heads (H, K, C)."""
    return torch.cat([trained.predict(model, x_KE) for model, x_KE in enumerate(valid.x_AKE)])


def naive_linear(train: ProbeData, valid: ProbeData, config: Task, first: Tensor) -> tuple[float, Tensor]:
    """A plain loop over one nn.Linear with torch's own Adam, without dropout."""
    layer = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(first.T)
    optimiser = torch.optim.Adam(layer.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    draws = torch.Generator().manual_seed(ORDER)
    best, kept, since = float("inf"), layer.weight.detach().clone(), 0
    for _ in range(config.max_epochs):
        order = torch.randperm(60, generator=draws)
        for rows in torch.split(order, config.batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(layer(train.x_AKE[0, rows]), train.y_K[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        loss = nn.functional.cross_entropy(layer(valid.x_AKE[0]), valid.y_K).item()
        since += 1
        if loss < best:
            best, kept, since = loss, layer.weight.detach().clone(), 0
        if since == config.patience:
            break
    return best, kept


def test_training_is_that_of_a_plain_loop(data: tuple[ProbeData, ProbeData]) -> None:
    train, valid = data
    config = task(head="linear", dropout=0.0, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(0)
    first = (2 * torch.rand((8, 4), generator=generator) - 1) / 8**0.5
    best, kept = naive_linear(train, valid, config, first)
    trained = train_heads(config, train, valid, 4, [Head(0, 0)])
    assert trained.losses[0] == pytest.approx(best, rel=1e-5)
    torch.testing.assert_close(trained.weights[0][0], kept, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("kind", ["tags", "class", "number"])
def test_the_gradient_that_is_written_out_is_autograds(kind: str, head: str) -> None:
    g = torch.Generator().manual_seed(3)
    shapes = [(2, 5, 8)] if head == "linear" else [(2, 6, 8), (2, 5, 6)]
    weights = [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]
    x = torch.randn(2, 7, 8, generator=g)
    words = torch.randint(-(1 << 15), 1 << 15, (2, 7, shapes[-1][2]), generator=g).float()
    keep = (words > lowest(0.3)).float() / 0.7
    y = {"tags": torch.rand(2, 7, 5, generator=g) > 0.5, "class": torch.randint(5, (2, 7), generator=g)}.get(
        kind, torch.randn(2, 7, generator=g)
    )
    hidden = x if head == "linear" else torch.bmm(x, weights[0].mT).relu()
    out = torch.bmm(hidden * keep, weights[-1].mT)
    expected = torch.autograd.grad(losses(out, y).sum(), weights)
    with torch.no_grad():
        found = [torch.empty_like(weight) for weight in weights]
        layers = forward(weights, x, words, 0.3)
        backward(weights, found, layers, loss_gradient(layers[-1], y) / 0.7)
    torch.testing.assert_close(layers[-1], out, atol=1e-5, rtol=1e-5)
    for gradient, goal in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, goal, atol=1e-6, rtol=1e-5)


def test_a_step_is_that_of_torchs_adam() -> None:
    g = torch.Generator().manual_seed(0)
    first = torch.randn(3, 5, 8, generator=g)
    theirs = first.clone()
    adam = Adam.of([first], learning_rate=1e-2, weight_decay=1e-2)
    torchs = torch.optim.Adam([theirs], lr=1e-2, weight_decay=1e-2)
    for step in range(12):
        if step == 6:  # the others go on as if the one that stopped had never been there
            adam.keep(torch.tensor([True, False, True]))
        gradient = torch.randn(3, 5, 8, generator=g)
        theirs.grad = gradient
        adam.gradients[0].copy_(gradient if step < 6 else gradient[[0, 2]])
        adam.step()
        torchs.step()
    torch.testing.assert_close(adam.weights[0], theirs[[0, 2]], atol=1e-6, rtol=1e-5)


def test_nothing_depends_on_how_heads_are_blocked_or_on_the_number_of_threads(
    data: tuple[ProbeData, ProbeData], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = data
    whole = train_heads(task(), train, valid, 4, HEADS[::-1])
    torch.set_num_threads(2)  # the fixture sets it back
    threaded = train_heads(task(), train, valid, 4, HEADS[::-1])
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(probes, "CACHE_BYTES", 1)
    apart = train_heads(task(), train, valid, 4, HEADS[::-1])
    for other in (threaded, apart):
        assert other.heads == whole.heads
        assert other.epochs == whole.epochs
        for mine, theirs in zip(whole.weights, other.weights, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_dropout_drops_the_share_it_says_and_keeps_the_mean() -> None:
    draws = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)]
    words = draw_words(draws, (400, 501), torch.device("cpu"))
    assert words.shape == (2, 400, 501)
    keep = forward([torch.eye(501).expand(2, -1, -1)], torch.ones(2, 400, 501), words, 0.1)[-1]
    assert (keep == 0).float().mean((1, 2)).tolist() == pytest.approx([0.1, 0.1], abs=0.003)
    assert keep.mean().item() == pytest.approx(1, abs=0.003)
    assert abs(np.corrcoef(keep[0].ravel().numpy(), keep[1].ravel().numpy())[0, 1]) < 0.01
    columns = (keep[0] == 0).float().mean(0)  # no place of a word is special
    assert columns.std().item() < 0.02


def validation_loss(trained: TrainedHeads, valid: ProbeData) -> list[float]:
    out = answers(trained, valid)
    return [nn.functional.cross_entropy(o, valid.y_K).item() for o in out]


def test_the_weights_of_the_best_epoch_are_the_ones_that_answer(data: tuple[ProbeData, ProbeData]) -> None:
    """A large step overfits at once: the last epoch is worse than the best."""
    train, valid = data
    trained = train_heads(task(learning_rate=0.05, patience=10, dropout=0.0), train, valid, 4, HEADS)
    assert validation_loss(trained, valid) == pytest.approx(trained.losses, rel=1e-5)
    stopped = train_heads(task(learning_rate=0.05, dropout=0.0, max_epochs=max(trained.epochs)), train, valid, 4, HEADS)
    assert max(trained.epochs) < 40
    assert stopped.losses == pytest.approx(trained.losses, rel=1e-4)


def test_a_head_runs_for_its_patience_after_its_best_epoch_or_to_the_cap(data: tuple[ProbeData, ProbeData]) -> None:
    train, valid = data
    patient = train_heads(task(learning_rate=0.05, dropout=0.0), train, valid, 4, HEADS)
    assert patient.ran == tuple(best + 4 for best in patient.epochs)
    cap = min(patient.epochs)
    capped = train_heads(task(learning_rate=0.05, dropout=0.0, max_epochs=cap), train, valid, 4, HEADS)
    assert capped.ran == (cap,) * len(HEADS)


def test_the_same_seed_draws_the_same_for_two_models(data: tuple[ProbeData, ProbeData]) -> None:
    train, valid = data
    twice = [ProbeData(part.x_AKE[:1].expand(2, -1, -1).contiguous(), part.y_K) for part in (train, valid)]
    trained = train_heads(task(), twice[0], twice[1], 4, [Head(0, 7), Head(1, 7), Head(0, 8)])
    torch.testing.assert_close(trained.weights[0][0], trained.weights[0][1])
    assert not torch.allclose(trained.weights[0][0], trained.weights[0][2])


@pytest.mark.parametrize("kind", ["tags", "number"])
def test_tags_and_numbers_are_learned(kind: str) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 300, 8, generator=g)
    y = x[0, :, :3] > 0 if kind == "tags" else x[0, :, 0]
    train, valid = ProbeData(x[:, :200], y[:200]), ProbeData(x[:, 200:], y[200:])
    trained = train_heads(task(max_epochs=60), train, valid, 3 if kind == "tags" else 1, [Head(0, 0)])
    out = trained.predict(0, valid.x_AKE[0])
    if kind == "tags":
        assert ((out[0] > 0) == valid.y_K).float().mean() > 0.9
    else:
        assert np.corrcoef(out[0, :, 0].numpy(), valid.y_K.numpy())[0, 1] > 0.95


def test_a_loss_that_is_never_finite_is_an_error(data: tuple[ProbeData, ProbeData]) -> None:
    train, valid = data
    broken = ProbeData(torch.full_like(valid.x_AKE, torch.nan), valid.y_K)
    with pytest.raises(ValueError, match="not finite"):
        train_heads(task(), train, broken, 4, [Head(0, 0)])
