"""Sets of shards and encoders whose answers are known, made in a second."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip, Split
from evaluation.embeddings.embed import EmbeddingTable
from evaluation.targets.target import Target

RATE = 22_050
SAMPLES = 1_000
KEYS = tuple(
    f"{note} {mode}"
    for note in ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
    for mode in ("major", "minor")
)


@dataclass(frozen=True)
class Wave:
    """Audio that is there already."""

    samples: NDArray[np.float32]
    name: str = "memory"

    def read(self) -> tuple[NDArray[np.float32], int]:
        return self.samples, RATE


@dataclass(frozen=True)
class LookupEncoder:
    """Embeds a chunk by the number that its loudest sample holds: clip i has the constant i/1000."""

    vectors: NDArray[np.float32]
    hash: str = "lookup"
    rate: int = RATE
    samples: int = SAMPLES

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        number = (wave_NT.abs().amax(1) * 1000).round().long()
        return torch.from_numpy(self.vectors)[number]


MakeShards = Callable[..., Path]
MakeTarget = Callable[..., Target]
MakeTable = Callable[..., EmbeddingTable]


@pytest.fixture
def lookup() -> type[LookupEncoder]:
    return LookupEncoder


@pytest.fixture
def keys() -> tuple[str, ...]:
    return KEYS


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """Shards of ``count`` clips; clip i sounds like the number i. Tracks have two clips, splits go by track."""

    def make(count: int = 120, *, frames: int = 2_500, split: Mapping[int, Split] | None = None, **labels: Any) -> Path:
        rng = np.random.default_rng(5)
        splits: tuple[Split, ...] = ("train", "train", "train", "valid", "test", "test")
        clips = []
        for i in range(count):
            kept = [f"tag{t}" for t in range(6) if rng.random() < 0.35] or ["tag0"]
            clips.append(
                Clip(
                    key=f"clip{i:04d}",
                    audio=Wave(np.full(frames, i / 1000, np.float32)),
                    track=f"track{i // 2}",
                    artist=f"artist{i // 4}",
                    split=(split or {}).get(i, splits[(i // 2) % 6]),
                    multilabel={"tags": tuple(kept), **labels.get("multilabel", {})},
                    categorical={"key": KEYS[int(rng.integers(24))], **labels.get("categorical", {})},
                    numeric={"bpm": float(rng.uniform(60, 180)), **labels.get("numeric", {})},
                )
            )
        out = tmp_path / f"shards{len(list(tmp_path.iterdir()))}"
        build(clips, out, BuildConfig())
        return out

    return make


@pytest.fixture
def make_target() -> MakeTarget:
    """A target of K clips in three splits; a track a clip, five clips an artist, unless said otherwise."""

    def make(values: NDArray[Any], classes: tuple[str, ...] = (), tracks: list[str] | None = None) -> Target:
        count = len(values)
        place = np.arange(count)
        track_K = np.array(tracks or [f"track{i}" for i in range(count)])
        return Target(
            rows_K=place,
            split_K=np.array(["train", "train", "valid", "test"])[place % 4],
            track_K=track_K,
            artist_K=np.array([f"artist {i // 5}" for i in range(count)]),
            values=values,
            classes=classes,
        )

    return make


@pytest.fixture
def make_table() -> MakeTable:
    """An embedding table from a matrix."""

    def make(h_KE: NDArray[Any], name: str = "table") -> EmbeddingTable:
        rows = np.ascontiguousarray(h_KE, np.float32)
        names = tuple(f"clip{i}" for i in range(len(rows)))
        return EmbeddingTable(rows, names, rows[:0], np.ones(len(rows), np.int64), name, "manifest")

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Kernels this small spend their time on waiting for each other when several threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
