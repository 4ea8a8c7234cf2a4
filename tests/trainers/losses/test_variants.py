"""The losses of several heads against sums and dense matrices written from the released masks, both in float64."""

import math
import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainers.losses.config import LossConfig
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.objective import VariantLoss
from trainers.losses.projected import Projected
from trainers.losses.variants import variant_contrastive_loss

CLIPS, EFFECTS, WIDTH, TAU = 7, 2, 5, 0.3


class Rows(NamedTuple):
    z: Tensor
    clip_id: Tensor
    received: Tensor


def make_rows(views: int = 2, p: float = 0.5, *, clips: int = CLIPS, seed: int = 0, twice: bool = False) -> Rows:
    """View-major rows; with ``twice`` the last clip of the batch is its first again."""
    g = torch.Generator().manual_seed(seed)
    clip_id = torch.randint(-(2**62), 2**62, (clips,), generator=g)
    if twice:
        clip_id[-1] = clip_id[0]
    n = clips * views
    z = torch.randn(n, 1 + EFFECTS, WIDTH, dtype=torch.float64, generator=g)
    received = torch.rand(n, EFFECTS, generator=g) < p
    return Rows(z * torch.rand(n, 1, 1, dtype=torch.float64, generator=g).add(0.1), clip_id.repeat(views), received)


def positive_pairs(rows: Rows, head: int, rule: str = "untreated") -> Tensor:
    """P of one head as a dense matrix; the diagonal is no pair."""
    same = rows.clip_id[:, None] == rows.clip_id
    if head > 0:
        got = rows.received[:, head - 1]
        if rule == "untreated":
            same &= ~got[:, None] & ~got
        elif rule == "alike":
            same &= got[:, None] == got
    return same.fill_diagonal_(False)


def by_loops(rows: Rows, tau: float, *, epsilon: float = 0.0) -> float:
    """LOEV's sums as the paper and its released code write them, pair by pair."""
    n, heads, _ = rows.z.shape
    total = 0.0
    for head in range(heads):
        unit = [row / row.norm() for row in rows.z[:, head]]
        for i in range(n):
            exps = [math.exp((unit[i] @ unit[j]).item() / tau) for j in range(n)]
            denominator = sum(exps[j] for j in range(n) if j != i)
            terms, number = 0.0, 0
            for j in range(n):
                if j == i or rows.clip_id[i] != rows.clip_id[j]:
                    continue
                if head > 0 and (rows.received[i, head - 1] or rows.received[j, head - 1]):
                    continue
                terms += math.log(exps[j] / denominator + epsilon)
                number += 1
            total += -terms / max(1, number) / n
    return total / heads


def dense(
    rows: Rows, tau: float | Tensor, *, rule: str = "untreated", anchors: str = "all", epsilon: float = 0.0
) -> Tensor:
    """The same with N × N matrices, for automatic differentiation."""
    n, heads, _ = rows.z.shape
    losses = []
    for head in range(heads):
        unit = normalize(rows.z[:, head], dim=1)
        s = unit @ unit.T / tau
        log_p = s - s.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf).logsumexp(1, keepdim=True)
        log_p = log_p if epsilon == 0 else (log_p.exp() + epsilon).log()
        pairs = positive_pairs(rows, head, rule)
        number = pairs.sum(1)
        loss = -(log_p.where(pairs, 0)).sum(1) / number.clamp(min=1)
        counted = n if anchors == "all" or head == 0 else int((number > 0).sum().clamp(min=1))
        losses.append(loss.sum() / counted)
    return torch.stack(losses).mean()


def with_gradients(rows: Rows, **how: Any) -> tuple[Tensor, Tensor, Tensor]:
    z, tau = rows.z.clone().requires_grad_(), torch.tensor(TAU, dtype=torch.float64, requires_grad=True)
    if how.pop("dense", False):
        loss = dense(rows._replace(z=z), tau, **how)
    else:
        loss = variant_contrastive_loss(z, rows.clip_id, rows.received, temperature=tau, **how)
    by_z, by_tau = torch.autograd.grad(loss, (z, tau))
    return loss.detach(), by_z, by_tau


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_the_loss_is_that_of_the_released_masks(views: int, p: float, epsilon: float) -> None:
    rows = make_rows(views, p, twice=True)
    found = variant_contrastive_loss(*rows, temperature=TAU, epsilon=epsilon, tile=3)
    assert found.item() == pytest.approx(by_loops(rows, TAU, epsilon=epsilon), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("tile", [3, 5, 512])
@pytest.mark.parametrize("anchors", ["all", "positive"])
@pytest.mark.parametrize("rule", ["untreated", "alike", "all"])
@pytest.mark.parametrize("views", [2, 3, 5])
def test_value_and_gradients_are_those_of_dense_matrices(views: int, rule: str, anchors: str, tile: int) -> None:
    rows = make_rows(views, twice=True)
    found = with_gradients(rows, positives=rule, anchors=anchors, tile=tile)
    expected = with_gradients(rows, dense=True, rule=rule, anchors=anchors)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-12)
    for got, wanted in zip(found[1:], expected[1:], strict=True):
        assert (got - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_an_epsilon_has_the_gradients_of_dense_matrices(epsilon: float) -> None:
    rows = make_rows(4)
    found, expected = with_gradients(rows, epsilon=epsilon), with_gradients(rows, dense=True, epsilon=epsilon)
    for got, wanted in zip(found, expected, strict=True):
        assert (got - wanted).norm() <= 1e-11 * wanted.norm()


@pytest.mark.parametrize("rule", ["untreated", "alike", "all"])
def test_where_no_row_is_treated_every_head_is_the_plain_loss_to_the_last_bit(rule: Any) -> None:
    rows = make_rows(3, p=0.0)
    equal = rows.z[:, :1].repeat(1, 3, 1)
    result = figures(rows._replace(z=equal), variant_positives=rule)
    plain = contrastive_loss(equal[:, 0], rows.clip_id, None, temperature=TAU)
    for name in ("loss/invariant", "loss/pitch", "loss/stretch"):
        assert result[name].item() == plain.item()
    assert result["loss"].item() == pytest.approx(plain.item(), rel=1e-15)


@pytest.mark.parametrize("anchors", ["all", "positive"])
def test_a_head_whose_rows_are_all_treated_is_exactly_zero_with_gradient_zero(anchors: Any) -> None:
    rows = make_rows(3)
    rows.received[:, 0] = True
    z = rows.z.clone().requires_grad_()
    loss = variant_contrastive_loss(z, rows.clip_id, rows.received, temperature=TAU, anchors=anchors)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient[:, 1].abs().max() == 0
    assert gradient[:, 2].abs().max() > 0
    assert figures(rows, variant_anchors=anchors)["loss/pitch"] == 0
    assert figures(rows, variant_anchors=anchors)["anchors/pitch"] == 0


def figures(rows: Rows, **settings: Any) -> dict[str, Tensor]:
    loss = VariantLoss(LossConfig(temperature=TAU, **settings), ("pitch", "stretch"))
    received = dict(zip(("pitch", "stretch"), rows.received.T, strict=True))
    found = loss(Projected(z_ND=rows.z.flatten(1), clip_id_N=rows.clip_id, received=received))
    metrics: dict[str, Tensor] = found.metrics
    return {"loss": found.loss} | metrics


def test_the_figures_name_the_loss_and_the_anchors_of_each_head() -> None:
    rows = make_rows(4, twice=True)
    found = figures(rows)
    each = [found[f"loss/{name}"] for name in ("invariant", "pitch", "stretch")]
    assert torch.stack(each).mean() == found["loss"]
    for head, name in enumerate(("pitch", "stretch"), 1):
        assert found[f"anchors/{name}"] == positive_pairs(rows, head).any(1).double().mean()


def test_head_zero_alone_takes_labels() -> None:
    rows = make_rows(2)
    labels = torch.rand(len(rows.z), 3, generator=torch.Generator().manual_seed(4)) < 0.5
    z = rows.z
    with_labels = variant_contrastive_loss(*rows, labels, temperature=TAU)
    without = variant_contrastive_loss(*rows, temperature=TAU)
    moved = contrastive_loss(z[:, 0], rows.clip_id, labels, temperature=TAU)
    plain = contrastive_loss(z[:, 0], rows.clip_id, None, temperature=TAU)
    assert (with_labels - without).item() == pytest.approx(((moved - plain) / 3).item(), rel=1e-12)


def test_permuting_heads_permutes_their_losses() -> None:
    rows = make_rows(3)
    one = figures(rows)
    other = figures(Rows(rows.z[:, [0, 2, 1]], rows.clip_id, rows.received[:, [1, 0]]))
    assert one["loss/pitch"] == other["loss/stretch"]
    assert one["loss/stretch"] == other["loss/pitch"]
    assert one["loss/invariant"] == other["loss/invariant"]


def test_neither_the_order_of_rows_nor_the_numbers_of_clips_matter() -> None:
    rows = make_rows(3, twice=True)
    expected = variant_contrastive_loss(*rows, temperature=TAU).item()
    order = torch.randperm(len(rows.z), generator=torch.Generator().manual_seed(2))
    mixed = Rows(*(part[order] for part in rows))
    _, renamed = torch.unique(rows.clip_id, return_inverse=True)
    for other in (mixed, rows._replace(clip_id=renamed - 3)):
        assert variant_contrastive_loss(*other, temperature=TAU).item() == pytest.approx(expected, rel=1e-13)


def test_flipping_a_flag_moves_its_head_alone() -> None:
    rows = make_rows(3, p=0.3)
    before = figures(rows)
    flipped = rows.received.clone()
    flipped[0, 1] = ~flipped[0, 1]
    after = figures(rows._replace(received=flipped))
    assert before["loss/invariant"] == after["loss/invariant"]
    assert before["loss/pitch"] == after["loss/pitch"]
    assert before["loss/stretch"] != after["loss/stretch"]


@pytest.mark.parametrize(("views", "p"), [(2, 0.5), (2, 0.6), (4, 0.5), (4, 0.4)])
def test_the_share_of_anchors_is_the_formula_and_treating_a_row_only_removes_positives(views: int, p: float) -> None:
    rows = make_rows(views, p, clips=3000)
    found = figures(rows._replace(z=rows.z.float()))
    expected = (1 - p) * (1 - p ** (views - 1))
    tolerance = 4 / math.sqrt(3000)
    for name in ("pitch", "stretch"):
        assert found[f"anchors/{name}"].item() == pytest.approx(expected, abs=tolerance)
    small = make_rows(views, p)
    for head in (1, 2):
        assert (positive_pairs(small, head).sum(1) <= positive_pairs(small, 0).sum(1)).all()


@pytest.mark.parametrize(("views", "matters"), [(2, False), (3, True)])
def test_treated_views_of_an_anchors_own_clip_are_negatives_from_three_views_on(views: int, matters: bool) -> None:
    rows = make_rows(views)
    n = len(rows.z)
    unit = normalize(rows.z[:, 1], dim=1)
    s = unit @ unit.T / TAU
    pairs = positive_pairs(rows, 1)
    own = (rows.clip_id[:, None] == rows.clip_id) & ~pairs
    losses = []
    for left_out in (torch.eye(n, dtype=torch.bool), own):
        log_p = s - s.masked_fill(left_out, -math.inf).logsumexp(1, keepdim=True)
        losses.append((-log_p.where(pairs, 0).sum(1) / pairs.sum(1).clamp(min=1)).mean())
    assert (losses[0] != losses[1]).item() is matters


def test_a_row_that_is_not_finite_makes_the_loss_nan_in_whatever_head_it_is() -> None:
    for head in range(3):
        rows = make_rows(2)
        rows.z[1, head, 0] = math.nan
        assert variant_contrastive_loss(*rows, temperature=TAU).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.ones(14, 5)}, "z must be (rows, heads, width), none of them 0, got (14, 5)"),
        ({"received": torch.zeros(14, 3, dtype=torch.bool)}, "received must be bool of shape (14, 2), a column for"),
        ({"received": torch.zeros(14, 2)}, "received must be bool of shape (14, 2), a column for every head but the"),
        ({"clip_id": torch.zeros(3, dtype=torch.int64)}, "clip_id must be int64 of shape (14,)"),
    ],
)
def test_rows_that_cannot_have_a_loss_are_refused(change: dict[str, Tensor], message: str) -> None:
    rows = make_rows()._replace(**change)
    with pytest.raises(ValueError, match=re.escape(message)):
        variant_contrastive_loss(*rows)


@pytest.mark.parametrize("setting", [{"positives": "both"}, {"anchors": "some"}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        variant_contrastive_loss(*make_rows(), **setting)
