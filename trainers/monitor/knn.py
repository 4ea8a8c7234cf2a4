"""The quick score of a running training: do the nearest neighbours of a validation clip have its tags?

One fixed window from the middle of each clip, no augmentation, the encoder in evaluation mode (its running mean when
one is kept). It orders snapshots and trials of one experiment; `counterpoint evaluate` reports the comparable metrics.

Shape suffixes: K validation clips, m of this rank, T samples of a view, C tags, E encoder width.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from cluster.settings import RunError, UserError
from data_shards.format.problems import ClipError
from data_shards.read.reader import ShardSet
from data_shards.sampling.permutation import hash_key, scramble
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.views.views import FULL_SCALE

NEIGHBOURS = 10
"""k of P@k; fewer where the set is smaller."""
CHUNK = {"cpu": 4, "cuda": 64}
"""Clips that are embedded at once: a CPU's cache holds no more."""


class QuickScore:
    """P@k over a few validation clips, which every rank embeds its share of.

    Args:
        config: the experiment; the clips are those of split ``valid`` of ``data.labelled`` with a tag of
            ``data.vocabulary``, ``run.quick_clips`` of them at most, chosen by their ids.
        frontend: from waveform to what the encoder reads.
        device: where the encoder is.
        labelled: ``data.labelled`` where it is open already; it stays open.

    Raises:
        UserError: if there are no such clips.
        RunError: if one of them is damaged.
    """

    def __init__(
        self, config: ExperimentConfig, frontend: nn.Module, device: torch.device, labelled: ShardSet | None = None
    ) -> None:
        self.frontend, self.device = frontend, device
        rank, world = collectives.rank(), collectives.world_size()
        with _validation_set(config, labelled) as shards:
            rows, labels_KC = _choose(shards, config.data.vocabulary, config.run.quick_clips)
            # Ranks embed equally many; those that are doubled to make it even are dropped again after the gather.
            own = np.resize(rows, -(-len(rows) // world) * world)[rank::world]
            self.wave_mT = torch.from_numpy(np.stack([_window(shards, int(row), config.views.samples) for row in own]))
            _, tracks_K = np.unique(shards.index.track[rows], return_inverse=True)
        self.labels_KC = torch.from_numpy(labels_KC).to(device)
        self.tracks_K = torch.from_numpy(tracks_K).to(device)

    @torch.no_grad()
    def score(self, encoder: nn.Module, weights: Mapping[str, Tensor] | None = None) -> float:
        """P@k of an encoder, the same on every rank; all of them must call."""
        encoder.eval()
        parts = []
        for wave_nT in torch.split(self.wave_mT, CHUNK.get(self.device.type, CHUNK["cuda"])):
            views = self.frontend(wave_nT.to(self.device).float() / FULL_SCALE)
            parts.append(torch.func.functional_call(encoder, dict(weights or {}), views))
        encoder.train()
        h_mE = torch.cat(parts).float()
        h_WmE = collectives.all_gather(h_mE).view(-1, *h_mE.shape)
        h_KE = h_WmE.transpose(0, 1).flatten(0, 1)[: len(self.labels_KC)]
        return float(precision_at_k(h_KE, self.labels_KC, self.tracks_K))


def precision_at_k(h_KE: Tensor, labels_KC: Tensor, tracks_K: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Mean over all (query, neighbour) pairs of the share of the neighbour's tags that the query has; by cosine.

    With one class a clip it is the share of neighbours of the same class.

    Args:
        h_KE: embeddings of any scale.
        labels_KC: bool.
        tracks_K: clips of one track are never each other's neighbours.
        k: neighbours of each query, or all there are.

    >>> h = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> precision_at_k(h, torch.eye(2).bool().repeat_interleave(2, 0), torch.arange(4), k=1)
    tensor(1.)
    """
    unit_KE = normalize(h_KE.float(), dim=1)
    close_KK = (unit_KE @ unit_KE.T).masked_fill(tracks_K[:, None] == tracks_K, -torch.inf)
    found_Kk = close_KK.topk(min(k, len(h_KE) - 1), dim=1)
    tags_KC = labels_KC.float()
    shared_KK = tags_KC @ tags_KC.T / tags_KC.sum(1).clamp(min=1)
    real_Kk = found_Kk.values > -torch.inf
    return shared_KK.gather(1, found_Kk.indices)[real_Kk].mean()


def check_quick(config: ExperimentConfig, labelled: ShardSet | None = None) -> None:
    """Refuse, by a UserError, a set in which `QuickScore` would find no clips, from the index alone."""
    with _validation_set(config, labelled) as shards:
        _choose(shards, config.data.vocabulary, config.run.quick_clips)


def _validation_set(config: ExperimentConfig, labelled: ShardSet | None) -> AbstractContextManager[ShardSet]:
    if labelled is not None:
        return nullcontext(labelled)
    data = config.data
    if data.labelled is None:
        raise UserError("run.quick_every scores labelled validation clips; give data.labelled=DIR, or set it to 0")
    cache_bytes = int(data.cache_gb * 1e9)
    return ShardSet.open(data.labelled, checksums=data.checksums, cache=data.cache, cache_bytes=cache_bytes)


def _choose(shards: ShardSet, vocabulary: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of validation clips by a hash of their ids, and their labels."""
    index = shards.index
    rows = index.rows("valid")
    try:
        labels_KC = index.labels(vocabulary, rows)
    except KeyError as error:
        raise UserError(f"data.vocabulary = {vocabulary}: {error.args[0]}") from None
    labelled = labels_KC.any(1)
    rows, labels_KC = rows[labelled], labels_KC[labelled]
    if len(np.unique(index.track[rows])) < 2:
        raise UserError(
            f"run.quick_every needs clips of at least two tracks in split valid of {shards.uri} with a tag of "
            f"{vocabulary}, and there are {len(rows)} clips; set run.quick_every=0"
        )
    order = np.argsort(scramble(index.id_hash[rows].astype(np.uint64) + np.uint64(hash_key("quick"))))[:count]
    return rows[order], labels_KC[order]


def _window(shards: ShardSet, row: int, samples: int) -> NDArray[np.int16]:
    """``samples`` from the middle of a clip; a shorter one is repeated."""
    frames = int(shards.index.frames[row])
    try:
        wave_T = shards.read_window(row, max(0, frames - samples) // 2, min(frames, samples))
    except ClipError as error:
        raise RunError(f"the quick score cannot read {error}; verify the shards, or set run.quick_every=0") from None
    return np.resize(wave_T, samples)
