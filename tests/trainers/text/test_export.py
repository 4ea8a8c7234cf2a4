"""A text encoder with learned positions is in the graph of both towers, for texts of any length that it reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.text.conftest import BertFolder
from trainers.config import ExperimentConfig
from trainers.inference.export import export_encoder
from trainers.inference.two_towers import load_two_towers
from trainers.loop import World, train

TEXTS = ["rock", "a slow piece, played by a flute . a slow piece, played by a flute"]


class Quiet:
    def report(self, metrics: Any) -> None:
        pass


@pytest.mark.usefixtures("untraced")
@pytest.mark.medium
def test_bert_is_exported_with_both_towers(
    bert_folder: BertFolder, make_towers: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    config = make_towers(optim__steps=1, text__encoder="folder", text__path=str(bert_folder()), text__max_tokens=100)
    assert train(config, World(), Quiet()) == 0
    exported = export_encoder(Path(config.run.dir), tmp_path / "exported")
    assert exported.left_out == {}
    towers = load_two_towers(Path(config.run.dir))
    session = onnxruntime.InferenceSession(exported.files["towers_onnx"], providers=["CPUExecutionProvider"])
    wave = 0.1 * torch.randn(1, towers.samples, generator=torch.Generator().manual_seed(0))
    lengths = set()
    for texts in (TEXTS[:1], TEXTS, [" ".join(TEXTS * 9)]):
        tokens = towers.text.tokenize(texts)
        lengths.add(tokens.ids_kL.shape[1])
        given = {"wave": wave.numpy(), "ids": tokens.ids_kL.numpy(), "mask": tokens.mask_kL.numpy()}
        (text,) = session.run(["text"], given)
        torch.testing.assert_close(torch.from_numpy(text), towers.embed_text(texts).clone(), rtol=0, atol=1e-5)
    assert len(lengths) == 3
