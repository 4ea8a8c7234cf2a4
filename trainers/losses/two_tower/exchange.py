"""How audio rows and texts of different ranks meet: all rows gathered at once, or blocks of audio rows around a ring.

Shape suffixes: R rows of a block, F rows of other ranks, D projection width, K codes of a row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.exchange import pack_bits, send_back, unpack_bits
from trainers.losses.contrastive.tiles import Scalars, TileKernel
from trainers.losses.two_tower.pairs import (
    AudioBlock,
    TextBlock,
    TowerPair,
    audio_order,
    make_audio_block,
    make_text_block,
    text_order,
)
from trainers.losses.two_tower.settings import TowerSettings


class Side(NamedTuple):
    """The rows of one tower on this rank, scaled and in order."""

    z_RD: Tensor
    code_RK: Tensor
    tags_RC: Tensor | None


class LocalTowers(NamedTuple):
    """Both towers' rows on this rank; texts that are absent are left out."""

    audio: Side
    text: Side
    num_true: list[int]
    """Texts of each rank that are anchors: the first ones."""
    num_hard: list[int]
    """Hard negatives of each rank, behind them."""
    num_slots: int
    """Texts that each rank may have; absent ones included."""
    matched: int
    settings: TowerSettings
    group: Group


class MetPair(NamedTuple):
    """A block of audio rows and a block of texts, with the scalars of both."""

    pair: TowerPair
    scalars: Scalars
    own_audio: bool = True
    """Whether the audio rows are this rank's."""
    own_text: bool = True
    """Whether the texts are."""
    hop: int = 0
    """Where not 0, this rank alone computes the pair, and the audio rows came that many ranks far."""


def no_scalars(local: LocalTowers) -> list[Scalars]:
    """For the kernels that need none."""
    empty = local.audio.z_RD.new_empty
    return [(empty(0, len(local.audio.z_RD)), empty(0, len(local.text.z_RD)))] * 3


class _Own:
    """The own blocks of either exchange."""

    def __init__(self, local: LocalTowers) -> None:
        self.local, self.group = local, local.group
        self.rank, self.world = collectives.rank(local.group), len(local.num_true)
        self.audio = self._audio_block(*local.audio)
        self.text = self._text_block(*local.text, local.num_true[self.rank])

    def _audio_block(self, z_RD: Tensor, code_RK: Tensor, tags_RC: Tensor | None) -> AudioBlock:
        return make_audio_block(z_RD, code_RK, tags_RC, matched=self.local.matched, tile=self.local.settings.tile)

    def _text_block(self, z_RD: Tensor, code_R2: Tensor, tags_RC: Tensor | None, num_true: int) -> TextBlock:
        matched, tile = self.local.matched, self.local.settings.tile
        return make_text_block(z_RD, code_R2, tags_RC, num_true, matched=matched, tile=tile)

    def _pair(self, rows: AudioBlock, cols: TextBlock) -> TowerPair:
        return TowerPair(rows, cols, self.local.settings, self.local.matched)


class Gather(_Own):
    """All rows of all ranks in every rank's memory, O((N + M)·D): backward then sends nothing."""

    def __init__(self, local: LocalTowers) -> None:
        super().__init__(local)
        if self.world > 1:
            self._gather_audio()
            self._gather_texts()

    def _gather_audio(self) -> None:
        rows = len(self.audio.z_RD)
        place_N = torch.arange(self.world * rows, device=self.audio.z_RD.device)
        foreign_F = place_N[place_N // rows != self.rank]
        code_NK = collectives.all_gather(self.local.audio.code_RK, self.group)
        self.audio_order_F = foreign_F[audio_order(code_NK[foreign_F], self.local.matched)]
        self.other_audio = self._audio_block(*self._gathered(self.local.audio, code_NK, self.audio_order_F))

    def _gather_texts(self) -> None:
        slots, device = self.local.num_slots, self.text.z_RD.device
        true_W1, hard_W1 = (
            torch.tensor(number, device=device)[:, None] for number in (self.local.num_true, self.local.num_hard)
        )
        place_WS = torch.arange(slots, device=device).expand(self.world, slots)
        there_WS = place_WS < true_W1 + hard_W1
        there_WS[self.rank] = False
        foreign_F = there_WS.flatten().nonzero()[:, 0]
        hard_F = (place_WS >= true_W1).flatten()[foreign_F]
        z_RD, code_R2, tags_RC = self.local.text
        tags_SC = None if tags_RC is None else self._padded(tags_RC)
        text = Side(self._padded(z_RD), self._padded(code_R2), tags_SC)
        code_M2 = collectives.all_gather(text.code_RK, self.group)
        self.text_order_F = foreign_F[text_order(code_M2[foreign_F], hard_F, self.local.matched)]
        num_true = sum(self.local.num_true) - self.local.num_true[self.rank]
        self.other_texts = self._text_block(*self._gathered(text, code_M2, self.text_order_F), num_true)

    def _gathered(self, side: Side, code_NK: Tensor, order_F: Tensor) -> Side:
        z_FD = collectives.all_gather(side.z_RD, self.group)[order_F]
        tags = None
        if side.tags_RC is not None:
            packed_N = collectives.all_gather(pack_bits(side.tags_RC), self.group)
            tags = unpack_bits(packed_N[order_F], side.tags_RC.shape[1])
        return Side(z_FD, code_NK[order_F], tags)

    def _padded(self, part: Tensor) -> Tensor:
        """Rows of zeros behind the texts that are there, so that every rank sends the same number."""
        return functional.pad(part, (0, 0, 0, self.local.num_slots - len(part)))

    def share(self, audio: Tensor, text: Tensor) -> list[Scalars]:
        """All-gather both."""
        if self.world == 1:
            return [(audio, text)]
        padded = self._padded(text.T).T
        others = [
            collectives.all_gather(part.T, self.group)[order_F].T.contiguous()
            for part, order_F in ((audio, self.audio_order_F), (padded, self.text_order_F))
        ]
        return [(audio, text), (audio, others[1]), (others[0], text)]

    def pairs(self, scalars: list[Scalars]) -> Iterator[MetPair]:
        """Own rows of both towers, own audio rows with all other texts, own texts with all other audio rows."""
        yield MetPair(self._pair(self.audio, self.text), scalars[0])
        if self.world > 1:
            yield MetPair(self._pair(self.audio, self.other_texts), scalars[1], own_text=False)
            yield MetPair(self._pair(self.other_audio, self.text), scalars[2], own_audio=False)


class Ring(_Own):
    """Audio rows are sent on: after hop k this rank has those of rank − k, and sends back what they gain.

    Texts, the more numerous side, never leave their rank. W − 1 hops: the two sides of a pair differ, so that a pair of
    ranks has two pairs of blocks. Memory O((n + m)·D).
    """

    def share(self, audio: Tensor, text: Tensor) -> list[Scalars]:
        """Nothing to do: those of audio rows are sent on with them."""
        return [(audio, text)]

    def pairs(self, scalars: list[Scalars]) -> Iterator[MetPair]:
        """The own blocks, then the audio rows that each hop brings."""
        own_audio, own_text = scalars[0]
        yield MetPair(self._pair(self.audio, self.text), scalars[0])
        z_RD, code_RK, tags_RC = self.local.audio
        sent = [z_RD, code_RK, own_audio, *([] if tags_RC is None else [pack_bits(tags_RC)])]
        ahead, behind = (self.rank + 1) % self.world, (self.rank - 1) % self.world
        for hop in range(1, self.world):
            sent = collectives.exchange(sent, to=ahead, source=behind, group=self.group)
            tags = None if tags_RC is None else unpack_bits(sent[3], tags_RC.shape[1])
            yield MetPair(
                self._pair(self._audio_block(sent[0], sent[1], tags), self.text), (sent[2], own_text), hop=hop
            )


TowerExchange = Gather | Ring
"""A way to every pair with an own audio row or an own text: ``share`` readies scalars of the own rows, (k, R) each, for
``pairs``, which yields the pairs of blocks, the own blocks first; both are collectives where other ranks need them."""
TOWER_EXCHANGES: dict[str, type[TowerExchange]] = {"gather": Gather, "ring": Ring}


def sum_over_pairs(kernel: TileKernel, exchange: TowerExchange, scalars: list[Scalars]) -> tuple[Tensor, Tensor]:
    """The kernel's tables of the audio rows and of the texts of this rank, over all their pairs on any rank."""
    audio, text = kernel.table(exchange.audio), kernel.table(exchange.text)
    for pair, pair_scalars, own_audio, own_text, hop in exchange.pairs(scalars):
        if hop:
            away = kernel.table(pair.rows)
            kernel.accumulate(pair, pair_scalars, away, text)
            kernel.merge(audio, send_back([away], hop, exchange.group)[0])
        else:
            kernel.accumulate(pair, pair_scalars, audio if own_audio else None, text if own_text else None)
    return audio, text
