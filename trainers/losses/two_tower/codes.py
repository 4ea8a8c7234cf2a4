"""Clips and texts of the global batch as small numbers: equal numbers make positives, and floats compare fast.

Every rank counts the same: the numbers of all texts, 17 bytes each, are gathered whatever the exchange of rows.

Shape suffixes: R rows, K clips and G different texts of the global batch, S most different texts that a clip has.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.two_tower.rows import TowerRows

CLIP, TEXT = 0, 1
"""Columns of codes: of a text, its clip and what it says; of an audio row, its clip, and from `TEXT` on its texts."""
NOBODY, NOTHING = -1.0, -2.0
"""Codes of an audio row and of a text that equal none."""


class Codebook(NamedTuple):
    """The clips and texts of all ranks."""

    clip_K: Tensor
    """Ids of the clips that texts belong to, sorted."""
    hash_G: Tensor | None
    """Hashes of the true texts, sorted; None where texts have none."""
    slots_KS: Tensor
    """The codes of each clip's true texts, `NOBODY` behind the last; without hashes S is 0."""
    dtype: torch.dtype

    def audio(self, clip_R: Tensor) -> Tensor:
        """Codes of audio rows, (R, 1 + S): the clip, and its true texts."""
        if len(self.clip_K) == 0:
            return self.slots_KS.new_full((len(clip_R), 1 + self.slots_KS.shape[1]), NOBODY)
        clip_code_R, known_R = _find(self.clip_K, clip_R)
        slots_RS = self.slots_KS[clip_code_R].masked_fill(~known_R[:, None], NOBODY)
        return torch.cat([clip_code_R.to(self.dtype).masked_fill(~known_R, NOBODY)[:, None], slots_RS], 1)

    def texts(self, clip_R: Tensor, hash_R: Tensor | None) -> Tensor:
        """Codes of texts, (R, 2): the clip, and what the text says."""
        clip_code_R, known_R = _find(self.clip_K, clip_R)
        code_R2 = torch.full((len(clip_R), 2), NOTHING, dtype=self.dtype, device=clip_R.device)
        code_R2[:, 0] = clip_code_R.to(self.dtype).where(known_R, NOTHING)
        if self.hash_G is not None and hash_R is not None:
            text_code_R, known_R = _find(self.hash_G, hash_R)
            code_R2[:, 1] = text_code_R.to(self.dtype).where(known_R, NOTHING)
        return code_R2


class GlobalTexts(NamedTuple):
    """Numbers of the texts of all ranks, rank after rank."""

    clip_M: Tensor
    hash_M: Tensor | None
    present_M: Tensor
    true_M: Tensor


def gather_texts(rows: TowerRows, group: Group) -> GlobalTexts:
    """The numbers of all ranks' texts, with one all-gather or two."""
    state_m = rows.present_m.to(torch.uint8) + rows.true_m.to(torch.uint8)
    numbers = [rows.clip_text] if rows.text_hash is None else [rows.clip_text, rows.text_hash]
    numbers_M = collectives.all_gather(torch.stack(numbers, 1), group)
    state_M = collectives.all_gather(state_m, group)
    clip_M, *hash_M = (column_M.contiguous() for column_M in numbers_M.unbind(1))
    return GlobalTexts(clip_M, hash_M[0] if hash_M else None, state_M > 0, state_M > 1)


def make_codebook(texts: GlobalTexts, dtype: torch.dtype) -> Codebook:
    """Number the clips and the true texts.

    >>> true = torch.tensor([True, True, True])
    >>> texts = GlobalTexts(torch.tensor([7, 7, 9]), torch.tensor([30, 20, 30]), true, true)
    >>> make_codebook(texts, torch.float32).slots_KS  # clip 7 has both texts, clip 9 the second
    tensor([[ 0.,  1.],
            [ 1., -1.]])
    """
    clip_K = torch.unique(texts.clip_M[texts.present_M])
    if texts.hash_M is None:
        return Codebook(clip_K, None, clip_K.new_empty((len(clip_K), 0), dtype=dtype), dtype)
    hash_G, code_T = torch.unique(texts.hash_M[texts.true_M], return_inverse=True)
    clip_T, _ = _find(clip_K, texts.clip_M[texts.true_M])
    # Each clip's different texts, in order: those of clip k stand side by side.
    pair_P = torch.unique(clip_T * max(len(hash_G), 1) + code_T)
    clip_P, code_P = pair_P // max(len(hash_G), 1), pair_P % max(len(hash_G), 1)
    slot_P = torch.arange(len(pair_P), device=pair_P.device) - torch.searchsorted(clip_P, clip_P)
    most = int(slot_P.max()) + 1 if len(slot_P) else 1
    slots_KS = torch.full((len(clip_K), most), NOBODY, dtype=dtype, device=pair_P.device)
    slots_KS[clip_P, slot_P] = code_P.to(dtype)
    return Codebook(clip_K, hash_G, slots_KS, dtype)


def _find(sorted_K: Tensor, value_R: Tensor) -> tuple[Tensor, Tensor]:
    """Places of values among sorted ones, and whether each is there."""
    if len(sorted_K) == 0:
        return torch.zeros_like(value_R), torch.zeros_like(value_R, dtype=torch.bool)
    place_R = torch.searchsorted(sorted_K, value_R).clamp_(max=len(sorted_K) - 1)
    return place_R, sorted_K[place_R] == value_R
