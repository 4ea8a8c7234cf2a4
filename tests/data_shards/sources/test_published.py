"""Sources of published datasets, on trees of their form made here and on the real lists where they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Listing
from data_shards.inspect.verify import verify
from data_shards.sources.published.gtzan import PUBLISHED as GTZAN_COUNTS
from data_shards.sources.published.gtzan import read_gtzan
from data_shards.sources.published.jamendo import PUBLISHED as JAMENDO_COUNTS
from data_shards.sources.published.jamendo import Subset, read_jamendo
from data_shards.sources.published.mtat import read_mtat
from data_shards.sources.published.nsynth import read_nsynth
from data_shards.sources.published.tables import read_table, split_counts


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(len(path.name)).standard_normal(4_000) / 10
    form = {".wav": "WAV", ".mp3": "MP3"}[path.suffix]
    soundfile.write(path, wave, 16_000, format=form)


def build_listing(listing: Listing, out: Path) -> None:
    build(listing, out, BuildConfig(workers=1))
    assert verify(out) == []


def test_a_table_that_is_no_table_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("id\ttag\n1\t" + "x" * 200_000 + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"list\.tsv, line 2: not a table: field larger .*; is this the published file"):
        list(read_table(tmp_path / "list.tsv"))


# --- MagnaTagATune ---


def test_mtat_splits_by_folder_and_keeps_its_tag_order(mtat: Path, tmp_path: Path) -> None:
    listing = read_mtat(mtat)
    assert listing.vocabularies["tags"] == tuple(f"tag {number:02d}" for number in range(50))
    assert split_counts(listing.clips) == {"train": 6, "valid": 3, "test": 2}  # the twelfth clip has no tag
    assert listing.clips[0].artist == "Artist 0"
    assert listing.clips[0].track == "Artist 0/Title 0"
    assert "published 15,250" in listing.notes[0]
    assert "artists are in train and in test" in listing.notes[1]
    build_listing(listing, tmp_path / "set")
    assert read_index(tmp_path / "set").vocabularies == listing.vocabularies


def test_mtat_variants_are_what_they_are_called(mtat: Path) -> None:
    assert len(read_mtat(mtat, variant="top50_whole").clips) == 10
    assert len(read_mtat(mtat, variant="all").clips) == 12
    all_tags = read_mtat(mtat, variant="all188")
    assert len(all_tags.vocabularies["tags"]) == 60
    assert len(all_tags.clips) == 12


def test_mtat_names_a_bad_cell(mtat: Path) -> None:
    table = mtat / "annotations_final.csv"
    table.write_text(table.read_text().replace('"1"\t"1"\t', '"2"\t"1"\t', 1))
    with pytest.raises(UserError, match=r"annotations_final\.csv, row 2, column tag 00: '2' is neither 0 nor 1"):
        read_mtat(mtat)
    table.write_text("clip_id\tmp3_path\n1\tz/a.mp3\n")
    with pytest.raises(UserError, match="does not begin with a folder 0…f"):
        read_mtat(mtat, variant="all")


# --- MTG-Jamendo ---


@pytest.mark.parametrize(
    ("subset", "num_tags"), [("top50tags", 50), ("genre", 87), ("instrument", 40), ("moodtheme", 56)]
)
def test_jamendos_real_lists_have_the_published_counts(metadata: Path, subset: Subset, num_tags: int) -> None:
    listing = read_jamendo(Path("audio"), metadata / "mtg-jamendo/splits/split-0", subset=subset)
    assert listing.notes == ()
    assert split_counts(listing.clips) == JAMENDO_COUNTS[subset]
    assert len({tag for clip in listing.clips for tag in clip.multilabel["tags"]}) == num_tags
    splits: dict[str | None, set[str]] = {}
    for clip in listing.clips:
        splits.setdefault(clip.artist, set()).add(clip.split)
    assert max(map(len, splits.values())) == 1  # split-0 is artist-disjoint


def test_a_jamendo_tree_is_built(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("validation", 2), ("test", 3)):
        (tmp_path / f"autotagging_genre-{split}.tsv").write_text(
            "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
            f"track_{number:07d}\tartist_{number}\talbum\t0{number}/{number}.mp3\t9.1\tgenre---rock\tgenre---pop\n"
        )
        sound(tmp_path / f"audio/0{number}/{number}.low.mp3")
    listing = read_jamendo(tmp_path / "audio", tmp_path, subset="genre", quality="low")
    assert listing.clips[0].multilabel == {"tags": ("genre---pop", "genre---rock")}
    assert "published 32,572" in listing.notes[0]
    build_listing(listing, tmp_path / "set")


def test_a_missing_jamendo_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"autotagging_genre-train\.tsv: no such file, nor .*\.gz"):
        read_jamendo(tmp_path, tmp_path, subset="genre")


# --- GTZAN ---


def test_gtzans_real_lists_have_the_published_counts(metadata: Path, tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        shutil.copy(metadata / f"gtzan/split__sturm2013faults__{name}_filtered.txt", tmp_path / f"{name}_filtered.txt")
    listing = read_gtzan(tmp_path, tmp_path)
    assert listing.notes == ()
    assert split_counts(listing.clips) == GTZAN_COUNTS
    assert len({clip.categorical["genre"] for clip in listing.clips}) == 10
    assert len({clip.key for clip in listing.clips}) == 930


def test_a_gtzan_tree_is_built_and_a_bad_line_named(tmp_path: Path) -> None:
    for name, number in (("train", 0), ("valid", 1), ("test", 2)):
        (tmp_path / f"{name}_filtered.txt").write_text(f"blues/blues.{number:05d}.wav\n")
        sound(tmp_path / f"genres/blues/blues.{number:05d}.wav")
    build_listing(read_gtzan(tmp_path / "genres", tmp_path), tmp_path / "set")
    (tmp_path / "valid_filtered.txt").write_text("blues/blues.00001.wav\n../evil.wav\n")
    with pytest.raises(UserError, match=r"valid_filtered\.txt, row 2: '\.\./evil\.wav' is not of the form"):
        read_gtzan(tmp_path / "genres", tmp_path)


# --- NSynth ---


def test_an_nsynth_tree_is_built(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        note = {"instrument_str": "bass_synthetic_009", "pitch": 36, "instrument_family_str": "bass", "velocity": 100}
        folder = tmp_path / f"nsynth-{name}"
        sound(folder / f"audio/{name}_009-036-100.wav")
        (folder / "examples.json").write_text(json.dumps({f"{name}_009-036-100": {**note, "qualities_str": ["dark"]}}))
    listing = read_nsynth(tmp_path)
    assert "published 289,205" in listing.notes[0]
    build_listing(listing, tmp_path / "set")
    index = read_index(tmp_path / "set")
    assert index.classes == {"instrument": ("bass",), "pitch": ("36",)}
    (tmp_path / "nsynth-valid/examples.json").write_text('{"x": {"pitch": 3}}')
    with pytest.raises(UserError, match=r"examples\.json, note x: KeyError: 'instrument_str'"):
        read_nsynth(tmp_path)
