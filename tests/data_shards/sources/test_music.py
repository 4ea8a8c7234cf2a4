"""FMA, MagnaTagATune, GiantSteps and EmoMusic: trees of the published form made here, and the real lists."""

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Listing
from data_shards.inspect.verify import verify
from data_shards.sources.published import emomusic, fma, giantsteps
from data_shards.sources.published.emomusic import read_emomusic
from data_shards.sources.published.fma import BAD_TRACKS, left_of_cut_s, read_fma
from data_shards.sources.published.giantsteps import (
    flat_key,
    read_giantsteps_keys,
    read_giantsteps_tempo,
    split_by_artist,
)
from data_shards.sources.published.mtat import PUBLISHED as MTAT_COUNTS
from data_shards.sources.published.mtat import read_mtat
from data_shards.sources.published.tables import split_counts


def mp3(name: str) -> bytes:
    buffer = io.BytesIO()
    wave = np.random.default_rng(list(name.encode())).standard_normal(8_000) / 10
    soundfile.write(buffer, wave, 16_000, format="MP3")
    return buffer.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_table(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def zip_folder(folder: Path) -> None:
    """``NAME/…`` to ``NAME.zip`` with the folder in it, as published."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
                path.unlink()
    folder.rename(folder.with_name(f".empty-{folder.name}"))


def build_listing(listing: Listing, out: Path) -> None:
    build(listing, out, BuildConfig(workers=1))
    assert verify(out) == []


# --- FMA ---


@pytest.mark.parametrize(
    ("size", "tracks"),
    [
        ("small", [140, 108924]),
        ("medium", [2, 140, 108924, 155320]),
        ("large", [2, 5, 140, 108924, 155320]),
        ("full", [2, 5, 140, 1486, 108924, 155320]),
    ],
)
def test_each_size_of_fma_holds_the_smaller_ones_but_for_bad_clips(
    fma_root: Path, size: str, tracks: list[int]
) -> None:
    listing = read_fma(fma_root, variant=size)
    assert [clip.key for clip in listing.clips] == [f"fma-{track:06d}" for track in tracks]
    assert "published 8,000" in read_fma(fma_root, variant="small").notes[0]
    assert any("1486" in note for note in listing.notes) == (size != "full")  # whole tracks are only shorter


def test_an_fma_track_has_its_targets(fma_root: Path) -> None:
    listing = read_fma(fma_root, variant="large")
    clip = listing.clips[1]
    assert (clip.track, clip.artist, clip.split, clip.licence) == ("000005", "1", "train", "CC BY")
    assert clip.multilabel == {"genres": ("Hip-Hop", "Pop")}
    assert clip.categorical == {"genre": None}
    assert listing.vocabularies == {"genres": ("Pop", "Folk", "Hip-Hop")}
    assert [clip.split for clip in listing.clips] == ["train", "train", "valid", "test", "test"]


def test_fmas_zips_in_place_give_the_shards_of_its_folders(fma_root: Path, tmp_path: Path) -> None:
    build_listing(read_fma(fma_root), tmp_path / "folders")
    zip_folder(fma_root / "fma_medium")
    zip_folder(fma_root / "fma_metadata")
    listing = read_fma(fma_root)
    assert "fma_medium.zip/fma_medium/000/000002.mp3" in listing.clips[0].audio.name
    build_listing(listing, tmp_path / "zips")
    shards = [(tmp_path / folder / "shard-00000.tar").read_bytes() for folder in ("folders", "zips")]
    assert shards[0] == shards[1]
    assert read_index(tmp_path / "zips").vocabularies == {"genres": ("Pop", "Folk", "Hip-Hop")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("training,medium", "training,tiny", r"track 2, column set/subset: 'tiny'; known are small, medium, large"),
        ("validation", "valid", r"track 140, column set/split: 'valid'; known are training, validation, test"),
        ("[17]", "[18]", r"track 140, column track/genres_all: '\[18\]' is not a list of ids of genres.csv"),
        (",set,set,", ",set,get,", r"tracks\.csv: no column set/subset in its two header rows"),
        ("\n140,", "\nx,", r"track_id 'x' is not a number"),
    ],
)
def test_a_bad_cell_of_fma_is_named(fma_root: Path, old: str, new: str, message: str) -> None:
    table = fma_root / "fma_metadata/tracks.csv"
    table.write_text(table.read_text().replace("\r\n", "\n").replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_fma(fma_root)


def test_fmas_bad_tracks_are_those_of_the_real_list(metadata: Path) -> None:
    with (metadata / "fma/known_bad_tracks.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {int(row["track_id"]): (float(row["api_seconds"]), float(row["real_seconds"])) for row in rows} == BAD_TRACKS
    empty = {int(row["track_id"]) for row in rows if "no audio at all" in row["note"]}
    assert len(empty) == 3
    assert all(left_of_cut_s(*BAD_TRACKS[track]) == 0 for track in empty)
    kept = [track for track in BAD_TRACKS if left_of_cut_s(*BAD_TRACKS[track]) >= fma.SHORTEST_S]
    assert kept == [98566, 98568, 108924]


def test_fmas_real_genres_are_read(metadata: Path, fma_root: Path) -> None:
    (fma_root / "fma_metadata/genres.csv").write_bytes((metadata / "fma/genres.csv").read_bytes())
    assert len(set(read_fma(fma_root).vocabularies["genres"])) == 163


# --- MagnaTagATune ---


@pytest.fixture(scope="module")
def mtat_root(metadata: Path, published_lists: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two tables in their published form, made of the real records; no audio."""
    root = tmp_path_factory.mktemp("mtat")
    published_lists.mtat_tree(root, metadata)
    return root


@pytest.fixture(scope="module")
def mtat_top50(metadata: Path, published_lists: ModuleType) -> set[str]:
    """The tags of jukemir's records."""
    records = published_lists.read_json(metadata / "jukemir/magnatagatune.json.gz").values()
    return {tag for record in records for tag in record["y"] or ()}


@pytest.mark.parametrize("variant", ["top50", "top50_whole", "all188"])
def test_mtats_real_records_have_the_published_counts(mtat_root: Path, mtat_top50: set[str], variant: Any) -> None:
    listing = read_mtat(mtat_root, variant=variant)
    assert split_counts(listing.clips) == MTAT_COUNTS[variant]
    assert len(listing.notes) == 1
    assert "artists are in train and in test" in listing.notes[0]
    assert set(listing.vocabularies["top50" if variant == "all188" else "tags"]) == mtat_top50
    if variant == "all188":
        assert len(listing.vocabularies["tags"]) == 188
        with_top50 = [clip for clip in listing.clips if clip.multilabel["top50"]]
        assert split_counts(with_top50) == MTAT_COUNTS["top50"]


def test_a_table_without_its_columns_is_not_the_published_one(tmp_path: Path) -> None:
    write_table(tmp_path / "annotations_final.csv", [["clip_id", "guitar"], ["1", "1"]])
    with pytest.raises(UserError, match=r"annotations_final\.csv, row 1: no column mp3_path; is this the published"):
        read_mtat(tmp_path)


def test_mtats_three_part_zip_is_read_in_place(tmp_path: Path) -> None:
    paths = [f"{folder}/artist-song-{number}.mp3" for folder in "0cd" for number in (1, 2)]
    write_table(
        tmp_path / "annotations_final.csv",
        [["clip_id", "guitar", "mp3_path"], *([str(number), "1", path] for number, path in enumerate(paths))],
    )
    write_table(tmp_path / "clip_info_final.csv", [["clip_id", "title", "artist"], ["0", "song", "artist"]])
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for path in paths:
            archive.writestr(path, mp3(path))
    step = len(whole.getvalue()) // 3 + 1
    for number in range(3):
        write(tmp_path / f"mp3.zip.{number + 1:03d}", whole.getvalue()[number * step : (number + 1) * step])
    build_listing(read_mtat(tmp_path), tmp_path / "set")
    assert read_index(tmp_path / "set").manifest["splits"] == {"train": 2, "valid": 2, "test": 2}


# --- GiantSteps ---


def test_giantsteps_real_keys_are_split_as_published(
    metadata: Path, published_lists: ModuleType, tmp_path: Path
) -> None:
    published_lists.giantsteps_tree(tmp_path, metadata)
    listing = read_giantsteps_keys(tmp_path)
    truth = {
        str(record["extra"]["id"]): (record["split"], record["y"])
        for record in published_lists.read_json(metadata / "jukemir/giantsteps_clips.json.gz").values()
    }
    assert {clip.track: (clip.split, clip.categorical["key"]) for clip in listing.clips} == truth
    counts = split_counts(listing.clips)
    assert (counts["train"] + counts["valid"], counts["test"]) == (1_159, 604)
    assert "train 923 (published 961), valid 236 (published 198)" in listing.notes[0]
    assert "961 and 198 was never published" in listing.notes[1]
    assert len({clip.categorical["key"] for clip in listing.clips}) == 24


def test_giantsteps_audio_is_fetched_from_where_it_was_published(
    metadata: Path, published_lists: ModuleType, tmp_path: Path
) -> None:
    published_lists.giantsteps_tree(tmp_path, metadata)
    known = json.loads((metadata / "checksums/giantsteps.json").read_text())
    remotes = list(giantsteps._audio_of(tmp_path, giantsteps.KEY_NAMES))
    assert len(remotes) == 604
    for remote in remotes:
        entry = known[f"GIANTSTEPS_KEY_{Path(remote.name).name.removesuffix('.LOFI.mp3')}"]
        assert (remote.url, remote.hash) == (entry["url"], f"md5:{entry['checksum']}")


def test_giantsteps_real_tempi_are_read(metadata: Path, published_lists: ModuleType, tmp_path: Path) -> None:
    published_lists.giantsteps_tree(tmp_path, metadata)
    listing = read_giantsteps_tempo(tmp_path)
    assert split_counts(listing.clips) == giantsteps.PUBLISHED_TEMPI
    unknown = {clip.track for clip in listing.clips if math.isnan(clip.numeric["bpm"])}
    assert unknown == {"3041381", "3041383", "1327052"}
    assert len(listing.notes) == 1
    assert not any(math.isnan(clip.numeric["bpm"]) for clip in read_giantsteps_tempo(tmp_path, variant="v1").clips)


def test_whoever_worked_with_a_validation_artist_is_validation() -> None:
    names = [f"artist {number}" for number in range(200)]
    alone = split_by_artist([(name,) for name in names])
    valid = [name for name in names if alone[name] == "valid"]
    train = [name for name in names if alone[name] == "train"]
    assert 0.05 < len(valid) / len(names) < 0.25
    together = split_by_artist([(valid[0], train[0]), (train[0], train[1]), (train[2],)])
    assert [together[name] for name in (train[0], train[1], train[2])] == ["valid", "valid", "train"]


def test_a_giantsteps_tree_is_built_from_zips(tmp_path: Path) -> None:
    for repository, folder in (("key", "annotations/key"), ("tempo", "annotations_v2/tempo")):
        suffix, value = ("key", "D major") if repository == "key" else ("bpm", "128.5")
        write(tmp_path / f"giantsteps-{repository}-dataset/{folder}/10.LOFI.{suffix}", value)
        zip_folder(tmp_path / f"giantsteps-{repository}-dataset")
    mtg = tmp_path / "giantsteps-mtg-key-dataset/annotations"
    rows = [
        ["ID", "MANUAL KEY", "C"],
        ["21", "D# minor", "2"],
        ["22", "A major / E minor", "2"],
        ["23", "A major", "1"],
    ]
    write_table(mtg / "annotations.txt", rows)
    write_table(
        mtg / "beatport_metadata.txt", [["ID", "ARTIST"], *([track, "Ann, Bob"] for track in ("21", "22", "23"))]
    )
    for track in ("10", "21"):
        write(tmp_path / f"audio/{track}.LOFI.mp3", mp3(track))
    listing = read_giantsteps_keys(tmp_path)
    assert [(clip.track, clip.artist, clip.categorical["key"]) for clip in listing.clips] == [
        ("21", "Ann, Bob", "Eb minor"),
        ("10", None, "D major"),
    ]
    build_listing(listing, tmp_path / "keys")
    build_listing(read_giantsteps_tempo(tmp_path), tmp_path / "tempi")
    assert read_index(tmp_path / "tempi").target("bpm").tolist() == [128.5]
    write_table(mtg / "annotations.txt", [rows[0], ["21", "H minor", "2"]])
    with pytest.raises(UserError, match=r"annotations\.txt, row 2, column MANUAL KEY: 'H minor' is not a key"):
        read_giantsteps_keys(tmp_path)


def test_every_spelling_of_a_key_is_one_of_24() -> None:
    tonics = ("C", "C#", "Db", "D", "D#", "Eb", "E", "F", "F#", "Gb", "G", "G#", "Ab", "A", "A#", "Bb", "B")
    assert len({flat_key(f"{tonic} {mode}") for tonic in tonics for mode in ("major", "minor")}) == 24
    assert flat_key("H minor") is None


# --- EmoMusic ---

SONGS = ["song_id", "Artist", "Song title", "Mediaeval 2013 set"]


def test_emomusics_real_records_are_split_as_published(
    metadata: Path, published_lists: ModuleType, tmp_path: Path
) -> None:
    records = published_lists.read_json(metadata / "jukemir/emomusic.json.gz")
    published_lists.emomusic_tree(tmp_path, metadata)
    listing = read_emomusic(tmp_path)
    assert listing.notes == ()
    assert split_counts(listing.clips) == emomusic.PUBLISHED
    assert {int(clip.track): clip.split for clip in listing.clips} == {int(k): r["split"] for k, r in records.items()}
    arousal = np.array([clip.numeric["arousal"] for clip in listing.clips])
    train = np.array([clip.split != "test" for clip in listing.clips])
    scaled = (arousal - arousal[train].mean()) / arousal[train].std()
    np.testing.assert_allclose(scaled, [record["y"][0] for record in records.values()], atol=1e-12)


def test_an_emomusic_tree_is_built_and_a_bad_cell_named(tmp_path: Path) -> None:
    songs = [SONGS, ["2", " Ann\t", "Song", "development"], ["3", "Bob", "", "evaluation"]]
    write_table(tmp_path / "annotations/songs_info.csv", songs, ",")
    static = tmp_path / "annotations/static_annotations.csv"
    write_table(static, [["song_id", "mean_arousal", "mean_valence"], ["2", "3.1", "3.0"], ["3", "3.5", "3.3"]], ",")
    for song in ("2", "3"):
        write(tmp_path / f"clips_45seconds/{song}.mp3", mp3(song))
    listing = read_emomusic(tmp_path)
    assert [(clip.artist, clip.split == "test") for clip in listing.clips] == [("Ann", False), ("Bob", True)]
    build_listing(listing, tmp_path / "set")
    assert read_index(tmp_path / "set").target("valence").tolist() == [3.0, 3.3]
    write_table(static, [["song_id", "mean_arousal", "mean_valence"], ["2", "3.1", "high"], ["3", "3.5", "3.3"]], ",")
    with pytest.raises(UserError, match=r"static_annotations\.csv, row 2, column mean_valence: 'high' is not a number"):
        read_emomusic(tmp_path)
