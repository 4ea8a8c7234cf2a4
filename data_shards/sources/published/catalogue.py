"""Published datasets by name: variants, files, web page, and the downloads whose address and hash are published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_shards.sources.download import Remote

if TYPE_CHECKING:
    from data_shards.format.records import Listing


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A published dataset; the module that reads it is imported when it is called."""

    title: str
    """One line for lists."""
    needs: str
    """The files below the root."""
    page: str
    """The web page of the files and their terms."""
    reader: str
    """``MODULE.FUNCTION`` of this package that lists the clips below a root, of a variant where there are several."""
    variants: tuple[str, ...] = ("published",)
    """The first is the default."""
    remotes: tuple[Remote, ...] = ()
    """What a download fetches for every variant."""
    remotes_of: Mapping[str, Remote] = field(default_factory=dict)
    """Further files of one variant."""
    names_more: str | None = None
    """``MODULE.FUNCTION`` of this package: further files below a root, which the first ones name with their hashes."""

    def read(self, root: Path, variant: str) -> "Listing":
        """List the clips."""
        listing: Listing = _call(self.reader, root, **({"variant": variant} if len(self.variants) > 1 else {}))
        return listing

    def more(self, root: Path) -> Sequence[Remote]:
        """Further files to download, when the first ones are there."""
        remotes: Sequence[Remote] = _call(self.names_more, root) if self.names_more else ()
        return remotes


def _call(place: str, root: Path, **settings: str) -> Any:
    module, function = place.split(".")
    return getattr(import_module(f"data_shards.sources.published.{module}"), function)(root, **settings)


def _files(address: str, hashes: Mapping[str, str]) -> tuple[Remote, ...]:
    return tuple(Remote(f"{address}/{name}", known, name) for name, known in hashes.items())


_MTAT = "http://mi.soi.city.ac.uk/datasets/magnatagatune"
_FMA = "https://os.unil.cloud.switch.ch/fma"
_GTZAN_LISTS = "https://raw.githubusercontent.com/coreyker/dnn-mgr/bdad579ea6cb37b665ea6019fe1026a6ce20cbc7/gtzan"
_GIANTSTEPS = "https://github.com/GiantSteps"
_EMOMUSIC = "http://cvml.unige.ch/databases/emoMusic"

DATASETS: dict[str, Dataset] = {
    "mtat": Dataset(
        title="MagnaTagATune: 25,863 clips of 29 s with 188 tags",
        needs="mp3.zip.001 to 003 (or the folders 0…f), annotations_final.csv, clip_info_final.csv",
        page="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
        reader="mtat.read_mtat",
        variants=("top50", "top50_whole", "all188", "all"),
        remotes=_files(  # SHA-256: p-lambda/jukemir, assets
            _MTAT,
            {
                "annotations_final.csv": "sha256:99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c",
                "clip_info_final.csv": "sha256:cb6108a10d3a91f0bfd7d2fbec2382559d15f20c8d28093f14e12162a47a3e78",
                "mp3.zip.001": "sha256:f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9",
                "mp3.zip.002": "sha256:fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce",
                "mp3.zip.003": "sha256:83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f",
            },
        ),
    ),
    "fma": Dataset(
        title="Free Music Archive: 8,000 to 106,574 tracks with 163 genres",
        needs="fma_SIZE and fma_metadata, each a zip or a folder",
        page="https://github.com/mdeff/fma",
        reader="fma.read_fma",
        variants=("medium", "small", "large", "full"),
        remotes=(  # SHA-1: mdeff/fma, README; it publishes no other
            Remote(f"{_FMA}/fma_metadata.zip", "sha1:f0df49ffe5f2a6008d7dc83c6915b31835dfe733", "fma_metadata.zip"),
        ),
        remotes_of={
            size: Remote(f"{_FMA}/fma_{size}.zip", f"sha1:{sha1}", f"fma_{size}.zip")
            for size, sha1 in {
                "small": "ade154f733639d52e35e32f5593efe5be76c6d70",
                "medium": "c67b69ea232021025fca9231fc1c7c1a063ab50b",
                "large": "497109f4dd721066b5ce5e5f250ec604dc78939e",
                "full": "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab",
            }.items()
        },
    ),
    "jamendo": Dataset(
        title="MTG-Jamendo, split-0: 55,525 tracks with 50 to 87 tags",
        needs="splits/split-0 of the repository, and audio (41/241.mp3, or 41/241.low.mp3)",
        page="https://github.com/MTG/mtg-jamendo-dataset",
        reader="jamendo.read_jamendo_below",
        variants=("top50tags", "genre", "instrument", "moodtheme", "together"),
    ),
    "nsynth": Dataset(
        title="NSynth: 305,979 notes with pitch and instrument family",
        needs="nsynth-train, nsynth-valid and nsynth-test, unpacked from their .jsonwav.tar.gz",
        page="https://magenta.tensorflow.org/datasets/nsynth",
        reader="nsynth.read_nsynth",
    ),
    "gtzan": Dataset(
        title="GTZAN, fault-filtered: 930 clips of 10 genres",
        needs="genres, and train_filtered.txt, valid_filtered.txt, test_filtered.txt",
        page="https://github.com/coreyker/dnn-mgr",
        reader="gtzan.read_gtzan_below",
        remotes=(  # SHA-256: p-lambda/jukemir, assets
            *_files(
                _GTZAN_LISTS,
                {
                    "train_filtered.txt": "sha256:2b04966cef1486f1a7767b74271533fa23e220388db804a1937835e1fc4fa3fa",
                    "valid_filtered.txt": "sha256:f8fbee7c52397a0e0f3a91dc54fedecb2e27f5bdc9a9daeab8cb10d077e26956",
                    "test_filtered.txt": "sha256:09cafa6a89ce0a27f30ed250d56ecb4d03c22fffb5a693f96c7ae655ee02ac72",
                },
            ),
            Remote(
                "http://opihi.cs.uvic.ca/sound/genres.tar.gz",
                "sha256:24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6",
                "genres.tar.gz",
                unpacks_to="genres",
            ),
        ),
    ),
    "giantsteps-key": Dataset(
        title="GiantSteps keys: trained on MTG's, tested on the original 604",
        needs="giantsteps-key-dataset and giantsteps-mtg-key-dataset (folders or zips), and audio",
        page=f"{_GIANTSTEPS}/giantsteps-mtg-key-dataset",
        reader="giantsteps.read_giantsteps_keys",
        remotes=(  # SHA-256: p-lambda/jukemir, assets
            Remote(
                f"{_GIANTSTEPS}/giantsteps-mtg-key-dataset/archive/fd7b8c584f7bd6d720d170c325a6d42c9bf75a6b.zip",
                "sha256:c754c3fabbc0bf275d399028e212fa2c9c6680084bd003e3a283ae7b3ea22996",
                "giantsteps-mtg-key-dataset.zip",
            ),
            Remote(
                f"{_GIANTSTEPS}/giantsteps-key-dataset/archive/c8cb8aad2cb53f165be51ea099d0dc75c64a844f.zip",
                "sha256:7749bee0f919b0f53db2c540fa6707f322b82a5d140e453f10f9af7875ad5bb8",
                "giantsteps-key-dataset.zip",
            ),
        ),
        names_more="giantsteps.key_audio",
    ),
    "giantsteps-tempo": Dataset(
        title="GiantSteps tempo: 664 tracks for testing",
        needs="giantsteps-tempo-dataset (folder or zip), and audio",
        page=f"{_GIANTSTEPS}/giantsteps-tempo-dataset",
        reader="giantsteps.read_giantsteps_tempo",
        variants=("v2", "v1"),
        remotes=(  # MD5: mirdata; no better one is published
            Remote(
                f"{_GIANTSTEPS}/giantsteps-tempo-dataset/archive/0b7d47ba8cae59d3535a02e3db69e2cf6d0af5bb.zip",
                "md5:8fdafbaf505fe3f293bd912c92b72ac8",
                "giantsteps-tempo-dataset.zip",
            ),
        ),
        names_more="giantsteps.tempo_audio",
    ),
    "vocalset": Dataset(
        title="VocalSet: 20 singers, 17 techniques",
        needs="VocalSet1-2.zip, or FULL unpacked from it",
        page="https://zenodo.org/records/1442513",
        reader="vocalset.read_vocalset",
        variants=("technique", "singer"),
    ),
    "medleydb": Dataset(
        title="MedleyDB: stems of 20 instruments",
        needs="Audio, and Metadata of the repository marl/medleydb",
        page="https://medleydb.weebly.com",
        reader="medleydb.read_medleydb",
    ),
    "emomusic": Dataset(
        title="EmoMusic: 744 clips of 45 s with arousal and valence",
        needs="clips_45seconds, songs_info.csv, static_annotations.csv",
        page="https://cvml.unige.ch/databases/emoMusic",
        reader="emomusic.read_emomusic",
        remotes=(  # SHA-256: p-lambda/jukemir, assets
            Remote(
                f"{_EMOMUSIC}/annotations.tar.gz",
                "sha256:e0cb0b06e1b0ce7f04b1572fc410937699b7fad9dae67ddaa745f06cda4b0b33",
                "annotations.tar.gz",
                unpacks_to="songs_info.csv",
            ),
            Remote(
                f"{_EMOMUSIC}/clips_45sec.tar.gz",
                "sha256:3994a5d5fefc27f9540d1a69cd7f1294c68e6cb311ce49765021e2e9c7a1057b",
                "clips_45sec.tar.gz",
                unpacks_to="clips_45seconds",
            ),
        ),
    ),
    "musiccaps": Dataset(
        title="MusicCaps: captions and aspects of 5,521 clips of 10 s",
        needs="musiccaps-public.csv, and audio (YTID.*), which is not published",
        page="https://www.kaggle.com/datasets/googleai/musiccaps",
        reader="captions.read_musiccaps",
    ),
    "songdescriber": Dataset(
        title="Song Describer: captions of 706 tracks, for testing",
        needs="song_describer.csv, and audio or audio.zip",
        page="https://zenodo.org/records/10072001",
        reader="captions.read_song_describer",
        variants=("valid", "full"),
    ),
}
