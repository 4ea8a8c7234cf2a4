"""How a rank gets the rows of all others: all of them gathered at once, or block after block around a ring.

Shape suffixes: R rows of a block, D projection width, C tags.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.pairs import Block, Pair, clip_codes, known_clips, make_block, sort_rows
from trainers.losses.contrastive.settings import ResolvedSettings

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

    z_RD: Tensor
    clip_id_R: Tensor
    labels_RC: Tensor | None
    num_labelled: list[int]
    """Labelled rows of each rank."""
    group: Group
    settings: ResolvedSettings


class ScaledPair(NamedTuple):
    """Two blocks, and the scalars of the rows of both."""

    pair: Pair
    scalars: tuple[Tensor, Tensor]
    hop: int = 0
    """Where not 0, this rank alone computes the pair, and the columns came that many ranks far: see `send_back`."""


class Exchange(Protocol):
    """A way to every pair of a local row and a global row."""

    own: Block
    group: Group

    def share(self, scalars: Tensor) -> list[Tensor]:
        """Per-row scalars of shape (k, R), to be given to `pairs`; a collective where other ranks need them."""
        ...

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPair]:
        """The pairs of blocks, the own block with itself first; collectives on the way."""
        ...


def send_back(col_table: Tensor, hop: int, group: Group) -> Tensor:
    """Send back what the rows of another rank gained, and receive what the own rows gained ``hop`` ranks further on."""
    rank, world = collectives.rank(group), collectives.world_size(group)
    (gained,) = collectives.exchange([col_table], to=(rank - hop) % world, source=(rank + hop) % world, group=group)
    return gained


class Gather:
    """All rows of all ranks in every rank's memory, O(N·D); each rank computes its own rows against them."""

    def __init__(self, local: LocalRows) -> None:
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
                make_block(z_ND[part], clip_codes(clip_id_N[part], known, dtype), tags, num_labelled, local.settings)
            )
        self.own = self.blocks[self.rank]

    def share(self, scalars: Tensor) -> list[Tensor]:
        """All-gather them: backward then has everything and sends nothing."""
        gathered = collectives.all_gather(scalars, self.group)
        return list(gathered.view(len(self.blocks), *scalars.shape))

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPair]:
        """Own rows against each block; of the own block one triangle serves rows and columns."""
        own = scalars[self.rank]
        yield ScaledPair(Pair(self.own, self.own, mirrored=True), (own, own))
        for r, block in enumerate(self.blocks):
            if r != self.rank:
                yield ScaledPair(Pair(self.own, block), (own, scalars[r]))


class GatherOnce:
    """`Gather` with the rows of all other ranks as one block: one kernel launch on a GPU instead of W − 1."""

    def __init__(self, local: LocalRows) -> None:
        self.rank, self.group, self.world = collectives.rank(local.group), local.group, len(local.num_labelled)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_RD.dtype)
        num_labelled = local.num_labelled[self.rank]
        self.own = make_block(local.z_RD, codes, local.labels_RC, num_labelled, local.settings)
        if self.world > 1:
            self.order_F = self._order(local)
            self.others = self._others(local)

    def _order(self, local: LocalRows) -> Tensor:
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

    def _others(self, local: LocalRows) -> Block:
        z_FD = collectives.all_gather(local.z_RD, local.group)[self.order_F]
        tags = None
        if local.labels_RC is not None:
            packed_N = collectives.all_gather(pack_bits(local.labels_RC), local.group)
            tags = unpack_bits(packed_N[self.order_F], local.labels_RC.shape[1])
        num_labelled = sum(local.num_labelled) - local.num_labelled[self.rank]
        return make_block(z_FD, clip_codes(self.clip_id_F, self.known, z_FD.dtype), tags, num_labelled, local.settings)

    def share(self, scalars: Tensor) -> list[Tensor]:
        """All-gather them: backward then has everything and sends nothing."""
        if self.world == 1:
            return [scalars]
        gathered = collectives.all_gather(scalars, self.group).view(self.world, *scalars.shape)
        return [scalars, gathered.transpose(0, 1).flatten(1)[:, self.order_F]]

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPair]:
        """Own rows against themselves and against all others."""
        yield ScaledPair(Pair(self.own, self.own, mirrored=True), (scalars[0], scalars[0]))
        if self.world > 1:
            yield ScaledPair(Pair(self.own, self.others), (scalars[0], scalars[1]))


class Ring:
    """Blocks are sent on: after hop k this rank has the rows of rank − k, and sends back what they gain. Memory O(n·D).

    Each pair of blocks is computed once, for its rows and its columns, so ⌊W/2⌋ hops are enough; for even W two ranks
    have the same pair after the last hop and take half of it each.
    """

    def __init__(self, local: LocalRows) -> None:
        self.local, self.group = local, local.group
        self.rank, self.world = collectives.rank(local.group), collectives.world_size(local.group)
        self.known = known_clips(local.clip_id_R)
        codes = clip_codes(local.clip_id_R, self.known, local.z_RD.dtype)
        self.own = make_block(local.z_RD, codes, local.labels_RC, local.num_labelled[self.rank], local.settings)

    def share(self, scalars: Tensor) -> list[Tensor]:
        """Nothing to do: they are sent on with their block."""
        return [scalars]

    def pairs(self, scalars: list[Tensor]) -> Iterator[ScaledPair]:
        """The own block, then the block that each hop brings."""
        own_scalars = scalars[0]
        labels_RC, settings = self.local.labels_RC, self.local.settings
        yield ScaledPair(Pair(self.own, self.own, mirrored=True), (own_scalars, own_scalars))
        sent = [self.local.z_RD, self.local.clip_id_R, own_scalars]
        sent += [] if labels_RC is None else [pack_bits(labels_RC)]
        for hop in range(1, self.world // 2 + 1):
            ahead, behind = (self.rank + 1) % self.world, (self.rank - 1) % self.world
            sent = collectives.exchange(sent, to=ahead, source=behind, group=self.group)
            home = (self.rank - hop) % self.world
            tags = None if labels_RC is None else unpack_bits(sent[3], labels_RC.shape[1])
            codes = clip_codes(sent[1], self.known, sent[0].dtype)
            block = make_block(sent[0], codes, tags, self.local.num_labelled[home], settings)
            yield ScaledPair(self._part(block, hop, home), (own_scalars, sent[2]), hop)

    def _part(self, block: Block, hop: int, home: int) -> Pair:
        half = len(block.z_RD) // 2
        if 2 * hop != self.world:
            return Pair(self.own, block)
        if self.rank < home:
            return Pair(self.own, block, row_stop=half)
        return Pair(self.own, block, col_start=half)


EXCHANGES: dict[tuple[str, bool], type[Gather] | type[GatherOnce] | type[Ring]] = {
    ("gather", False): Gather,
    ("gather", True): GatherOnce,
    ("ring", False): Ring,
    ("ring", True): Ring,
}
"""By name, and whether the kernels are fused."""
