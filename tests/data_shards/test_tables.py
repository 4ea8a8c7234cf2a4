"""Tables as people write them: Unicode forms, missing values, separators, lists, absolute paths."""

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.settings import UserError
from data_shards.audio.archives import ZipTree
from data_shards.audio.trees import FolderTree
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Clip
from data_shards.format.text import alike, tidy
from data_shards.inspect.show import describe
from data_shards.inspect.verify import verify
from data_shards.sources.cells import BRACKETS, MISSING, is_bracketed, split_list
from data_shards.sources.folder import FolderListing, read_folder
from data_shards.sources.label_table import read_labels

MakeFolder = Callable[..., tuple[Path, Path]]
INLINE = BuildConfig(clips_per_shard=5, workers=1)
NFC, NFD = (unicodedata.normalize(form, "Beyoncé/Déjà vu.wav") for form in ("NFC", "NFD"))


def listing_of(folder: Path, text: str, **reading: str) -> FolderListing:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return read_folder(folder, read_labels(folder / "labels.csv", **reading))


def column(folder: Path, name: str, cells: list[str], **reading: str) -> FolderListing:
    quoted = [cell.replace('"', '""') for cell in cells]
    rows = [f'{number}.wav,train,t{number},"{cell}"' for number, cell in enumerate(quoted)]
    return listing_of(folder, "\n".join([f"path,split,track_id,{name}", *rows]), **reading)


@pytest.mark.parametrize(("on_disk", "named"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), ("a\u00a0b.wav", "a b.wav")])
def test_a_path_is_found_in_the_other_unicode_form(tmp_path: Path, on_disk: str, named: str) -> None:
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / on_disk).touch()
    listing = listing_of(tmp_path, f"path,split,track_id\n{named},train,t\n")
    assert listing.clips[0].audio.name == str(tmp_path / on_disk)
    assert listing.unlisted == 0
    assert FolderTree(tmp_path).audio(named).name == str(tmp_path / on_disk)


def test_a_member_of_a_zip_is_found_in_the_other_unicode_form(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(NFD, b"x")
        archive.writestr("other.txt", b"y")
    tree = ZipTree((str(tmp_path / "a.zip"),))
    assert tree.read(NFC) == b"x"
    assert tree.audio(NFC) == tree.audio(NFD)


def test_two_files_that_look_the_same_are_told_apart_or_named(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert FolderTree(tmp_path).audio(NFD).path == NFD
    mixed = NFC.partition("/")[0].replace("o", "o\u200b") + "/Déjà vu.wav"
    with pytest.raises(UserError, match=r"is 'Beyonce\\u0301' and 'Beyonc\\xe9' in ASCII notation"):
        FolderTree(tmp_path).audio(mixed)


def test_two_rows_that_lead_to_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / NFD).parent.mkdir()
    (tmp_path / NFD).touch()
    with pytest.raises(UserError, match=r"row 3, column path: .* is a duplicate of row 2"):
        listing_of(tmp_path, f"path,split,track_id\n{NFC},train,t\n{NFD},test,u\n")


def test_a_path_that_is_not_there_is_named_with_one_that_is_alike(tmp_path: Path) -> None:
    (tmp_path / "Song.WAV").touch()
    listing = listing_of(tmp_path, "path,split,track_id\nsong.wav,train,t\nnone.wav,train,u\n")
    assert "'song.wav' in row 2 (did you mean 'Song.WAV'?), 'none.wav' in row 3" in listing.report()


@pytest.mark.parametrize(
    "text", ["Beyonce\u0301", " Beyoncé\u200b", "\ufeffBeyoncé\u00a0", "Bey\u00adonc\u200be\u0301"]
)
def test_labels_that_look_the_same_are_the_same(tmp_path: Path, text: str) -> None:
    assert tidy(text) == "Beyoncé"
    one, two = column(tmp_path, "tags", ["Beyoncé", f"{text}|x"]).clips
    assert one.multilabel["tags"][0] in two.multilabel["tags"]


def test_a_build_makes_the_labels_of_every_source_tidy(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = list(read_folder(*make_folder(2)).clips)
    labelled = [
        Clip(key=clip.key, audio=clip.audio, track=clip.key, artist=f" {name}", multilabel={"tags": (name,)})
        for clip, name in zip(clips, ("Beyonce\u0301", "Beyoncé"), strict=True)
    ]
    build(labelled, tmp_path / "set", INLINE)
    index = read_index(tmp_path / "set")
    assert index.vocabularies["tags"] == ("Beyoncé",)
    assert set(index.artist) == {"Beyoncé"}
    assert verify(tmp_path / "set") == []


def test_labels_that_only_look_the_same_are_named_and_not_merged(make_folder: MakeFolder, tmp_path: Path) -> None:
    audio, labels = make_folder(4, tags=["Rock", "rock", "post-rock", "post\u2013rock"])
    summary = build(read_folder(audio, labels).clips, tmp_path / "set", INLINE)
    assert summary.labels_alike == {"tags": [("Rock", "rock"), ("post-rock", "post\u2013rock")]}
    assert len(summary.labels["tags"]) == 4
    assert "tags: these look the same and are different labels: 'Rock', 'rock'" in describe(
        read_index(tmp_path / "set")
    )
    assert alike(["ﬁlm", "film", "pоp", "pop", "a", "á"]) == [("film", "ﬁlm"), ("pop", "pоp")]


@pytest.mark.parametrize("word", [*MISSING, "n/a", "nan", "NULL", "none", " NA ", "", "NA\u200b"])
def test_a_word_for_a_missing_value_is_one_in_every_kind_of_column(tmp_path: Path, word: str) -> None:
    header = "path,split,track_id,artist,bpm,key,tags"
    text = f"{header}\na.wav,train,t,A,90,C,x|y\nb.wav,train,u,{word},{word},{word},{word}\n"
    listing = listing_of(tmp_path, text)
    assert dict(listing.kinds) == {"bpm": "numeric", "key": "categorical", "tags": "multilabel"}
    clip = listing.clips[1]
    assert math.isnan(clip.numeric["bpm"])
    assert (clip.artist, clip.categorical["key"], clip.multilabel["tags"]) == (None, None, ())
    assert f"bpm 1 ({tidy(word) or 'empty'})" in listing.report()


def test_what_was_taken_as_missing_is_counted_by_word(tmp_path: Path) -> None:
    listing = column(tmp_path, "tags", ["rock|NA", "-", "", "None", "None"])
    assert "missing values: tags 5 (- 1, NA 1, None 2, empty 1)" in listing.report()
    assert listing.clips[0].multilabel == {"tags": ("rock",)}


def test_a_missing_track_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 3, column track_id: 'NA' is a missing value; every clip needs one"):
        listing_of(tmp_path, "path,split,track_id\na.wav,train,t\nb.wav,train,NA\n")


def test_words_for_missing_values_can_be_given(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,split,track_id,vocals\na.wav,train,t,None\nb.wav,train,u,?\n")
    clips = read_folder(tmp_path, read_labels(table, missing=["?"])).clips
    assert [clip.categorical["vocals"] for clip in clips] == ["None", None]


@pytest.mark.parametrize(("delimiter", "space"), [(",", " "), (";", ""), ("\t", ""), (";", " ")])
def test_a_table_is_read_by_its_own_separators(tmp_path: Path, delimiter: str, space: str) -> None:
    rows = [
        ["Path", "SPLIT", "track_id", "bpm", "note"],
        ["a.wav", "train", "t", "90.5", '"x, y; z"'],
        ["", "", "", "", ""],
    ]
    clip = listing_of(tmp_path, "\ufeff" + "\r\n".join((delimiter + space).join(row) for row in rows)).clips[0]
    assert (clip.track, clip.numeric, clip.categorical) == ("t", {"bpm": 90.5}, {"note": "x, y; z"})


def test_utf16_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path\tsplit\ttrack_id\na.wav\ttrain\té\n", encoding="utf-16")
    assert read_folder(tmp_path, tmp_path / "labels.csv").clips[0].track == "é"


@pytest.mark.parametrize(
    ("cells", "numbers"), [(["98,5", "120"], [98.5, 120.0]), (["1,5", "-2,25", "1,125"], [1.5, -2.25, 1.125])]
)
def test_decimal_commas_are_read_and_reported(tmp_path: Path, cells: list[str], numbers: list[float]) -> None:
    listing = column(tmp_path, "bpm", cells)
    assert [clip.numeric["bpm"] for clip in listing.clips] == numbers
    assert "bpm: commas are read as decimal points" in listing.report()


def test_a_comma_that_may_part_thousands_is_a_number_only_between_semicolons(tmp_path: Path) -> None:
    assert column(tmp_path, "plays", ["1,200", "3,400"]).kinds["plays"] != "numeric"
    listing = listing_of(tmp_path, "path;split;track_id;plays\na.wav;train;t;1,200\n")
    assert listing.clips[0].numeric == {"plays": 1.2}


def test_a_word_among_numbers_is_named(tmp_path: Path) -> None:
    report = column(tmp_path, "bpm", ["120", "121", "fast", "slow"]).report()
    assert "bpm: 2 of 4 values are numbers, but 'fast' in row 4 is not" in report
    assert "--missing" in report


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("['rock', 'pop']", ["rock", "pop"]),
        ('["rock", "pop"]', ["rock", "pop"]),
        ("['rock' 'pop']", ["rock", "pop"]),
        ("[rock, hip hop]", ["rock", "hip hop"]),
        ("('rock', 'pop')", ["rock", "pop"]),
        ("{'rock'}", ["rock"]),
        ("['it\\'s', \"R'n'B, soul\"]", ["it's", "R'n'B, soul"]),
        ('["caf\\u00e9"]', ["café"]),
        ("[]", []),
        ("set()", []),
    ],
)
def test_a_list_in_brackets_is_read_as_it_was_printed(tmp_path: Path, cell: str, values: list[str]) -> None:
    assert is_bracketed(cell)
    assert split_list(cell, BRACKETS) == values
    listing = column(tmp_path, "tags", [cell, "['rock']"])
    assert listing.clips[0].multilabel["tags"] == tuple(sorted(values))
    assert "hint: tags: cells in brackets are read as lists" in listing.report()


@pytest.mark.parametrize(
    "text", ["[live] take", "(live)", "{a}", "[['a']]", "[" + "'a', " * 9_000 + "!'", "['" + "a" * 9_000]
)
def test_what_is_no_list_is_one_value_and_known_at_once(text: str) -> None:
    assert not is_bracketed(text)
    assert split_list(text, BRACKETS) == [text]


@pytest.mark.parametrize(("separator", "flag"), [(";", "';'"), (", ", ","), ("/", "/"), (" / ", "/"), ("\\", "'\\'")])
@pytest.mark.parametrize("name", ["tags", "moods"])
def test_what_looks_like_lists_gets_a_hint_whose_option_reads_them(
    tmp_path: Path, separator: str, flag: str, name: str
) -> None:
    cells = [f"rock{separator}pop", f"pop{separator}rock", "rock", f"jazz{separator}pop", "jazz"]
    hint = column(tmp_path, name, cells).report().splitlines()[-1]
    assert hint.startswith(f"hint: {name}: 3 cells look like lists")
    assert f"--list-separator {flag}" in hint
    listing = column(tmp_path, name, cells, separator=separator.strip())
    assert [clip.multilabel[name] for clip in listing.clips][:2] == [("pop", "rock")] * 2
    assert not [hint for hint in listing.hints if "list" in hint]


def test_a_date_or_a_tag_with_a_slash_is_no_list(tmp_path: Path) -> None:
    for name, cells in {
        "day": ["2020/01/02", "2020/01/02", "2021/02/01"],
        "tags": ["rock/pop", "jazz", "folk"],
    }.items():
        assert not [hint for hint in column(tmp_path, name, cells).hints if "lists" in hint]


def test_some_lists_in_brackets_get_a_hint(tmp_path: Path) -> None:
    cells = ["['rock', 'pop']", "rock"]
    assert "--list-separator brackets" in column(tmp_path, "tags", cells).report()
    clips = column(tmp_path, "tags", cells, separator=BRACKETS).clips
    assert [clip.multilabel["tags"] for clip in clips] == [("pop", "rock"), ("rock",)]


def test_titles_with_commas_get_no_hint(tmp_path: Path) -> None:
    hints = column(tmp_path, "title", ["Hello, World", "Goodbye, Moon", "Stop; wait"]).hints
    assert not [hint for hint in hints if "list" in hint]


def test_a_separator_that_is_none_is_refused(tmp_path: Path) -> None:
    for separator in ("", "and", "a"):
        with pytest.raises(UserError, match=r"--list-separator .*: give one sign such as ';', or brackets"):
            read_labels(tmp_path / "labels.csv", separator=separator)


def test_an_absolute_path_below_the_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    paths = [f"{tmp_path}/a.wav", "sub/../b.wav", "./c.wav"]
    text = "\n".join(["path,split,track_id", *(f"{path},train,t" for path in paths)])
    assert [Path(clip.audio.name).name for clip in listing_of(tmp_path, text).clips] == ["a.wav", "b.wav", "c.wav"]
    assert read_folder(tmp_path / "link", tmp_path / "labels.csv").clips[0].audio.name.endswith("link/a.wav")
    for path in (f"{tmp_path.parent}/x.wav", "a/../../x.wav", "..", "."):
        with pytest.raises(UserError, match="must lead to a file below"):
            listing_of(tmp_path, f"path,split,track_id\n{path},train,t\n")
