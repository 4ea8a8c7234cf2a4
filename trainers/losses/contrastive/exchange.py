"""How a rank gets the rows of all others: all of them gathered at once, or block after block around a ring.

A row has a projection for each head, and travels with all of them at once. Head 0 has the tags; the heads after it, if
there are any, leave out which clip a treated row belongs to.

Shape suffixes: R rows of a block, F those of other ranks, H heads, K = H − 1 variant heads, D projection width, C tags.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.pairs import (
    Block,
    Pair,
    clip_codes,
    known_clips,
    make_block,
    sort_rows,
    variant_codes,
)
from trainers.losses.contrastive.schedule import Hop, ring_hops
from trainers.losses.contrastive.settings import ResolvedSettings, VariantPositives

_BIT = (1, 2, 4, 8, 16, 32, 64, 128)


def pack_bits(labels_RC: Tensor) -> Tensor:
    """Booleans to bytes for the wire, eight to a byte.

    >>> pack_bits(torch.tensor([[True, False, True]]))
    tensor([[5]], dtype=torch.uint8)
    """
    padded = torch.nn.functional.pad(labels_RC.to(torch.uint8), (0, -labels_RC.shape[1] % 8))
    bit = torch.tensor(_BIT, dtype=torch.uint8, device=labels_RC.device)
    return (padded.view(len(padded), -1, 8) * bit).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, num_tags: int) -> Tensor:
    """Inverse of `pack_bits`.

    >>> unpack_bits(torch.tensor([[5]], dtype=torch.uint8), 3)
    tensor([[ True, False,  True]])
    """
    bit = torch.tensor(_BIT, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] & bit) != 0).flatten(1)[:, :num_tags]


class LocalRows(NamedTuple):
    """The rows of this rank in the order of `sort_rows`."""

    z_HRD: Tensor
    clip_id_R: Tensor
    labels_RC: Tensor | None
    treated_RK: Tensor | None
    """Whether a row got the effect of a variant head; None where there is none."""
    rule: VariantPositives
    num_labelled: list[int]
    """Labelled rows of each rank."""
    group: Group
    settings: ResolvedSettings


class ScaledPairs(NamedTuple):
    """Two blocks of every head, and the scalars of the rows of both."""

    pairs: list[Pair]
    scalars: tuple[Tensor, Tensor]
    """(H, k, R) and (H, k, F)."""
    hop: int = 0
    """Where not 0, this rank alone computes the pairs, and the columns came that many ranks far: see `send_back`."""


def send_back(col_tables: list[Tensor], hop: int, group: Group) -> Tensor:
    """Send back what the rows of another rank gained, and receive what the own rows gained ``hop`` ranks further on."""
    rank, world = collectives.rank(group), collectives.world_size(group)
    sent = torch.stack(col_tables)
    (gained,) = collectives.exchange([sent], to=(rank - hop) % world, source=(rank + hop) % world, group=group)
    return gained


def _blocks(rows: LocalRows, code_R: Tensor, num_labelled: int, *, own: bool) -> list[Block]:
    """A block for every head; ``rows`` may be those of other ranks."""
    first, *others = rows.z_HRD
    blocks = [make_block(first, code_R, rows.labels_RC, num_labelled, rows.settings)]
    for head, z_RD in enumerate(others):
        assert rows.treated_RK is not None
        variant_R = variant_codes(code_R, rows.treated_RK[:, head], rows.rule, own=own)
        blocks.append(make_block(z_RD, variant_R, None, 0, rows.settings))
    return blocks


class Gather:
    """All rows of all ranks in every rank's memory, O(N·D); those of the other ranks are one block."""

    def __init__(self, local: LocalRows) -> None:
        self.rank, self.group, self.world = collectives.rank(local.group), local.group, len(local.num_labelled)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_HRD.dtype)
        self.own = _blocks(local, codes, local.num_labelled[self.rank], own=True)
        if self.world > 1:
            self.order_F = self._order(local)
            self.others = self._others(local)

    def _order(self, local: LocalRows) -> Tensor:
        """Places of the F foreign rows among all, in the order of `sort_rows` over all of them."""
        rows = local.z_HRD.shape[1]
        place_N = torch.arange(self.world * rows, device=local.z_HRD.device)
        foreign_F = torch.cat([place_N[: self.rank * rows], place_N[(self.rank + 1) * rows :]])
        labelled_W1 = torch.tensor(local.num_labelled, device=place_N.device)[:, None]
        labelled_N = (place_N.view(self.world, rows) % rows < labelled_W1).flatten()
        clip_id_N = collectives.all_gather(local.clip_id_R, local.group)
        self.clip_id_F = clip_id_N[foreign_F]
        order_F = sort_rows(self.clip_id_F, labelled_N[foreign_F])
        self.clip_id_F = self.clip_id_F[order_F]
        return foreign_F[order_F]

    def _others(self, local: LocalRows) -> list[Block]:
        z_NHD = collectives.all_gather(local.z_HRD.transpose(0, 1), local.group)
        foreign = local._replace(
            z_HRD=z_NHD.transpose(0, 1).index_select(1, self.order_F),
            clip_id_R=self.clip_id_F,
            labels_RC=self._bits(local.labels_RC),
            treated_RK=self._bits(local.treated_RK),
        )
        codes = clip_codes(self.clip_id_F, self.known, z_NHD.dtype)
        num_labelled = sum(local.num_labelled) - local.num_labelled[self.rank]
        return _blocks(foreign, codes, num_labelled, own=False)

    def _bits(self, own_RC: Tensor | None) -> Tensor | None:
        """Booleans of the foreign rows."""
        if own_RC is None:
            return None
        packed_N = collectives.all_gather(pack_bits(own_RC), self.group)
        return unpack_bits(packed_N[self.order_F], own_RC.shape[1])

    def share(self, scalars: Tensor) -> list[Tensor]:
        """All-gather them: backward then has everything and sends nothing."""
        if self.world == 1:
            return [scalars]
        gathered = collectives.all_gather(scalars, self.group).view(self.world, *scalars.shape)
        return [scalars, gathered.permute(1, 2, 0, 3).flatten(2)[:, :, self.order_F]]

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPairs]:
        """Own rows against themselves and against all others."""
        yield ScaledPairs([Pair(own, own, mirrored=True) for own in self.own], (scalars[0], scalars[0]))
        if self.world > 1:
            pairs = [Pair(own, others) for own, others in zip(self.own, self.others, strict=True)]
            yield ScaledPairs(pairs, (scalars[0], scalars[1]))


class Ring:
    """Blocks are sent on: after hop k this rank has the rows of rank − k, and sends back what they gain. Memory O(n·D).

    Each pair of blocks is computed once, for its rows and its columns, so ⌊W/2⌋ hops are enough; for even W two ranks
    have the same pair after the last hop and take half of it each.
    """

    def __init__(self, local: LocalRows) -> None:
        self.local, self.group = local, local.group
        self.rank, self.world = collectives.rank(local.group), collectives.world_size(local.group)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_HRD.dtype)
        self.own = _blocks(local, codes, local.num_labelled[self.rank], own=True)

    def share(self, scalars: Tensor) -> list[Tensor]:
        """Nothing to do: they are sent on with their block."""
        return [scalars]

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPairs]:
        """The own block, then the block that each hop brings."""
        own_scalars, local = scalars[0], self.local
        yield ScaledPairs([Pair(own, own, mirrored=True) for own in self.own], (own_scalars, own_scalars))
        bits = [part for part in (local.labels_RC, local.treated_RK) if part is not None]
        sent = [local.z_HRD, local.clip_id_R, own_scalars, *map(pack_bits, bits)]
        for hop in ring_hops(self.rank, self.world):
            sent = collectives.exchange(sent, to=hop.to, source=hop.source, group=self.group)
            arrived = [unpack_bits(packed, own.shape[1]) for packed, own in zip(sent[3:], bits, strict=True)]
            foreign = local._replace(
                z_HRD=sent[0],
                clip_id_R=sent[1],
                labels_RC=None if local.labels_RC is None else arrived[0],
                treated_RK=None if local.treated_RK is None else arrived[-1],
            )
            codes = clip_codes(sent[1], self.known, sent[0].dtype)
            blocks = _blocks(foreign, codes, local.num_labelled[hop.home], own=False)
            pairs = [self._part(own, block, hop) for own, block in zip(self.own, blocks, strict=True)]
            yield ScaledPairs(pairs, (own_scalars, sent[2]), hop.number)

    def _part(self, own: Block, block: Block, hop: Hop) -> Pair:
        half = len(block.z_RD) // 2
        if not hop.shared:
            return Pair(own, block)
        if self.rank < hop.home:
            return Pair(own, block, row_stop=half)
        return Pair(own, block, col_start=half)


Exchange = Gather | Ring
"""A way to every pair of a local row and a global row: ``share`` readies per-row scalars (H, k, R) for ``pairs``, which
yields the pairs of blocks, the own ones with themselves first; both are collectives where other ranks need them."""
EXCHANGES: dict[str, type[Exchange]] = {"gather": Gather, "ring": Ring}
