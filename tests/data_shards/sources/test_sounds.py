"""VocalSet, MedleyDB, captions, Jamendo together, Parquet labels: trees of the published form, and the real lists."""

import csv
import io
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import yaml

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Listing
from data_shards.inspect.verify import verify
from data_shards.sources.folder import read_folder
from data_shards.sources.published import medleydb, vocalset
from data_shards.sources.published.captions import read_musiccaps, read_song_describer
from data_shards.sources.published.jamendo import PUBLISHED as JAMENDO_COUNTS
from data_shards.sources.published.jamendo import read_jamendo_together
from data_shards.sources.published.medleydb import read_medleydb
from data_shards.sources.published.tables import split_by_group, split_counts
from data_shards.sources.published.vocalset import TECHNIQUES, TEST_SINGERS, read_vocalset


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(list(path.name.encode())).standard_normal(4_000) / 10
    soundfile.write(path, wave, 16_000, format=path.suffix[1:].upper())


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def build_listing(listing: Listing, out: Path) -> None:
    build(listing, out, BuildConfig(workers=1))
    assert verify(out) == []


def test_groups_stay_whole_and_shares_are_reached() -> None:
    groups = [f"artist {number % 97}" for number in range(1_000)]
    splits = split_by_group(groups, valid=0.1, test=0.2)
    assert len({(group, split) for group, split in zip(groups, splits, strict=True)}) == 97
    assert 200 <= splits.count("test") <= 211
    assert 100 <= splits.count("valid") <= 111
    order = np.random.default_rng(0).permutation(1_000)
    again = split_by_group([groups[i] for i in order], valid=0.1, test=0.2)
    assert again == [splits[i] for i in order]


# --- VocalSet ---

SINGERS = [f"female{number}" for number in range(1, 10)] + [f"male{number}" for number in range(1, 12)]


def vocalset_paths(vowels: str) -> list[str]:
    """The published form: singer, exercise, technique, file."""
    return [
        f"FULL/{singer}/{exercise}/{technique}/{singer[0]}{singer.lstrip('femal')}_{exercise}_{technique}_{vowel}.wav"
        for singer in SINGERS
        for exercise, techniques in (("arpeggios", TECHNIQUES[:9]), ("scales", TECHNIQUES[9:]), ("excerpts", ["row"]))
        for technique in techniques
        for vowel in vowels
    ]


def test_vocalsets_two_tasks_have_their_two_splits(tmp_path: Path) -> None:
    paths = vocalset_paths("aeiou")
    with zipfile.ZipFile(tmp_path / "VocalSet1-2.zip", "w") as archive:
        for path in (*paths, "FULL/female1/.DS_Store", "__MACOSX/FULL/female1/scales/trill/._f1.wav", "readme.txt"):
            archive.writestr(path, b"")
    singer, technique = (read_vocalset(tmp_path, variant=variant) for variant in ("singer", "technique"))
    assert len(singer.clips) == len(paths) == 20 * 18 * 5
    assert {clip.categorical["singer"] for clip in singer.clips} == set(SINGERS)
    for split, published in vocalset.PUBLISHED["singer"].items():
        share = split_counts(singer.clips)[split] / len(singer.clips)
        assert share == pytest.approx(published / 3_610, abs=1e-3)
    assert len(technique.clips) == 20 * 17 * 5
    assert {clip.categorical["technique"] for clip in technique.clips} == set(TECHNIQUES)
    assert {clip.artist for clip in technique.clips if clip.split == "test"} == set(TEST_SINGERS)
    counts = split_counts(technique.clips)
    assert counts["test"] == 5 * 17 * 5
    assert counts["valid"] / (counts["train"] + counts["valid"]) == pytest.approx(403 / 2_685, abs=1e-3)
    assert "into train and valid was never published" in technique.notes[-2]
    assert "100 recordings of other techniques are left out: row" in technique.notes[-1]
    assert len({clip.key for clip in singer.clips}) == len(paths)


def test_a_vocalset_tree_is_built_and_an_empty_one_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings of the form"):
        read_vocalset(tmp_path)
    for path in vocalset_paths("a")[::40]:
        sound(tmp_path / path)
    build_listing(read_vocalset(tmp_path, variant="singer"), tmp_path / "set")
    assert set(read_index(tmp_path / "set").classes) == {"singer"}


# --- MedleyDB ---


def add_recording(root: Path, name: str, artist: str, instruments: list[Any], **fields: Any) -> None:
    """The metadata as published, and its stems unless ``audio=False``."""
    stems = {}
    for number, instrument in enumerate(instruments, start=1):
        file = f"{name}_STEM_{number:02d}.wav"
        raw = {"R01": {"filename": f"{name}_RAW_{number:02d}_01.wav", "instrument": instrument}}
        stems[f"S{number:02d}"] = {"component": "", "filename": file, "instrument": instrument, "raw": raw}
        if fields.get("audio", True):
            sound(root / f"Audio/{name}/{name}_STEMS/{file}")
    tree = {"artist": artist, "has_bleed": fields.get("bleed", "no"), "stem_dir": f"{name}_STEMS", "stems": stems}
    (root / "Metadata").mkdir(parents=True, exist_ok=True)
    (root / f"Metadata/{name}_METADATA.yaml").write_text(yaml.safe_dump(tree))


def test_medleydbs_stems_of_one_instrument_are_its_clips(tmp_path: Path) -> None:
    add_recording(tmp_path, "Ann_Song", "Ann", ["piano", "drum set", ["piano", "violin"], "Main System", ["cello"]])
    add_recording(tmp_path, "Bob_Song", "Bob", ["piano", "drum set"], bleed="yes")
    add_recording(tmp_path, "Cid_Song", "Cid", ["piano"], audio=False)
    add_recording(tmp_path, "Dot_Song", "Dot", ["drum set", "fx/processed sound"], bleed=False)
    listing = read_medleydb(tmp_path)
    found = [(clip.track, clip.artist, clip.categorical["instrument"]) for clip in listing.clips]
    assert found == [
        ("Ann_Song", "Ann", "piano"),
        ("Ann_Song", "Ann", "drum set"),
        ("Ann_Song", "Ann", "cello"),
        ("Dot_Song", "Dot", "drum set"),
    ]
    assert "published 659" in listing.notes[0]
    assert "its split were never published" in listing.notes[1]
    assert listing.notes[-1] == "MedleyDB: 1 of 4 recordings have metadata and no audio here"
    build_listing(listing, tmp_path / "set")


def test_medleydb_takes_the_most_frequent_instruments_and_splits_by_artist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medleydb, "NUM_INSTRUMENTS", 2)
    for number in range(40):
        instruments = ["piano", "drum set", *(["cello"] if number < 3 else [])]
        add_recording(tmp_path, f"R{number}", f"Artist {number % 20}", instruments, audio=number == 0)
        (tmp_path / f"Audio/R{number}").mkdir(exist_ok=True)
    clips = read_medleydb(tmp_path).clips
    assert {clip.categorical["instrument"] for clip in clips} == {"piano", "drum set"}
    assert len({(clip.artist, clip.split) for clip in clips}) == 20
    assert split_counts(clips) == {"train": 56, "valid": 12, "test": 12}


def test_a_bad_file_of_medleydb_is_named(tmp_path: Path) -> None:
    add_recording(tmp_path, "Ann_Song", "Ann", ["piano"])
    (tmp_path / "Metadata/Ann_Song_METADATA.yaml").write_text("artist: Ann\nhas_bleed: 'no'\n")
    with pytest.raises(UserError, match=r"Ann_Song_METADATA\.yaml: not of the published form: KeyError: 'stems'"):
        read_medleydb(tmp_path)
    (tmp_path / "Metadata/Ann_Song_METADATA.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not of the published form"):
        read_medleydb(tmp_path)


# --- Captions ---


def test_musiccaps_real_table_is_read_and_missing_audio_is_reported(metadata: Path, tmp_path: Path) -> None:
    shutil.copy(metadata / "musiccaps/musiccaps-public.csv", tmp_path)
    for name in ("-0Gj8-vB1q4.wav", "[-0SdAVK79lg]-[30-40].mp3", "unrelated.wav"):
        sound(tmp_path / "audio" / name)
    listing = read_musiccaps(tmp_path)
    assert listing.notes == ("MusicCaps: 5,519 of 5,521 clips have no audio here",)
    first, second = listing.clips
    assert (first.track, first.split, second.split) == ("-0Gj8-vB1q4", "test", "train")
    assert first.captions[0].startswith("The low quality recording features a ballad song")
    assert "soulful" in first.multilabel["aspects"]
    build_listing(listing, tmp_path / "set")
    index = read_index(tmp_path / "set")
    assert index.captions == (first.captions, second.captions)
    assert list(index.vocabularies) == ["aspects"]
    for file in (metadata / "musiccaps/musiccaps-public.csv").read_text().splitlines()[1:]:
        (tmp_path / "audio" / f"{file[:11]}.wav").touch()  # every other row parses too
    assert len(read_musiccaps(tmp_path).clips) == 5_521


SONG_DESCRIBER = [
    "caption_id",
    "track_id",
    "caption",
    "is_valid_subset",
    "familiarity",
    "artist_id",
    "album_id",
    "path",
]


def test_a_track_of_the_song_describer_has_all_its_captions(tmp_path: Path) -> None:
    rows = [
        ["0", "1", "Calm, with a piano.", "True", "0", "7", "8", "59/1.mp3"],
        ["1", "1", 'Quiet; "a film score"\nof two lines', "True", "0", "7", "8", "59/1.mp3"],
        ["2", "2", "good", "False", "0", "7", "8", "60/2.mp3"],
    ]
    write_table(tmp_path / "song_describer.csv", [SONG_DESCRIBER, *rows])
    for path in ("59/1.2min.mp3", "60/2.2min.mp3"):
        sound(tmp_path / "audio" / path)
    valid, full = (read_song_describer(tmp_path, variant=variant) for variant in ("valid", "full"))
    assert [clip.track for clip in valid.clips] == ["1"]
    assert [clip.track for clip in full.clips] == ["1", "2"]
    assert valid.clips[0].captions == ("Calm, with a piano.", 'Quiet; "a film score"\nof two lines')
    assert valid.notes == (
        "Song Describer valid: the counts are not the published ones: clips 1 (published 546), "
        "captions 2 (published 746)",
    )
    build_listing(full, tmp_path / "set")
    index = read_index(tmp_path / "set")
    assert index.captions == (("Calm, with a piano.", 'Quiet; "a film score"\nof two lines'), ("good",))


def test_a_bad_row_of_captions_is_named(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    sound(tmp_path / "audio/x.wav")
    header = ["ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"]
    write_table(tmp_path / "musiccaps.csv", [header, ["x", "0", "10", "__import__('os')", "a", "True"]])
    with pytest.raises(UserError, match=r"musiccaps\.csv, row 2, column aspect_list: .* is not a list"):
        read_musiccaps(tmp_path)
    write_table(tmp_path / "musiccaps.csv", [header, ["x", "0", "10", "['a']", " ", "True"]])
    with pytest.raises(UserError, match=r"musiccaps\.csv, row 2, column caption: is empty"):
        read_musiccaps(tmp_path)


# --- MTG-Jamendo ---


def test_jamendos_real_lists_go_together(metadata: Path) -> None:
    listing = read_jamendo_together(Path("audio"), metadata / "mtg-jamendo/splits/split-0")
    assert listing.notes == ()
    assert len(listing.clips) == 55_525
    for subset, column in (("genre", "genre"), ("moodtheme", "moodtheme"), ("top50tags", "top50")):
        labelled = [clip for clip in listing.clips if clip.multilabel[column]]
        assert split_counts(labelled) == JAMENDO_COUNTS[subset]  # type: ignore[index]  # a Literal from a tuple


# --- Parquet labels ---


def test_parquet_labels_are_the_csv_labels(tmp_path: Path) -> None:
    columns = {
        "path": ["a.wav", "b.wav"],
        "split": ["train", "val"],
        "track_id": [1, 2],
        "moods": [["calm", "dark"], []],
        "bpm": [120.5, None],
        "key": ["C minor", None],
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    text = "path,split,track_id,moods,bpm,key\na.wav,train,1,calm|dark,120.5,C minor\nb.wav,val,2,,,\n"
    (tmp_path / "labels.csv").write_text(text)
    ours, theirs = (read_folder(tmp_path, tmp_path / f"labels.{form}") for form in ("parquet", "csv"))
    assert ours.kinds == theirs.kinds == {"moods": "multilabel", "bpm": "numeric", "key": "categorical"}
    assert repr(ours.clips) == repr(theirs.clips)  # NaN is not NaN


def test_a_column_of_lists_is_a_set_of_tags_even_of_one(tmp_path: Path) -> None:
    table = pa.table({"path": ["a.wav"], "split": ["train"], "track_id": ["t"], "moods": [["calm"]]})
    pa.parquet.write_table(table, tmp_path / "labels.parquet")
    assert read_folder(tmp_path, tmp_path / "labels.parquet").clips[0].multilabel == {"moods": ("calm",)}
    with pytest.raises(
        UserError, match="column moods holds lists; give it as --multilabel or --captions, not as --categorical"
    ):
        read_folder(tmp_path, tmp_path / "labels.parquet", categorical=["moods"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["train"], "track_id": ["t"]}, "row 1: no column path"),
        ({"path": [None], "split": ["train"], "track_id": ["t"]}, "row 1, column path: is empty"),
        ({"path": ["a"], "split": ["train"], "track_id": ["t"], "x": [["a|b"]]}, "row 1, column x: .* may not hold"),
        ({"path": ["a"], "split": ["train"], "track_id": ["t"], "x": [{"y": 1}]}, "row 1, column x: a dict; text, "),
        ({"path": [], "split": [], "track_id": []}, "no rows"),
    ],
)
def test_a_bad_parquet_cell_is_named(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    pa.parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=rf"labels\.parquet.*{message}"):
        read_folder(tmp_path, tmp_path / "labels.parquet")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_bytes(io.BytesIO(b"path,split\n").getvalue())
    with pytest.raises(UserError, match=r"labels\.parquet: not a Parquet file"):
        read_folder(tmp_path, tmp_path / "labels.parquet")
