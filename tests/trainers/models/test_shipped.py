"""Models that ship: a name stands for a whole, verified encoder everywhere that a snapshot does."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import UserError, load_config, to_tree
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.sources import load_any, untrained_any
from evaluation.encoders.sources import open_encoder as open_pool_of
from trainers.config import ExperimentConfig
from trainers.inference.export import ExportOptions
from trainers.inference.frozen import WEIGHTS, load_encoder
from trainers.inference.initial import open_initial
from trainers.inference.two_towers import load_two_towers
from trainers.model import build_model
from trainers.models import shipped
from trainers.models.ship import ship
from trainers.state.places import absolute_source, check_encoder, locate
from trainers.state.snapshot import CHECKSUMS, save_snapshot
from trainers.step import StepTrainer
from trainers.text.files import NoTextPackageError
from trainers.two_tower import build_towers

AUDIO: dict[str, Any] = {
    "encoder.name": "mel_cnn", "encoder.channels": 4, "frontend.kind": "mel", "views.samples": 16_384, "seed": 5,
    "data.batch": 8, "data.b_s": 1.0,
}  # fmt: skip
TEXT: dict[str, Any] = AUDIO | {
    "views.count": 1, "data.b_s": 1.0, "loss.objective": "music_text", "head.width": 16, "head.hidden": 32,
    "text.encoder": "words", "text.hidden": 24,
}  # fmt: skip
WAVE = 0.3 * torch.randn(3, 16_384, generator=torch.Generator().manual_seed(0))
NAMES = ["open-audio", "open-text"]


def run_of(folder: Path, keys: dict[str, Any], labelled: Path, licence: str) -> Path:
    """A run's folder with one snapshot, trained on a set whose clips are all under a licence."""
    manifest = set_of(labelled, licence)
    config = load_config(ExperimentConfig, None, keys | {"data.labelled": str(labelled)})
    model = (
        build_towers(config)
        if config.reads_texts
        else build_model(config.encoder, config.head, config.loss, seed=config.seed)
    )
    about = {"config": to_tree(config), "data_hash": f"{manifest}:-", "provenance": {}}
    optimizer = torch.optim.Adam(model.parameters())
    save_snapshot(folder / "snapshots", step=3, model=model, optimizer=optimizer, state=about, keep=1)
    return folder


def set_of(folder: Path, licence: str) -> str:
    from dataclasses import replace

    from data_shards.build.build import BuildConfig, build
    from data_shards.format.index import read_index
    from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

    if not folder.exists():
        clips = corpus(SyntheticConfig(tracks=4, seconds=3.0, valid_share=0.0, test_share=0.0, captions=2, seed=0))
        build([replace(clip, licence=licence) for clip in clips], folder, BuildConfig(workers=1))
    return str(read_index(folder).manifest_hash)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models made by `ship`: audio alone, and with a text tower."""
    work = tmp_path_factory.mktemp("ship")
    for name, keys in zip(NAMES, (AUDIO, TEXT), strict=True):
        run = run_of(work / name, keys, work / "set", "CC BY 4.0")
        ship(run, name, f"{name} of a test", ExportOptions(), work / "models")
    return work / "models"


@pytest.fixture
def shipping(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of them as those of this release, and an empty working directory."""
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    monkeypatch.setattr(shipped, "MODELS", copy)
    monkeypatch.setattr(shipped, "TABLE", copy / "models.json")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shipped.shipped_models.cache_clear()
    yield copy
    shipped.shipped_models.cache_clear()


def test_a_name_is_loaded_as_the_run_it_came_from(shipping: Path, models: Path) -> None:
    for name in NAMES:
        own, named = load_encoder(models.parent / name)(WAVE), load_encoder(name)(WAVE)
        assert (own - named).abs().max() < 5e-3 * own.abs().max()
        assert torch.equal(load_any(name)(WAVE), named)
        check_encoder(Path(name))
        assert locate(name).is_relative_to(shipping)
        assert absolute_source(name) == name
        assert untrained_any(name) is not None


def test_a_text_tower_comes_along_where_there_is_one(shipping: Path, models: Path) -> None:
    texts = ["slow piano", "fast drums"]
    own, named = load_two_towers(models.parent / "open-text"), load_two_towers("open-text")
    assert (own.embed_text(texts) - named.embed_text(texts)).abs().max() < 5e-3
    assert hasattr(load_any("open-text", texts=True), "embed_text")
    assert not hasattr(load_any("open-audio", texts=True), "embed_text")
    with pytest.raises(UserError, match="open-audio has no text tower"):
        load_two_towers("open-audio")


@pytest.mark.parametrize("start", NAMES)
@pytest.mark.parametrize("keys", [AUDIO, TEXT], ids=["audio", "text"])
def test_a_run_starts_from_a_name(shipping: Path, start: str, keys: dict[str, Any]) -> None:
    config = load_config(ExperimentConfig, None, keys | {"init_from": start, "data.labelled": "unread"})
    trainer = StepTrainer(config, num_tags=0, device=torch.device("cpu"))
    initial = open_initial(start)
    assert open_initial(start, initial) is initial
    heads: Any = trainer.model.projector  # of contrastive runs alone
    head = next(iter(heads.head.parameters())).clone() if keys is AUDIO else None
    trainer.load_weights(initial)
    found = trainer.model.projector.encoder.state_dict()
    for name, value in load_encoder(start).encoder.state_dict().items():
        assert torch.equal(found[name].float(), value.float()), name
    if head is not None:  # an exported encoder has none: the new run's own stays
        assert torch.equal(next(iter(heads.head.parameters())), head)


def test_a_folder_with_an_encoder_comes_before_the_name(shipping: Path, models: Path) -> None:
    Path("open-audio").mkdir()
    assert locate("open-audio").is_relative_to(shipping)  # an empty folder is no encoder
    Path("open-audio").rmdir()
    shutil.copytree(models.parent / "open-text", "open-audio")
    assert locate("open-audio") == Path("open-audio")
    assert absolute_source("open-audio") == str(Path("open-audio").absolute())
    load_two_towers("open-audio")


@pytest.mark.parametrize("file", [WEIGHTS, CHECKSUMS, "encoder.json", "towers.safetensors"])
@pytest.mark.parametrize("how", ["bit", "short", "gone", "renewed"])
def test_a_damaged_model_is_refused_with_the_remedy(shipping: Path, file: str, how: str) -> None:
    place = shipping / "open_text" / file
    whole = place.read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    if how == "gone":
        place.unlink()
    else:
        place.write_bytes(whole[:-9] if how == "short" else damaged)
    if how == "renewed" and file != CHECKSUMS:  # somebody made its checksum fit
        from cluster.files.storage import sha256

        sums = json.loads((place.parent / CHECKSUMS).read_text())
        (place.parent / CHECKSUMS).write_text(json.dumps(sums | {file: sha256(place)}))
    for load in (load_encoder, load_two_towers, open_initial):
        with pytest.raises(UserError, match=r"open_text.*install Counterpoint again") as refused:
            load("open-text")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["README.md", "card.json"])
def test_a_card_that_was_changed_is_refused_where_it_ships_and_is_its_owner_s_where_it_was_exported(
    shipping: Path, file: str
) -> None:
    place = shipping / "open_audio" / file
    place.write_text(place.read_text().replace("CC BY", "MIT"))
    load_encoder(shipping / "open_audio")
    with pytest.raises(UserError, match=rf"open_audio/{file}: its checksum disagrees; install Counterpoint again"):
        load_encoder("open-audio")


@pytest.mark.parametrize("name", ["open-mle", "open_audio", "opentext", "nonsense"])
def test_an_unknown_name_names_those_there_are(shipping: Path, name: str) -> None:
    with pytest.raises(UserError, match="name of a model that ships: open-audio, open-text") as refused:
        check_encoder(Path(name))
    near = {"open_audio": "open-audio", "opentext": "open-text"}.get(name)
    assert near is None or f"did you mean {near}?" in str(refused.value)
    with pytest.raises(UserError, match="no snapshot here") as other:
        check_encoder(Path("outputs") / name)  # a path is no name
    assert "model that ships" not in str(other.value)


def test_music_under_another_licence_never_ships(tmp_path: Path) -> None:
    for number, licence in enumerate(("GPL-2.0-or-later", "CC BY-NC 4.0", "CC BY-ND 4.0")):
        run = run_of(tmp_path / f"run{number}", AUDIO, tmp_path / f"set{number}", licence)
        with pytest.raises(UserError, match=f"under {licence}; train on music under CC0, CC BY or CC BY-SA alone"):
            ship(run, "open-audio", "of a test", ExportOptions(), tmp_path / "models")
    shutil.rmtree(tmp_path / "set0")
    with pytest.raises(UserError, match="licences not known"):
        ship(tmp_path / "run0", "open-audio", "of a test", ExportOptions(), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_what_ships_with_this_release_is_whole_and_small() -> None:
    table = shipped.shipped_models()
    assert "open-mel" in table
    for name, model in table.items():
        encoder = load_encoder(name)
        assert torch.isfinite(encoder(0.1 * torch.randn(1, encoder.samples))).all()
        assert sum(file.stat().st_size for file in model.folder.iterdir()) <= 12e6
        assert (model.folder / "attribution.csv").is_file()


def test_without_the_package_of_its_text_encoder_a_model_still_embeds_audio(
    shipping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise NoTextPackageError("MiniLM is not installed")

    monkeypatch.setattr("trainers.inference.two_towers.load_two_towers", missing)
    assert torch.equal(load_any("open-text", texts=True, or_audio=True)(WAVE), load_encoder("open-text")(WAVE))
    with open_pool_of("open-text", heads=True) as pool:
        assert list(pool) == [ENCODER]
    with pytest.raises(NoTextPackageError), open_pool_of("open-text", heads=True, texts=True):
        pass
    with pytest.raises(NoTextPackageError):
        load_any("open-text", texts=True)
