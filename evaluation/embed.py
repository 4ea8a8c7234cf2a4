"""Every clip of a set through a frozen encoder, once: chunk, embed, average, keep.

A clip is cut into non-overlapping chunks of the encoder's length. A last chunk that is at least ``min_tail`` there is
padded with zeros, a shorter one is left out; a clip shorter than one chunk is repeated to its length, as in training.

Source: SCIENCE §2, EVALUATION "Probing".

Shape suffixes: K clips, P chunks of all clips, N chunks of a batch, T samples of a chunk, E encoder width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.progress import SILENT, Progress
from cluster.settings import RunError, UserError
from data_shards.reader import ShardSet
from evaluation.tasks import Chunking, EvaluationConfig

PCM_SCALE = 1 / 32768
Item = TypeVar("Item")


class Encoder(Protocol):
    """What an encoder must offer: that of `trainers.snapshot.load_encoder`, or anyone's."""

    width: int
    rate: int
    """Hz of its input."""
    samples: int
    """Length of a chunk."""
    hash: str
    """Changes with the weights."""

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        """(N, T) float32 in [-1, 1] to (N, E)."""
        ...


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
    """Cut a chunk and bring it to the encoder's length.

    Args:
        wave: the whole clip.
        span: start and length.
        samples: the encoder's length.
        alone: the chunk is all there is of the clip: a short one is repeated, where a tail has zeros behind it.
    """
    start, length = span
    chunk = wave[start : start + length]
    if length == samples:
        return chunk
    return np.resize(chunk, samples) if alone else np.pad(chunk, (0, samples - length))


def check_rate(encoder: Encoder, rate: int, what: str) -> None:
    """Refuse audio of another rate than the encoder's.

    Raises:
        UserError: names both rates.
    """
    if encoder.rate != rate:
        raise UserError(
            f"{what}: {rate} Hz, but the encoder hears {encoder.rate} Hz; "
            f"build the shards with build.rate={encoder.rate}"
        )


def embed_shards(
    shards: ShardSet,
    encoders: Mapping[str, Encoder],
    config: EvaluationConfig,
    *,
    rows: NDArray[np.int64] | None = None,
    alter: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: Progress = SILENT,
) -> dict[str, EmbeddingTable]:
    """Embed every clip by every encoder, reading the audio once.

    Args:
        shards: the set.
        encoders: by name; all of one chunk length.
        config: chunking, and how many chunks an encoder sees at once.
        rows: of the index, ascending; all by default. The table has a row for each.
        alter: waves (N, T) and their chunks' numbers (N,) to what the encoders hear instead.
        progress: told of the clips that are done.

    Raises:
        UserError: if an encoder hears another rate.
        RunError: names the first clip whose embedding is not finite.
    """
    lengths = {encoder.samples for encoder in encoders.values()}
    if len(lengths) != 1:
        raise ValueError(f"encoders embedded together need one chunk length, got {sorted(lengths)}")
    for encoder in encoders.values():
        check_rate(encoder, shards.rate, shards.uri)
    rows = np.arange(len(shards.index)) if rows is None else rows
    spans = [chunk_spans(int(shards.index.frames[row]), min(lengths), config.chunking.min_tail) for row in rows]
    counts_K = np.array([len(of_clip) for of_clip in spans], np.int64)
    ends_K = np.cumsum(counts_K)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    done = 0
    with progress.stage("embedding", len(counts_K)) as bar:
        for group in in_batches(_read_chunks(shards, rows, spans, min(lengths)), config.batch):
            wave_NT = torch.from_numpy(np.stack(group))
            if alter is not None:
                wave_NT = alter(wave_NT, torch.arange(done, done + len(group)))
            for name, encoder in encoders.items():
                parts[name].append(run_encoder(encoder, wave_NT))
            done += len(group)
            bar(int(np.searchsorted(ends_K, done, side="right")), f"{done} chunks")
    keys = tuple(str(key) for key in shards.index.key[rows])
    tables = {}
    for name, encoder in encoders.items():
        chunks_PE = np.concatenate(parts.pop(name))
        tables[name] = make_table(chunks_PE, counts_K, keys, encoder.hash, shards.manifest_hash, config.chunking)
    return tables


def run_encoder(encoder: Encoder, wave_NT: Tensor) -> NDArray[np.float32]:
    """One batch through an encoder, on the encoder's own device, without gradients."""
    with torch.no_grad():
        h_NE = encoder(wave_NT.to(device_of(encoder)))
    if h_NE.shape != (len(wave_NT), encoder.width):
        raise RunError(
            f"the encoder gave {tuple(h_NE.shape)} for {len(wave_NT)} chunks; its width should be {encoder.width}"
        )
    return h_NE.float().cpu().numpy()


def device_of(encoder: Encoder) -> torch.device:
    """Where an encoder's weights are; one that is no module, or has none, is on the CPU."""
    weights = list(encoder.parameters()) if isinstance(encoder, nn.Module) else []
    return weights[0].device if weights else torch.device("cpu")


def make_table(
    chunks_PE: NDArray[np.float32],
    counts_K: NDArray[np.int64],
    keys: tuple[str, ...],
    encoder: str,
    manifest: str,
    chunking: Chunking,
) -> EmbeddingTable:
    """Average the chunks of every clip.

    Raises:
        RunError: names the first clip whose embedding is not finite.
    """
    starts_K = np.cumsum(counts_K) - counts_K
    h_KE = (np.add.reduceat(chunks_PE.astype(np.float64), starts_K, axis=0) / counts_K[:, None]).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(h_KE).all(1))
    if len(bad):
        raise RunError(
            f"the embedding of clip {keys[bad[0]]} is not finite ({len(bad)} of {len(keys)} clips); "
            "the encoder is broken, take an earlier snapshot"
        )
    kept = chunks_PE if chunking.aggregate != "embeddings" else chunks_PE[:0]
    return EmbeddingTable(h_KE, keys, kept, counts_K, encoder, manifest)


def in_batches(items: Iterator[Item], batch: int) -> Iterator[list[Item]]:
    """Lists of ``batch`` items, the last perhaps shorter."""
    while group := list(islice(items, batch)):
        yield group


def _read_chunks(
    shards: ShardSet, rows: NDArray[np.int64], spans: Sequence[Sequence[tuple[int, int]]], samples: int
) -> Iterator[NDArray[np.float32]]:
    for row, of_clip in zip(rows.tolist(), spans, strict=True):
        wave = shards.read_window(row, 0, int(shards.index.frames[row])).astype(np.float32) * np.float32(PCM_SCALE)
        for span in of_clip:
            yield make_chunk(wave, span, samples, alone=len(of_clip) == 1)
