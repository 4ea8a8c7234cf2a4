"""Which clips a step trains on: a pure function of (seed, step), the same for any number of ranks.

Shape suffixes: B clips of this rank's part of a batch. Slots of the global batch: labelled 0…B_l−1, then unlabelled;
rank r takes r::W. Stream j's place i of step t is t·B_j + i, counted over all epochs; each epoch is a permutation of
its own.
"""

from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from data_shards.sampling.config import DataConfig
from data_shards.sampling.permutation import hash_key, scramble
from data_shards.sampling.stream import Stream
from data_shards.sampling.stripes import Stripes, check_stripes

LABELLED, UNLABELLED = 0, 1
"""Codes in `BatchPlan.stream_B`."""


class BatchPlan(NamedTuple):
    """The clips of one rank's part of a step."""

    step: int
    slot_B: NDArray[np.int64]
    stream_B: NDArray[np.int64]
    """`LABELLED` or `UNLABELLED`: which set `row_B` counts in."""
    row_B: NDArray[np.int64]
    epoch_B: NDArray[np.int64]
    position_B: NDArray[np.int64]
    """Place within the epoch, before shuffling."""


class Sampler:
    """The plan of a run. Holds no state but the rows it draws from."""

    def __init__(
        self,
        config: DataConfig,
        labelled: ShardIndex | None,
        unlabelled: ShardIndex | None,
        *,
        seed: int,
        frames: int = 0,
        texts: bool = False,
    ) -> None:
        """Choose the rows of both streams.

        Args:
            config: shares and policies.
            labelled: index of the labelled set; may be None when b_s = 0.
            unlabelled: index of the other; may be None when b_s = 1.
            seed: of the run.
            frames: length of a window, for `config.short`; 0 leaves lengths alone.
            texts: the run reads texts and no labels: where the set has no column of the default vocabulary, clips with
                a tag of any column or a caption are the labelled ones.

        Raises:
            UserError: a set that is needed and missing, a missing column, or a stream without clips.
        """
        self.config, self.seed, self._texts = config, seed, texts
        self.vocabulary: tuple[str, ...] = ()
        self.num_short = 0
        """Clips left out because they are shorter than the window."""
        counts = (config.num_labelled, config.batch - config.num_labelled)
        self.num_available = 0
        """Labelled training clips before p_s."""
        self.streams: list[Stream | None] = [None, None]
        ids: NDArray[np.int64] = np.empty(0, np.int64)
        if counts[LABELLED]:
            rows, ids = self._labelled_rows(labelled, frames)
            self.streams[LABELLED] = self._stream("labelled", labelled, rows)
        if counts[UNLABELLED]:
            rows = self._unlabelled_rows(unlabelled, ids, frames)
            self.streams[UNLABELLED] = self._stream("unlabelled", unlabelled, rows)
        self._counts = counts
        self.stripes: list[Stripes | None] = [None, None]
        """Of both streams, where `config.stripes` > 1."""
        if config.stripes > 1:
            first = counts[LABELLED]
            slots = (range(first), range(first, config.batch))
            for code, index in enumerate((labelled, unlabelled)):
                self.stripes[code] = self._stripes(code, index, slots[code])

    @property
    def sizes(self) -> tuple[int, int]:
        """Training clips that the labelled and the unlabelled stream draw from; 0 for one with share 0."""
        labelled, unlabelled = (len(stream) if stream else 0 for stream in self.streams)
        return labelled, unlabelled

    def plan(self, step: int, rank: int = 0, world: int = 1) -> BatchPlan:
        """This rank's clips of a step. Raises UserError if the ranks do not divide the batch."""
        check_world(self.config.batch, world)
        check_stripes(self.config.stripes, world)
        if step < 0 or not 0 <= rank < world:
            raise ValueError(f"step {step}, rank {rank} of {world}")
        slot_B = np.arange(rank, self.config.batch, world, dtype=np.int64)
        stream_B = (slot_B >= self._counts[LABELLED]).astype(np.int64)
        row_B, epoch_B, position_B = (np.empty(len(slot_B), np.int64) for _ in range(3))
        first_slot = (0, self._counts[LABELLED])
        for code, stream in enumerate(self.streams):
            if stream is None:
                continue
            here = stream_B == code
            if striped := self.stripes[code]:
                row_B[here], epoch_B[here], position_B[here] = striped.draw(step, slot_B[here])
                continue
            place = step * self._counts[code] + slot_B[here] - first_slot[code]
            epoch_B[here], position_B[here] = np.divmod(place, len(stream))
            row_B[here] = stream.rows_at(epoch_B[here], position_B[here])
        return BatchPlan(step, slot_B, stream_B, row_B, epoch_B, position_B)

    def substitute(self, stream: int, epoch: int, position: int, attempt: int, slot: int = 0) -> int:
        """The row that takes the place of a clip that cannot be read; the same after every restart.

        With stripes it is of the slot's own.
        """
        striped = self.stripes[stream]
        drawn = striped.stream_of(slot) if striped else self.streams[stream]
        assert drawn is not None
        return drawn.substitute(epoch, position, attempt)

    def window_start(self, step: int, slot: int, last_start: int) -> int:
        """First sample of the window of a slot, uniform over 0…last_start."""
        key = np.array([hash_key("window", self.seed, step, slot)], np.uint64)
        return int(scramble(key)[0]) % (last_start + 1)

    def summary(self, steps: int) -> dict[str, Any]:
        """What was asked for and what `steps` steps will do: shares, clips, epochs. JSON types."""
        config = self.config
        sizes = self.sizes
        drawn = [steps * count for count in self._counts]
        return {
            "batch": config.batch,
            "labelled_a_batch": self._counts[LABELLED],
            "b_s": config.b_s,
            "b_s_realised": self._counts[LABELLED] / config.batch,
            "p_s": config.p_s,
            "p_s_realised": sizes[LABELLED] / self.num_available if self.num_available else None,
            "labelled_clips": sizes[LABELLED],
            "labelled_available": self.num_available,
            "unlabelled_clips": sizes[UNLABELLED],
            "left_out_short": self.num_short,
            "labelled_drawn": drawn[LABELLED],
            "unlabelled_drawn": drawn[UNLABELLED],
            "labelled_epochs": drawn[LABELLED] / sizes[LABELLED] if sizes[LABELLED] else 0.0,
            "unlabelled_epochs": drawn[UNLABELLED] / sizes[UNLABELLED] if sizes[UNLABELLED] else 0.0,
            "vocabulary": config.vocabulary,
            "num_tags": len(self.vocabulary),
        }

    def _labelled_rows(self, index: ShardIndex | None, frames: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows that are used, and the ids of all labelled clips."""
        config = self.config
        if index is None:
            raise UserError(f"data.b_s = {config.b_s:g} draws labelled clips; give data.labelled=DIR, or data.b_s=0")
        train = self._long_enough(index, index.rows("train"), frames)
        rows = train[self._is_labelled(index)[train]]
        self.num_available = len(rows)
        if not len(rows):
            raise UserError(
                f"the labelled set has no training clip with a tag of {config.vocabulary}; name another column by "
                "data.vocabulary, or set data.b_s=0"
                if config.vocabulary in (*index.vocabularies, *index.classes)
                else "the labelled set has no training clip with a tag or a caption; build it with labels or captions"
            )
        chosen = rows[chosen_share(index.id_hash[rows], config.p_s)]
        if not len(chosen):
            raise UserError(f"data.p_s = {config.p_s:g} leaves none of {len(rows)} labelled clips; raise it")
        return chosen, index.id_hash[rows]

    def _is_labelled(self, index: ShardIndex) -> NDArray[np.bool_]:
        """Which clips (K,) count as labelled; takes the column's names as the vocabulary."""
        column = self.config.vocabulary
        columns = (*index.vocabularies, *index.classes)
        if column in columns:
            self.vocabulary = index.label_names(column)
            return index.is_labelled(column)
        if self._texts and column == DataConfig.vocabulary:
            found = np.diff(index.captions.ends()) > 0
            for name in index.vocabularies or index.classes:
                found |= index.is_labelled(name)
            return found
        hint = get_close_matches(column, columns, n=1)
        raise UserError(
            f"data.vocabulary = {column}: the labelled set has no such column; it has {', '.join(columns) or 'none'}"
            f"{f' (did you mean {hint[0]}?)' if hint else ''}; name a column of tags or classes, or draw from "
            "data.unlabelled alone with data.b_s=0"
        )

    def _unlabelled_rows(
        self, index: ShardIndex | None, labelled_ids: NDArray[np.int64], frames: int
    ) -> NDArray[np.int64]:
        if index is None:
            b_s = self.config.b_s
            raise UserError(f"data.b_s = {b_s:g} draws unlabelled clips; give data.unlabelled=DIR, or data.b_s=1")
        train = self._long_enough(index, index.rows("train"), frames)
        own = np.ones(len(index), np.bool_)
        labelled = index.rows_of(labelled_ids)
        own[labelled[labelled >= 0]] = False
        rows = train[own[train]]
        if not len(rows):
            also = f": all {len(train)} are in the labelled set, with tags" if len(train) else ""
            raise UserError(f"the unlabelled set has no training clip of its own{also}; give another, or data.b_s=1")
        return rows

    def _long_enough(self, index: ShardIndex, rows: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        short = rows[index.frames[rows] < frames]
        if len(short) and self.config.short == "refuse":
            seconds = frames / index.manifest["rate"]
            raise UserError(
                f"{len(short)} training clips are shorter than the window of {seconds:.2f} s, the first is "
                f"{index.key[short[0]]}; data.short=pad or data.short=drop lets them pass"
            )
        if self.config.short != "drop":
            return rows
        self.num_short += len(short)
        return rows[index.frames[rows] >= frames]

    def _stripes(self, code: int, index: ShardIndex | None, slots: range) -> Stripes | None:
        stream, config = self.streams[code], self.config
        if stream is None or index is None:
            return None
        shards = index.shard[stream.rows]
        return Stripes(
            stream.name, stream.rows, shards, slots, config.stripes, seed=self.seed, block_shards=config.block_shards
        )

    def _stream(self, name: str, index: ShardIndex | None, rows: NDArray[np.int64]) -> Stream:
        assert index is not None
        return Stream(name, rows, index.shard[rows], seed=self.seed, block_shards=self.config.block_shards)


def chosen_share(id_hash: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Which clips a share p_s keeps: by a hash of the id alone, so a smaller share is a subset of a larger one."""
    place = scramble(id_hash.astype(np.uint64) + np.uint64(hash_key("p_s"))) >> np.uint64(11)
    return place.astype(np.float64) / 2.0**53 < share


def check_world(batch: int, world: int) -> None:
    """Refuse a number of ranks that does not divide the batch."""
    if world >= 1 and batch % world == 0:
        return
    if world < 1:
        raise UserError(f"the number of ranks must be > 0, got {world}")
    batches = [size for size in (batch // world * world, -(-batch // world) * world) if size]
    ranks = [count for count in range(1, batch + 1) if batch % count == 0]
    near = sorted({max(c for c in ranks if c <= world), min((c for c in ranks if c >= world), default=batch)})
    raise UserError(
        f"{world} ranks do not divide data.batch = {batch}; take data.batch = {' or '.join(map(str, batches))}, "
        f"or {' or '.join(map(str, near))} ranks"
    )
