"""A corpus with known labels: composed and rendered tracks with independent key, tempo and tags.

Track number ``index`` of seed ``seed`` is always the same piece, whatever else was rendered before it or beside it.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster.settings import Config
from data_shards.format.records import SAMPLE_RATE, Clip, Split
from data_shards.sources.synthetic.composition import compose
from data_shards.sources.synthetic.synthesis import draw_mix, render
from data_shards.sources.synthetic.traits import Traits, draw_traits


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Config):
    """How many tracks, how long, and how they are split."""

    tracks: int = 400
    """Tracks in all, > 0."""
    seconds: float = 30.0
    """Length of a track, in [3, 600]."""
    valid_share: float = 0.2
    """Share of the tracks for validation; the number of tracks is rounded, then exact."""
    test_share: float = 0.2
    """Share of the tracks for testing; what is left trains."""
    bands: int | None = None
    """Tracks are played by so many bands, > 0: instruments, groove, moods and the desk's settings are a band's own, key
    and tempo every track's. None: every track has a band of its own, and its sound alone identifies it."""
    captions: int = 0
    """Captions a track, ≥ 0, each written by a template from a balanced part of its tags; with them goes one of all its
    tags. Such tracks also have the columns ``tempo`` and ``mode``, in words."""
    wrong_tags: float = 0.0
    """Share of the training tracks' tags that are replaced by others of their kind at random, in [0, 1], before
    captions are written: annotations of a lower quality whose truth is known."""
    seed: int = 0
    """Seed of the corpus, ≥ 0."""

    def __post_init__(self) -> None:
        self.require("> 0", "tracks", "bands")
        self.require("in [3, 600]", "seconds")
        self.require("in [0, 1]", "valid_share", "test_share", "wrong_tags")
        self.require(">= 0", "captions", "seed")
        for name, share in (("valid_share", self.valid_share), ("test_share", self.test_share)):
            if share > 0 and round(share * self.tracks) == 0:
                raise ValueError(f"{name}={share} of {self.tracks} tracks is none; set it to 0 or ask for more tracks")
        if self.valid_share + self.test_share > 1:
            raise ValueError(f"valid_share + test_share must be ≤ 1, got {self.valid_share + self.test_share}")


@dataclass(frozen=True, kw_only=True)
class SyntheticAudio:
    """A track that is rendered when it is read: about 40 ms of work for 30 s of music."""

    seed: int
    index: int
    seconds: float
    band: int | None = None
    """Which band plays; None: one of its own."""

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"synthetic:{self.seed}/{self.index}"

    @property
    def traits(self) -> Traits:
        """The labels; they do not depend on the length."""
        own = draw_traits(self._chance("traits"))
        if self.band is None:
            return own
        return replace(draw_traits(self._band("traits")), tonic=own.tonic, minor=own.minor, bpm=own.bpm)

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Compose and render: (T,) float32 below 1 in magnitude, and the rate in Hz."""
        traits = self.traits
        notes = compose(traits, self.seconds, self._chance("composition"))
        desk = self._chance("mix") if self.band is None else self._band("mix")
        return render(notes, traits, draw_mix(traits, desk), self.seconds), SAMPLE_RATE

    def _chance(self, purpose: str) -> np.random.Generator:
        """A stream of its own for each purpose, so that a change of one never moves another."""
        return np.random.default_rng([*purpose.encode(), self.seed, self.index])

    def _band(self, purpose: str) -> np.random.Generator:
        """What the tracks of a band have in common."""
        return np.random.default_rng([*f"band {purpose}".encode(), self.seed, self.band or 0])


def corpus(config: SyntheticConfig) -> list[Clip]:
    """The clips of a synthetic corpus; audio is rendered when it is read.

    Targets: multilabel ``tags``, categorical ``key`` (``"Eb minor"``), numeric ``bpm``; with captions also multilabel
    ``tempo`` and ``mode``.
    """
    splits = _splits(config)
    clips = []
    for index in range(config.tracks):
        band = None if config.bands is None else _draw_band(config, index)
        audio = SyntheticAudio(seed=config.seed, index=index, seconds=config.seconds, band=band)
        traits = audio.traits
        key = _key(config.seed, index)
        clips.append(
            Clip(
                key=key,
                audio=audio,
                track=key,
                split=splits[index],
                multilabel={"tags": traits.tags},
                categorical={"key": traits.key},
                numeric={"bpm": traits.bpm},
                licence="CC0-1.0",
            )
        )
    if not config.captions and not config.wrong_tags:
        return clips
    from data_shards.sources.synthetic import captions

    if config.captions:
        clips = [captions.with_words(clip) for clip in clips]
    if config.wrong_tags:
        wrong, seed = config.wrong_tags, config.seed
        clips = [c if c.split != "train" else captions.with_wrong_tags(c, wrong, seed=seed) for c in clips]
    return captions.with_captions(clips, config.captions, seed=config.seed) if config.captions else clips


def _key(seed: int, index: int) -> str:
    return f"synthetic-{seed}-{index:06d}"


def _draw_band(config: SyntheticConfig, index: int) -> int:
    """A track's band, by chance, independent of the split."""
    assert config.bands is not None
    return int(np.random.default_rng([*b"band", config.seed, index]).integers(config.bands))


def _splits(config: SyntheticConfig) -> dict[int, Split]:
    """Exact counts, members by stable hash: the lowest hashes test, the next validate, the rest train."""
    test = round(config.test_share * config.tracks)
    valid = round(config.valid_share * config.tracks)
    order = sorted(range(config.tracks), key=lambda i: hashlib.sha256(_key(config.seed, i).encode()).digest())
    return {
        index: "test" if place < test else "valid" if place < test + valid else "train"
        for place, index in enumerate(order)
    }
