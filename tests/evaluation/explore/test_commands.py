"""`counterpoint map` and `search --page` from the command line."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import entry_points
from commands.app import app

ENCODER = """
import torch
class Bands:
    width, rate, samples, hash = 16, 22_050, 4_096, "bands"
    def __call__(self, wave_NT):
        level = torch.fft.rfft(wave_NT * torch.hann_window(self.samples)).abs()
        edges = (200 * 8 ** (torch.arange(17) / 16) * self.samples / self.rate).int().tolist()
        return torch.stack([level[:, a : b + 1].sum(1) for a, b in zip(edges, edges[1:])], 1)
"""


@pytest.fixture
def here(music: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user with an encoder of their own."""
    folder = music.parent
    (folder / "mine.py").write_text(ENCODER)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(entry_points, "_imported", {})
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder


def run(*words: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.stdout, done.stderr


def test_map_writes_the_page_and_tells_what_is_on_it(here: Path) -> None:
    stdout, stderr = run("map", "mine:Bands", "music", "--out", "map.html", "--colour", "tags", "--json")
    made = json.loads(stdout)
    assert (made["page"], made["tracks"], made["shown"], made["columns"][0]) == ("map.html", 15, 15, "tags")
    assert made["sounds"]["embedded"] == 15
    assert list(made["rejected"]) == ["high/broken.wav"]
    assert made["next"][0].startswith("counterpoint search mine:Bands")
    assert "not on the map high/broken.wav" in stderr
    assert (here / "map.html").is_file()


def test_search_writes_a_page_of_its_answers_and_nothing_over_a_song(here: Path) -> None:
    stdout, _ = run("search", "mine:Bands", "music", "music/low/0.wav", "-k", "3", "--page", "found.html", "--json")
    assert json.loads(stdout)["files"]["page"] == "found.html"
    assert "Nearest tracks" in (here / "found.html").read_text(encoding="utf-8")
    song = here / "music" / "low" / "1.wav"
    before = song.read_bytes()
    done = CliRunner().invoke(app, ["search", "mine:Bands", "music", "music/low/0.wav", "--page", str(song)])
    assert "is there already and is no page of counterpoint" in str(done.exception)
    assert song.read_bytes() == before
