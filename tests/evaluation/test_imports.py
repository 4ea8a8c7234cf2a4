"""An evaluation imports no library that its tasks have no use for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.settings import ROOT

NEEDLESS = (
    *("ray", "mlflow", "optuna", "sklearn", "pandas", "torchaudio", "nnAudio"),
    *("scipy.stats", "scipy.signal", "scipy.optimize", "torch._dynamo", "torch._inductor", "sympy"),
    *("trainers.encoders.encoder", "trainers.inference.cpu.build"),
)
"""A tenth of a second (networks) to several seconds each; encoders of one's own, key scores, intervals and tables on
disk need none of them."""
OWN = """
import torch
class Level(torch.nn.Module):
    width, rate, samples, hash = 2, 22_050, 1_000, "level"
    def forward(self, wave_NT):
        return torch.stack([wave_NT.mean(1), wave_NT.abs().amax(1)], 1)
"""
TASKS = """
tasks:
  tags: {column: tags, kind: tags, retrieval: true, probe: PROBE, max_epochs: 2}
  key: {column: key, kind: key, retrieval: true}
  tempo: {column: bpm, kind: tempo, retrieval: true}
seeds: 1
"""
RUN = f"""
import json, sys
sys.argv[0] = "counterpoint"
import counterpoint
try:
    counterpoint.main()
except SystemExit as end:
    assert not end.code
print(json.dumps([name for name in {(*NEEDLESS, "scipy.sparse")!r} if name in sys.modules]))
"""


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.medium
def test_only_what_the_tasks_need_is_imported(make_shards: Callable[..., Path], tmp_path: Path, probe: bool) -> None:
    shards = make_shards(48)
    (tmp_path / "level_encoder.py").write_text(OWN)
    (tmp_path / "tasks.yaml").write_text(TASKS.replace("PROBE", str(probe).lower()))
    words = ["evaluate", "level_encoder:Level", "tasks.yaml", f"data.shards={shards}", "confidence.resamples=100"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{RUN}", *words, "--out", "report"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == (["scipy.sparse"] if probe else [])
