"""Search by words, by words and sound together, and tags by their names, with two towers whose answers are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from cluster.settings import UserError
from evaluation.search.query import search
from evaluation.search.tagging import tag_files
from tests.evaluation.conftest import RATE
from tests.evaluation.test_text_tasks import Deaf, Towers, traits, vector


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(24):
        wave = np.full(2_500, number / 1000, np.float32)
        soundfile.write(folder / f"{number:02d} {'-'.join(traits(number))}.wav", wave, RATE, subtype="FLOAT")
    return folder


def named(path: str) -> set[str]:
    return set(Path(path).stem.partition(" ")[2].split("-"))


def test_words_find_what_they_describe(music: Path, tmp_path: Path) -> None:
    found = search(Towers(), music, texts=["a slow piano piece", "calm flute"], k=4, index=tmp_path / "index")
    assert [answer.query for answer in found.answers] == ["a slow piano piece", "calm flute"]
    for hit in found.answers[0].nearest[:2]:
        assert {"slow", "piano"} <= named(hit.path)
    for hit in found.answers[1].nearest[:2]:
        assert {"calm", "flute"} <= named(hit.path)
    cosine = float(vector("slow piano") @ Towers()(_wave(found.answers[0].nearest[0].path))[0, 4:])
    assert found.answers[0].nearest[0].cosine == pytest.approx(cosine, abs=1e-4)


def _wave(path: str):  # type: ignore[no-untyped-def]
    import torch

    number = int(Path(path).stem.partition(" ")[0])
    return torch.full((1, 1000), number / 1000)


def test_a_text_is_ranked_as_by_hand_from_the_index_that_sound_has_built(music: Path, tmp_path: Path) -> None:
    towers, place = Towers(), tmp_path / "index"
    song = next(music.glob("05*"))
    by_sound = search(towers, music, song, k=5, index=place)
    words = search(towers, music, texts=["fast guitar, energetic"], k=24, index=place)
    assert by_sound.index.folder == words.index.folder
    assert len(words.answers[0].nearest) == 24
    cosines = [hit.cosine for hit in words.answers[0].nearest]
    assert cosines == sorted(cosines, reverse=True)


def test_words_and_sound_together_are_the_mean_of_their_cosines(music: Path, tmp_path: Path) -> None:
    towers, song, place = Towers(noise=0.3), next(music.glob("07*")), tmp_path / "index"
    options = {"k": 24, "index": place, "leave_out": "nothing"}
    sound = search(towers, music, song, by="music_text", **options).answers[0]  # type: ignore[arg-type]
    words = search(towers, music, texts=["slow flute"], **options).answers[0]  # type: ignore[arg-type]
    both = search(towers, music, song, texts=["slow flute"], text_share=0.25, **options)  # type: ignore[arg-type]
    of_sound, of_words = ({hit.path: hit.cosine for hit in one.nearest} for one in (sound, words))
    assert both.answers[0].query.endswith("+ slow flute")
    for hit in both.answers[0].nearest:
        assert hit.cosine == pytest.approx(0.75 * of_sound[hit.path] + 0.25 * of_words[hit.path], abs=1e-4)


def test_a_search_by_words_of_another_projection_is_refused(music: Path, tmp_path: Path) -> None:
    """TEXT.md, law 24."""
    place = tmp_path / "index"
    search(Towers(), music, texts=["slow"], index=place)
    with pytest.raises(UserError, match="their embeddings cannot be compared; search with the snapshot that built it"):
        search(replace(Towers(), hash="another"), music, texts=["slow"], index=place)
    plain = tmp_path / "plain"
    search(Deaf(hash="towers"), music, next(music.glob("05*")), index=plain)
    with pytest.raises(UserError, match="delete"):
        search(Towers(), plain, texts=["slow"])


@pytest.mark.parametrize(
    ("texts", "options", "problem"),
    [
        ((), {}, "nothing to search for: give an audio file, or --text"),
        (("  ",), {}, "--text: an empty text"),
        (("word " * 10_000,), {}, "--text: a text of 10,000 words; describe the music in at most 1,000"),
        (("slow",), {"by": "pitch"}, "leave --by out"),
        (("slow",), {"text_share": 2.0}, "--text-share must be in"),
    ],
)
def test_wrong_queries_are_refused(
    music: Path, texts: tuple[str, ...], options: dict[str, object], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        search(Towers(), music, texts=texts, **options)  # type: ignore[arg-type]


def test_an_encoder_without_a_text_tower_is_refused_before_anything_is_embedded(music: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    with pytest.raises(UserError, match="has no text tower; train one"):
        search(Deaf(), music, texts=["slow"], index=place)
    assert not place.exists()
    with pytest.raises(UserError, match="has no text tower; train one"):
        tag_files(Deaf(), music, ["slow"])


def test_tags_are_named_without_training(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "tags.parquet"
    found = tag_files(Towers(), music, ["flute", "piano", "guitar"], out=out)
    assert len(found.files) == 24
    for file in found.files:
        assert next(iter(file.cosine)) in named(file.path)
    table = pq.read_table(out)
    assert table.column_names == ["path", "flute", "piano", "guitar"]
    first = found.files[0]
    assert table["path"][0].as_py() == first.path
    assert table["piano"][0].as_py() == pytest.approx(first.cosine["piano"], abs=1e-6)
    assert table.schema.metadata[b"encoder"] == b"towers"


def test_tags_in_another_order_have_the_same_cosines(music: Path) -> None:
    """TEXT.md, law 25."""
    prompts = ("{} music", "a {} track")
    one = tag_files(Towers(), music, ["slow", "fast", "calm"], prompts=prompts)
    other = tag_files(Towers(), music, ["calm", "slow", "fast"], prompts=prompts)
    for first, second in zip(one.files, other.files, strict=True):
        assert first.cosine == pytest.approx(second.cosine, abs=1e-6)


@pytest.mark.parametrize(
    ("tags", "prompts", "problem"),
    [
        ((), ("{}",), "--tags: no tag"),
        (("slow", ""), ("{}",), "--tags: an empty text"),
        (("slow", "slow"), ("{}",), "--tags: slow comes twice"),
        (("slow " * 10_000,), ("{}",), "--tags: a text of 10,000 words"),
        (("slow",), ("music",), "--prompt: prompts must have one {}"),
        (("slow",), ("{}", "{}"), "--prompt: prompts must be different"),
    ],
)
def test_wrong_tags_are_refused(music: Path, tags: tuple[str, ...], prompts: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        tag_files(Towers(), music, tags, prompts=prompts)


def test_a_long_file_is_the_mean_of_its_unit_chunks(tmp_path: Path) -> None:
    """Not the projection of the mean: chunks of numbers 3 and 8."""
    folder = tmp_path / "long"
    folder.mkdir()
    wave = np.concatenate([np.full(1000, 3 / 1000), np.full(1000, 8 / 1000)]).astype(np.float32)
    soundfile.write(folder / "long.wav", wave, RATE, subtype="FLOAT")
    found = search(Towers(), folder, texts=["slow piano"], index=tmp_path / "index")
    mean = vector(" ".join(traits(3))) + vector(" ".join(traits(8)))
    cosine = float(vector("slow piano") @ mean / mean.norm())
    assert found.answers[0].nearest[0].cosine == pytest.approx(cosine, abs=1e-4)


def test_a_search_that_was_killed_before_its_first_part_starts_again(music: Path, tmp_path: Path) -> None:
    """Its lock, which the kernel freed, is all that it left."""
    place = tmp_path / "index"
    place.mkdir()
    (place / "lock").write_text("another machine, process 1")
    assert len(search(Towers(), music, texts=["slow"], index=place).index) == 24


def test_texts_of_any_alphabet_and_emoji_are_queries_and_tags(music: Path, tmp_path: Path) -> None:
    texts = ["静かな曲", "🎹🎹", "медленная", "a\u0301 slow piece\x00"]
    found = search(Towers(), music, texts=texts, k=2, index=tmp_path / "index")
    assert [answer.query for answer in found.answers] == texts
    assert set(tag_files(Towers(), music, texts).files[0].cosine) == set(texts)


def test_one_clip_of_each_track_answers(tmp_path: Path) -> None:
    """Ten parts of one song fit best; four songs are wanted."""
    folder = tmp_path / "music"
    folder.mkdir()
    numbers = [2] * 10 + [3, 8, 9, 4, 5]  # slow piano, ten parts of it; then less and less of what is asked for
    for place, number in enumerate(numbers):
        name = f"song_{place}" if place < 10 else f"other {'abcde'[place - 10]}"
        wave = np.full(2_500, number / 1000, np.float32)
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")
    options = {"texts": ["calm slow piano"], "index": tmp_path / "index"}
    plain = search(Towers(), folder, k=4, **options).answers[0].nearest  # type: ignore[arg-type]
    assert all(Path(hit.path).name.startswith("song_") for hit in plain)
    thinned = search(Towers(), folder, k=4, one_a_track=True, **options).answers[0].nearest  # type: ignore[arg-type]
    assert [Path(hit.path).name.partition("_")[0] for hit in thinned].count("song") == 1
    assert len(thinned) == 4
    assert thinned[0] == plain[0]
    cosines = [hit.cosine for hit in thinned]
    assert cosines == sorted(cosines, reverse=True)
    every = search(Towers(), folder, k=50, one_a_track=True, **options).answers[0].nearest  # type: ignore[arg-type]
    assert len(every) == 6
    song = folder / "song_3.wav"
    others = search(Towers(), folder, song, k=6, one_a_track=True, leave_out="track", index=tmp_path / "index")
    assert len(others.answers[0].nearest) == 5
