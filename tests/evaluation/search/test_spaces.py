"""Search by one space of the encoder or by a mixture, from one index, against brute force over slices (law 12)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import UserError
from evaluation.embeddings.files import embed_files, embed_stream
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import Pool
from evaluation.search import index_update
from evaluation.search.asked import parse_by, resolve
from evaluation.search.index_update import follow_catalogue
from evaluation.search.mixture import query_rows, unit_slices
from evaluation.search.query import search
from evaluation.search.track_index import TrackIndex, rewriting

RATE, SAMPLES = 22_050, 4_096
SPACES = {"invariant": slice(0, 4), "pitch": slice(4, 7), "stretch": slice(7, 12)}


class Random:
    """A chunk's number, in its loudest sample, to a row of a table; norms of the slices differ by a factor of fifty."""

    rate, samples = RATE, SAMPLES

    def __init__(self, spaces: Mapping[str, slice] = SPACES, hash: str = "random", width: int = 12) -> None:
        self.spaces, self.hash, self.width, self.chunks = dict(spaces), hash, width, 0
        table = torch.randn(64, 12, generator=torch.Generator().manual_seed(3))
        self.table = table * torch.tensor([50.0] * 4 + [1.0] * 3 + [7.0] * 5)

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.chunks += len(wave_NT)
        return self.table[(wave_NT.abs().amax(1) * 100).round().long(), : self.width]


class Loev(Random):
    """An embedding of four columns, and heads that are computed where they are asked for."""

    def __init__(self) -> None:
        super().__init__({"embedding": slice(0, 4)}, width=4)

    def with_heads(self) -> Random:
        return Random({"embedding": slice(0, 4), "pitch": slice(4, 7), "stretch": slice(7, 12)})


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index_update, "INDEXES", tmp_path / "indexes")
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(1, 41):
        soundfile.write(folder / f"{number:02d}.wav", np.full(SAMPLES, number / 100), RATE)
    return folder


@pytest.fixture
def pool() -> Pool:
    return Pool({ENCODER: Random()})


def embedded(pool: Pool, files: list[Path]) -> NDArray[np.float64]:
    return np.stack([one.mean_E for one in embed_stream(pool, files)]).astype(np.float64)


def cosines(pool: Pool, files: list[Path], query: Path) -> dict[str, NDArray[np.float64]]:
    """Of every space, by brute force."""
    h, (q,) = embedded(pool, files), embedded(pool, [query])
    return {
        name: h[:, at] @ q[at] / np.linalg.norm(h[:, at], axis=1) / np.linalg.norm(q[at]) for name, at in SPACES.items()
    }


def scores(pool: Pool, where: Path, query: Path, by: Any) -> dict[str, float]:
    (answer,) = search(pool, where, [query], k=40, by=by, leave_out="nothing").answers
    values = [hit.cosine for hit in answer.nearest]
    assert values == sorted(values, reverse=True)
    return {Path(hit.path).name: hit.cosine for hit in answer.nearest}


@pytest.mark.parametrize(
    ("by", "weights"),
    [
        ("pitch", (0, 1, 0)),
        ("key", (0, 1, 0)),
        ("tempo", (0, 0, 1)),
        ("sound", (1, 0, 0)),
        ({"invariant": 1.0, "pitch": 0.0, "stretch": 0.0}, (1, 0, 0)),
        ("pitch:2,stretch:1", (0, 2, 1)),
        ("pitch:4,stretch:2", (0, 2, 1)),
        ("stretch,pitch:2", (0, 2, 1)),
        ("key:0.5,sound:1.5", (3, 1, 0)),
        ("all", (1, 1, 1)),
        ("invariant,pitch,stretch", (1, 1, 1)),
    ],
)
def test_one_index_answers_every_space_and_mixture_as_brute_force_does(
    music: Path, pool: Pool, by: Any, weights: tuple[int, int, int]
) -> None:
    files = sorted(music.iterdir())
    query = files[6]
    of = cosines(pool, files, query)
    expected = sum(w * of[name] for w, name in zip(weights, SPACES, strict=True)) / sum(weights)
    found = scores(pool, music, query, by)
    assert [found[file.name] for file in files] == pytest.approx(expected, abs=2e-6)
    order = [files[i].name for i in np.argsort(-expected, kind="stable")]
    assert list(found) == order


def test_an_index_is_built_once_for_all_spaces_and_its_parts_change_nothing(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Random()
    pool, query = Pool({ENCODER: encoder}), music / "07.wav"
    whole = scores(pool, music, query, "pitch:2,stretch")
    encoder.chunks = 0
    scores(pool, music, query, "tempo")
    assert encoder.chunks == 1  # the query
    monkeypatch.setattr(index_update, "ROWS_A_PART", 7)
    index = follow_catalogue(pool, music, tmp_path / "cut")[0]
    assert len(index.parts) == 6
    assert scores(pool, index.folder, query, "pitch:2,stretch") == whole
    assert json.loads((index.folder / "index.json").read_text())["spaces"] == {"invariant": 4, "pitch": 3, "stretch": 5}


def test_all_is_the_mean_of_the_spaces_not_the_cosine_of_the_longest(music: Path, pool: Pool) -> None:
    files, query = sorted(music.iterdir()), music / "07.wav"
    h, (q,) = embedded(pool, files), embedded(pool, [query])
    raw = h @ q / np.linalg.norm(h, axis=1) / np.linalg.norm(q)
    found = scores(pool, music, query, "all")
    assert np.abs(np.array([found[file.name] for file in files]) - raw).max() > 0.2
    (default,) = search(pool, music, [query], k=40, leave_out="nothing").answers
    assert [hit.cosine for hit in default.nearest] == list(found.values())


def test_heads_of_loev_are_spaces_of_the_index_and_the_embedding_is_all(music: Path) -> None:
    files, query = sorted(music.iterdir()), music / "07.wav"
    both = Pool({ENCODER: Random()})
    of = cosines(both, files, query)
    found = search(Loev(), music, [query], k=40, by="all", leave_out="nothing")
    assert found.weights == {"embedding": 1.0}
    assert found.index.spaces == {"embedding": 4, "pitch": 3, "stretch": 5}
    by_name = {Path(hit.path).name: hit.cosine for hit in found.answers[0].nearest}
    assert [by_name[file.name] for file in files] == pytest.approx(of["invariant"], abs=2e-6)
    (key,) = search(Loev(), music, [query], k=40, by="key", leave_out="nothing").answers
    by_name = {Path(hit.path).name: hit.cosine for hit in key.nearest}
    assert [by_name[file.name] for file in files] == pytest.approx(of["pitch"], abs=2e-6)


def test_the_parquet_of_one_space_is_a_catalogue_of_it_and_of_no_other(music: Path, pool: Pool, tmp_path: Path) -> None:
    files, query = sorted(music.iterdir()), music / "07.wav"
    table = embed_files(pool, music, tmp_path / "pitch.parquet", space="pitch").path
    expected = scores(pool, music, query, "pitch")
    names = {str(file): file.name for file in files}
    for by in ("pitch", "all"):
        (answer,) = search(pool, table, [query], k=40, by=by, leave_out="nothing").answers
        assert {names[hit.path]: hit.cosine for hit in answer.nearest} == pytest.approx(expected, abs=2e-6)
    with pytest.raises(UserError, match=r"--by tempo: .*an index, has no space stretch .*; it has pitch, all, key"):
        search(pool, table, [query], by="tempo")
    whole = embed_files(pool, music, tmp_path / "whole.parquet").path
    assert scores(pool, whole, query, "tempo") == scores(pool, music, query, "tempo")


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("temop", r"has no space temop; it has .*; did you mean tempo\?"),
        ("gain", r"--by gain: the encoder has no space gain; it has invariant, pitch, stretch, all, tempo, key, sound"),
        ("pitch:two", r"'pitch:two' is no NAME or NAME:WEIGHT"),
        ("pitch:-1", r"'pitch:-1' is no NAME or NAME:WEIGHT with a weight ≥ 0"),
        ("pitch:nan", "is no NAME or NAME:WEIGHT"),
        ("pitch,", "'' is no NAME or NAME:WEIGHT"),
        ("pitch:0", "weights must be finite, ≥ 0 and not all 0"),
        ("pitch,pitch:2", "pitch comes twice"),
        ("pitch,key", "key is pitch, which comes twice"),
        ("all,pitch", "all stands alone; name the spaces of a mixture: invariant, pitch, stretch"),
        ({"pitch": float("inf")}, "weights must be finite"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_embedded(music: Path, by: Any, words: str) -> None:
    encoder = Random()
    with pytest.raises(UserError, match=words):
        search(Pool({ENCODER: encoder}), music, [music / "07.wav"], by=by)
    assert encoder.chunks == 0
    assert not (music.parent / "indexes").exists()


def test_an_encoder_without_spaces_is_searched_whole_and_says_so(music: Path) -> None:
    plain = Random({"embedding": slice(0, 12)})
    with pytest.raises(UserError, match=r"the encoder has no space stretch \(tempo\); it has embedding, all$"):
        search(plain, music, [music / "07.wav"], by="tempo")
    assert search(plain, music, [music / "07.wav"]).weights == {"embedding": 1.0}


def test_an_index_of_another_schema_or_of_other_spaces_is_refused_with_the_remedy(
    music: Path, pool: Pool, tmp_path: Path
) -> None:
    place = follow_catalogue(pool, music, tmp_path / "index")[0].folder
    about = json.loads((place / "index.json").read_text())
    query = music / "07.wav"
    without = {name: value for name, value in about.items() if name != "spaces"}
    for forged, words in (
        (without | {"schema_version": 2}, "schema version 2; this release's 3 names its spaces"),
        (without, "'spaces'"),
        (about | {"spaces": {"pitch": 3}}, "do not make up its width 12"),
        (about | {"spaces": {"pitch": "12"}}, "do not make up its width 12"),
        (about | {"spaces": []}, "not a saved index"),
    ):
        (place / "index.json").write_text(json.dumps(forged))
        with pytest.raises(UserError, match=rf"{words}.*delete .*index and search again"):
            search(pool, place, [query])
    (place / "index.json").write_text(json.dumps(about | {"spaces": {"invariant": 4, "tempo": 8}}))
    with pytest.raises(
        UserError, match=r"vectors of invariant \(4\), tempo \(8\), the encoder gives invariant \(4\), pitch"
    ):
        search(pool, music, [query], index=place)
    with pytest.raises(UserError, match=r"vectors of invariant \(4\), tempo \(8\), the encoder gives"):
        search(pool, place, [query])


def test_an_index_without_some_spaces_of_its_encoder_is_searched_and_not_continued(music: Path, tmp_path: Path) -> None:
    spaces = {"invariant": slice(0, 4), "pitch": slice(4, 12)}
    place = follow_catalogue(Pool({ENCODER: Random({"invariant": slice(0, 4)})}), music, tmp_path / "index")[0].folder
    whole = Pool({ENCODER: Random(spaces)})
    assert search(whole, place, [music / "07.wav"], by="invariant").answers
    with pytest.raises(UserError, match=r"vectors of invariant \(4\), the encoder gives .* delete .* search again"):
        follow_catalogue(whole, music, place)


def test_an_index_answers_query_vectors_wherever_they_come_from(tmp_path: Path) -> None:
    from evaluation.search.track_index import Track, read_index

    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with rewriting(TrackIndex(tmp_path / "index", "any", 3, "")) as writer:
        writer.add([Track(str(i)) for i in range(5)], vectors)
    query = np.array([[1, 2, 3]], np.float32)
    found, rows = read_index(tmp_path / "index").search(query, 5)
    products = (vectors @ query[0]).astype(np.float64)
    assert rows[0].tolist() == np.argsort(-products).tolist()
    np.testing.assert_allclose(found[0], np.sort(products)[::-1], rtol=1e-6)
    with pytest.raises(ValueError, match="query vectors of 2, the index has 3"):
        read_index(tmp_path / "index").search(query[:, :2], 1)


def test_a_slice_of_zeros_is_equally_far_from_all() -> None:
    h = np.array([[0, 0, 3, 4], [1, 0, 0, 2]], np.float32)
    spaces = {"a": slice(0, 2), "b": slice(2, 4)}
    expected = np.array([[0, 0, 0.6, 0.8], [1, 0, 0, 1]])
    np.testing.assert_allclose(unit_slices(h, spaces), expected, atol=1e-7)
    np.testing.assert_allclose(query_rows(h, spaces, {"a": 1, "b": 3})[0], [0, 0, 0.45, 0.6], atol=1e-7)
    assert resolve(parse_by("all"), ["embedding", "pitch"], "x") == {"embedding": 1.0}
