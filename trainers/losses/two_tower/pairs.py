"""Audio rows against texts: which pairs are positives, which are neither positives nor negatives, tile by tile.

Shape suffixes: R rows of a block, S texts that a clip has, C tags, D projection width, I and J rows and columns of a
tile.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.losses.contrastive.pairs import span
from trainers.losses.contrastive.settings import ResolvedSettings
from trainers.losses.two_tower.codes import CLIP, TEXT
from trainers.losses.two_tower.settings import TowerSettings

Span = tuple[float, float]


class AudioBlock(NamedTuple):
    """Audio rows in the order of `audio_order`."""

    z_RD: Tensor
    """Unit norm times √(1/τ)."""
    code_RK: Tensor
    """From `Codebook.audio`."""
    tags_RC: Tensor | None
    """0 or 1 in the dtype of ``z_RD``."""
    spans: list[Span] | None
    """Smallest and largest code of each tile; None where reading them would stall a GPU."""

    @property
    def factor_RD(self) -> Tensor:
        """The rows as they enter products: bfloat16 would cost 0.4 of a score at 1/τ = 100."""
        return self.z_RD


class TextBlock(NamedTuple):
    """Texts in the order of `text_order`: those that are anchors first, hard negatives behind them."""

    z_RD: Tensor
    code_R2: Tensor
    """From `Codebook.texts`."""
    tags_RC: Tensor | None
    num_tags_R: Tensor | None
    num_true: int
    """They are the first rows."""
    spans: list[Span] | None
    """Of the tiles of true texts."""

    @property
    def factor_RD(self) -> Tensor:
        """The rows as they enter products."""
        return self.z_RD


class TowerPair(NamedTuple):
    """A block of audio rows and a block of texts."""

    rows: AudioBlock
    cols: TextBlock
    settings: TowerSettings
    matched: int
    """The first column of the codes that make positives: `TEXT` where texts that say the same are, else `CLIP`."""
    mirrored: bool = False
    """Never: the two sides are not the same rows."""

    def tiles(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Row and column ranges of each tile; none holds true texts and hard negatives."""
        for i in range(0, len(self.rows.z_RD), size):
            for start, stop in ((0, self.cols.num_true), (self.cols.num_true, len(self.cols.z_RD))):
                for j in range(start, stop, size):
                    yield slice(i, min(i + size, len(self.rows.z_RD))), slice(j, min(j + size, stop))

    def weights(
        self, i: slice, j: slice, settings: ResolvedSettings, *, out_IJ: Tensor, spare_IJ: Tensor
    ) -> Tensor | None:
        """1 for a text of the clip, or one that says the same where those are positives; else 0."""
        if j.start >= self.cols.num_true or not self._may_match(i, j, settings.tile):
            return None
        first, *others = _slots(self.rows.code_RK, self.matched)
        torch.eq(*self._codes(i, j, self.matched, first), out=out_IJ)
        for slot in others:
            torch.maximum(out_IJ, torch.eq(*self._codes(i, j, self.matched, slot), out=spare_IJ), out=out_IJ)
        return out_IJ

    def blocked(self, i: slice, j: slice) -> Tensor | None:
        """Texts that say what a text of the clip says; hard negatives that are true of the clip, or out of scope."""
        if j.start < self.cols.num_true:
            if self.settings.same_text != "ignored":
                return None
            same_IJ = self._same_text(i, j)
            return None if same_IJ is None else same_IJ & torch.ne(*self._codes(i, j, CLIP, CLIP))
        guarded_IJ = self.guarded(i, j)
        if self.settings.scope == "all":
            return guarded_IJ
        others_IJ = torch.ne(*self._codes(i, j, CLIP, CLIP))
        return others_IJ if guarded_IJ is None else others_IJ.logical_or_(guarded_IJ)

    def guarded(self, i: slice, j: slice) -> Tensor | None:
        """Hard texts of a tile that are true of a clip: they say what a text of it says, or it has all their tags."""
        same_IJ, hold_IJ = self._same_text(i, j), self._all_tags_hold(i, j)
        return hold_IJ if same_IJ is None else same_IJ if hold_IJ is None else same_IJ.logical_or_(hold_IJ)

    def _codes(self, i: slice, j: slice, kind: int, slot: int) -> tuple[Tensor, Tensor]:
        """Codes of the rows, (I, 1), and of the columns, (1, J)."""
        return self.rows.code_RK[i, slot, None], self.cols.code_R2[None, j, kind]

    def _same_text(self, i: slice, j: slice) -> Tensor | None:
        same_IJ = None
        for slot in _slots(self.rows.code_RK, TEXT):
            found_IJ = torch.eq(*self._codes(i, j, TEXT, slot))
            same_IJ = found_IJ if same_IJ is None else same_IJ.logical_or_(found_IJ)
        return same_IJ

    def _all_tags_hold(self, i: slice, j: slice) -> Tensor | None:
        """Whether the clip has every tag that the text shows: |text ∩ clip| = |text|, counted by a 0/1 product."""
        rows, cols = self.rows.tags_RC, self.cols.tags_RC
        if rows is None or cols is None or self.cols.num_tags_R is None:
            return None
        return (rows[i] @ cols[j].T) == self.cols.num_tags_R[None, j]

    def _may_match(self, i: slice, j: slice, tile: int) -> bool:
        if self.rows.spans is None or self.cols.spans is None:
            return True
        (low, high), (least, most) = self.rows.spans[i.start // tile], self.cols.spans[j.start // tile]
        return bool(low <= most and least <= high)


def matched_column(settings: TowerSettings, *, hashed: bool) -> int:
    """`TowerPair.matched`: where texts that say the same are positives, the texts of a clip are among them."""
    return TEXT if settings.same_text == "positive" and hashed else CLIP


def audio_order(code_RK: Tensor, matched: int) -> Tensor:
    """Order that brings rows with the same positives together: most tiles then hold none."""
    return code_RK[:, matched].argsort(stable=True)


def text_order(code_R2: Tensor, hard_R: Tensor, matched: int) -> Tensor:
    """As `audio_order`, true texts first."""
    by_code = code_R2[:, matched].argsort(stable=True)
    return by_code[hard_R[by_code].to(torch.uint8).argsort(stable=True)]


def make_audio_block(z_RD: Tensor, code_RK: Tensor, tags_RC: Tensor | None, *, matched: int, tile: int) -> AudioBlock:
    """Prepare audio rows that are in order."""
    spans = None if z_RD.is_cuda else _spans(code_RK[:, _slots(code_RK, matched)], tile)
    return AudioBlock(z_RD, code_RK, None if tags_RC is None else tags_RC.to(z_RD.dtype), spans)


def make_text_block(
    z_RD: Tensor, code_R2: Tensor, tags_RC: Tensor | None, num_true: int, *, matched: int, tile: int
) -> TextBlock:
    """Prepare texts that are in order."""
    spans = None if z_RD.is_cuda else _spans(code_R2[:num_true, matched, None], tile)
    tags = None if tags_RC is None else tags_RC.to(z_RD.dtype)
    return TextBlock(z_RD, code_R2, tags, None if tags is None else tags.sum(1), num_true, spans)


def _slots(code_RK: Tensor, first: int) -> list[int]:
    """Columns of an audio row's codes: its clip's, or its texts'."""
    return [CLIP] if first == CLIP else list(range(TEXT, code_RK.shape[1]))


def _spans(code_RK: Tensor, tile: int) -> list[Span]:
    return [span(part) for part in torch.split(code_RK, tile)] if len(code_RK) else []
