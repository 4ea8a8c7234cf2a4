"""The experiments that ship."""

from pathlib import Path

import pytest

from cluster.settings import ROOT, flatten, load_config, to_tree, validate
from trainers.config import ExperimentConfig

PRESETS = sorted((ROOT / "conf/pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_a_valid_experiment_that_a_snapshot_can_hold(path: Path) -> None:
    config = load_config(ExperimentConfig, path, {})
    assert validate(ExperimentConfig, to_tree(config), "a snapshot") == config


def test_as_released_differs_from_the_paper_in_augmentation_epsilon_and_crop_alone() -> None:
    paper, released = (
        flatten(to_tree(load_config(ExperimentConfig, ROOT / f"conf/pretrain/{name}.yaml", {})))
        for name in ("semisupcon", "as_released")
    )
    differing = {key for key in paper.keys() | released.keys() if paper.get(key) != released.get(key)}
    assert {key for key in differing if not key.startswith("augment.")} == {"loss.epsilon", "views.samples"}
    assert released["augment.noise.f_decay_unit"] == "amplitude_exponent"
    assert (released["loss.epsilon"], released["views.samples"]) == (1e-6, 59_535)
