"""A text encoder of the user's own."""

from pathlib import Path

import pytest
import torch

from cluster.settings import UserError
from tests.tower_runs import OWN_TEXT
from trainers.text.build import build_text_encoder
from trainers.text.config import TextConfig


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_text_part.py").write_text(OWN_TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("part")
def test_an_own_text_encoder_is_seeded_and_trained_as_asked() -> None:
    config = TextConfig(encoder="own_text_part:Letters", settings={"width": 5}, trained="top:1")
    encoder = build_text_encoder(config, seed=1)
    assert encoder.encode(["flute", ""]).shape == (2, 5)
    assert encoder.hash == build_text_encoder(config, seed=1).hash != build_text_encoder(config, seed=2).hash
    assert {name for name, weight in encoder.named_parameters() if weight.requires_grad} == {
        "network.layers.0.weight",
        "network.layers.0.bias",
    }


@pytest.mark.usefixtures("part")
def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"its forward returned shape \(2, 6\), not \(2, 9\)"):
        build_text_encoder(TextConfig(encoder="own_text_part:Letters", settings={"claimed": 9}, trained="all"), seed=0)
    with pytest.raises(UserError, match="has no method tokenize"):
        build_text_encoder(TextConfig(encoder="own_text_part:NoTokenizer"), seed=0)
    with pytest.raises(UserError, match="its attribute width must be a whole number"):
        build_text_encoder(TextConfig(encoder="torch.nn:Identity"), seed=0)
    with pytest.raises(UserError, match="widht"):
        build_text_encoder(TextConfig(encoder="own_text_part:Letters", settings={"widht": 9}), seed=0)
    assert torch.is_grad_enabled()
