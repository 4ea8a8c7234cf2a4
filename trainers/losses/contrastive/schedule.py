"""Who sends what to whom when the rows of the loss are exchanged: run by `exchange`, and counted here without tensors.

Names: W ranks, R rows of a rank, H heads, D projection width, C tags, K variant heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SCALARS = {"sums": 0, "epsilon": 1, "gradient": 3}
"""Numbers a row that travel with it in each pass over the pairs."""


class Hop(NamedTuple):
    """One hop of the ring as a rank sees it."""

    number: int
    to: int
    source: int
    home: int
    """The rank whose rows arrive."""
    shared: bool
    """Whether the rank whose rows arrive has the same pair of blocks: each then takes half of it."""


def ring_hops(rank: int, world: int) -> Iterator[Hop]:
    """The ⌊W/2⌋ hops of a rank: after them every pair of blocks has been with one of its two ranks.

    >>> [hop.home for hop in ring_hops(0, 4)]
    [3, 2]
    """
    for number in range(1, world // 2 + 1):
        home = (rank - number) % world
        yield Hop(number, (rank + 1) % world, (rank - 1) % world, home, 2 * number == world)


@dataclass(frozen=True, kw_only=True)
class RowShape:
    """What determines the bytes of a rank's rows."""

    rows: int
    """R."""
    width: int
    """D."""
    heads: int = 1
    tags: int = 0
    item: int = 4
    """Bytes of a number of the projections."""
    epsilon: bool = False
    online: bool = False
    """Whether a running maximum is kept: small temperatures."""

    @property
    def projections(self) -> int:
        """Bytes of R·H·D numbers."""
        return self.rows * self.heads * self.width * self.item

    @property
    def bits(self) -> tuple[int, ...]:
        """Bytes of the tags, and of which effects were received, where there are any; eight to a byte."""
        return tuple(self.rows * -(-count // 8) for count in (self.tags, self.heads - 1) if count)

    @property
    def passes(self) -> dict[str, int]:
        """Bytes of a block's table in each pass over the pairs."""
        sums = self.heads * self.rows * 8 * (5 if self.online else 4)
        terms = {"epsilon": self.heads * self.rows * 8 * 2} if self.epsilon else {}
        return {"sums": sums, **terms, "gradient": self.projections}

    def scalars(self, name: str) -> int:
        """Bytes of the scalars of a pass."""
        return SCALARS[name] * self.heads * self.rows * self.item


class Cost(NamedTuple):
    """What one rank sends in a step and holds at its peak, of the loss alone."""

    bytes_sent: int
    messages: int
    hops: int
    memory: int
    """Bytes of foreign rows, their tags and tables; the three tiles of 512 rows are counted, own rows are not."""


TILES = 3 * 512 * 512


def gather_cost(shape: RowShape, world: int) -> Cost:
    """Of `Gather`, by the usual ring algorithm of an all-gather: W − 1 messages of one block each."""
    calls = [8 * shape.rows, shape.projections, *shape.bits, shape.scalars("gradient"), *_agreement(shape)]
    foreign = world - 1
    codes = (8 + 8 + shape.item) * shape.rows + shape.tags * (1 + shape.item) * shape.rows
    held = 2 * shape.projections + codes + sum(shape.bits) + shape.scalars("gradient")
    messages = foreign * len(calls)
    return Cost(foreign * sum(calls), messages, foreign, foreign * held + TILES * shape.item)


def ring_cost(shape: RowShape, rank: int, world: int) -> Cost:
    """Of `Ring`: for each pass the block with its scalars, hop after hop, and after each hop the table back."""
    sent = messages = hops = peak = 0
    for name, table in shape.passes.items():
        block = [shape.projections, 8 * shape.rows, shape.scalars(name), *shape.bits]
        unpacked = shape.tags * (1 + shape.item) * shape.rows
        for _ in ring_hops(rank, world):
            sent += sum(block) + table
            messages += sum(size > 0 for size in block) + 1
            hops += 1
        peak = max(peak, 2 * sum(block) + unpacked + 3 * table)
    agreement = _agreement(shape)
    sent += (world - 1) * sum(agreement)
    return Cost(sent, messages + (world - 1) * len(agreement), hops, peak + TILES * shape.item)


def _agreement(shape: RowShape) -> tuple[int, ...]:
    """Shapes and numbers of labelled rows before, the sum of the loss after."""
    return 6 * 8, 8 * shape.heads
