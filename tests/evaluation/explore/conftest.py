"""Catalogues of tones whose neighbours are known, and a Chromium to look at their maps."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import Pool
from evaluation.search import index_update
from tests.evaluation.explore.chromium import Tab, find_chromium, opened_tab

RATE = 22_050
HOSTILE = """<img src=x onerror=alert(1)>'"&amp;</title>.wav"""


class Bands:
    """Level of 24 bands between 200 and 1,600 Hz; counts the chunks it read."""

    width, rate, samples, hash = 24, RATE, 4_096, "bands"

    def __init__(self) -> None:
        self.chunks = 0
        self.spaces = {"embedding": slice(0, 24)}

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        self.chunks += len(wave_NT)
        level = torch.fft.rfft(wave_NT * torch.hann_window(self.samples)).abs()
        edges = (200 * 8 ** (torch.arange(25) / 24) * self.samples / RATE).tolist()
        return torch.stack([level[:, int(a) : int(b) + 1].sum(1) for a, b in pairwise(edges)], 1)


def write_tone(path: Path, hz: float, seconds: float = 0.5) -> Path:
    """A sine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE), RATE)
    return path


@pytest.fixture
def bands() -> Bands:
    return Bands()


@pytest.fixture
def pool(bands: Bands) -> Pool:
    return Pool({ENCODER: bands})


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Low and high tones in two folders, one with a hostile name, one damaged file, and a table of labels beside."""
    monkeypatch.setattr(index_update, "INDEXES", tmp_path / "indexes")
    folder = tmp_path / "music"
    rows = ["path,track_id,title,mood,tags,bpm,licence"]
    for number in range(14):
        low = number < 7
        name = f"{'low' if low else 'high'}/{number}.wav"
        write_tone(folder / name, (220 if low else 900) * 1.02 ** (number % 7))
        rows.append(
            f"{name},t{number // 2},Tone {number},{'dark' if low else 'bright'},sine|{number % 3},{60 + number},CC0"
        )
    write_tone(folder / "low" / HOSTILE.replace("/", "∕"), 236)
    (folder / "high" / "broken.wav").write_bytes(b"RIFF....")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium to look at the page with: apt install chromium")
    return found


@pytest.fixture(scope="module")
def tab(chromium: str) -> Iterator[Tab]:
    with opened_tab(chromium) as tab:
        yield tab
