"""Batches for one rank, read ahead of the step by a few threads.

Shape suffixes: B clips of this rank's part of a step, T samples of a window, C tags. A clip that cannot be read is
replaced by the sampler's substitute, named and counted; no clip is skipped, so that all ranks keep the same step.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.settings import RunError, UserError, require_config
from data_shards.format.problems import ClipError
from data_shards.format.records import Batch
from data_shards.read.reader import ShardSet
from data_shards.sampling.config import DataConfig
from data_shards.sampling.sampler import LABELLED, UNLABELLED, BatchPlan, Sampler, check_world
from data_shards.sampling.stripes import check_stripes
from data_shards.text.checks import check_texts
from data_shards.text.config import TextViewsConfig
from data_shards.text.text_views import Reading, TextViews

_log = logging.getLogger(__name__)
MAX_ATTEMPTS = 16
MAX_NAMED = 1000
"""Number of replacements that are named in the log and in snapshots; all are counted."""
GRACE_CLIPS = 1000
"""Least denominator of the share of replaced clips, or the first damaged clip of a run would stop it."""


class Replaced(NamedTuple):
    """A clip that could not be read, and the one that took its place."""

    step: int
    slot: int
    key: str
    why: str
    substitute: str


class _Filled(NamedTuple):
    row: int
    frames: int
    replaced: tuple[Replaced, ...]
    reading: Reading | None


class BatchLoader:
    """Opens the sets of a configuration and yields this rank's batches; a context manager."""

    def __init__(
        self,
        config: DataConfig,
        *,
        frames: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_threads: int = 2,
        prefetch: int = 2,
        pin_memory: bool = False,
        text: TextViewsConfig | None = None,
        steps: int = 1,
    ) -> None:
        """Open the sets.

        Args:
            config: which sets and shares.
            frames: T, samples of a window.
            seed: of the run.
            rank: of `world` ranks.
            world: number of ranks; it must divide the batch.
            num_threads: readers.
            prefetch: batches that are read ahead.
            pin_memory: read into page-locked memory, whose copy to a GPU runs beside the computation; it opens a CUDA
                context, so only for a run that is on one.
            text: which texts of the clips are read beside their audio; None for none.
            steps: of the run, over which the share of swapped texts rises.

        Raises:
            UserError: for a set, share or number of ranks that does not work, or texts that the sets do not have.
        """
        require_config("config", config, DataConfig)
        check_world(config.batch, world)
        check_stripes(config.stripes, world)
        if frames < 1 or num_threads < 1 or prefetch < 1:
            raise ValueError(f"frames, num_threads and prefetch must be > 0, got {frames}, {num_threads}, {prefetch}")
        self.config, self.frames, self.rank, self.world = config, frames, rank, world
        self.sets = open_sets(config)
        labelled, unlabelled = (opened.index if opened else None for opened in self.sets)
        self.sampler = Sampler(config, labelled, unlabelled, seed=seed, frames=frames, texts=text is not None)
        _check_cache(config, self.sampler, self.sets, range(rank, config.batch, world))
        self.replaced: list[Replaced] = []
        """The first `MAX_NAMED` replacements, in order."""
        self.num_drawn = self.num_replaced = 0
        self.texts: TextViews | None = None
        """Draws the texts; None for a loader without."""
        if text is not None:
            rows = [stream.rows if stream else None for stream in self.sampler.streams]
            self.texts = TextViews(text, (labelled, unlabelled), rows, seed=seed, steps=steps)
            check_texts(self.texts)
        self._prefetch, self._num_threads, self._pin_memory = prefetch, num_threads, pin_memory
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="batches")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The C tags of `Batch.labels_BC`, in order; empty when no clip is labelled."""
        return self.sampler.vocabulary

    def drawn_labels(self) -> NDArray[np.bool_]:
        """Labels of the labelled training clips that are drawn from, (K, C); (0, 0) without a labelled stream."""
        stream, labelled = self.sampler.streams[LABELLED], self.sets[LABELLED]
        if not (stream and labelled and self.vocabulary):
            return np.zeros((0, 0), np.bool_)
        return labelled.index.labels(self.config.vocabulary, stream.rows)

    @property
    def rate(self) -> int:
        """Hz."""
        return next(opened.rate for opened in self.sets if opened)

    @property
    def manifest_hash(self) -> str:
        """Identifies both sets: the labelled one's hash, a colon, the other's; ``-`` for one that is not used."""
        return ":".join(opened.manifest_hash if opened else "-" for opened in self.sets)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps ``start … stop − 1``; the next ones are read while one is used.

        Raises:
            RunError: too many clips had to be replaced, or a shard is gone.
        """
        waiting: deque[Future[_Pending]] = deque()
        try:
            for step in range(start, stop):
                waiting.append(self._pool.submit(_Pending, self, step))  # planning takes a millisecond or two as well
                if len(waiting) > self._prefetch:
                    yield self._take(waiting.popleft().result())
            while waiting:
                yield self._take(waiting.popleft().result())
        finally:
            for planned in waiting:
                if not planned.cancel() and planned.exception() is None:
                    planned.result().cancel()

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._pool.shutdown(cancel_futures=True)
        for opened in self.sets:
            if opened:
                opened.close()

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _take(self, pending: "_Pending") -> Batch:
        filled = [one for part in pending.parts for one in part.result()]
        self.num_drawn += len(filled)
        self._note([replaced for one in filled for replaced in one.replaced])
        plan = pending.plan
        row_B = np.array([one.row for one in filled], np.int64)
        labels_BC = np.zeros((len(filled), len(self.vocabulary)), np.bool_)
        clip_id_B = np.empty(len(filled), np.int64)
        for stream, opened in enumerate(self.sets):
            here = plan.stream_B == stream
            if opened is None or not here.any():
                continue
            clip_id_B[here] = opened.index.id_hash[row_B[here]]
            if stream == LABELLED and self.vocabulary:
                labels_BC[here] = opened.index.labels(self.config.vocabulary, row_B[here])
        return Batch(
            wave_BT=pending.wave_BT,
            frames_B=torch.tensor([one.frames for one in filled]),
            clip_id_B=torch.from_numpy(clip_id_B),
            labels_BC=torch.from_numpy(labels_BC),
            slot_B=torch.from_numpy(plan.slot_B),
            texts=self.texts.gather([one.reading for one in filled if one.reading]) if self.texts else None,
        )

    def _note(self, replaced: list[Replaced]) -> None:
        """Count and name replaced clips; too many end the run."""
        self.num_replaced += len(replaced)
        for one in replaced[: MAX_NAMED - len(self.replaced)]:
            self.replaced.append(one)
            _log.warning("step %d, slot %d: %s; %s takes its place", one.step, one.slot, one.why, one.substitute)
        if self.num_replaced > self.config.max_replaced * max(self.num_drawn, GRACE_CLIPS):
            named = "\n".join(f"  step {one.step}: {one.why}" for one in (replaced or self.replaced)[-10:])
            raise RunError(
                f"{self.num_replaced} of {self.num_drawn} clips drawn were damaged, more than data.max_replaced = "
                f"{self.config.max_replaced:g} allows; the last were\n{named}\nverify the shards and build them again"
            )

    def _fill(self, plan: BatchPlan, places: range, wave_BT: NDArray[np.int16]) -> list[_Filled]:
        return [self._fill_one(plan, place, wave_BT[place]) for place in places]

    def _fill_one(self, plan: BatchPlan, place: int, wave_T: NDArray[np.int16]) -> _Filled:
        step, slot, stream = plan.step, int(plan.slot_B[place]), int(plan.stream_B[place])
        opened = self.sets[stream]
        assert opened is not None
        row, replaced = int(plan.row_B[place]), []
        for attempt in range(MAX_ATTEMPTS):
            frames = min(self.frames, int(opened.index.frames[row]))
            last_start = int(opened.index.frames[row]) - frames
            try:
                opened.read_into(row, self.sampler.window_start(step, slot, last_start), wave_T[:frames])
            except ClipError as error:
                epoch, position = int(plan.epoch_B[place]), int(plan.position_B[place])
                bad, row = row, self.sampler.substitute(stream, epoch, position, attempt, slot)
                keys = opened.index.key
                replaced.append(Replaced(step, slot, str(keys[bad]), str(error), str(keys[row])))
                continue
            wave_T[frames:] = 0
            reading = self.texts.read(step, slot, stream, row) if self.texts else None
            return _Filled(row, frames, tuple(replaced), reading)
        raise RunError(
            f"step {step}, slot {slot}: {MAX_ATTEMPTS} clips one after another are damaged: {replaced[-1].why}"
        )


class _Pending:
    """A batch that is being read."""

    def __init__(self, loader: BatchLoader, step: int) -> None:
        self.plan = loader.sampler.plan(step, loader.rank, loader.world)
        num_clips = len(self.plan.slot_B)
        shape = (num_clips, loader.frames)
        self.wave_BT = torch.empty(shape, dtype=torch.int16, pin_memory=loader._pin_memory)
        array_BT = self.wave_BT.numpy()
        size = -(-num_clips // loader._num_threads)
        chunks = [range(first, min(first + size, num_clips)) for first in range(0, num_clips, size)]
        self.parts: list[Future[list[_Filled]]] = [
            loader._pool.submit(loader._fill, self.plan, chunk, array_BT) for chunk in chunks
        ]

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()


def open_sets(config: DataConfig) -> tuple[ShardSet | None, ShardSet | None]:
    """Open the sets that the shares need: (labelled, unlabelled), None for one with share 0.
    Raises UserError if one is needed and not given, is damaged, or their rates differ.
    """
    needed = (config.num_labelled > 0, config.num_labelled < config.batch)
    uris = {"labelled": config.labelled, "unlabelled": config.unlabelled}
    opened: list[ShardSet | None] = []
    for (name, uri), need in zip(uris.items(), needed, strict=True):
        if need and uri is None:
            raise UserError(f"data.b_s = {config.b_s:g} draws {name} clips; give data.{name}=DIR")
        cache_bytes = int(config.cache_gb * 1e9)
        opened.append(
            ShardSet.open(uri, checksums=config.checksums, cache=config.cache, cache_bytes=cache_bytes)
            if need and uri is not None
            else None
        )
    rates = {one.rate for one in opened if one}
    if len(rates) > 1:
        labelled, unlabelled = (one.rate if one else 0 for one in (opened[LABELLED], opened[UNLABELLED]))
        raise UserError(f"labelled shards have {labelled:,} Hz, unlabelled {unlabelled:,} Hz; build one of them again")
    return opened[0], opened[1]


def _check_cache(config: DataConfig, sampler: Sampler, sets: Sequence[ShardSet | None], slots: range) -> None:
    """Refuse a cache that cannot hold what a rank's stripes draw from at once: it would fetch shards again and again.
    The UserError names the size that fits.
    """
    needed = 0
    for opened, striped in zip(sets, sampler.stripes, strict=True):
        if opened is None or striped is None or not opened.is_cached:
            continue
        size = np.array([shard.size for shard in opened.index.shards])
        for number in sorted({slot % striped.count for slot in slots}):
            of_stripe = np.sort(size[np.unique(opened.index.shard[striped.streams[number].rows])])
            needed += int(of_stripe[-config.block_shards or None :].sum())
    if needed > config.cache_gb * 1e9:
        raise UserError(
            f"data.cache_gb={config.cache_gb:g}: the stripes of a rank draw from {needed:,} bytes of shards at once; "
            f"take data.cache_gb >= {needed / 1e9:.3g} for each rank of a machine, or data.block_shards=N, which draws "
            "from N shards of a stripe at a time"
        )
