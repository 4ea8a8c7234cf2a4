"""Small sets of shards to be damaged: clips of noise whose samples are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip

RATE = 22_050
MakeSet = Callable[..., Path]


@dataclass(frozen=True)
class NoiseAudio:
    """Noise of one seed; the first sample is the seed, so that audio tells which clip it belongs to."""

    seed: int
    frames: int

    @property
    def name(self) -> str:
        return f"noise {self.seed}"

    def read(self) -> tuple[NDArray[np.float32], int]:
        wave = np.random.default_rng(self.seed).integers(-9000, 9000, self.frames)
        wave[0] = self.seed
        return (wave / 32_768).astype(np.float32), RATE


def make_noise_clips(count: int, frames: int, first: int = 0) -> list[Clip]:
    return [
        Clip(
            key=f"clip-{number:04d}",
            audio=NoiseAudio(number, frames),
            track=f"track-{number}",
            multilabel={"tags": (f"tag{number % 3}",)},
            categorical={"key": f"key{number}"},
            numeric={"bpm": 60.0 + number},
        )
        for number in range(first, first + count)
    ]


@pytest.fixture
def noise_clips() -> Callable[..., list[Clip]]:
    """``noise_clips(count, frames, first=0)``: clips ``clip-0000`` and on, each with a tag, a key and a bpm."""
    return make_noise_clips


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """``make_set("name", count=12, frames=40_000, per_shard=4)`` builds a set and gives its folder."""

    def make(
        name: str = "set",
        *,
        count: int = 8,
        frames: int = 6_000,
        per_shard: int = 4,
        codec: str = "pcm16",
        clips: Sequence[Clip] | None = None,
    ) -> Path:
        chosen = make_noise_clips(count, frames) if clips is None else clips
        config = BuildConfig(clips_per_shard=per_shard, codec="flac" if codec == "flac" else "pcm16", workers=1)
        build(chosen, tmp_path / name, config)
        return tmp_path / name

    return make
