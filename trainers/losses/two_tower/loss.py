"""The loss of audio and texts over the global batch, exact on any number of ranks.

Each audio row looks for its texts among all texts of all ranks, each text for its audio rows. Hard negatives, texts
that are wrong on purpose, are further columns that the audio rows look through: they look for nothing themselves. A row
without positives counts as zero but stays in the mean. A row of norm 0 is at right angles to all and gets no gradient;
a NaN row makes the loss NaN. Without hard negatives, and with one text a clip, this is the loss of CLIP
(Radford et al. 2021). Rows are multiplied in their own dtype, in an autocast region too.

Every rank of the group must call, with the same settings and as many rows, and synchronises with its device once on a
CPU, a few times on a GPU. The gradient is W times this rank's part of the global one, since DDP averages over W ranks;
a caller with W > 1 outside DDP divides by W. The gradients of the temperature and the bias are to be averaged in the
same way (`collectives.average_gradients`).

>>> audio, text = torch.eye(3), torch.eye(3)
>>> clip = torch.tensor([7, 8, 9])
>>> round(two_tower_loss(audio, text, clip, clip, temperature=1.0).item(), 4)  # log(1 + 2/e)
0.5514
>>> swapped = torch.tensor([False, False, False, True])  # a fourth text: that of clip 7 with one word replaced
>>> columns, owner = torch.cat([text, -text[:1]]), torch.tensor([7, 8, 9, 7])
>>> round(two_tower_loss(audio, columns, clip, owner, hard=swapped, temperature=1.0).item(), 4)
0.628

Shape suffixes: n audio rows of this rank, m its texts, d projection width, C tags; N = W·n audio rows over W ranks, H
hard negatives of all ranks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed.collectives import Group
from trainers.losses.contrastive.agreement import require_tensors
from trainers.losses.contrastive.loss import LARGEST_EXPONENT, check_temperature_argument, inverse_of
from trainers.losses.contrastive.settings import ExchangeName, ResolvedSettings, check_number
from trainers.losses.two_tower.metrics import METRICS
from trainers.losses.two_tower.rows import TowerRows, agree
from trainers.losses.two_tower.settings import PairsName, SameText, Scope, TowerSettings
from trainers.losses.two_tower.streaming import GlobalTwoTowerLoss, TowerRequest


class TwoTowers(NamedTuple):
    """What one evaluation of the loss finds."""

    loss: Tensor
    audio_part: Tensor
    """Mean over audio rows, float64; the whole loss for ``pairs=sigmoid``."""
    text_part: Tensor
    """Mean over texts that are anchors, float64; the whole loss for ``pairs=sigmoid``."""
    metrics: dict[str, Tensor]
    """`METRICS` by name, float64, where they were asked for."""


def two_tower_loss(
    z_audio: Tensor,
    z_text: Tensor,
    clip_audio: Tensor,
    clip_text: Tensor,
    *,
    hard: Tensor | None = None,
    present: Tensor | None = None,
    text_hash: Tensor | None = None,
    tags_audio: Tensor | None = None,
    tags_text: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    pairs: PairsName = "softmax",
    bias: float | Tensor | None = None,
    same_text: SameText = "positive",
    scope: Scope = "all",
    audio_share: float = 0.5,
    tile: int = 512,
    exchange: ExchangeName = "gather",
    group: Group = None,
) -> Tensor:
    """How poorly audio rows find their texts among all texts of all ranks, and texts their audio rows.

    With s = cosine/τ the audio side is the mean over the N audio rows of log Σ exp(s) over all texts minus the mean s
    of the row's positives; the text side is the same over texts that are present and not hard, among the audio rows.

    Args:
        z_audio: projections of this rank's audio rows, shape (n, d), any scale, float32 or float64.
        z_text: those of its texts, shape (m, d), of the same dtype.
        clip_audio: shape (n,), int64, on every rank; an audio row and a text with the same number are positives.
        clip_text: shape (m,), int64; of a hard row the clip whose text was changed.
        hard: shape (m,), bool: texts that are wrong on purpose, nobody's positives and no anchors.
        present: shape (m,), bool: False is padding, which the loss does not see; None where all texts are there.
        text_hash: shape (m,), int64; equal for texts that say the same. None takes all for different.
        tags_audio: shape (n, C), bool: the tags of each clip; with ``tags_text``, a hard text all of whose tags a clip
            has is no negative of that clip. A text that shows no tag is true of every clip.
        tags_text: shape (m, C), bool: the tags that each text shows.
        temperature: τ > 0, no unit; a tensor of one element may require a gradient, and so may a bias.
        pairs: ``softmax`` over all pairs of a row, or ``sigmoid`` of each pair (SigLIP), summed and divided by N.
        bias: β of ``sigmoid``, added to every s; None is log(1/(N + H − 1)), where no text is missing.
        same_text: what an audio row and another clip's text are when the clip has a text that says the same.
        scope: whether a hard text is a negative of all audio rows or of those of its own clip.
        audio_share: λ, weight of the audio side in [0, 1]; the text side has 1 − λ.
        tile: rows of a tile, ≥ 1: 256–512 suit a CPU's cache, thousands a GPU.
        exchange: all rows in every rank's memory, or blocks of audio rows sent around a ring.
        group: ranks that form the global batch; None is the default group, or this process alone.

    Returns:
        Scalar in the dtype of the projections, in nats, the same bits on every rank.

    Raises:
        ValueError: for a setting out of range, shapes that disagree, or ranks whose rows differ; on every rank.

    Source: arXiv:2103.00020 (CLIP), with the hard columns of arXiv:2210.01936; ``sigmoid`` is arXiv:2303.15343.
    """
    settings = TowerSettings(
        pairs=pairs, same_text=same_text, scope=scope, audio_share=audio_share, tile=tile, exchange=exchange
    )
    rows = TowerRows(z_audio, z_text, clip_audio, clip_text, hard, present, text_hash, tags_audio, tags_text)
    return compare_towers(rows, temperature, settings, bias=bias, group=group).loss


def compare_towers(
    rows: TowerRows,
    temperature: float | Tensor,
    settings: TowerSettings,
    *,
    bias: float | Tensor | None = None,
    group: Group = None,
    with_metrics: bool = False,
) -> TwoTowers:
    """`two_tower_loss`, with its parts and, where asked for, the `METRICS` of the batch."""
    check_temperature_argument(temperature)
    named_rows = rows._asdict()
    needed = {name: named_rows.pop(name) for name in ("z_audio", "z_text", "clip_audio", "clip_text")}
    require_tensors(needed, named_rows)
    if bias is not None and not isinstance(bias, Tensor):
        check_number("bias", bias)
    if bias is not None and settings.pairs == "softmax":
        raise ValueError("bias is a setting of pairs=sigmoid; leave it out for softmax, where it changes nothing")
    if isinstance(bias, Tensor) and bias.numel() != 1:
        raise ValueError(f"bias must be one number, got a tensor of shape {tuple(bias.shape)}")
    agreement = agree(rows, temperature, bias, group)
    z = rows.z_audio
    online = settings.pairs == "softmax" and 1 / agreement.temperature > LARGEST_EXPONENT[z.dtype]
    tiles = ResolvedSettings(tile=settings.tile, exchange=settings.exchange, kernel="tiles", online=online)
    given = None if bias is None else torch.as_tensor(bias, dtype=z.dtype, device=z.device).reshape(())
    request = TowerRequest(rows, agreement, settings, tiles, group, with_metrics)
    loss, parts, found = GlobalTwoTowerLoss.apply(rows.z_audio, rows.z_text, inverse_of(temperature, z), given, request)
    assert isinstance(loss, Tensor)
    named = dict(zip(METRICS, found, strict=True)) if with_metrics else {}
    return TwoTowers(loss, parts[0], parts[1], named)
