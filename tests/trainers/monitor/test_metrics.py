"""The metrics of a step, each against its definition."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainers.losses.config import LossConfig
from trainers.losses.objective import ContrastiveLoss
from trainers.losses.projected import Projected
from trainers.monitor.metrics import CLIPS, alignment_and_uniformity, effective_rank, watched


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_rank(h: Tensor) -> float:
    singular = torch.linalg.svdvals((h - h.mean(0)).double())
    share = (singular / singular.sum()).tolist()
    return math.exp(-sum(p * math.log(p) for p in share if p > 0))


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (192, 128)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape: tuple[int, int]) -> None:
    h = draw(*shape) * torch.linspace(0.1, 3, shape[1])
    assert effective_rank(h).item() == pytest.approx(naive_rank(h), rel=1e-3)


def test_effective_rank_counts_the_dimensions_that_are_used() -> None:
    flat = draw(200, 3) @ draw(3, 64, seed=1)
    assert effective_rank(flat) < 3.01
    assert effective_rank(torch.linalg.qr(draw(400, 16))[0]) == pytest.approx(16, abs=0.1)
    assert effective_rank(draw(200, 1) * draw(1, 64)) == pytest.approx(1, abs=0.05)
    assert effective_rank(5 + 100 * flat) == pytest.approx(effective_rank(flat).item(), rel=1e-3)


def test_collapsed_and_broken_embeddings_have_a_metric_and_no_error() -> None:
    assert effective_rank(torch.ones(9, 4)) == 1
    assert effective_rank(torch.full((9, 4), torch.nan)).isnan()


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_evenly_spaced_clips_of_a_large_batch_are_watched_with_their_views(num_views: int) -> None:
    clips = 3 * CLIPS
    rows = torch.arange(num_views * clips)[:, None] + torch.zeros(5)
    seen = watched(rows, num_views)
    assert seen.shape == (CLIPS, min(num_views, 2), 5)
    assert seen[:, 0, 0].tolist() == list(range(0, clips, 3))
    assert (seen[:, -1] - seen[:, 0] == clips * (min(num_views, 2) - 1)).all()


def test_every_clip_of_a_small_batch_is_watched() -> None:
    rows = draw(2 * 40, 7)
    assert torch.equal(watched(rows, 2), torch.stack([rows[:40], rows[40:]], dim=1))


def test_unlabelled_clips_of_a_large_batch_move_alignment() -> None:
    z = draw(2 * CLIPS, 8).repeat(2, 1)
    z[3 * CLIPS :] = draw(CLIPS, 8, seed=1)
    assert alignment_and_uniformity(watched(z, 2))[0] > 0.5


def test_equal_views_are_aligned_and_orthogonal_rows_are_uniform() -> None:
    z = torch.eye(4).repeat(2, 1)
    alignment, uniformity = alignment_and_uniformity(watched(z, 2))
    assert alignment == 0
    assert uniformity.item() == pytest.approx(-4)


def dense_weights(clip_id: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """w of arXiv:2407.13840, Eq. 3, pair by pair."""
    n = len(clip_id)
    weight = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            shared = int((labels[i] & labels[j]).sum())
            if i == j:
                continue
            if clip_id[i] == clip_id[j]:
                weight[i, j] = 1
            elif config.positives == "criterion":
                weight[i, j] = float(shared >= config.criterion)
            elif shared:
                weight[i, j] = 2 * shared / int(labels[i].sum() + labels[j].sum())
    return weight


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(),
        LossConfig(criterion=3),
        LossConfig(positives="weighing"),
        LossConfig(positives="weighing", normaliser="count", tile=5),
    ],
)
def test_positives_and_sparsity_are_those_of_the_pair_matrix(config: LossConfig) -> None:
    g = torch.Generator().manual_seed(3)
    clips, labelled = 12, 5
    labels = torch.rand(clips, 6, generator=g) < 0.4
    labels[:labelled, 0], labels[labelled:] = True, False
    labels, clip_id = labels.repeat(2, 1), torch.arange(clips).repeat(2)
    rows = Projected(z_ND=normalize(draw(2 * clips, 8)), clip_id_N=clip_id, labels_NC=labels)
    _, metrics = ContrastiveLoss(config)(rows)
    positive = dense_weights(clip_id, labels, config) > 0
    block = positive[labels.any(1)][:, labels.any(1)]
    assert metrics["positives"].item() == pytest.approx(positive.sum(1).float().mean().item())
    assert metrics["sparsity"].item() == pytest.approx(1 - positive.float().mean().item())
    assert metrics["sparsity_labelled"].item() == pytest.approx(1 - block.float().mean().item())


def test_eight_labelled_rows_with_their_own_view_alone_have_the_sparsities_of_table_6() -> None:
    """b_s = 0.05 of 96 clips by the released code is 4; no two of them share a tag: 87.5% and 99.5%."""
    labels = torch.zeros(96, 4, dtype=torch.bool)
    labels[:4] = torch.eye(4).bool()
    rows = Projected(z_ND=draw(192, 8), clip_id_N=torch.arange(96).repeat(2), labels_NC=labels.repeat(2, 1))
    _, metrics = ContrastiveLoss(LossConfig())(rows)
    assert metrics["sparsity_labelled"].item() == pytest.approx(0.875)
    assert round(100 * metrics["sparsity"].item(), 1) == 99.5


def test_without_labels_there_is_no_labelled_block() -> None:
    rows = Projected(z_ND=draw(8, 4), clip_id_N=torch.arange(4).repeat(2), labels_NC=torch.zeros(8, 3).bool())
    _, metrics = ContrastiveLoss(LossConfig())(rows)
    assert metrics["positives"] == 1
    assert "sparsity_labelled" not in metrics
