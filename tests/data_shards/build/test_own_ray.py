"""A dataset of the user's own is built on Ray: its module travels to the workers."""

import json
import sys
from pathlib import Path

import pytest

import counterpoint
from cluster import entry_points
from data_shards.inspect.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MODULE = """
from dataclasses import dataclass
import numpy as np
from counterpoint import Clip

@dataclass(frozen=True)
class Noise:
    seed: int
    @property
    def name(self):
        return f"noise:{self.seed}"
    def read(self):
        return np.random.default_rng(self.seed).standard_normal(8_000).astype(np.float32) / 8, 16_000

def clips(count: int):
    for number in range(count):
        yield Clip(key=f"c{number}", audio=Noise(number), track=f"t{number}")
"""


def test_a_dataset_of_one_s_own_is_built_on_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, work = tmp_path / "code", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    (folder / "users_ray_dataset.py").write_text(MODULE)
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(entry_points, "_imported", {})
    words = ["users_ray_dataset:clips", "--out", "set", "--ray", "--json", "dataset.settings.count=3"]
    monkeypatch.setattr("sys.argv", ["counterpoint", "shards", "build", *words, "build.clips_per_shard=1"])
    with pytest.raises(SystemExit, match="0"):
        counterpoint.main()
    sys.modules.pop("users_ray_dataset")
    assert json.loads(capsys.readouterr().out)["shards"] == 3
    assert verify(work / "set") == []
