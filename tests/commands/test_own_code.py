"""What users' code prints or ends with, as the command line shows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.settings import ROOT

DATASET = """
import os
import sys
from counterpoint import Clip

print("printed at import")
sys.stdout.write("written at import\\n")

def prints():
    os.system("echo printed by a child")
    print("printed")
    raise ValueError("no songs of net:X: today")

def leaves():
    raise SystemExit(0)
    yield
"""


ENCODER = """
import torch

class Net:
    width, rate, samples, hash = 4, 16_000, 8_000, "net"
    def __call__(self, wave):
        print("printed by the network")
        return wave[:, :4]
"""


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a folder, as a process."""
    command = [sys.executable, "-m", "counterpoint", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "printing_songs.py").write_text(DATASET)
    return tmp_path


@pytest.mark.parametrize("function", ["prints", "leaves"])
def test_only_the_document_goes_to_stdout_and_an_exit_of_users_code_is_a_failure(folder: Path, function: str) -> None:
    done = run(folder, "shards", "build", f"printing_songs:{function}", "--out", "set", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "printed at import" in done.stderr
    assert "raised " in done.stderr
    assert ("net:X: today" in done.stderr) == (function == "prints")  # no emoji for :X:
    assert not (folder / "set").exists()


def test_the_document_is_whole_beside_what_is_printed(folder: Path) -> None:
    (folder / "printing_net.py").write_text(ENCODER)
    noise = np.random.default_rng(0).standard_normal(16_000) / 8
    soundfile.write(folder / "song.wav", noise, 16_000)
    done = run(folder, "embed", "printing_net:Net", "song.wav", "--out", "e.parquet", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 1
    assert "printed by the network" in done.stderr
