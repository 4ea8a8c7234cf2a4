"""The map of a catalogue: who lies near whom, what is known of each, and what is refused before embedding."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster.settings import RunError, UserError
from data_shards.build.build import BuildConfig, build
from data_shards.sources.folder import read_folder
from evaluation.embeddings.files import embed_files
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import Pool
from evaluation.explore.catalogue_map import CatalogueMap, MapOptions, map_catalogue
from evaluation.explore.layout import nearest, positions
from evaluation.explore.page import json_text
from evaluation.explore.sounds import SoundOptions, preview_s
from tests.evaluation.explore.conftest import Bands, write_tone

SILENT = SoundOptions(kind="none")


def parts(page: Path) -> dict[str, str]:
    """Text of the page's data elements by their id."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r'<script type="[a-z/]+" id="([\w-]+)">(.*?)</script>', text))


def data_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parts(page)["data"])
    return found


def column(data: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(of for of in data["columns"] if of["name"] == name)
    return found


@pytest.fixture
def made(music: Path, pool: Pool, tmp_path: Path) -> CatalogueMap:
    return map_catalogue(pool, music, tmp_path / "map.html")


def test_neighbours_are_those_of_the_embedding_never_the_track_itself(made: CatalogueMap) -> None:
    data = data_of(made.page)
    assert made.shown == len(data["paths"]) == 15
    for point, path in enumerate(data["paths"]):
        assert point not in data["near"][point]
        assert len(data["near"][point]) == 14
        assert data["cosine"][point] == sorted(data["cosine"][point], reverse=True)
        assert data["paths"][data["near"][point][0]].split("/")[0] == path.split("/")[0]


def test_points_of_like_tones_lie_together_and_in_the_unit_square(made: CatalogueMap) -> None:
    data = data_of(made.page)
    where = np.array([data["x"], data["y"]]).T
    assert where.min() >= 0
    assert where.max() <= 1
    assert np.ptp(where, axis=0).max() == pytest.approx(1, abs=1e-3)
    low = np.array([path.startswith("low") for path in data["paths"]])
    apart = np.linalg.norm(where[:, None] - where[None], axis=2)
    assert np.median(apart[np.ix_(low, low)]) < np.median(apart[np.ix_(low, ~low)])


def test_labels_of_the_table_beside_the_audio_are_columns_by_their_kind(made: CatalogueMap) -> None:
    data = data_of(made.page)
    at = data["paths"].index("low/3.wav")
    mood, tags, bpm, title = (column(data, name) for name in ("mood", "tags", "bpm", "title"))
    assert mood["values"][mood["of"][at]] == "dark"
    assert [tags["values"][code] for code in tags["of"][at]] == ["sine", "0"]
    assert (bpm["kind"], bpm["of"][at]) == ("number", 63.0)
    assert (title["kind"], title["of"][at]) == ("text", "Tone 3")
    assert data["track"][at] == data["track"][data["paths"].index("low/2.wav")]
    assert made.columns[0] in ("mood", "tags")
    assert set(made.columns) == {"mood", "tags", "bpm", "licence"}
    assert made.notes == ("1 of 15 tracks are not in the table of labels; they are grey",)


def test_files_that_cannot_be_read_are_counted_and_named(made: CatalogueMap) -> None:
    assert [track.path for track, _ in made.index.rejected] == ["high/broken.wav"]
    assert "15 tracks · 1 could not be read" in made.page.read_text(encoding="utf-8")


def test_previews_are_the_tracks_own_sound(made: CatalogueMap) -> None:
    found = parts(made.page)
    data = data_of(made.page)
    for name, hz in (("low/0.wav", 220.0), ("high/7.wav", 900.0)):
        mp3 = base64.b64decode(found[f"sound-{data['paths'].index(name)}"])
        wave, rate = soundfile.read(io.BytesIO(mp3))
        peak = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * rate / len(wave)
        assert peak == pytest.approx(hz, abs=4)
    assert made.sounds.embedded == 15
    assert json.loads(found["links"]) == {}


def test_previews_stay_within_their_size_and_the_others_are_links(music: Path, pool: Pool, tmp_path: Path) -> None:
    options = MapOptions(sounds=SoundOptions(megabytes=0.012))
    made = map_catalogue(pool, music, tmp_path / "map.html", options)
    found = parts(made.page)
    inside = [text for name, text in found.items() if name.startswith("sound-")]
    links = json.loads(found["links"])
    assert 0 < len(inside) == made.sounds.embedded < 15
    assert sum(map(len, inside)) <= 12_000
    assert made.sounds.embedded + made.sounds.linked == 15 == len(inside) + len(links)
    assert preview_s(15, 0.012) == 2.0


def test_links_lead_from_the_page_to_the_files(music: Path, pool: Pool, tmp_path: Path) -> None:
    from urllib.parse import unquote

    page = tmp_path / "pages" / "map.html"
    page.parent.mkdir()
    made = map_catalogue(pool, music, page, MapOptions(sounds=SoundOptions(kind="link")))
    links = json.loads(parts(page)["links"])
    assert made.sounds.linked == len(links) == 15
    for point, path in enumerate(data_of(page)["paths"]):
        assert (page.parent / unquote(links[str(point)])).samefile(music / path)


def test_the_index_of_search_is_reused(music: Path, pool: Pool, bands: Bands, tmp_path: Path) -> None:
    map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT))
    before = bands.chunks
    map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT))
    assert bands.chunks == before


def test_the_same_seed_gives_the_same_page(music: Path, pool: Pool, tmp_path: Path) -> None:
    pages = [tmp_path / f"{number}.html" for number in range(3)]
    for page, seed in zip(pages, (0, 0, 1), strict=True):
        map_catalogue(pool, music, page, MapOptions(sounds=SILENT, most=8, seed=seed))
    first, again, other = (page.read_bytes() for page in pages)
    assert first == again != other


def test_a_space_or_a_mixture_lays_the_tracks(music: Path, bands: Bands, tmp_path: Path) -> None:
    bands.spaces = {"low": slice(0, 12), "high": slice(12, 24)}
    pool = Pool({ENCODER: bands})
    found = {}
    for by in ("low", "high", "low:3,high:1"):
        made = map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT, by=by))
        data = data_of(made.page)
        pairs = zip(data["near"], data["cosine"], strict=True)
        found[by] = np.array([[dict(zip(*row, strict=True)).get(i, 1) for i in range(15)] for row in pairs])
    assert found["low:3,high:1"] == pytest.approx((3 * found["low"] + found["high"]) / 4, abs=2e-3)
    assert "by low, high" in made.page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="--by tempo: the encoder has no space stretch"):
        map_catalogue(pool, music, tmp_path / "map.html", MapOptions(by="tempo"))


def test_of_a_larger_catalogue_as_many_as_wanted_are_drawn(music: Path, pool: Pool, tmp_path: Path) -> None:
    made = map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT, most=6))
    assert (made.shown, len(made.index)) == (6, 15)
    assert "6 of 15 tracks" in made.page.read_text(encoding="utf-8")


def test_a_set_of_shards_has_its_labels_tracks_and_sounds(music: Path, pool: Pool, tmp_path: Path) -> None:
    rows = (music / "labels.csv").read_text().splitlines()
    table = "\n".join([f"{rows[0]},split", *(f"{row},train" for row in rows[1:])])
    (music / "labels.csv").write_text(table)
    build(read_folder(music, music / "labels.csv").clips, tmp_path / "set", BuildConfig(workers=1))
    made = map_catalogue(pool, tmp_path / "set", tmp_path / "map.html")
    data = data_of(made.page)
    assert made.shown == made.sounds.embedded == 14
    assert {"mood", "tags", "bpm", "licence", "split"} <= set(made.columns)
    assert len(set(data["track"])) == 7


def test_a_parquet_of_embeddings_is_a_catalogue_with_links(music: Path, pool: Pool, tmp_path: Path) -> None:
    embed_files(pool, music, tmp_path / "songs.parquet", skip_unreadable=True)
    options = MapOptions(labels=music / "labels.csv", colour="mood")
    made = map_catalogue(pool, tmp_path / "songs.parquet", tmp_path / "map.html", options)
    assert made.columns[0] == "mood"
    assert made.sounds.embedded == 15


def test_without_labels_the_folders_are_the_colours(music: Path, pool: Pool, tmp_path: Path) -> None:
    (music / "labels.csv").unlink()
    made = map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT))
    folder = column(data_of(made.page), "folder")
    assert made.columns == ("folder",)
    assert sorted(folder["values"]) == ["high", "low"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "genre"}, "--colour genre: .* there are .*mood"),
        ({"perplexity": 9.0}, "16 tracks, --perplexity 9 needs at least 28; give at most 5"),
        ({"labels": Path("nowhere.csv")}, "nowhere.csv: no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_embedded(
    music: Path, pool: Pool, bands: Bands, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        map_catalogue(pool, music, tmp_path / "map.html", MapOptions(**options))
    assert bands.chunks == 0
    assert not (tmp_path / "map.html").exists()


@pytest.mark.parametrize(("count", "message"), [(0, "no audio files below it"), (1, "1 track; a map needs at least 5")])
def test_too_few_tracks_are_refused(pool: Pool, bands: Bands, tmp_path: Path, count: int, message: str) -> None:
    (tmp_path / "few").mkdir()
    for number in range(count):
        write_tone(tmp_path / "few" / f"{number}.wav", 300)
    with pytest.raises(UserError, match=message):
        map_catalogue(pool, tmp_path / "few", tmp_path / "map.html")
    assert bands.chunks == 0


def test_a_catalogue_of_damaged_files_names_the_first(pool: Pool, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.wav").write_bytes(b"no music")
    with pytest.raises(UserError, match=r"0 of its tracks can be embedded, .*0\.wav: "):
        map_catalogue(pool, tmp_path, tmp_path / "map.html", index=tmp_path / "index")


def test_only_an_earlier_page_is_replaced(music: Path, pool: Pool, bands: Bands, tmp_path: Path) -> None:
    song = music / "low" / "0.wav"
    before = song.read_bytes()
    with pytest.raises(UserError, match=r"--out .*0\.wav: is there already and is no page"):
        map_catalogue(pool, music, song)
    with pytest.raises(UserError, match=r"--out .*: is a folder"):
        map_catalogue(pool, music, music)
    assert (song.read_bytes(), bands.chunks) == (before, 0)


def test_a_folder_given_as_the_model_is_named_with_the_right_order(music: Path, tmp_path: Path) -> None:
    model = tmp_path / "encoder"
    model.mkdir()
    (model / "encoder.json").write_text("{}")
    with pytest.raises(UserError, match=f"give the model first: counterpoint map {model} {music}"):
        map_catalogue(music, model, tmp_path / "map.html")


def test_equal_embeddings_have_no_map() -> None:
    with pytest.raises(RunError, match="the encoder has collapsed"):
        positions(np.ones((6, 3), np.float32), perplexity=None, seed=0)


def test_duplicates_are_neighbours_of_each_other() -> None:
    h_DE = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    row_Dk, cosine_Dk = nearest(h_DE, 3)
    for row, near in enumerate(row_Dk):
        assert sorted(near) == [other for other in range(4 * (row // 4), 4 * (row // 4) + 4) if other != row]
    assert (cosine_Dk == 1).all()


def test_no_text_ends_the_element_it_stands_in() -> None:
    hostile = "</script><script>alert(1)</script><!--\u2028&"
    text = json_text({hostile: [hostile]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {hostile: [hostile]}


def test_a_table_needs_only_paths_and_names_a_duplicate(music: Path, pool: Pool, tmp_path: Path) -> None:
    (music / "labels.csv").write_text("path;mood\nlow/0.wav;dark\nlow/0.wav;bright\n")
    with pytest.raises(UserError, match=r"labels\.csv, row 3, column path: low/0\.wav is a duplicate of row 2"):
        map_catalogue(pool, music, tmp_path / "map.html")
    (music / "labels.csv").write_text("song,mood\nlow/0.wav,dark\n")
    with pytest.raises(UserError, match=r"row 1: no column path; there are song, mood; correct or rename it, or name"):
        map_catalogue(pool, music, tmp_path / "map.html")
    (music / "labels.csv").write_text("path;mood\nlow/0.wav;dark\nhigh/7.wav;bright\ngone.wav;dark\n")
    made = map_catalogue(pool, music, tmp_path / "map.html", MapOptions(sounds=SILENT))
    assert made.columns == ("mood",)
    assert "1 rows of the table of labels lead to no track" in made.notes[1]
