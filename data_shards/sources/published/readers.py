"""Readers of published datasets by folder and variant; each imports the module of its dataset when it is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from data_shards.sources.download import Remote

if TYPE_CHECKING:
    from data_shards.format.records import Listing


def mtat(root: Path, variant: str) -> "Listing":
    """MagnaTagATune."""
    from data_shards.sources.published.mtat import Variant, read_mtat

    return read_mtat(root, variant=cast(Variant, variant))


def fma(root: Path, variant: str) -> "Listing":
    """Free Music Archive."""
    from data_shards.sources.published.fma import read_fma

    return read_fma(root, variant=variant)


def jamendo(root: Path, variant: str) -> "Listing":
    """MTG-Jamendo, split 0."""
    from data_shards.sources.published.jamendo import Subset, read_jamendo, read_jamendo_together
    from data_shards.sources.published.tables import first_below

    splits = first_below(root, "splits/split-0", "data/splits/split-0", "split-0")
    audio = first_below(root, "audio", "audio-low", "raw_30s/audio")
    quality = "low" if next(audio.glob("*/*.low.mp3"), None) else ""
    if variant == "together":
        return read_jamendo_together(audio, splits, quality=quality)
    return read_jamendo(audio, splits, subset=cast(Subset, variant), quality=quality)


def nsynth(root: Path, _: str) -> "Listing":
    """NSynth."""
    from data_shards.sources.published.nsynth import read_nsynth

    return read_nsynth(root)


def gtzan(root: Path, _: str) -> "Listing":
    """GTZAN, fault-filtered."""
    from data_shards.sources.published.gtzan import read_gtzan
    from data_shards.sources.published.tables import first_below

    return read_gtzan(first_below(root, "genres", "genres_original"), root)


def giantsteps_key(root: Path, _: str) -> "Listing":
    """GiantSteps keys."""
    from data_shards.sources.published.giantsteps import read_giantsteps_keys

    return read_giantsteps_keys(root)


def giantsteps_key_audio(root: Path) -> Sequence[Remote]:
    """The audio files that the lists of GiantSteps keys name."""
    from data_shards.sources.published.giantsteps import KEY_NAMES, MTG_NAMES, audio_remotes

    return audio_remotes(root, (MTG_NAMES, KEY_NAMES))


def giantsteps_tempo(root: Path, variant: str) -> "Listing":
    """GiantSteps tempo."""
    from data_shards.sources.published.giantsteps import read_giantsteps_tempo

    return read_giantsteps_tempo(root, variant=variant)


def giantsteps_tempo_audio(root: Path) -> Sequence[Remote]:
    """The audio files that the list of GiantSteps tempo names."""
    from data_shards.sources.published.giantsteps import TEMPO_NAMES, audio_remotes

    return audio_remotes(root, (TEMPO_NAMES,))


def vocalset(root: Path, variant: str) -> "Listing":
    """VocalSet."""
    from data_shards.sources.published.vocalset import read_vocalset

    return read_vocalset(root, variant=variant)


def medleydb(root: Path, _: str) -> "Listing":
    """MedleyDB stems."""
    from data_shards.sources.published.medleydb import read_medleydb

    return read_medleydb(root)


def emomusic(root: Path, _: str) -> "Listing":
    """EmoMusic."""
    from data_shards.sources.published.emomusic import read_emomusic

    return read_emomusic(root)


def musiccaps(root: Path, _: str) -> "Listing":
    """MusicCaps."""
    from data_shards.sources.published.captions import read_musiccaps

    return read_musiccaps(root)


def song_describer(root: Path, variant: str) -> "Listing":
    """Song Describer."""
    from data_shards.sources.published.captions import read_song_describer

    return read_song_describer(root, variant=variant)
