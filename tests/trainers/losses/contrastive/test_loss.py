"""The streaming loss against the paper's sums and against dense automatic differentiation, both in float64."""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainers.distributed import collectives
from trainers.losses.config import LossConfig
from trainers.losses.contrastive.loss import contrastive_loss
from trainers.losses.contrastive.pairs import Pair, clip_codes, known_clips, make_block, sort_rows, weight_tile
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.objective import ContrastiveLoss
from trainers.losses.projected import Projected


class Rows(NamedTuple):
    z: Tensor
    clip_id: Tensor
    labels: Tensor


def make_rows(
    num_clips: int = 9, views: int = 2, *, tags: int = 11, labelled: float = 0.5, rate: float = 0.3, seed: int = 0
) -> Rows:
    """View-major rows with random clip ids; some labelled clips share no tag with any other."""
    g = torch.Generator().manual_seed(seed)
    clip_id = torch.randint(-(2**62), 2**62, (num_clips,), generator=g).repeat(views)
    labels = torch.rand(num_clips, tags, generator=g) < rate
    labels &= (torch.rand(num_clips, 1, generator=g) < labelled).expand_as(labels)
    z = torch.randn(num_clips * views, 6, dtype=torch.float64, generator=g)
    return Rows(z * torch.rand(len(z), 1, dtype=torch.float64, generator=g).add(0.1), clip_id, labels.repeat(views, 1))


def eq3_by_loops(rows: Rows, temperature: float, *, alpha: bool, criterion: int, count: bool, epsilon: float) -> float:
    """Guinot et al. 2024, Eq. 3, written as the paper's sums; α and ε as in the authors' code."""
    z = [row / row.norm() for row in rows.z]
    num = len(z)
    total = 0.0
    for i in range(num):
        sigma = [math.exp((z[i] @ z[j]).item() / temperature) for j in range(num)]
        denominator = sum(sigma[n] for n in range(num) if n != i)
        weight = {}
        for p in range(num):
            common = sum(a and b for a, b in zip(rows.labels[i].tolist(), rows.labels[p].tolist(), strict=True))
            tags = int(rows.labels[i].sum() + rows.labels[p].sum())
            same_clip = bool(rows.clip_id[i] == rows.clip_id[p])
            by_tags = (2 * common / tags if tags else 0.0) if alpha else float(common >= criterion)
            w = 1.0 if same_clip else by_tags
            if p != i and w > 0:
                weight[p] = w
        if weight:
            terms = sum(w * math.log(sigma[p] / denominator + epsilon) for p, w in weight.items())
            total += -terms / (len(weight) if count else sum(weight.values()))
    return total / num


def dense(rows: Rows, temperature: Tensor, *, alpha: bool, criterion: int, count: bool, epsilon: float) -> Tensor:
    """The same with N × N matrices, for automatic differentiation."""
    s = normalize(rows.z, dim=1) @ normalize(rows.z, dim=1).T / temperature
    tags = rows.labels.to(s.dtype)
    common, number = tags @ tags.T, tags.sum(1)
    by_tags = 2 * common / (number[:, None] + number).clamp(min=1) if alpha else (common >= criterion).to(s.dtype)
    weight = by_tags.masked_fill(rows.clip_id[:, None] == rows.clip_id, 1).fill_diagonal_(0)
    log_p = s - s.masked_fill(torch.eye(len(s), dtype=torch.bool), -math.inf).logsumexp(1, keepdim=True)
    log_p = log_p if epsilon == 0 else (log_p.exp() + epsilon).log()
    divisor = (weight > 0).sum(1) if count else weight.sum(1)
    return (-(weight * log_p).sum(1) / divisor.masked_fill(divisor == 0, 1)).mean()


Mode = dict[str, Any]
MODES: list[Mode] = [
    {"alpha": a, "criterion": c, "count": k, "epsilon": e}
    for (a, c), k, e in itertools.product([(False, 1), (False, 3), (True, 1)], [False, True], [0.0, 1e-2])
]
PAPER = MODES[0]


def name(mode: object) -> str | None:
    return "-".join(str(value) for value in mode.values()) if isinstance(mode, dict) else None


def streamed(rows: Rows, temperature: float | Tensor, mode: Mode, *, tile: int = 5) -> Tensor:
    return contrastive_loss(
        *rows,
        temperature=temperature,
        positives="weighing" if mode["alpha"] else "criterion",
        criterion=mode["criterion"],
        normaliser="count" if mode["count"] else "mass",
        epsilon=mode["epsilon"],
        tile=tile,
    )


def with_gradients(rows: Rows, temperature: float) -> tuple[Rows, Tensor]:
    leaf = rows._replace(z=rows.z.clone().requires_grad_())
    return leaf, torch.tensor(temperature, dtype=rows.z.dtype, requires_grad=True)


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("mode", MODES, ids=name)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_matches_the_double_sum_of_the_paper(mode: Mode, temperature: float) -> None:
    rows = make_rows(8, 3)
    expected = eq3_by_loops(rows, temperature, **mode)
    assert streamed(rows, temperature, mode).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", MODES, ids=name)
@pytest.mark.parametrize("temperature", [0.002, 0.1, 2.0])
@pytest.mark.parametrize("tile", [1, 5, 512])
def test_value_and_both_gradients_match_dense_differentiation(mode: Mode, temperature: float, tile: int) -> None:
    rows = make_rows(12)
    (ours, our_tau), (theirs, their_tau) = with_gradients(rows, temperature), with_gradients(rows, temperature)
    loss, expected = streamed(ours, our_tau, mode, tile=tile), dense(theirs, their_tau, **mode)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    # At 1/τ = 500 the gradient of z consists of differences of probabilities near 1.
    bound = 1e-12 if temperature > 0.01 else 1e-11
    for got, wanted in zip(gradients(loss, ours.z, our_tau), gradients(expected, theirs.z, their_tau), strict=True):
        assert error(got, wanted) < bound


@pytest.mark.parametrize("mode", [MODES[0], MODES[9], MODES[11]], ids=name)
def test_gradcheck(mode: Mode) -> None:
    rows = make_rows(4)

    def loss(z: Tensor, temperature: Tensor) -> Tensor:
        return streamed(rows._replace(z=z), temperature, mode, tile=3)

    leaf, temperature = with_gradients(rows, 0.3)
    assert torch.autograd.gradcheck(loss, (leaf.z, temperature))


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_float32_is_close_to_float64(temperature: float) -> None:
    rows = make_rows(40, 2)
    single, _ = with_gradients(rows._replace(z=rows.z.float()), temperature)
    double, _ = with_gradients(rows._replace(z=rows.z.float().double()), temperature)
    a, b = (contrastive_loss(*r, temperature=temperature, tile=16) for r in (single, double))
    assert a.item() == pytest.approx(b.item(), rel=2e-6)
    assert error(gradients(a, single.z)[0].double(), gradients(b, double.z)[0]) < 2e-5


def test_the_running_maximum_changes_nothing_where_both_ways_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(10)
    results = []
    for limit in (40.0, 1.0):
        monkeypatch.setitem(
            contrastive_loss.__globals__, "LARGEST_EXPONENT", {torch.float64: limit, torch.float32: 0.0}
        )
        leaf, _ = with_gradients(rows, 0.1)
        loss = contrastive_loss(*leaf, tile=4)
        results.append((loss.detach(), *gradients(loss, leaf.z)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


def test_a_sharp_temperature_does_not_overflow_in_float32() -> None:
    leaf, _ = with_gradients(make_rows()._replace(z=make_rows().z.float()), 0.001)
    loss = contrastive_loss(*leaf, temperature=0.001)
    assert loss.item() == pytest.approx(dense(make_rows(), torch.tensor(0.001), **PAPER).item(), rel=1e-4)
    assert gradients(loss, leaf.z)[0].isfinite().all()


def test_without_labels_it_is_ntxent() -> None:
    """Eq. 1 as cross-entropy: each row's class is its other view."""
    rows = make_rows(7, 2)
    s = normalize(rows.z, dim=1) @ normalize(rows.z, dim=1).T / 0.1
    other = torch.arange(14).roll(7)
    expected = torch.nn.functional.cross_entropy(s.fill_diagonal_(-math.inf), other)
    for labels in (None, torch.zeros(14, 5, dtype=torch.bool), torch.zeros(14, 0, dtype=torch.bool)):
        loss = contrastive_loss(rows.z, rows.clip_id, labels)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_with_one_class_a_row_it_is_supcon() -> None:
    """Khosla et al. 2020, Eq. 2: the mean over positives of −log p."""
    rows = make_rows(10, 1)
    cls = torch.arange(10) % 3
    positive = (cls[:, None] == cls).fill_diagonal_(False)
    s = normalize(rows.z, dim=1) @ normalize(rows.z, dim=1).T / 0.1
    log_p = s - s.fill_diagonal_(-math.inf).logsumexp(1, keepdim=True)
    expected = -(log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()
    loss = contrastive_loss(rows.z, rows.clip_id, torch.nn.functional.one_hot(cls).bool())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("mode", [MODES[0], MODES[11]], ids=name)
def test_permuting_the_batch_changes_nothing(mode: Mode) -> None:
    rows = make_rows(10)
    order = torch.randperm(len(rows.z), generator=torch.Generator().manual_seed(1))
    (plain, _), (mixed, _) = with_gradients(rows, 0.1), with_gradients(Rows(*(part[order] for part in rows)), 0.1)
    losses = [streamed(r, 0.1, mode) for r in (plain, mixed)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    (a,), (b,) = gradients(losses[0], plain.z), gradients(losses[1], mixed.z)
    torch.testing.assert_close(a[order], b, rtol=1e-9, atol=1e-14)


def test_the_scale_of_a_row_changes_nothing_even_where_squares_overflow() -> None:
    rows = make_rows()._replace(z=make_rows().z.float())
    scale = torch.logspace(-30, 30, len(rows.z))[:, None]
    a, b = (contrastive_loss(*r) for r in (rows, rows._replace(z=rows.z * scale)))
    torch.testing.assert_close(a, b, rtol=2e-6, atol=0)


@pytest.mark.parametrize("zeros", [[0], [0, 9], list(range(18))])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_zero_norm_rows_give_a_finite_loss_and_no_gradient(zeros: list[int], temperature: float) -> None:
    leaf, _ = with_gradients(make_rows(9)._replace(z=make_rows(9).z.float().index_fill_(0, torch.tensor(zeros), 0)), 1)
    loss = contrastive_loss(*leaf, temperature=temperature)
    (gradient,) = gradients(loss, leaf.z)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[zeros].abs().max() == 0
    assert len(zeros) == 18 or gradient.abs().max() > 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("lonely", [False, True])
def test_a_row_that_is_not_finite_makes_the_loss_nan(value: float, temperature: float, lonely: bool) -> None:
    rows = make_rows(6)
    rows.z[3, 1] = value
    clip_id = torch.arange(12) if lonely else rows.clip_id  # no positives at all
    loss = contrastive_loss(rows.z, clip_id, None, temperature=temperature)
    assert loss.isnan()


def test_no_positives_at_all_is_zero_with_zero_gradient() -> None:
    leaf, _ = with_gradients(make_rows(), 0.1)
    loss = contrastive_loss(leaf.z, torch.arange(18), None)
    assert loss.item() == 0
    assert gradients(loss, leaf.z)[0].abs().max() == 0


@pytest.mark.parametrize("temperature", [0.1, 0.001])
@pytest.mark.parametrize("views", [1, 2])
def test_a_batch_of_one_clip_is_zero(views: int, temperature: float) -> None:
    leaf, _ = with_gradients(make_rows(1, views), 1)
    loss = contrastive_loss(*leaf, temperature=temperature)
    assert loss.item() == pytest.approx(0, abs=1e-12)  # the only other row is the positive: p = 1
    assert gradients(loss, leaf.z)[0].abs().max() < 1e-12


def test_one_label_for_all_pulls_every_pair() -> None:
    rows = make_rows(6)
    everything = torch.ones(12, 1, dtype=torch.bool)
    s = (normalize(rows.z, dim=1) @ normalize(rows.z, dim=1).T / 0.1).fill_diagonal_(0)
    lse = s.clone().fill_diagonal_(-math.inf).logsumexp(1)
    loss = contrastive_loss(rows.z, rows.clip_id, everything)
    assert loss.item() == pytest.approx((lse - s.sum(1) / 11).mean().item(), rel=1e-12)


def test_backward_scales_and_repeats() -> None:
    leaf, temperature = with_gradients(make_rows(), 0.1)
    loss = contrastive_loss(*leaf, temperature=temperature)
    once = torch.autograd.grad(loss, (leaf.z, temperature), retain_graph=True)
    thrice = torch.autograd.grad(3 * loss, (leaf.z, temperature))
    torch.testing.assert_close(thrice, tuple(3 * g for g in once))


def test_no_gradient_is_computed_when_nobody_wants_one() -> None:
    leaf, _ = with_gradients(make_rows(), 0.1)
    with torch.no_grad():
        assert not contrastive_loss(*leaf).requires_grad
    assert not contrastive_loss(*make_rows()).requires_grad


def test_autocast_leaves_the_numbers_alone() -> None:
    rows = make_rows()._replace(z=make_rows().z.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(*rows)
    assert inside.item() == contrastive_loss(*rows).item()


@pytest.mark.parametrize("mode", [MODES[0], MODES[11]], ids=name)
def test_bfloat16_products_cost_three_digits(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive_loss.__globals__, "_wants_half", lambda _z: True)
    exact, _ = with_gradients(make_rows(60), 0.1)
    expected = dense(exact, torch.tensor(0.1), **mode)
    leaf, _ = with_gradients(exact._replace(z=exact.z.detach().float()), 0.1)
    loss = streamed(leaf, 0.1, mode, tile=32)
    assert 0 < abs(loss.item() / expected.item() - 1) < 1e-2
    assert 1e-5 < error(gradients(loss, leaf.z)[0].double(), gradients(expected, exact.z)[0]) < 2e-2


def test_a_learnable_temperature_is_a_parameter_and_a_fixed_one_is_not() -> None:
    rows = make_rows()
    fixed, learned = ContrastiveLoss(LossConfig()), ContrastiveLoss(LossConfig(learnable=True)).double()
    assert list(fixed.parameters()) == []
    batch = Projected(z_ND=rows.z, clip_id_N=rows.clip_id, labels_NC=rows.labels)
    loss, _ = learned(batch)
    assert learned.log_temperature is not None
    tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (ours,), (theirs,) = gradients(loss, learned.log_temperature), gradients(dense(rows, tau, **PAPER), tau)
    assert fixed(batch).loss.item() == pytest.approx(loss.item(), rel=1e-7)
    assert ours.item() == pytest.approx(theirs.item() * 0.1, rel=1e-6)


def test_one_process_sends_nothing() -> None:
    leaf, _ = with_gradients(make_rows(), 0.1)
    for exchange in ("gather", "ring"):
        with collectives.counted() as traffic:
            gradients(contrastive_loss(*leaf, exchange=exchange), leaf.z)
        assert traffic.total == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", MODES, ids=name)
def test_a_gpu_gives_the_cpu_numbers(mode: Mode) -> None:
    rows = make_rows(12)
    (host, host_tau), (device, device_tau) = (
        with_gradients(rows, 0.1),
        with_gradients(Rows(*(part.cuda() for part in rows)), 0.1),
    )
    a, b = streamed(host, host_tau, mode), streamed(device, device_tau.to("cuda"), mode)
    torch.testing.assert_close(a, b.cpu(), rtol=1e-12, atol=0)
    for got, wanted in zip(gradients(b, device.z, device_tau), gradients(a, host.z, host_tau), strict=True):
        assert error(got.cpu(), wanted) < 1e-11


def test_clips_are_compared_in_the_tiles_where_they_meet_and_in_no_other() -> None:
    """Half the clips are labelled, so the ids of both halves mingle; 16 · 4 = 64 rows of two views, tiles of 16."""
    g = torch.Generator().manual_seed(0)
    clip_id = torch.randint(-(2**62), 2**62, (32,), generator=g).repeat(2)
    labels = (torch.arange(64) % 32 < 16)[:, None]
    order = sort_rows(clip_id, labels[:, 0])
    clip_id, labels = clip_id[order], labels[order]
    settings = ResolvedSettings(criterion=2, tile=16)
    codes = clip_codes(clip_id, known_clips(clip_id), torch.float32)
    block = make_block(torch.zeros(64, 4), codes, labels, 32, settings)
    pair = Pair(block, block, mirrored=True)
    out, spare = torch.empty(2, 16, 16)
    for i, j in pair.tiles(16):
        weights = weight_tile(pair, i, j, settings, out_IJ=out, spare_IJ=spare)
        tagged = j.start < 32  # with fewer tags than the criterion, but multiplied
        assert (weights is not None) == (i == j or tagged)
        if weights is not None:
            assert torch.equal(weights, (clip_id[i, None] == clip_id[None, j]).float().fill_diagonal_(0) * (i == j))
