"""Named spaces of a frozen and of an exported encoder (law 11), and LOEV's heads as spaces that are asked for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cluster.settings import UserError, load_config, to_tree
from trainers.config import ExperimentConfig
from trainers.frontends.frontend import build_frontend
from trainers.inference.export import CARD, Exported, export_encoder
from trainers.inference.frozen import HEADS, WEIGHTS, load_encoder, open_encoder, untrained_encoder
from trainers.inference.model_card import ONNX, PROGRAM
from trainers.inference.spaces import head_names, space_names
from trainers.model import build_model
from trainers.state.places import ABOUT
from trainers.state.snapshot import CHECKSUMS, save_snapshot

SMALL = ["encoder.name=mel_cnn", "encoder.channels=4", "frontend.kind=mel", "views.samples=16384", "data.b_s=0"]
LOEV = [*SMALL, "augment.preset=loev", "head.variant=[stretch,pitch]", "head.width=16"]
PLUS = [*LOEV, "encoder.own_blocks=2"]
WIDTH = 128


def waves(count: int) -> Tensor:
    return 0.3 * torch.randn(count, 16_384, generator=torch.Generator().manual_seed(count))


def write_snapshot(folder: Path, overrides: list[str]) -> tuple[Path, Any]:
    """A snapshot of a model whose branches and heads differ from one another."""
    config = load_config(ExperimentConfig, None, overrides)
    model = build_model(config.encoder, config.head, config.loss, seed=config.seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for weight in model.projector.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
    model.projector.encoder(build_frontend(config.frontend, 22_050)(waves(2)))
    about: dict[str, Any] = {"config": to_tree(config), "data_hash": "-:-", "provenance": {}}
    made = save_snapshot(
        folder, step=7, model=model, optimizer=torch.optim.Adam(model.parameters()), state=about, keep=1
    )
    model.eval()
    return made, model


@pytest.fixture(scope="module")
def plus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Exported]:
    folder = tmp_path_factory.mktemp("plus")
    snapshot, model = write_snapshot(folder, PLUS)
    return snapshot, model, export_encoder(snapshot, folder / "out")


@pytest.fixture(scope="module")
def loev(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Exported]:
    folder = tmp_path_factory.mktemp("loev")
    snapshot, model = write_snapshot(folder, LOEV)
    return snapshot, model, export_encoder(snapshot, folder / "out")


def columns(found: dict[str, list[int]], h_NE: Tensor) -> dict[str, Tensor]:
    return {name: h_NE[:, first:end] for name, (first, end) in found.items()}


def test_slices_of_every_exported_form_are_the_branches_of_the_module(plus: tuple[Path, Any, Exported]) -> None:
    snapshot, model, exported = plus
    encoder = load_encoder(snapshot)
    assert list(encoder.spaces) == ["invariant", "stretch", "pitch"]  # the order of head.variant
    wave = waves(3)
    with torch.no_grad():
        x = model.projector.encoder.network.trunk(encoder.frontend(wave))
        branches = {name: branch(x) for name, branch in model.projector.encoder.branches.items()}
    assert not torch.allclose(branches["pitch"], branches["stretch"], atol=1e-3)
    h_NE = encoder(wave)
    assert torch.equal(torch.cat([h_NE[:, place] for place in encoder.spaces.values()], 1), h_NE)
    for name, place in encoder.spaces.items():
        torch.testing.assert_close(h_NE[:, place], branches[name])
    folder = exported.folder
    about = json.loads((folder / ABOUT).read_text())
    assert about["schema_version"] == 1
    assert about["spaces"] == {"invariant": [0, WIDTH], "stretch": [WIDTH, 256], "pitch": [256, 384]}
    assert about["head_spaces"] == []
    again = load_encoder(folder)
    assert dict(again.spaces) == dict(encoder.spaces)
    assert torch.equal(again(wave), h_NE)
    assert again.with_heads() is again
    import onnx
    import onnxruntime

    program = torch.export.load(folder / PROGRAM).module()
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        outputs = {PROGRAM: program(wave), ONNX: torch.from_numpy(session.run(None, {"wave": wave.numpy()})[0])}
    named = {one.key: one.value for one in onnx.load(folder / ONNX).metadata_props}
    assert json.loads(named["spaces"]) == about["spaces"]
    assert named["encoder"] == encoder.hash
    for output in outputs.values():
        for name, part in columns(about["spaces"], output).items():
            torch.testing.assert_close(part, branches[name], rtol=1e-4, atol=1e-5)
    card = (folder / CARD).read_text()
    assert "| stretch | 128…255 |" in card
    assert "mean of the spaces' cosines" in card


def test_loev_exports_a_plain_encoder_and_keeps_its_heads_beside_it(
    loev: tuple[Path, Any, Exported], tmp_path: Path
) -> None:
    snapshot, model, exported = loev
    plain, _ = write_snapshot(tmp_path, SMALL)
    assert open_encoder(snapshot).state.keys() == open_encoder(plain).state.keys()
    encoder, folder = load_encoder(snapshot), exported.folder
    assert dict(encoder.spaces) == {"embedding": slice(0, WIDTH)}
    assert load_file(folder / WEIGHTS).keys() == open_encoder(plain).state.keys()
    assert set(json.loads((folder / CHECKSUMS).read_text())) >= {WEIGHTS, HEADS, ABOUT}
    about = json.loads((folder / ABOUT).read_text())
    assert (about["spaces"], about["head_spaces"]) == ({"embedding": [0, WIDTH]}, ["invariant", "stretch", "pitch"])
    wave = waves(3)
    with torch.no_grad():
        z_ND, h_NE = model.projector(encoder.frontend(wave))
    for source in (snapshot, folder):
        extended: Any = load_encoder(source).with_heads()
        out = extended(wave)
        assert {name: (place.start, place.stop) for name, place in extended.spaces.items()} == {
            "embedding": (0, 128), "invariant": (128, 144), "stretch": (144, 160), "pitch": (160, 176),
        }  # fmt: skip
        torch.testing.assert_close(out[:, :WIDTH], h_NE)
        torch.testing.assert_close(out[:, WIDTH:], z_ND)
        assert torch.equal(out[:, :WIDTH], load_encoder(source)(wave))
        assert extended.hash == load_encoder(source).hash
        assert extended.width == 176
        assert not any(weight.requires_grad for weight in extended.parameters())
    assert "`invariant`, `stretch`, `pitch`, in `heads.safetensors`" in (folder / CARD).read_text()


def test_heads_are_computed_only_where_they_are_asked_for(loev: tuple[Path, Any, Exported]) -> None:
    encoder = load_encoder(loev[0])
    assert encoder(waves(1)).shape == (1, WIDTH)
    assert not [name for name, _ in encoder.named_parameters() if "heads" in name]
    assert untrained_encoder(loev[0]).with_heads().width == WIDTH  # first weights of heads are no baseline


def test_a_damaged_file_of_heads_is_refused(loev: tuple[Path, Any, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(loev[2].folder, tmp_path / "out"))
    content = bytearray((folder / HEADS).read_bytes())
    content[-1] ^= 1
    (folder / HEADS).write_bytes(content)
    with pytest.raises(UserError, match=r"heads\.safetensors: its checksum disagrees"):
        load_encoder(folder)


def test_a_configuration_names_the_spaces_of_its_encoder() -> None:
    def named(overrides: list[str]) -> tuple[Any, Any]:
        config = load_config(ExperimentConfig, None, overrides)
        return space_names(config), head_names(config)

    assert named(SMALL) == (("embedding",), ())
    assert named(LOEV) == (("embedding", "invariant", "stretch", "pitch"), ("invariant", "stretch", "pitch"))
    assert named(PLUS) == (("invariant", "stretch", "pitch"), ())
