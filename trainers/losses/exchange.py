"""How a rank meets the rows of all others: everything gathered at once, or blocks that travel around a ring.

Shape suffixes: R rows of a block, D projection width, C tags.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainers import collectives
from trainers.collectives import Group
from trainers.losses.pairs import Block, Pair, Recipe, clip_codes, make_block
from trainers.losses.tiles import Walk

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
        known_K, dtype = torch.unique(local.clip_id_R), local.z_RD.dtype
        self.blocks: list[Block] = []
        for r, num_labelled in enumerate(local.num_labelled):
            part = slice(r * rows, (r + 1) * rows)
            tags = labels_RC
            if labels_RC is not None and packed_N is not None:
                tags = unpack_bits(packed_N[part], labels_RC.shape[1])
            self.blocks.append(
                make_block(z_ND[part], clip_codes(clip_id_N[part], known_K, dtype), tags, num_labelled, local.recipe)
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


class Ring:
    """Blocks travel: hop k meets the rows of rank − k, and what they gain is sent back. Memory O(n·D).

    Each pair of blocks is computed once for both roles, so ⌊W/2⌋ hops meet everybody; for even W both ends of the last
    hop hold the same pair and take half of it each.
    """

    def __init__(self, local: Local) -> None:
        self.local = local
        self.rank, self.world = collectives.rank(local.group), collectives.world_size(local.group)
        self.known_K = torch.unique(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known_K, local.z_RD.dtype)
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
            codes = clip_codes(visiting[1], self.known_K, visiting[0].dtype)
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


EXCHANGES: dict[str, type[Gather] | type[Ring]] = {"gather": Gather, "ring": Ring}
