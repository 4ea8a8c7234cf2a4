"""The objective of two towers: the two-tower loss of a step's audio rows and texts, its temperature, and its metrics.

Shape suffixes: N audio rows of this rank (row m·clips + b), B clips, R = B + H texts, H hard ones (those of a clip
beside each other), P texts that are there, D width of the joint space, C words of the texts.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from data_shards.format.records import TextRows
from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.config import LossConfig
from trainers.losses.projected import LossResult, Projected
from trainers.losses.two_tower.loss import compare_towers
from trainers.losses.two_tower.rows import TowerRows
from trainers.losses.two_tower.settings import Scope, start_of_bias


class MusicTextLoss(nn.Module):
    """The two-tower loss of a `LossConfig`, with its temperature and, for ``pairs=sigmoid``, its bias.

    Both stay outside of DDP where they are learnable: call `collectives.average_gradients(loss.parameters())` after
    backward, and `after_update` after the optimiser's step.

    Args:
        config: the settings.
        scope: of hard texts, key ``text.swap.scope``.
        num_texts: of a global batch, hard ones included: where the bias starts.
    """

    def __init__(self, config: LossConfig, *, scope: Scope, num_texts: int) -> None:
        super().__init__()
        self.config = config
        self.settings = replace(config.towers, scope=scope)
        start, bias = torch.tensor(math.log(config.temperature)), None
        self.log_temperature = nn.Parameter(start) if config.learnable else None
        if config.pairs == "sigmoid":  # a bias of the softmax would be a parameter without a gradient
            bias = torch.tensor(start_of_bias(num_texts))
        self.start_of_bias = None if bias is None else bias.item()
        self.bias = nn.Parameter(bias) if bias is not None and config.learnable else None

    @property
    def temperature(self) -> float | Tensor:
        """Its present value; a tensor with a gradient when it is learnable."""
        return self.config.temperature if self.log_temperature is None else self.log_temperature.exp()

    @torch.no_grad()
    def after_update(self) -> None:
        """Keep 1/τ ≤ ``max_scale``. The parameter is clamped, not the scale in the loss, whose gradient would be 0 for
        good once it is above (docs/music_and_text.md).
        """
        if self.log_temperature is not None:
            self.log_temperature.clamp_(min=-math.log(self.config.max_scale))

    def forward(self, batch: Projected) -> LossResult:
        """The loss, and the metrics of `_step_metrics` and `compare_towers`.

        ``batch.z_ND`` holds the audio rows and behind them the texts that are there.
        """
        texts, num_audio = batch.texts, len(batch.clip_id_N)
        assert texts is not None
        z_audio, z_PD = batch.z_ND[:num_audio], batch.z_ND[num_audio:]
        rows = tower_rows(batch, texts, z_audio, z_PD)
        temperature = self.temperature
        bias = self.bias if self.bias is not None else self.start_of_bias
        found = compare_towers(rows, temperature, self.settings, bias=bias, group=batch.group, with_metrics=True)
        tau = temperature.detach() if isinstance(temperature, Tensor) else z_audio.new_tensor(temperature)
        metrics = {
            "loss/audio": found.audio_part,
            "loss/text": found.text_part,
            "recall@1/audio_to_text": found.metrics["recall_audio_to_text"],
            "recall@1/text_to_audio": found.metrics["recall_text_to_audio"],
            "scale": 1 / tau,
            **({} if self.bias is None else {"bias": self.bias.detach()}),
            **_step_metrics(rows, texts, tau, batch.group),
        }
        if texts.hard:
            metrics["swap/guarded"] = found.metrics["guarded"].nan_to_num(0)
        return LossResult(found.loss, metrics)


def tower_rows(batch: Projected, texts: TextRows, z_audio: Tensor, z_PD: Tensor) -> TowerRows:
    """The rows of both towers as the loss takes them: absent texts are rows of zeros."""
    device, clips = z_audio.device, len(texts.text)
    present_R = texts.present_R.to(device)
    z_RD = z_audio.new_zeros(len(present_R), z_PD.shape[1]).masked_scatter(present_R[:, None], z_PD)
    clip_B = batch.clip_id_N[:clips]
    each = len(texts.hard) // max(clips, 1)
    hard_R = torch.arange(len(present_R), device=device) >= clips
    guarded = len(texts.hard) > 0
    return TowerRows(
        z_audio,
        z_RD,
        batch.clip_id_N,
        torch.cat([clip_B, clip_B.repeat_interleave(each)]),
        hard_R,
        present_R,
        texts.hash_R.to(device),
        texts.tags_BC.to(device).repeat(batch.num_views, 1) if guarded else None,
        texts.tags_text_RC.to(device) if guarded else None,
    )


@torch.no_grad()
def _step_metrics(rows: TowerRows, texts: TextRows, tau: Tensor, group: Group) -> dict[str, Tensor]:
    """Metrics of the global batch: the modality gap, texts that several clips share, swaps that are there.

    ``swap/margin`` is s of a clip and its text minus s of the clip and its swapped text, mean over the swaps.
    """
    clips, each = len(texts.text), len(texts.hard) // max(len(texts.text), 1)
    audio_ND, text_RD = normalize(rows.z_audio.double(), dim=1), normalize(rows.z_text.double(), dim=1)
    present_R = rows.present_m
    own = [audio_ND.sum(0), text_RD[:clips].sum(0)]
    audio_HD, true_HD = (x[:clips].repeat_interleave(each, 0) for x in (audio_ND, text_RD))
    margin_H = ((audio_HD * (true_HD - text_RD[clips:])).sum(1) / tau).where(present_R[clips:], 0)
    counts = torch.stack([margin_H.sum(), present_R[clips:].sum().double(), _shared(rows, clips, group)])
    total = collectives.all_gather(torch.cat([*own, counts])[None], group).sum(0)
    world, width = collectives.world_size(group), audio_ND.shape[1]
    means = total[:width] / (world * len(audio_ND)), total[width : 2 * width] / (world * clips)
    margin, present, shared = total[2 * width :]
    found = {"texts/equal": shared / (world * clips), "modality_gap": (means[0] - means[1]).norm()}
    if each:
        found |= {"swap/present": present / (world * clips * each), "swap/margin": margin / present.clamp(min=1)}
    return found


def _shared(rows: TowerRows, clips: int, group: Group) -> Tensor:
    """Texts of this rank that another clip of the global batch reads too."""
    assert rows.text_hash is not None
    own_B2 = torch.stack([rows.text_hash[:clips], rows.clip_text[:clips]], 1)
    pair_P2 = torch.unique(collectives.all_gather(own_B2, group), dim=0)
    hash_G, clips_G = torch.unique(pair_P2[:, 0].contiguous(), return_counts=True)
    place_B = torch.searchsorted(hash_G, rows.text_hash[:clips].contiguous())
    shared: Tensor = (clips_G[place_B] > 1).sum().double()
    return shared
