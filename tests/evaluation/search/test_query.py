"""A catalogue on disk, its saved index, and queries of which the answer is known: tones and their pitch."""

import json
import os
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.sources.folder import key_of, read_folder
from evaluation.embeddings.files import embed_files, embed_stream
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import Pool
from evaluation.search import index_update, track_index
from evaluation.search.index_update import follow_catalogue
from evaluation.search.query import Hit, search
from evaluation.search.track_index import read_index

RATE = 22_050


class Bands:
    """Level of 24 bands between 200 and 1,600 Hz; counts the chunks it read."""

    width, rate, samples = 24, RATE, 4_096

    def __init__(self, hash: str = "bands") -> None:
        self.hash, self.chunks = hash, 0

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.chunks += len(wave_NT)
        level = torch.fft.rfft(wave_NT * torch.hann_window(self.samples)).abs()
        edges = (200 * 8 ** (torch.arange(25) / 24) * self.samples / RATE).tolist()
        return torch.stack([level[:, int(a) : int(b) + 1].sum(1) for a, b in pairwise(edges)], 1)


def tone(path: Path, hz: float, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE), RATE)
    return path


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine tones in two folders; the index of a search without --index falls into the test's folder."""
    monkeypatch.setattr(index_update, "INDEXES", tmp_path / "indexes")
    folder = tmp_path / "music"
    for number in range(9):
        tone(folder / ("low" if number < 5 else "high") / f"{number}.wav", 220 * 1.25**number)
    return folder


@pytest.fixture
def pool() -> Pool:
    return Pool({ENCODER: Bands()})


def names(hits: Iterable[Hit]) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_the_nearest_tracks_are_the_nearest_tones_with_their_cosine(music: Path, pool: Pool, tmp_path: Path) -> None:
    query = tone(tmp_path / "query.wav", 220 * 1.25**3 * 1.003)
    found = search(pool, music, [query], k=3)
    (answer,) = found.answers
    assert names(answer.nearest)[0] == "3.wav"
    assert answer.nearest[0].cosine > 0.95 > answer.nearest[1].cosine
    vectors = np.stack([row.mean_E for row in embed_stream(pool, [query, *sorted(music.rglob("*.wav"))])])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert [hit.cosine for hit in answer.nearest] == pytest.approx(np.sort(unit[1:] @ unit[0])[::-1][:3], abs=1e-5)


def test_a_second_search_embeds_the_query_alone_and_a_saved_index_can_be_named(music: Path, tmp_path: Path) -> None:
    query, encoder = tone(tmp_path / "query.wav", 300), Bands()
    first = search(Pool({ENCODER: encoder}), music, [query], k=2)
    encoder.chunks = 0
    again = search(Pool({ENCODER: encoder}), music, [query], k=2)
    assert encoder.chunks == 3  # two chunks and a tail of the query
    assert again.answers == first.answers
    named = search(Pool({ENCODER: encoder}), again.index.folder, [query], k=2)
    assert [names(answer.nearest) for answer in named.answers] == [names(answer.nearest) for answer in first.answers]
    files = {path.name for path in first.index.folder.iterdir()}
    assert files == {"index.json", "part-00000.faiss", "part-00000.parquet"}


def test_new_changed_and_deleted_files_are_followed_and_nothing_else_is_embedded(music: Path, tmp_path: Path) -> None:
    encoder = Bands()
    pool = Pool({ENCODER: encoder})
    follow_catalogue(pool, music, None)[0]
    encoder.chunks = 0
    tone(music / "high" / "new.wav", 900)
    (music / "low" / "0.wav").unlink()
    os.utime(tone(music / "low" / "1.wav", 1_000), ns=(0, 0))
    index = follow_catalogue(pool, music, None)[0]
    assert encoder.chunks == 6
    held = [track.path for part in index.parts for track in index.tracks(part)]
    assert sorted(held) == sorted(str(path.relative_to(music)) for path in music.rglob("*.wav"))
    (answer,) = search(pool, music, [tone(tmp_path / "q.wav", 1_003)], k=1).answers
    assert names(answer.nearest) == ["1.wav"]


def test_the_index_of_another_folder_is_not_continued(music: Path, pool: Pool, tmp_path: Path) -> None:
    place = tmp_path / "index"
    low = follow_catalogue(pool, music / "low", place)[0]
    with pytest.raises(UserError, match=r"index: the index of .*low; give .*high another --index"):
        follow_catalogue(pool, music / "high", place)
    assert follow_catalogue(pool, music / "low", place)[0].parts == low.parts


def test_a_query_of_the_catalogue_is_left_out_by_path_and_by_content_unless_asked_for(
    music: Path, pool: Pool, tmp_path: Path
) -> None:
    own = music / "low" / "3.wav"
    copy = Path(shutil.copy(own, tmp_path / "another name.wav"))
    shutil.copy(own, music / "twin.wav")
    for query in (own, copy):
        (answer,) = search(pool, music, [query], k=9).answers
        assert len(answer.nearest) == 8
        assert not {"3.wav", "twin.wav"} & set(names(answer.nearest))
    (kept,) = search(pool, music, [own], k=2, leave_out="nothing").answers
    assert sorted(names(kept.nearest)) == ["3.wav", "twin.wav"]
    assert kept.nearest[0].cosine == pytest.approx(1, abs=1e-5)


def test_cutting_the_index_into_parts_changes_nothing(
    music: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = tone(tmp_path / "query.wav", 500)
    whole = search(pool, music, [query], k=9)
    monkeypatch.setattr(index_update, "ROWS_A_PART", 2)
    cut = search(pool, music, [query], k=9, index=tmp_path / "cut")
    assert len(cut.index.parts) == 5
    assert names(cut.answers[0].nearest) == names(whole.answers[0].nearest)
    read: list[str] = []
    original = track_index.TrackIndex.tracks

    def counted(index: track_index.TrackIndex, part: track_index.Part) -> list[track_index.Track]:
        read.append(part.name)
        return original(index, part)

    monkeypatch.setattr(track_index.TrackIndex, "tracks", counted)
    cut.index.track_of([5])
    assert read == ["part-00002"]


def test_a_build_that_was_killed_goes_on_where_it_was(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Bands):
        def __call__(self, wave_NT: Tensor, /) -> Tensor:
            if self.chunks >= 12:
                raise KeyboardInterrupt
            return super().__call__(wave_NT)

    monkeypatch.setattr(index_update, "ROWS_A_PART", 4)
    with pytest.raises(KeyboardInterrupt):
        follow_catalogue(Pool({ENCODER: Fails()}), music, tmp_path / "index")
    encoder = Bands()
    index = follow_catalogue(Pool({ENCODER: encoder}), music, tmp_path / "index")[0]
    assert encoder.chunks == 5 * 3
    assert len(index) == 9
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_the_parquet_of_embed_is_a_catalogue(music: Path, pool: Pool, tmp_path: Path) -> None:
    files = sorted(music.rglob("*.wav"))
    table = embed_files(pool, files, tmp_path / "songs.parquet").path
    query = tone(tmp_path / "query.wav", 600)
    of_table, of_folder = (search(pool, where, [query], k=4) for where in (table, music))
    assert names(of_table.answers[0].nearest) == names(of_folder.answers[0].nearest)
    (own,) = search(pool, table, [files[2]], k=9).answers
    assert len(own.nearest) == 8
    embed_files(pool, files[:4], table)
    assert len(search(pool, table, [query], k=9).index) == 4  # another table: read again
    timeline = embed_files(pool, files, tmp_path / "t.parquet", timeline=True).path
    with pytest.raises(UserError, match="embed without --timeline"):
        search(pool, timeline, [query], k=1)


def test_an_index_of_another_encoder_is_refused_with_the_remedy(music: Path, pool: Pool, tmp_path: Path) -> None:
    index = follow_catalogue(pool, music, tmp_path / "index")[0]
    other, query = Pool({ENCODER: Bands("other")}), tone(tmp_path / "query.wav", 600)
    for catalogue, place in ((index.folder, None), (music, index.folder)):
        with pytest.raises(UserError, match=r"index of encoder bands, this one is other.*give another --index"):
            search(other, catalogue, [query], k=1, index=place)
    table = embed_files(pool, [query], tmp_path / "songs.parquet").path
    with pytest.raises(UserError, match="embeddings of encoder bands, this one is other; embed the files again"):
        search(other, table, [query], k=1)


@pytest.mark.parametrize("name", ["part-00000.faiss", "part-00000.parquet"])
def test_a_damaged_part_is_named_before_it_is_read(music: Path, pool: Pool, tmp_path: Path, name: str) -> None:
    place = follow_catalogue(pool, music, tmp_path / "index")[0].folder
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1
    (place / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: missing, or its checksum disagrees; delete"):
        search(pool, place, [tone(tmp_path / "q.wav", 600)], k=1)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 1},
        {"width": 0},
        {"parts": [{"name": "../../etc/passwd", "rows": 1, "vectors": "", "tracks": ""}]},
        {"parts": [{"name": "part-00000", "rows": -1, "vectors": "", "tracks": ""}]},
        {"extra": 1},
    ],
)
def test_a_forged_index_is_refused(music: Path, pool: Pool, tmp_path: Path, change: dict[str, object]) -> None:
    place = follow_catalogue(pool, music, tmp_path / "index")[0].folder
    about = json.loads((place / "index.json").read_text())
    (place / "index.json").write_text(json.dumps(about | change))
    with pytest.raises(UserError, match="not a saved index"):
        read_index(place)


def test_hidden_files_are_no_tracks(music: Path, pool: Pool) -> None:
    (music / "._1.mp3").write_bytes(b"resource fork")  # macOS leaves one beside every song it copies
    (music / ".cache").mkdir()
    tone(music / ".cache" / "2.wav", 300)
    index = follow_catalogue(pool, music, None)[0]
    assert not index.rejected
    assert len(index) == 9


def test_an_unreadable_file_is_named_kept_in_mind_and_never_an_answer(music: Path, pool: Pool, tmp_path: Path) -> None:
    (music / "broken.mp3").write_bytes(b"not audio" * 50)
    found = search(pool, music, [tone(tmp_path / "q.wav", 600)], k=20)
    assert [track.path for track, _ in found.index.rejected] == ["broken.mp3"]
    assert len(found.answers[0].nearest) == 9
    tone(music / "broken.mp3", 300)  # repaired
    assert not follow_catalogue(pool, music, None)[0].rejected


@pytest.mark.parametrize(
    ("catalogue", "query", "k", "words"),
    [
        ("nowhere", "query.wav", 1, "nowhere: no such folder"),
        ("music", "missing.wav", 1, "missing.wav: no such file"),
        ("music", "query.wav", 0, "-k must be ≥ 1"),
        ("empty", "query.wav", 1, "no audio files below it"),
        ("music", "text.wav", 1, r"text.wav: "),
        ("query.wav", "query.wav", 1, "not a Parquet file"),
    ],
)
def test_what_cannot_be_searched_is_named(
    music: Path, pool: Pool, tmp_path: Path, catalogue: str, query: str, k: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("no audio")
    tone(tmp_path / "query.wav", 600)
    with pytest.raises(UserError, match=words):
        search(pool, tmp_path / catalogue, [tmp_path / query], k=k)


PARTS = ["song_0.wav", "song_1.wav", "song (2).wav", "song.flac", "songs_1.wav", "other_1.wav", "1-01.wav", "1-02.wav"]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parts of two songs, two tracks of a disc, and a song of the same name in another folder."""
    monkeypatch.setattr(index_update, "INDEXES", tmp_path / "indexes")
    for number, name in enumerate(PARTS):
        tone(tmp_path / "parts" / "x" / name, 300 * 1.1**number)
    tone(tmp_path / "parts" / "y" / "song_0.wav", 900)
    return tmp_path / "parts"


def test_the_other_parts_of_a_query_can_be_left_out_by_their_names(parts: Path, pool: Pool, tmp_path: Path) -> None:
    query = parts / "x" / "song_1.wav"
    copy = Path(shutil.copy(query, tmp_path / "another name.wav"))
    table = embed_files(pool, sorted(file for file in parts.rglob("*.*")), tmp_path / "parts.parquet").path
    expected = {"x/songs_1.wav", "x/other_1.wav", "x/1-01.wav", "x/1-02.wav", "y/song_0.wav"}
    for catalogue, asked in ((parts, query), (parts, copy), (table, query)):
        (answer,) = search(pool, catalogue, [asked], k=9, leave_out="track").answers
        assert {Path(hit.path).relative_to(parts).as_posix() for hit in answer.nearest} == expected
    (answer,) = search(pool, parts, [query], k=9).answers
    assert len(answer.nearest) == 8
    (answer,) = search(pool, parts, [parts / "x" / "1-01.wav"], k=9, leave_out="track").answers
    assert "1-02.wav" in names(answer.nearest)


def test_each_query_leaves_out_its_own_track_alone(parts: Path, pool: Pool) -> None:
    queries = [parts / "x" / "song_0.wav", parts / "x" / "other_1.wav"]
    one, other = search(pool, parts, queries, k=9, leave_out="track").answers
    assert "other_1.wav" in names(one.nearest)
    assert "other_1.wav" not in names(other.nearest)
    assert "song_1.wav" in names(other.nearest)


def test_a_set_of_shards_is_a_catalogue_whose_tracks_can_be_left_out(music: Path, pool: Pool, tmp_path: Path) -> None:
    files = sorted(music.rglob("*.wav"))
    rows = [f"{file.relative_to(music)},train,t{number // 3}" for number, file in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,split,track_id", *rows]) + "\n")
    shards = tmp_path / "shards"
    build(read_folder(music, tmp_path / "labels.csv").clips, shards, BuildConfig(workers=1))
    query = files[4]  # of track t1: files 3, 4 and 5
    key = [key_of(file.relative_to(music).as_posix()) for file in files]
    asked = {how: search(pool, shards, [query], k=20, leave_out=how) for how in ("nothing", "query", "track")}
    found = {how: {hit.path for hit in answered.answers[0].nearest} for how, answered in asked.items()}
    assert found["nothing"] == set(key)
    assert found["query"] == set(key) - {key[4]}
    assert found["track"] == set(key) - set(key[3:6])
    assert asked["nothing"].answers[0].nearest[0].path == key[4]
    chunks = pool[ENCODER].chunks
    search(pool, shards, [query], k=1)
    assert pool[ENCODER].chunks == chunks + 3  # the query alone: the index is kept


def test_a_set_of_shards_that_was_built_again_is_read_again(music: Path, pool: Pool, tmp_path: Path) -> None:
    files, shards = sorted(music.rglob("*.wav")), tmp_path / "shards"
    for count in (4, 6):
        clips = read_folder(music).clips[:count]
        shutil.rmtree(shards, ignore_errors=True)
        build(clips, shards, BuildConfig(workers=1))
        assert len(search(pool, shards, [files[0]], k=20).index) == count


@pytest.mark.parametrize("kind", ["music", "songs.parquet", "shards"])
def test_an_index_never_takes_the_place_of_something_else(music: Path, tmp_path: Path, kind: str) -> None:
    encoder = Bands()
    pool, files = Pool({ENCODER: encoder}), sorted(music.rglob("*.wav"))
    embed_files(pool, files, tmp_path / "songs.parquet")
    build(read_folder(music).clips, tmp_path / "shards", BuildConfig(workers=1))
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("a cat")
    encoder.chunks = 0
    with pytest.raises(UserError, match=r"--index .*photos: holds something that is no index"):
        search(pool, tmp_path / kind, [files[0]], k=1, index=photos)
    with pytest.raises(UserError, match=r"--index .*cat\.jpg: is a file, not a folder"):
        search(pool, tmp_path / kind, [files[0]], k=1, index=photos / "cat.jpg")
    with pytest.raises(UserError, match=r"^--index .*xxx: the name is too long for this file system"):
        search(pool, tmp_path / kind, [files[0]], k=1, index=tmp_path / ("x" * 300))
    assert (photos / "cat.jpg").read_text() == "a cat"
    assert encoder.chunks == 0
