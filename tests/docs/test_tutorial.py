"""Every command of docs/tutorial.md does what the page says, in its order, on rendered music and with few steps.

With the variable TUTORIAL_PICTURES set, the page's picture is replaced by the one that the run made.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from typer.testing import CliRunner

from cluster.settings import ROOT
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEW = {
    "pretrain": ["optim.steps=2", "optim.warmup_steps=1", "data.batch=4", "run.snapshot_every=2"],
    "views": ["data.batch=4"],
    "evaluate": ["seeds=1", "confidence.resamples=100"],
}
"""What is added to commands so that they take seconds; the rest is as it is printed."""
OF_THE_CHECKOUT = ("make", "source")
MADE = (
    "outputs/tags.parquet",
    "outputs/found.html",
    "outputs/map.html",
    "outputs/mine.html",
    "outputs/views/step-0.html",
    "outputs/mine/snapshots/last/state.json",
    "outputs/mine/songs.parquet",
    "outputs/mine-encoder/encoder.json",
    "outputs/report/report.html",
)
TRACKS = 24
PICTURES = {"outputs/report/metrics.png": "tutorial-report.png"}
"""Made by the run, and their names in docs/images."""
TAGS = ("calm", "dark", "bright", "driving")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with ~/Music, its labels, and a working directory with the presets."""
    music = tmp_path / "Music"
    music.mkdir()
    clips = corpus(SyntheticConfig(tracks=TRACKS, seconds=6.0, valid_share=0.25, test_share=0.25, seed=5))
    with (music / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "track_id", "tags", "bpm"])
        for clip in clips:
            wave, rate = clip.audio.read()
            soundfile.write(music / f"{clip.key}.flac", np.clip(wave, -1, 1), rate)
            tags = "|".join(clip.multilabel["tags"])
            table.writerow([f"{clip.key}.flac", clip.split, clip.track, tags, clip.numeric.get("bpm", "")])
    work = tmp_path / "work"
    work.mkdir()
    (work / "conf").symlink_to(ROOT / "conf")
    wave, rate = clips[0].audio.read()
    soundfile.write(work / "song.mp3", np.clip(wave, -1, 1), rate)
    return tmp_path


def blocks(kind: str) -> list[str]:
    """Fenced blocks of the tutorial."""
    return [text for of, text in FENCE.findall((ROOT / "docs/tutorial.md").read_text(encoding="utf-8")) if of == kind]


@pytest.mark.medium
@pytest.mark.timeout(1200)
def test_every_command_of_the_tutorial_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commands.app import app

    lines = [line for block in blocks("") for line in block.splitlines() if not line.startswith(OF_THE_CHECKOUT)]
    assert len(lines) > 10
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    for line in lines:
        program, *words = [str(home / word[2:]) if word.startswith("~/") else word for word in shlex.split(line)]
        assert program == "counterpoint", line
        # In a process of its own each would take twice as long.
        done = CliRunner().invoke(app, [*words, *FEW.get(words[0], [])])
        assert done.exit_code == 0 or words == ["doctor"], f"{line}\n{done.output[-2000:]}\n{done.exception!r}"
    for name in (*MADE, *PICTURES):
        assert (home / "work" / name).is_file(), name
    table = pandas.read_parquet(home / "work/outputs/tags.parquet")
    assert set(TAGS) < set(table.columns)
    assert len(table) == TRACKS
    report = json.loads((home / "work/outputs/report/report.json").read_text(encoding="utf-8"))
    assert "open_mel" in report["baselines"]
    if os.environ.get("TUTORIAL_PICTURES"):
        for made, name in PICTURES.items():
            shutil.copy(home / "work" / made, ROOT / "docs/images" / name)
    (snippet,) = blocks("python")
    wave = "import torch\nwave = 0.1 * torch.randn(2, 59049)\n"
    shape = "assert h.shape == (2, encoder.width), h.shape"
    run = [sys.executable, "-c", f"{wave}{snippet}\n{shape}"]
    ran = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
