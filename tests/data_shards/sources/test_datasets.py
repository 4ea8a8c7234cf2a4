"""The table of named datasets, and its use from the command line."""

import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from cluster.settings import ROOT, UserError
from commands.app import app
from data_shards.format.index import read_index
from data_shards.sources.datasets import DATASETS, check_variant, download, list_clips


def mp3(number: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(number).standard_normal(8_000) / 10, 16_000, format="MP3")
    return buffer.getvalue()


@pytest.fixture
def mtat(tmp_path: Path) -> Path:
    """Three clips of MagnaTagATune in a zip, and its tables."""
    root = tmp_path / "mtat"
    root.mkdir()
    with zipfile.ZipFile(root / "mp3.zip", "w") as archive:
        for number, folder in enumerate("0cd"):
            archive.writestr(f"{folder}/song-{number}.mp3", mp3(number))
    rows = [f"{number}\t1\t{int(number == 1)}\t{folder}/song-{number}.mp3" for number, folder in enumerate("0cd")]
    (root / "annotations_final.csv").write_text("\n".join(["clip_id\tzither\tcalm\tmp3_path", *rows]))
    (root / "clip_info_final.csv").write_text("clip_id\tartist\ttitle\n0\tAnn\tSong\n")
    return root


def run(arguments: Sequence[str | Path]) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["shards", "build", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        return 2, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_a_dataset_is_built_through_the_front_door_and_its_tag_order_kept(mtat: Path, tmp_path: Path) -> None:
    code, out, errors = run(["mtat", "--root", mtat, "--out", tmp_path / "set", "build.workers=1"])
    assert code == 0
    assert "note MTAT top50: the counts are not the published ones" in errors
    assert "clips     3" in out
    index = read_index(tmp_path / "set")
    assert index.vocabularies == {"tags": ("zither", "calm")}  # by frequency, not by name
    assert index.manifest["splits"] == {"train": 1, "valid": 1, "test": 1}


def test_json_stays_json_beside_the_notes(mtat: Path, tmp_path: Path) -> None:
    code, out, errors = run(["mtat", "--root", mtat, "--out", tmp_path / "set", "--json", "build.workers=1"])
    assert (code, out.lstrip()[:1]) == (0, "{")
    assert "note" in errors


def test_the_help_lists_every_dataset_with_its_files_and_its_page() -> None:
    listed = run(["--help"])[1]
    for name, dataset in DATASETS.items():
        assert re.search(rf"\b{name}\b", listed)
        text = re.sub(r"[\s│]+", "", run([name, "--help"])[1])
        for words in (dataset.title, dataset.page, dataset.needs, ", ".join(dataset.variants)):
            assert re.sub(r"\s+", "", words) in text


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_refused_with_what_is_missing(name: str, tmp_path: Path) -> None:
    for variant in DATASETS[name].variants:
        with pytest.raises(UserError, match=re.escape(str(tmp_path))):
            list_clips(name, tmp_path, variant)
    with pytest.raises(UserError, match=re.escape(DATASETS[name].page)):
        list_clips(name, tmp_path / "nowhere", DATASETS[name].variants[0])


def test_a_wrong_variant_is_named_with_the_right_ones(mtat: Path, tmp_path: Path) -> None:
    code, _, message = run(["mtat", "--root", mtat, "--out", tmp_path / "set", "--variant", "top10"])
    assert code == 2
    assert message == "mtat: no variant 'top10'; there are top50, top50_whole, all188, all"
    assert check_variant("fma", "small") is DATASETS["fma"]


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if not dataset.remotes])
def test_what_has_no_published_hash_names_its_page(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(DATASETS[name].page)):
        download(name, tmp_path, DATASETS[name].variants[0])
    assert list(tmp_path.iterdir()) == []


def test_every_download_has_a_hash_of_its_algorithms_length() -> None:
    remotes = [remote for dataset in DATASETS.values() for remote in (*dataset.remotes, *dataset.remotes_of.values())]
    assert len(remotes) == 19
    for remote in remotes:
        algorithm, _, digest = remote.hash.partition(":")
        assert re.fullmatch(f"[0-9a-f]{{{ {'sha256': 64, 'sha1': 40, 'md5': 32}[algorithm] }}}", digest)
        assert not Path(remote.name).is_absolute()
        assert remote.url.startswith("http")
    assert len({remote.url for remote in remotes}) == len({remote.hash for remote in remotes}) == 19


@pytest.mark.parametrize(
    ("name", "list_of_hashes", "others"),
    [
        ("mtat", "magnatagatune", {"clip_info_final.sql.zip", "mp3_echonest_xml.zip", "comparisons_final.csv"}),
        ("gtzan", "gtzan", set()),
        ("emomusic", "emomusic", {"dataset_manual.pdf"}),
        ("giantsteps-key", "giantsteps", None),
    ],
)
def test_addresses_and_hashes_are_those_of_the_real_lists(
    name: str, list_of_hashes: str, others: set[str] | None
) -> None:
    path = Path(os.environ.get("COUNTERPOINT_DATA", ROOT.parent / "shared/data")) / "metadata/checksums"
    if not path.is_dir():
        pytest.skip(f"{path} is not here; COUNTERPOINT_DATA names the folder above metadata")
    entries = json.loads((path / f"{list_of_hashes}.json").read_text()).values()
    known = {entry["url"]: f"sha256:{entry['checksum']}" for entry in entries}
    ours = {remote.url: remote.hash for remote in DATASETS[name].remotes}
    assert ours.items() <= known.items()
    if others is not None:  # what is offered and not needed
        assert {url.rpartition("/")[2] for url in known.keys() - ours.keys()} == others
