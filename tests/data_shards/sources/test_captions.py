"""Captions: text beside the labels, from a table through the shards to the index; never a vocabulary."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.build.index_writer import index_shards
from data_shards.format.entries import parse_labels
from data_shards.format.index import read_index
from data_shards.format.index_file import manifest_hash
from data_shards.format.paths import INDEX_NAME, MANIFEST_NAME
from data_shards.format.problems import ShardError
from data_shards.inspect.show import describe, summarise
from data_shards.inspect.verify import verify
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
INLINE = BuildConfig(clips_per_shard=2, workers=1)
TEXTS = ["Leise, mit Klavier|a slow song", "", "“quoted”\nover two lines", "a slow song"]
CAPTIONS = (("Leise, mit Klavier", "a slow song"), (), ("“quoted”\nover two lines",), ("a slow song",))


@pytest.fixture
def captioned(make_folder: MakeFolder, tmp_path: Path) -> Path:
    audio, labels = make_folder(4, caption=TEXTS)
    build(read_folder(audio, labels).clips, tmp_path / "set", INLINE)
    return tmp_path / "set"


def test_captions_reach_the_tar_and_the_index_in_their_order(captioned: Path) -> None:
    index = read_index(captioned)
    assert index.captions == CAPTIONS
    assert "caption" not in {*index.vocabularies, *index.classes, *index.numeric}
    with tarfile.open(captioned / "shard-00000.tar") as tar:
        trees = [json.load(tar.extractfile(name) or io.BytesIO()) for name in tar.getnames() if name.endswith(".json")]
    assert trees[0]["captions"] == list(CAPTIONS[0])
    assert "captions" not in trees[1]
    assert verify(captioned) == []


def test_shards_that_are_indexed_again_have_the_same_captions(captioned: Path) -> None:
    before = read_index(captioned).captions
    (captioned / MANIFEST_NAME).unlink()
    assert index_shards(captioned)["captions"] == 4
    assert read_index(captioned).captions == before


def test_show_counts_captions_and_quotes_one(captioned: Path) -> None:
    index = read_index(captioned)
    assert summarise(index)["captions"] == {"texts": 4, "clips": 3}
    assert "captions  4, of 3 clips, e.g. “Leise, mit Klavier”" in describe(index)


def test_a_set_without_captions_has_the_bytes_it_had_before_there_were_any(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    build(read_folder(*make_folder(4)).clips, tmp_path / "set", INLINE)
    assert "captions" not in json.loads((tmp_path / "set" / MANIFEST_NAME).read_text())
    with pyarrow.memory_map(str(tmp_path / "set" / INDEX_NAME)) as file:
        assert "captions" not in pyarrow.ipc.open_file(file).schema.names
    index = read_index(tmp_path / "set")
    assert index.captions == ((),) * 4
    assert summarise(index)["captions"] == {"texts": 0, "clips": 0}
    assert "captions" not in describe(index)


def test_captions_that_the_index_lacks_are_reported(captioned: Path) -> None:
    manifest = json.loads((captioned / MANIFEST_NAME).read_text())
    manifest["captions"] -= 1
    manifest["hash"] = manifest_hash(manifest)
    (captioned / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="4 captions, 3 in the manifest; build or index the set again"):
        read_index(captioned)


def test_verify_compares_the_texts(captioned: Path, make_folder: MakeFolder, tmp_path: Path) -> None:
    """An index of the very same audio with other texts of the same length."""
    clips = read_folder(*make_folder(4, name="other", caption=[text.replace("slow", "fast") for text in TEXTS])).clips
    build(clips, tmp_path / "changed", INLINE)
    for number in range(2):
        shard = (tmp_path / f"changed/shard-0000{number}.tar").read_bytes()
        (captioned / f"shard-0000{number}.tar").write_bytes(shard)
    whats = {(problem.key, problem.what) for problem in verify(captioned)}
    assert {what for _, what in whats} == {"labels: the checksum does not fit"}
    assert len(whats) == 2


@pytest.mark.parametrize("captions", ['"text"', "[1]", '[""]', '[" "]', "null", "{}"])
def test_captions_that_are_no_list_of_texts_are_refused(captions: str) -> None:
    with pytest.raises(ValueError, match="not a list of texts"):
        parse_labels("a", f'{{"captions": {captions}}}'.encode())


def test_the_column_of_captions_can_be_given(make_folder: MakeFolder) -> None:
    audio, labels = make_folder(4, words=TEXTS)
    listing = read_folder(audio, labels, captions=["words"])
    assert listing.kinds["words"] == "captions"
    assert tuple(clip.captions for clip in listing.clips) == CAPTIONS
    with pytest.raises(UserError, match="no column song for --captions"):
        read_folder(audio, labels, captions=["song"])


def test_a_caption_decides_the_recipe(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(2)).clips
    build(clips, tmp_path / "set", INLINE)
    with pytest.raises(UserError, match="holds another set"):
        build([replace(clips[0], captions=("new",)), clips[1]], tmp_path / "set", INLINE)
