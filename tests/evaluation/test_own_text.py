"""Texts through code of the user's own: a text encoder that a run names, and a factory whose encoder embeds texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from cluster.settings import UserError
from commands.app import app
from evaluation.encoders.sources import load_any, untrained_any
from tests.evaluation.test_text_tasks import TASKS, Towers, config_for, make_shards
from tests.tower_runs import OWN_TEXT, SMALL, save_run
from trainers.inference import export as exporting
from trainers.inference.export_towers import NoOnnxError
from trainers.inference.two_towers import load_two_towers

FACTORIES = """
from tests.evaluation.test_text_tasks import Deaf, Towers

def towers(untrained=False):
    return Towers(noise=50.0, hash="first weights") if untrained else Towers()

def mute():
    return Towers(spaces={"embedding": slice(0, 28)})

def deaf():
    found = Deaf()
    found.spaces = {"music_text": slice(0, 4)}
    return found

def narrow():
    return Towers(spaces={"music_text": slice(0, 4)})

def plain():
    return Deaf()
"""
TEXTS = ["a slow piece", "drums 🎹", "静かな曲"]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_text_run.py").write_text(OWN_TEXT)
    (tmp_path / "own_towers.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def run(parts: None, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    save_run(folder, SMALL | {"text.encoder": "own_text_run:Letters", "text.settings": {"width": 5}})
    return folder


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        wave = 0.1 * rng.standard_normal(20_000).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", wave, 22_050, subtype="FLOAT")
    return folder


def called(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def commands(run: Path, songs: Path, place: Path) -> dict[str, tuple[object, ...]]:
    preset = place / "tasks.yaml"
    preset.write_text("tasks: {captions: {kind: text_retrieval}}\n")
    shards = place / "shards"
    if not shards.exists():
        make_shards(place, count=10)
    return {
        "search": ("search", run, songs, "--text", "slow", "--index", place / "index", "--json"),
        "tag": ("tag", run, songs, "--tags", "slow,fast", "--json"),
        "embed": ("embed", run, songs, "--space", "music_text", "--out", place / "e.parquet", "--json"),
        "evaluate": ("evaluate", run, preset, f"data.shards={shards}", "--out", place / "report", "--json"),
        "export": ("export", run, "--out", place / "exported", "--json"),
    }


def test_no_command_imports_a_text_encoder_that_is_not_trusted(run: Path, songs: Path, tmp_path: Path) -> None:
    for name, words in commands(run, songs, tmp_path).items():
        found = called(*words)
        assert isinstance(found.exception, UserError), name
        assert "text.encoder: own_text_run:Letters" in str(found.exception).replace("=", ": "), name
        assert "add --trust-code" in str(found.exception), name
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "exported").exists()


def test_the_audio_tower_alone_needs_no_trust(run: Path, songs: Path, tmp_path: Path) -> None:
    found = called("embed", run, songs, "--out", tmp_path / "e.parquet", "--json")
    assert found.exit_code == 0, found.exception


def test_search_tag_and_embed_read_texts_through_it(run: Path, songs: Path, tmp_path: Path) -> None:
    towers = load_two_towers(run, trust_code=True)
    words = commands(run, songs, tmp_path)
    search = json.loads(called(*words["search"], "--trust-code").stdout)
    tagged = json.loads(called(*words["tag"], "--prompt", "{}", "--trust-code").stdout)
    assert called(*words["embed"], "--trust-code").exit_code == 0
    table = pq.read_table(tmp_path / "e.parquet")
    audio = torch.nn.functional.normalize(torch.tensor(table["embedding"].to_pylist()), dim=1)
    cosine = dict(zip(table["path"].to_pylist(), (audio @ towers.embed_text(["slow"])[0]).tolist(), strict=True))
    for hit in search["answers"][0]["nearest"]:
        assert hit["cosine"] == pytest.approx(cosine[hit["path"]], abs=1e-4)
    assert len(tagged["tagged"]) == len(search["answers"][0]["nearest"]) == 3
    for file in tagged["tagged"]:
        assert file["cosine"]["slow"] == pytest.approx(cosine[file["path"]], abs=1e-4)
    assert any(command.endswith("--trust-code") for command in [*search["next"], *tagged["next"]])


def test_evaluate_loads_both_towers_with_it(run: Path) -> None:
    for load in (load_any, untrained_any):
        towers: Any = load(run, trust_code=True, texts=True)
        assert towers.embed_text(TEXTS).shape == (3, 16)


def test_an_exported_folder_names_it_and_asks_for_trust_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_graph(*_: Any) -> float:
        raise NoOnnxError("not here")

    monkeypatch.setattr(exporting, "_write_programs", lambda *_: ({}, {}))
    monkeypatch.setattr(exporting, "write_towers_onnx", no_graph)
    out = exporting.export_encoder(run, tmp_path / "exported", trust_code=True).folder
    card = (out / "README.md").read_text()
    assert 'load_two_towers("this folder", trust_code=True)' in card
    assert 'load_encoder("this folder")' in card
    assert "`text.encoder`: `own_text_run:Letters`" in card
    with pytest.raises(UserError, match="add --trust-code"):
        load_two_towers(out)
    after, before = (load_two_towers(place, trust_code=True).embed_text(TEXTS) for place in (out, run))
    assert torch.equal(after, before)


@pytest.mark.usefixtures("parts")
def test_a_factory_whose_encoder_embeds_texts_is_searched_tagged_and_evaluated(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(1, 13):  # a silent file would be rejected
        wave = np.full(2_500, number / 1000, np.float32)
        soundfile.write(music / f"{number}.wav", wave, 22_050, subtype="FLOAT")
    search = called("search", "own_towers:towers", music, "--text", "slow piano", "--index", tmp_path / "i", "--json")
    assert {Path(hit["path"]).stem for hit in json.loads(search.stdout)["answers"][0]["nearest"][:2]} == {"2", "3"}
    tagged = json.loads(called("tag", "own_towers:towers", music, "--tags", "flute,piano", "--json").stdout)
    best = {Path(file["path"]).stem: next(iter(file["cosine"])) for file in tagged["tagged"]}
    assert (best["1"], best["2"]) == ("flute", "piano")
    from evaluation.evaluate import evaluate

    config = config_for(make_shards(tmp_path), {"captions": TASKS["captions"]})
    tree = evaluate("own_towers:towers", config, tmp_path / "report").tree
    metric = "captions/text_to_music_recall@10"
    assert tree["metrics"][metric]["value"] > tree["baselines"]["untrained"][metric]["value"]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mute", "it has a method embed_text and no space music_text; texts need both"),
        ("deaf", "it has a space music_text and no embed_text; texts need both"),
        ("narrow", r"its embed_text gave shape \(2, 24\), not \(2, 4\)"),
    ],
)
def test_half_a_text_tower_of_a_factory_is_refused(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_any(f"own_towers:{name}")


@pytest.mark.usefixtures("parts")
def test_a_factory_without_texts_is_told_what_it_lacks(songs: Path) -> None:
    found = called("search", "own_towers:plain", songs, "--text", "slow")
    assert "what its factory returns needs a method embed_text(texts)" in str(found.exception)


def test_vectors_of_a_factory_are_brought_to_unit_norm(parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: Towers, texts: Sequence[str]) -> torch.Tensor:
        return 2 * embed(self, texts)

    embed = Towers.embed_text
    monkeypatch.setattr(Towers, "embed_text", twice)
    towers = load_any("own_towers:towers")
    assert torch.allclose(towers.embed_text(TEXTS).norm(dim=1), torch.ones(3))
