"""A folder of audio with a CSV: what becomes of its rows, and the message for a bad one (Faults 29)."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.settings import ROOT, UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.sources.folder import FolderListing, key_of, read_folder

MakeFolder = Callable[..., tuple[Path, Path]]


def listing_of(folder: Path, text: str, **columns: list[str]) -> FolderListing:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return read_folder(folder, folder / "labels.csv", **columns)


def test_rows_become_clips_with_their_targets(tmp_path: Path) -> None:
    text = (
        "path,split,track_id,artist,licence,tags,moods,key,bpm\n"
        "a/one.mp3,train,t1,Ann,CC0,rock| calm |rock,,C minor,120.5\n"
        "two.ogg,validation,t2,,,,dark,,\n"
    )
    one, two = listing_of(tmp_path, text).clips
    assert (one.track, one.artist, one.licence, one.split) == ("t1", "Ann", "CC0", "train")
    assert one.multilabel == {"tags": ("calm", "rock")}  # without a "|" a word in moods is a class
    assert one.categorical == {"moods": None, "key": "C minor"}
    assert one.numeric == {"bpm": 120.5}
    assert one.audio.name == str(tmp_path / "a/one.mp3")
    assert (two.split, two.artist, two.multilabel["tags"], two.categorical["key"]) == ("valid", None, (), None)
    assert math.isnan(two.numeric["bpm"])


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Valid"])
def test_valid_has_three_names(tmp_path: Path, name: str) -> None:
    assert listing_of(tmp_path, f"path,split,track_id\na.wav,{name},t\n").clips[0].split == "valid"


def test_columns_that_are_given_are_taken_as_given_and_the_others_guessed(tmp_path: Path) -> None:
    text = "path,split,track_id,tags,pitch,title,moods\na.wav,train,t,rock,60,Hello,x|y\n"
    listing = listing_of(tmp_path, text, categorical=["pitch"], ignored=["title"])
    kinds = {"tags": "multilabel", "pitch": "categorical", "title": "ignored", "moods": "multilabel"}
    assert listing.kinds == kinds
    assert "columns (pitch, title as given, the others guessed from the values; override with" in listing.report()
    assert listing.clips[0].categorical == {"pitch": "60"}
    assert "ignored: title" in listing.report()
    whole = listing_of(tmp_path, "path,split,track_id,tags\na.wav,train,t,rock\n", multilabel=["tags"])
    assert "columns (tags as given):" in whole.report()


def test_captions_of_another_column_leave_the_tags_in_place(tmp_path: Path) -> None:
    text = "path,split,track_id,tags,notes\na.wav,train,t,rock|calm,a very slow and sad song\n"
    clip = listing_of(tmp_path, text, captions=["notes"]).clips[0]
    assert clip.captions == ("a very slow and sad song",)
    assert clip.multilabel == {"tags": ("calm", "rock")}


def test_the_guess_is_reported(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, "path,split,track_id,moods,bpm,caption\na.wav,train,t,x|y,90,A song of many words\n")
    assert "columns (guessed from the values; override with --multilabel" in listing.report()
    assert listing.kinds == {"moods": "multilabel", "bpm": "numeric", "caption": "captions"}
    assert listing.clips[0].captions == ("A song of many words",)


def test_a_byte_order_mark_and_quoted_cells_are_read(tmp_path: Path) -> None:
    clip = listing_of(tmp_path, '\ufeffpath,split,track_id,tags\n"a, b.wav",train,"t\n1",x\n').clips[0]
    assert clip.audio.name.endswith("a, b.wav")
    assert clip.track == "t\n1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; it needs a header with path, split, track_id"),
        ("path,split\na.wav,train\n", "row 1: no column track_id; there are path, split"),
        ("path,split,track_id,x,x\n", "row 1: column x is a duplicate"),
        ("path,split,track_id\n", "no rows below the header"),
        ("path,split,track_id\na.wav,train\n", "row 2: 2 cells, the header has 3 columns"),
        ("path,split,track_id\na.wav,train,t\nb.wav,train,t,\n", "row 3: 4 cells"),
        ("path,split,track_id\na.wav,trian,t\n", "row 2, column split: 'trian'; known are train, valid"),
        ("path,split,track_id\n,train,t\n", "row 2, column path: is empty"),
        ("path,split,track_id\na.wav,,t\n", "row 2, column split: is empty"),
        ("path,split,track_id\na.wav,train,\n", "row 2, column track_id: is empty"),
        ("path,split,track_id\n../a.wav,train,t\n", "row 2, column path: '../a.wav' must lead to a file below"),
        ("path,split,track_id\n/a.wav,train,t\n", "row 2, column path: '/a.wav' must lead to a file below"),
        ("path,split,track_id\na.wav,train,t\na.wav,test,t\n", "row 3, column path: a.wav is a duplicate of row 2"),
        ('path,split,track_id\n"a.wav,train,t\n', "row 2: not CSV in UTF-8"),
        ('path,split,track_id\na.wav,train,t\n"b"x,train,t\n', "row 3: not CSV in UTF-8"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        listing_of(tmp_path, text)
    assert str(tmp_path / "labels.csv") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("cell", ["fast", "inf", "1,500", "1.200,5", "1,5,6", "0x10"])
def test_a_number_that_is_none_is_named(tmp_path: Path, cell: str) -> None:
    text = f'path,split,track_id,bpm\na.wav,train,t,120\nb.wav,train,t,"{cell}"\n'
    with pytest.raises(UserError, match=r"labels\.csv, row 3, column bpm: .* is not a number"):
        listing_of(tmp_path, text, numeric=["bpm"])


@pytest.mark.parametrize("name", ["artist", "licence", "track_id"])
def test_a_column_that_is_read_without_an_option_says_so(tmp_path: Path, name: str) -> None:
    text = "path,split,track_id,artist,licence\na.wav,train,t,x,CC0\n"
    with pytest.raises(UserError, match=f"column {name} is read without an option; leave it out of --categorical"):
        listing_of(tmp_path, text, categorical=[name])


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    text = "path,split,track_id,tags\na.wav,train,t,x\n"
    with pytest.raises(UserError, match=r"no column mood for --multilabel; there are tags$"):
        listing_of(tmp_path, text, multilabel=["mood"])
    with pytest.raises(UserError, match=r"no column tag for --captions; there are tags; did you mean tags\?"):
        listing_of(tmp_path, text, captions=["tag"])
    with pytest.raises(UserError, match=r"no column tag for --ignore; there are tags; did you mean tags\?"):
        listing_of(tmp_path, text, ignored=["tag"])
    with pytest.raises(UserError, match="column tags is given as --multilabel and as --categorical"):
        listing_of(tmp_path, text, multilabel=["tags"], categorical=["tags"])


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_folder(tmp_path / "nowhere", None)
    with pytest.raises(UserError, match=r"no\.csv: no such file"):
        read_folder(tmp_path, tmp_path / "no.csv")
    with pytest.raises(UserError, match="no audio files below it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("prefix", ["music/", "to/music/", "./music/"])
def test_paths_from_a_folder_above_name_the_folder_to_give(tmp_path: Path, prefix: str) -> None:
    music = tmp_path / "to" / "music"
    music.mkdir(parents=True)
    for name in ("a.wav", "b.wav"):
        (music / name).touch()
    labels = tmp_path / "labels.csv"
    labels.write_text("path,split,track_id\n" + "".join(f"{prefix}{name}.wav,train,{name}\n" for name in "ab"))
    right = tmp_path if prefix.startswith("to") else tmp_path / "to"
    with pytest.raises(UserError, match=rf"relative to {right}, such as .* give --audio {right} in place"):
        read_folder(music, labels)
    assert len(read_folder(right, labels).clips) == 2


def test_paths_from_a_folder_below_name_it(tmp_path: Path) -> None:
    music = tmp_path / "music" / "disc 1"
    music.mkdir(parents=True)
    (music / "a.wav").touch()
    labels = tmp_path / "labels.csv"
    labels.write_text("path,split,track_id\na.wav,train,a\n")
    with pytest.raises(UserError, match=r"give --audio '.*music/disc 1' in place of"):
        read_folder(tmp_path / "music", labels)


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,split,track_id\n\xff\xfe.wav,train,t\n")
    with pytest.raises(UserError, match="not CSV in UTF-8"):
        read_folder(tmp_path, tmp_path / "labels.csv")


def test_keys_tell_apart_what_looks_alike() -> None:
    paths = ["a/b.wav", "a_b.wav", "a/b.mp3", "a b.wav", "ä.wav", "ö.wav", "x" * 300 + ".wav", ".wav"]
    keys = [key_of(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert all(len(key) <= 90 for key in keys)


def test_a_folder_without_a_csv_is_unlabelled_training_music(make_folder: MakeFolder) -> None:
    audio, _ = make_folder(4)
    (audio / "notes.txt").write_text("not audio")
    listing = read_folder(audio)
    assert [clip.track for clip in listing.clips] == [f"sub/{number:03d}.wav" for number in range(4)]
    assert {clip.split for clip in listing.clips} == {"train"}


def test_a_folder_becomes_a_set_with_its_vocabulary(make_folder: MakeFolder, tmp_path: Path) -> None:
    audio, labels = make_folder(12)
    summary = build(read_folder(audio, labels).clips, tmp_path / "set", BuildConfig(clips_per_shard=5, workers=1))
    assert summary.splits == {"train": 6, "valid": 4, "test": 2}
    assert summary.labels["tags"] == {"calm": 6, "dark": 6}
    index = read_index(tmp_path / "set")
    assert index.vocabularies == {"tags": ("calm", "dark")}
    assert index.classes == {"key": ("key 0", "key 1", "key 2")}
    assert index.labels("tags").any(axis=1).tolist() == [False, True] * 6
    assert index.target("key").tolist() == [0, 1, 2] * 4
    assert index.target("bpm").tolist() == [60.0 + number for number in range(12)]
    assert index.rows("valid").tolist() == [3, 4, 9, 10]


def test_the_open_music_set_is_read_as_it_is() -> None:
    music = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "music"
    if not (music / "labels.csv").is_file():
        pytest.skip(f"{music} is not here; COUNTERPOINT_DATA names its parent")
    listing = read_folder(music, music / "labels.csv")
    assert len(listing.clips) == 2_377
    assert {name for name, kind in listing.kinds.items() if kind == "multilabel"} == {"moods", "instruments", "tags"}
    assert {"bpm", "pitch_midi"} <= {name for name, kind in listing.kinds.items() if kind == "numeric"}
    assert {"genre", "instrument_family"} <= {name for name, kind in listing.kinds.items() if kind == "categorical"}
    for clip in listing.clips[::300]:
        assert len(clip.audio.read()[0]) > 40_000


def test_audio_that_the_table_does_not_name_is_counted(make_folder: MakeFolder) -> None:
    audio, labels = make_folder(3)
    assert read_folder(audio, labels).unlisted == 0
    (audio / "forgotten.MP3").touch()
    (audio / "cover.jpg").touch()
    listing = read_folder(audio, labels)
    assert listing.unlisted == 1
    assert "1 audio files of the folder are not in the table and are left out" in listing.report()


def test_a_folder_without_a_table_is_reported_as_unlabelled(make_folder: MakeFolder) -> None:
    audio, _ = make_folder(3)
    assert read_folder(audio).report().startswith("no labels: every audio file is a clip for training")


def test_hidden_files_are_no_clips(tmp_path: Path) -> None:
    for name in ("song.mp3", "._song.mp3", ".Trash/old.mp3", "album/._two.wav", "album/two.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [clip.track for clip in read_folder(tmp_path).clips] == ["album/two.wav", "song.mp3"]
    assert listing_of(tmp_path, "path,split,track_id\nsong.mp3,train,t\n").unlisted == 1


def test_a_name_that_is_not_utf8_is_a_clip_whose_track_is_text(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9") / "song.mp3"
    file.parent.mkdir()
    file.write_bytes(b"x")
    (clip,) = read_folder(tmp_path).clips
    assert clip.track == "caf\\xe9/song.mp3"
    assert Path(clip.audio.name) == file
    assert clip.key.isascii()


@pytest.mark.usefixtures("untraced")
def test_keys_of_names_without_a_latin_letter_do_not_meet() -> None:
    keys = {key_of(f"音楽/{chr(0x4E00 + i % 20_000)}{chr(0x3041 + i // 20_000)}.mp3") for i in range(200_000)}
    assert len(keys) == 200_000
    assert max(map(len, keys)) <= 90
    assert len(key_of("long " * 100 + ".mp3")) <= 90
