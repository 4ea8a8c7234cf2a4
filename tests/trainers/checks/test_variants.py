"""Heads and blocks that could not do what they say are refused before a run, with the key and what there is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cluster.settings import UserError
from trainers.augment.drawing import draw_parameters
from trainers.augment.parameters import PRESETS
from trainers.config import ExperimentConfig, may_differ_on_resume

MakeConfig = Callable[..., ExperimentConfig]
LOEV: dict[str, Any] = {"head__variant": ("pitch", "stretch"), "augment__preset": "loev", "views__count": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head__variant": ("pitch", "pitch")}, "variant names pitch more than once"),
        ({"head__variant": ("pich",)}, "no effect pich; the chain tracks gain, noise, filter, pitch, stretch, delay"),
        ({"head__variant": ("pich",)}, "did you mean pitch"),
        ({"head__variant": ("invariant",)}, "no effect invariant"),
        ({"head__variant": ("gain",)}, r"head.variant=gain needs augment.gain.p > 0: the chain never applies gain"),
        ({"augment__stretch__p": 0.0}, "head.variant=stretch needs augment.stretch.p > 0"),
        ({"augment__p": 0.0}, "head.variant=pitch needs augment.pitch.p > 0.*none"),
        ({"augment__stretch__min_rate": 1.0, "augment__stretch__max_rate": 1.0}, "never applies stretch"),
        ({"augment__pitch__p": 1.0}, "every view gets pitch, so its head never has a positive"),
        ({"views__count": 1}, "head.variant=pitch,stretch with views.count=1: .* take views.count >= 2"),
        ({"loss__objective": "bce", "data__b_s": 1.0, "head__width": None}, "its heads are of the contrastive loss"),
        ({"loss__objective": "cross_entropy", "data__b_s": 1.0, "head__width": None}, "loss.objective=cross_entropy"),
        ({"loss__objective": "own_loss:Loss"}, "head.variant=pitch,stretch with loss.objective=own_loss:Loss"),
        ({"encoder__own_blocks": 4}, "own_blocks must be <= 3 for mel_cnn, got 4"),
        ({"encoder__own_blocks": 1, "head__variant": ()}, "encoder.own_blocks=1 without head.variant"),
        ({"head__variant": (), "loss__variant_anchors": "positive"}, "loss.variant_anchors=positive is a setting of"),
        ({"head__variant": (), "loss__variant_positives": "all"}, "loss.variant_positives=all is a setting of"),
        ({"loss__variant_positives": "both"}, "loss.variant_positives"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_config: MakeConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        make_config(**(LOEV | change))


def test_what_the_rules_allow_is_accepted(make_config: MakeConfig) -> None:
    for change in (
        {},
        {"augment__pitch__p": 1.0, "loss__variant_positives": "all"},
        {"views__count": 2, "head__variant": ("stretch",)},
        {"head__variant": ("gain",), "augment__polarity__p": 0.5},
        {"encoder__own_blocks": 3},
    ):
        config = make_config(**(LOEV | change))
        assert config.head.variant == change.get("head__variant", LOEV["head__variant"])
        assert config.encoder.own_blocks == change.get("encoder__own_blocks", 0)


def test_no_key_of_the_heads_may_differ_on_resume() -> None:
    for key in ("head.variant", "encoder.own_blocks", "loss.variant_positives", "loss.variant_anchors"):
        assert not may_differ_on_resume(key)
    assert not may_differ_on_resume("augment.identity_through_vocoder")


@pytest.mark.parametrize("name", PRESETS)
def test_the_chances_of_effects_are_the_shares_of_views_that_receive_them(name: str) -> None:
    slots = torch.arange(4000)
    drawn = draw_parameters(PRESETS[name], slots, sample_rate=22_050, step=0, seed=0, view=0).received
    chances = PRESETS[name].chances
    assert drawn.keys() == chances.keys()
    for effect, rows in drawn.items():
        assert rows.double().mean().item() == pytest.approx(chances[effect], abs=0.035), effect
