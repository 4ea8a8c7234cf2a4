"""How a rank meets the rows of all others: everything gathered at once, or blocks that travel around a ring.

Shape suffixes: R rows of a block, D projection width, C tags.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.pairs import Block, Pair, Recipe, clip_codes, known_clips, make_block, sort_rows
from trainers.losses.contrastive.tiles import Walk

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


class Local(NamedTuple):
    """This rank's rows in the order of `sort_rows`, and what all ranks told each other about their shares."""

    z_RD: Tensor
    clip_id_R: Tensor
    labels_RC: Tensor | None
    num_labelled: list[int]
    """Labelled rows of each rank."""
    group: Group
    recipe: Recipe


class Exchange(Protocol):
    """A way to visit every pair of a local row and a global row."""

    def share(self, scalars: Tensor) -> list[Tensor]:
        """Make per-row scalars of shape (k, R) known wherever a later walk will need them."""
        ...

    def walk(self, kernel: Walk, scalars: list[Tensor]) -> Tensor:
        """Run a kernel over all pairs and return the table of the local rows."""
        ...


class Gather:
    """All rows of all ranks in every rank's memory, O(N·D); each rank computes its own rows against them."""

    def __init__(self, local: Local) -> None:
        self.rank, self.group = collectives.rank(local.group), local.group
        rows, labels_RC = len(local.z_RD), local.labels_RC
        z_ND = collectives.all_gather(local.z_RD, local.group)
        clip_id_N = collectives.all_gather(local.clip_id_R, local.group)
        packed_N = None
        if labels_RC is not None and len(local.num_labelled) > 1:
            packed_N = collectives.all_gather(pack_bits(labels_RC), local.group)
        known, dtype = known_clips(local.clip_id_R), local.z_RD.dtype
        self.blocks: list[Block] = []
        for r, num_labelled in enumerate(local.num_labelled):
            part = slice(r * rows, (r + 1) * rows)
            tags = labels_RC
            if labels_RC is not None and packed_N is not None:
                tags = unpack_bits(packed_N[part], labels_RC.shape[1])
            self.blocks.append(
                make_block(z_ND[part], clip_codes(clip_id_N[part], known, dtype), tags, num_labelled, local.recipe)
            )

    def share(self, scalars: Tensor) -> list[Tensor]:
        """All-gather them: backward then has everything and sends nothing."""
        gathered = collectives.all_gather(scalars, self.group)
        return list(gathered.view(len(self.blocks), *scalars.shape))

    def walk(self, kernel: Walk, scalars: list[Tensor]) -> Tensor:
        """Own rows against each block; of the own block one triangle serves both roles."""
        own = self.blocks[self.rank]
        table = kernel.table(own)
        kernel.visit(Pair(own, own, mirrored=True), (scalars[self.rank], scalars[self.rank]), table, table)
        for r, block in enumerate(self.blocks):
            if r != self.rank:
                kernel.visit(Pair(own, block), (scalars[self.rank], scalars[r]), table, None)
        return table


class GatherOnce:
    """`Gather` with the rows of all other ranks as one block: a GPU then meets them in one launch and not in W − 1."""

    def __init__(self, local: Local) -> None:
        self.rank, self.group, self.world = collectives.rank(local.group), local.group, len(local.num_labelled)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_RD.dtype)
        num_labelled = local.num_labelled[self.rank]
        self.blocks = [make_block(local.z_RD, codes, local.labels_RC, num_labelled, local.recipe)]
        if self.world > 1:
            self.order_F = self._order(local)
            self.blocks.append(self._others(local))

    def _order(self, local: Local) -> Tensor:
        """Places of the F foreign rows among all, in the order of `sort_rows` over all of them."""
        rows = len(local.z_RD)
        place_N = torch.arange(self.world * rows, device=local.z_RD.device)
        foreign_F = torch.cat([place_N[: self.rank * rows], place_N[(self.rank + 1) * rows :]])
        labelled_W1 = torch.tensor(local.num_labelled, device=place_N.device)[:, None]
        labelled_N = (place_N.view(self.world, rows) % rows < labelled_W1).flatten()
        clip_id_N = collectives.all_gather(local.clip_id_R, local.group)
        self.clip_id_F = clip_id_N[foreign_F]
        order_F = sort_rows(self.clip_id_F, labelled_N[foreign_F])
        self.clip_id_F = self.clip_id_F[order_F]
        return foreign_F[order_F]

    def _others(self, local: Local) -> Block:
        z_FD = collectives.all_gather(local.z_RD, local.group)[self.order_F]
        tags = None
        if local.labels_RC is not None:
            packed_N = collectives.all_gather(pack_bits(local.labels_RC), local.group)
            tags = unpack_bits(packed_N[self.order_F], local.labels_RC.shape[1])
        num_labelled = sum(local.num_labelled) - local.num_labelled[self.rank]
        return make_block(z_FD, clip_codes(self.clip_id_F, self.known, z_FD.dtype), tags, num_labelled, local.recipe)

    def share(self, scalars: Tensor) -> list[Tensor]:
        """All-gather them: backward then has everything and sends nothing."""
        if self.world == 1:
            return [scalars]
        gathered = collectives.all_gather(scalars, self.group).view(self.world, *scalars.shape)
        return [scalars, gathered.transpose(0, 1).flatten(1)[:, self.order_F]]

    def walk(self, kernel: Walk, scalars: list[Tensor]) -> Tensor:
        """Own rows against themselves and against all others."""
        own = self.blocks[0]
        table = kernel.table(own)
        kernel.visit(Pair(own, own, mirrored=True), (scalars[0], scalars[0]), table, table)
        for others in self.blocks[1:]:
            kernel.visit(Pair(own, others), (scalars[0], scalars[1]), table, None)
        return table


class Ring:
    """Blocks travel: hop k meets the rows of rank − k, and what they gain is sent back. Memory O(n·D).

    Each pair of blocks is computed once for both roles, so ⌊W/2⌋ hops meet everybody; for even W both ends of the last
    hop hold the same pair and take half of it each.
    """

    def __init__(self, local: Local) -> None:
        self.local = local
        self.rank, self.world = collectives.rank(local.group), collectives.world_size(local.group)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_RD.dtype)
        self.own = make_block(local.z_RD, codes, local.labels_RC, local.num_labelled[self.rank], local.recipe)

    def share(self, scalars: Tensor) -> list[Tensor]:
        """They travel with their block."""
        return [scalars]

    def walk(self, kernel: Walk, scalars: list[Tensor]) -> Tensor:
        """Own pairs, then one hop after another."""
        local, own_scalars = self.local, scalars[0]
        table = kernel.table(self.own)
        kernel.visit(Pair(self.own, self.own, mirrored=True), (own_scalars, own_scalars), table, table)
        labels_RC = local.labels_RC
        visiting = [local.z_RD, local.clip_id_R, own_scalars]
        visiting += [] if labels_RC is None else [pack_bits(labels_RC)]
        for hop in range(1, self.world // 2 + 1):
            ahead, behind = (self.rank + 1) % self.world, (self.rank - 1) % self.world
            visiting = collectives.exchange(visiting, to=ahead, source=behind, group=local.group)
            home = (self.rank - hop) % self.world
            tags = None if labels_RC is None else unpack_bits(visiting[3], labels_RC.shape[1])
            codes = clip_codes(visiting[1], self.known, visiting[0].dtype)
            visitor = make_block(visiting[0], codes, tags, local.num_labelled[home], local.recipe)
            gained = kernel.table(visitor)
            kernel.visit(self._part(visitor, hop, home), (own_scalars, visiting[2]), table, gained)
            (part,) = collectives.exchange([gained], to=home, source=(self.rank + hop) % self.world, group=local.group)
            kernel.merge(table, part)
        return table

    def _part(self, visitor: Block, hop: int, home: int) -> Pair:
        half = len(visitor.z_RD) // 2
        if 2 * hop != self.world:
            return Pair(self.own, visitor)
        if self.rank < home:
            return Pair(self.own, visitor, row_stop=half)
        return Pair(self.own, visitor, col_start=half)


EXCHANGES: dict[tuple[str, bool], type[Gather] | type[GatherOnce] | type[Ring]] = {
    ("gather", False): Gather,
    ("gather", True): GatherOnce,
    ("ring", False): Ring,
    ("ring", True): Ring,
}
"""By name, and whether the walks are fused."""
