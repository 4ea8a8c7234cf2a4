"""An encoder on disk is opened whole or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.settings import ROOT, UserError, load_config, to_tree
from cluster.storage import sha256
from trainers.config import ExperimentConfig
from trainers.frontend import build_frontend
from trainers.frozen import WEIGHTS, FrozenEncoder, load_encoder, untrained_encoder
from trainers.model import build_encoder, build_model
from trainers.places import ABOUT
from trainers.snapshot import CHECKSUMS, save_snapshot

SMALL = ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel", "views.samples=16384", "seed=5"]
WAVE = 0.3 * torch.randn(2, 16_384, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    config = load_config(ExperimentConfig, None, SMALL)
    model = build_model(config.encoder, config.head, config.loss, seed=config.seed)
    about = {"config": to_tree(config), "data_hash": "d:-", "provenance": {}}
    optimizer = torch.optim.Adam(model.parameters())
    save_snapshot(tmp_path / "run" / "snapshots", step=3, model=model, optimizer=optimizer, state=about, keep=1)
    return tmp_path / "run"


@pytest.fixture
def exported(snapshot: Path, tmp_path: Path) -> Path:
    """What `trainers.export` writes, as far as loading needs it."""
    folder, encoder = tmp_path / "exported", load_encoder(snapshot)
    folder.mkdir()
    save_file(encoder.encoder.state_dict(), folder / WEIGHTS)
    about = {"schema_version": 1, "step": 3, "data_hash": "d:-", "provenance": {}} | {
        "config": encoder.provenance["config"]
    }
    (folder / ABOUT).write_text(json.dumps(about))
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    (folder / CHECKSUMS).write_text(json.dumps({name: sha256(folder / name) for name in (WEIGHTS, ABOUT)}))


def test_a_snapshot_an_export_and_the_first_weights_agree_before_any_step(snapshot: Path, exported: Path) -> None:
    expected = load_encoder(snapshot)(WAVE)
    assert expected.shape == (2, 128)
    assert torch.equal(load_encoder(exported)(WAVE), expected)
    assert torch.equal(untrained_encoder(snapshot)(WAVE), expected)


@pytest.mark.parametrize("name", [WEIGHTS, ABOUT])
def test_one_flipped_bit_of_an_export_is_found(exported: Path, name: str) -> None:
    content = bytearray((exported / name).read_bytes())
    content[len(content) // 2] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: its checksum disagrees; export the snapshot again"):
        load_encoder(exported)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def write_sealed(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)
        seal(folder)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        drop(WEIGHTS),
        drop(CHECKSUMS),
        write(CHECKSUMS, "{}"),
        write(CHECKSUMS, "[1]"),
        write_sealed(ABOUT, "{"),
        write_sealed(ABOUT, '{"schema_version": 1}'),
        write_sealed(WEIGHTS, "\x80\x04not safetensors"),
    ],
)
def test_a_broken_export_is_refused_by_name(exported: Path, damage: Callable[[Path], None]) -> None:
    damage(exported)
    with pytest.raises(UserError, match="not a whole exported encoder"):
        load_encoder(exported)


def test_an_export_of_a_later_release_is_refused(exported: Path) -> None:
    about = json.loads((exported / ABOUT).read_text())
    write_sealed(ABOUT, json.dumps(about | {"schema_version": 2}))(exported)
    with pytest.raises(UserError, match="schema version 2, this release reads 1"):
        load_encoder(exported)


def test_weights_that_do_not_fit_are_refused(exported: Path) -> None:
    save_file({"last.weight": torch.zeros(1)}, exported / WEIGHTS)
    seal(exported)
    with pytest.raises(UserError, match="its weights do not fit its configuration"):
        load_encoder(exported)


def test_a_name_changes_with_the_weights(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    state = load_encoder(exported).encoder.state_dict()
    save_file({name: value + 1 for name, value in state.items()}, other / WEIGHTS)
    seal(other)
    assert load_encoder(other).hash != load_encoder(exported).hash


def test_a_frozen_encoder_refuses_to_train(snapshot: Path) -> None:
    encoder = load_encoder(snapshot)
    assert isinstance(encoder, FrozenEncoder)
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(RuntimeError, match="stays in evaluation mode"):
        encoder.train()


@pytest.mark.parametrize(("preset", "width"), [("tune_plus", 512), ("mule", 1728)])
def test_presets_of_the_other_encoders_load(preset: str, width: int) -> None:
    config = load_config(ExperimentConfig, ROOT / f"conf/pretrain/{preset}.yaml", ["data.unlabelled=x"])
    with torch.device("meta"):
        assert build_encoder(config.encoder).width == width


def test_mule_s_views_are_slices_of_300_frames() -> None:
    config = load_config(ExperimentConfig, ROOT / "conf/pretrain/mule.yaml", ["data.unlabelled=x"])
    frontend = build_frontend(config.frontend, 22_050)
    assert frontend(torch.zeros(1, config.views.samples)).shape == (1, 96, 300)
