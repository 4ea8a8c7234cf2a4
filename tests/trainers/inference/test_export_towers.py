"""An exported folder holds both towers: weights that load, and one ONNX graph that computes the same."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.inference.export import Exported, export_encoder
from trainers.inference.frozen import load_encoder
from trainers.inference.two_towers import load_two_towers
from trainers.loop import World, train

MakeConfig = Callable[..., ExperimentConfig]
TEXTS = ["a slow piece", "an energetic track with drums, played by a flute", "rock", "夜の音楽 🎹"]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


@dataclass(frozen=True)
class Made:
    snapshot: Path
    exported: Exported


@pytest.fixture(scope="module")
def made(towers_below: Callable[[Path], MakeConfig], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two trained towers, exported once: tracing them takes seconds."""
    folder = tmp_path_factory.mktemp("towers")
    assert train(towers_below(folder)(optim__steps=2), World(), Quiet()) == 0
    return Made(folder / "run", export_encoder(folder / "run", folder / "exported"))


@pytest.mark.usefixtures("untraced")
def test_an_exported_folder_loads_as_both_towers_and_as_the_encoder(made: Made, tmp_path: Path) -> None:
    folder, out = made.snapshot, made.exported.folder
    assert made.exported.left_out == {}
    before, after = load_two_towers(folder), load_two_towers(out)
    wave = 0.1 * torch.randn(3, before.samples, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before.embed_audio(wave), after.embed_audio(wave))
    assert torch.equal(before.embed_text(TEXTS), after.embed_text(TEXTS))
    assert torch.equal(load_encoder(folder)(wave), load_encoder(out)(wave))
    again = export_encoder(out, tmp_path / "again")  # an exported folder is exported like a snapshot
    assert made.exported.files.keys() == again.files.keys()


def test_the_graph_of_both_towers_takes_any_number_of_views_texts_and_tokens(made: Made) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert made.exported.differences["towers.onnx"] < 1e-5
    towers = load_two_towers(made.snapshot)
    session = onnxruntime.InferenceSession(made.exported.files["towers_onnx"], providers=["CPUExecutionProvider"])
    for count in (1, 4):
        wave = 0.1 * torch.randn(count + 1, towers.samples, generator=torch.Generator().manual_seed(count))
        tokens = towers.text.tokenize(TEXTS[:count])
        given = {"wave": wave.numpy(), "ids": tokens.ids_kL.numpy(), "mask": tokens.mask_kL.numpy()}
        audio, text = session.run(["audio", "text"], given)
        torch.testing.assert_close(torch.from_numpy(audio), towers.embed_audio(wave).clone(), rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(text), towers.embed_text(TEXTS[:count]).clone(), rtol=0, atol=1e-5)


def test_a_damaged_text_tower_is_refused(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    shutil.copytree(made.exported.folder, out)
    file = out / "towers.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"towers.safetensors: its checksum disagrees; export the snapshot again"):
        load_two_towers(out)
