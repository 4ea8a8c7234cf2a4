"""Every clip of a set through a frozen encoder, once: chunk, embed, average, keep.

A clip is cut into non-overlapping chunks of the encoder's length. A last chunk that is at least ``min_tail`` there is
padded with zeros, a shorter one is left out; a clip shorter than one chunk is repeated to its length, as in training.

Source: arXiv:2407.13840, §4.3; docs/evaluation.md.

Shape suffixes: K clips, P chunks of all clips, N chunks of a batch, T samples of a chunk, E encoder width.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.progress import SILENT, Progress
from cluster.settings import RunError, UserError
from data_shards.read.reader import ShardSet
from evaluation.config import Chunking, EvaluationConfig, EvaluationData
from evaluation.encoders.devices import device_of, sent
from evaluation.encoders.encoder import Encoder, alike
from evaluation.encoders.pool import as_pool
from trainers.inference.cpu.chunks import PLAIN_ROWS

PCM_SCALE = 1 / 32768
CLIPS_A_JOB = 64
"""At least; a batch of one-chunk clips fits in."""
Item = TypeVar("Item")
Floats = NDArray[Any]
Alter = Callable[[Tensor, Tensor], Tensor]
"""Waves (N, T) and the numbers (N,) that their draws are keyed by, see `draw_slot`, to altered waves (N, T)."""


@dataclass(frozen=True)
class EmbeddingTable:
    """The embeddings of a set, a row a clip, in the order of its index."""

    h_KE: NDArray[np.float32]
    """Mean over the clip's chunks."""
    keys: tuple[str, ...]
    """The clips' keys."""
    chunks_PE: NDArray[np.float32]
    """Every chunk by itself, clip after clip; no rows unless kept."""
    counts_K: NDArray[np.int64]
    """Chunks of each clip."""
    encoder: str
    """Hash of the encoder."""
    manifest: str
    """Hash of the shards' manifest."""


def chunk_spans(frames: int, samples: int, min_tail: float) -> list[tuple[int, int]]:
    """Starts and lengths of a clip's chunks.

    >>> chunk_spans(25, 10, 0.5), chunk_spans(24, 10, 0.5), chunk_spans(3, 10, 0.5)
    ([(0, 10), (10, 10), (20, 5)], [(0, 10), (10, 10)], [(0, 3)])
    """
    if frames < 1:
        raise ValueError(f"a clip needs at least one sample, got {frames}")
    if frames <= samples:
        return [(0, frames)]
    spans = [(start, samples) for start in range(0, frames - samples + 1, samples)]
    tail = frames - len(spans) * samples
    return spans + ([(len(spans) * samples, tail)] if tail >= min_tail * samples else [])


def make_chunk(wave: NDArray[np.float32], span: tuple[int, int], samples: int, *, alone: bool) -> NDArray[np.float32]:
    """Cut a span, start and length, out of a clip and bring it to the encoder's length: a chunk that is all there is of
    the clip is repeated, a tail has zeros behind it.
    """
    start, length = span
    chunk = wave[start : start + length]
    if length == samples:
        return chunk
    return np.resize(chunk, samples) if alone else np.pad(chunk, (0, samples - length))


def check_rate(encoder: Encoder, rate: int, what: str, *, resample: bool = False) -> None:
    """Refuse audio of another rate than the encoder's, unless it may be resampled. The UserError names both rates."""
    if encoder.rate != rate and not resample:
        raise UserError(
            f"{what}: {rate} Hz, but the encoder expects {encoder.rate} Hz; "
            f"build the shards with build.rate={encoder.rate}, or have them resampled with chunking.resample=true"
        )


def draw_slot(key: str, place: int) -> int:
    """What a chunk's draws are keyed by, in [0, 2^32): its clip's key and its place among the clip's chunks, hashed.

    Whatever else is embedded, and however long another encoder's chunks are, a chunk keeps it.
    """
    return int.from_bytes(hashlib.sha256(f"{place} {key}".encode()).digest()[:4])


@dataclass
class ShardWork:
    """Embeds jobs of one set; a copy in another process opens the set by itself."""

    uri: str
    manifest: str
    data: EvaluationData
    chunking: Chunking
    batch: int
    alter: Alter | None
    shards: ShardSet | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": None}

    def __call__(self, encoders: Mapping[str, Encoder], rows_K: NDArray[np.int64]) -> dict[str, tuple[Floats, Floats]]:
        """Means over each clip's chunks (K, E) in float64, and the chunks (P, E), none unless they are kept."""
        ((rate, samples),) = {(encoder.rate, encoder.samples) for encoder in encoders.values()}
        spans = [chunk_spans(n, samples, self.chunking.min_tail) for n in frames_at(self._set(), rows_K, rate)]
        counts_K = np.array([len(of_clip) for of_clip in spans])
        parts: dict[str, list[Tensor]] = {name: [] for name in encoders}
        slots = self._slots(rows_K, counts_K)
        for group in in_batches(self._chunks(rows_K, spans, rate, samples), self.batch):
            wave_NT = torch.from_numpy(np.stack(group))
            if self.alter is not None:
                wave_NT = self.alter(wave_NT, torch.tensor(list(islice(slots, len(group)))))
            for name, h_NE in run_encoders(encoders, wave_NT).items():
                parts[name].append(h_NE)
        found = {}
        for name, of_model in parts.items():
            chunks_PE = torch.cat(of_model).cpu().numpy()  # only here is a GPU waited for
            sums_KE = np.add.reduceat(chunks_PE.astype(np.float64), np.cumsum(counts_K) - counts_K, axis=0)
            kept = chunks_PE if self.chunking.aggregate != "embeddings" else chunks_PE[:0]
            found[name] = (sums_KE / counts_K[:, None], kept)
        return found

    def _set(self) -> ShardSet:
        if self.shards is None:
            self.shards = open_shards(self.data, self.uri)
            if self.shards.manifest_hash != self.manifest:
                raise RunError(f"{self.uri}: another set of shards on this worker's machine; share the folder")
        return self.shards

    def _slots(self, rows_K: NDArray[np.int64], counts_K: NDArray[np.int64]) -> Iterator[int]:
        """What the draws of the chunks are keyed by, chunk after chunk."""
        for key, count in zip(self._set().index.key[rows_K], counts_K, strict=True):
            yield from (draw_slot(str(key), place) for place in range(count))

    def _chunks(
        self, rows_K: NDArray[np.int64], spans: Sequence[Sequence[tuple[int, int]]], rate: int, samples: int
    ) -> Iterator[NDArray[np.float32]]:
        shards = self._set()
        for row, of_clip, frames in zip(rows_K.tolist(), spans, frames_at(shards, rows_K, rate), strict=True):
            wave = shards.read_window(row, 0, int(shards.index.frames[row])).astype(np.float32) * np.float32(PCM_SCALE)
            if rate != shards.rate:
                wave = np.resize(soxr.resample(wave, shards.rate, rate, quality="HQ"), frames)
            for span in of_clip:
                yield make_chunk(wave, span, samples, alone=len(of_clip) == 1)


def open_shards(data: EvaluationData, uri: str | None = None) -> ShardSet:
    """The set of a configuration, in a folder or behind any URI."""
    return ShardSet.open(uri or str(data.shards), cache=data.cache, cache_bytes=int(data.cache_gb * 1e9))


def frames_at(shards: ShardSet, rows_K: NDArray[np.int64], rate: int) -> list[int]:
    """Lengths of clips at a rate, samples."""
    frames = shards.index.frames[rows_K]
    return [max(1, round(int(n) * rate / shards.rate)) for n in frames]


def embed_shards(
    shards: ShardSet,
    encoders: Mapping[str, Encoder],
    config: EvaluationConfig,
    *,
    rows: NDArray[np.int64] | None = None,
    alter: Alter | None = None,
    progress: Progress = SILENT,
) -> dict[str, EmbeddingTable]:
    """Embed every clip by every encoder, reading the audio once.

    Args:
        shards: the set.
        encoders: by name, perhaps in a pool of workers; all of one rate and chunk length.
        config: chunking, and how many chunks an encoder sees at once.
        rows: of the index, ascending; all by default. The table has a row for each.
        alter: waves (N, T) and their draws' keys (N,) to what the encoders read instead; picklable for workers.
        progress: counts the clips that are done.

    Raises:
        UserError: if an encoder expects another rate.
        RunError: names the first clip whose embedding is not finite.
    """
    if len(alike(encoders)) != 1:
        raise ValueError("encoders embedded together need one rate and one chunk length")
    for encoder in encoders.values():
        check_rate(encoder, shards.rate, shards.uri, resample=config.chunking.resample)
    rows = np.arange(len(shards.index)) if rows is None else rows
    first = next(iter(encoders.values()))
    min_tail = config.chunking.min_tail
    spans = (chunk_spans(n, first.samples, min_tail) for n in frames_at(shards, rows, first.rate))
    counts_K = np.array([len(of_clip) for of_clip in spans], np.int64)
    work = ShardWork(shards.uri, shards.manifest_hash, config.data, config.chunking, config.batch, alter, shards)
    size = max(CLIPS_A_JOB, config.batch)
    jobs = (rows[at : at + size] for at in range(0, len(rows), size))
    h_KE = {name: np.empty((len(rows), encoder.width), np.float32) for name, encoder in encoders.items()}
    chunks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    done = 0
    with progress.stage("embedding", len(rows)) as bar:
        for found in as_pool(encoders).map(work, jobs):
            count = len(next(iter(found.values()))[0])
            for name, (mean_KE, kept_PE) in found.items():
                h_KE[name][done : done + count] = mean_KE
                chunks[name].append(kept_PE)
            done += count
            bar(done, f"{int(counts_K[:done].sum())} chunks")
    keys = tuple(str(key) for key in shards.index.key[rows])
    for found_KE in h_KE.values():
        _check_finite(found_KE, keys)
    return {
        name: EmbeddingTable(
            h_KE[name], keys, np.concatenate(chunks.pop(name)), counts_K, encoder.hash, shards.manifest_hash
        )
        for name, encoder in encoders.items()
    }


def run_encoders(encoders: Mapping[str, Encoder], wave_NT: Tensor) -> dict[str, Tensor]:
    """`run_encoder` of several; those of one front-end, which is computed once for them, read the same views."""
    groups: dict[tuple[Any, str, int], list[str]] = {}
    for name, encoder in encoders.items():
        alike_in = getattr(encoder, "frontend_key", name), str(device_of(encoder)), _rows(encoder, wave_NT)
        groups.setdefault(alike_in, []).append(name)
    found: dict[str, Tensor] = {}
    for (_, _, rows), names in groups.items():
        if len(names) == 1:
            found[names[0]] = run_encoder(encoders[names[0]], wave_NT)
            continue
        alike_: list[Any] = [encoders[name] for name in names]
        device = device_of(alike_[0])
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for part_nT in torch.split(wave_NT, rows):
                views = alike_[0].make_views(sent(part_nT, device))
                parts.append([encoder.embed_views(views) for encoder in alike_])
        for name, of_model in zip(names, zip(*parts, strict=True), strict=True):
            found[name] = _checked(encoders[name], torch.cat(of_model), len(wave_NT))
    return {name: found[name] for name in encoders}


def run_encoder(encoder: Encoder, wave_NT: Tensor) -> Tensor:
    """One batch through an encoder without gradients: (N, E) float32 on the encoder's own device, not waited for."""
    device = device_of(encoder)
    parts = torch.split(wave_NT, _rows(encoder, wave_NT))
    with torch.no_grad():
        return _checked(encoder, torch.cat([encoder(sent(part_nT, device)) for part_nT in parts]), len(wave_NT))


def _rows(encoder: Encoder, wave_NT: Tensor) -> int:
    """Chunks at once: on a CPU as many as the encoder is fastest with."""
    rows: int = getattr(encoder, "cpu_rows", PLAIN_ROWS)
    return rows if device_of(encoder).type == "cpu" else len(wave_NT)


def _checked(encoder: Encoder, h_NE: Tensor, chunks: int) -> Tensor:
    if h_NE.shape != (chunks, encoder.width):
        raise RunError(f"the encoder gave {tuple(h_NE.shape)} for {chunks} chunks; its width should be {encoder.width}")
    return h_NE.float()


def _check_finite(h_KE: NDArray[np.float32], keys: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(h_KE).all(1))
    if len(bad):
        raise RunError(
            f"the embedding of clip {keys[bad[0]]} is not finite ({len(bad)} of {len(keys)} clips); "
            "the encoder is broken, take an earlier snapshot"
        )


def in_batches(items: Iterator[Item], batch: int) -> Iterator[list[Item]]:
    """Lists of ``batch`` items, the last perhaps shorter."""
    while group := list(islice(items, batch)):
        yield group
