"""Two towers on disk are opened whole or not at all, and embed what they were trained to."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cluster.settings import UserError
from tests.tower_runs import SMALL, save_run
from trainers.inference.frozen import load_encoder
from trainers.inference.spaces import JOINT, WHOLE
from trainers.inference.two_towers import load_two_towers
from trainers.two_tower import TowerProjector

WAVE = 0.3 * torch.randn(3, 16_384, generator=torch.Generator().manual_seed(0))
TEXTS = ["a slow waltz", "", "静かな曲 🎹", "word " * 10_000]
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def make(**keys: Any) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        make.model = save_run(folder, SMALL | {name.replace("__", "."): keys[name] for name in keys})  # type: ignore[attr-defined]
        return folder

    return make


def test_towers_embed_as_the_model_that_was_trained(save: Save) -> None:
    run = save()
    towers = load_two_towers(run)
    projector = save.model.projector.eval()  # type: ignore[attr-defined]
    assert isinstance(projector, TowerProjector)
    with torch.no_grad():
        h_NE = projector.encoder(towers.audio.frontend(WAVE))
        audio = F.normalize(projector.audio_projection(h_NE), dim=1)
        text = F.normalize(projector.text_projection(projector.text(projector.text.tokenize(TEXTS))), dim=1)
    assert torch.allclose(towers.embed_audio(WAVE), audio, atol=1e-5)
    assert torch.allclose(towers.embed_text(TEXTS), text, atol=1e-5)
    assert torch.allclose(towers.embed_text(TEXTS).norm(dim=1), torch.ones(len(TEXTS)))
    assert towers.embed_text([]).shape == (0, 16)


def test_the_embedding_is_that_of_the_encoder_alone_and_the_joint_space_lies_behind_it(save: Save) -> None:
    run = save()
    towers, encoder = load_two_towers(run), load_encoder(run)
    both = towers(WAVE)
    assert both.shape == (3, towers.width)
    assert torch.equal(both[:, towers.spaces[WHOLE]], encoder(WAVE))
    assert torch.equal(both[:, towers.spaces[JOINT]], towers.embed_audio(WAVE))
    assert (towers.hash, towers.cpu_rows) == (encoder.hash, encoder.cpu_rows)
    with pytest.raises(RuntimeError, match="evaluation mode"):
        towers.train()


def test_a_texts_vector_does_not_depend_on_the_others(save: Save) -> None:
    towers = load_two_towers(save())
    together = towers.embed_text(TEXTS * 100)
    for text, vector in zip(TEXTS, together, strict=False):
        assert torch.allclose(towers.embed_text([text])[0], vector, atol=1e-6)


def test_untrained_towers_are_those_before_the_first_step(save: Save) -> None:
    run = save()
    untrained = load_two_towers(run, untrained=True)
    assert untrained.hash.startswith("untrained-")
    assert torch.equal(untrained.embed_text(TEXTS), load_two_towers(run, untrained=True).embed_text(TEXTS))
    assert not torch.allclose(untrained.embed_text(TEXTS), load_two_towers(run).embed_text(TEXTS), atol=0.01)


def test_a_fixed_text_encoder_comes_from_its_files_and_must_be_the_same(save: Save) -> None:
    run = save(text__trained="projection")
    towers = load_two_towers(run)
    assert torch.isfinite(towers.embed_text(TEXTS)).all()
    from safetensors.torch import load_file

    names = load_file(run / "snapshots" / "step-3" / "model.safetensors").keys()
    assert "projector.text.pieces.weight" not in names
    assert "projector.text.locked_hash" in names


def test_a_snapshot_without_a_text_tower_is_refused(save: Save, tmp_path: Path) -> None:
    plain = {
        key: value for key, value in SMALL.items() if not key.startswith(("text.", "loss.", "views.count", "data."))
    }
    save_run(tmp_path / "plain", plain)
    with pytest.raises(UserError, match="plain has no text tower; train one on it with `counterpoint pretrain conf/"):
        load_two_towers(tmp_path / "plain")


def test_a_run_that_was_moved_is_the_same(save: Save, tmp_path: Path) -> None:
    run = save()
    shutil.copytree(run, tmp_path / "moved", symlinks=True)
    assert torch.equal(load_two_towers(tmp_path / "moved").embed_text(TEXTS), load_two_towers(run).embed_text(TEXTS))
