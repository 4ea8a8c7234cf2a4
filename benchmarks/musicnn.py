"""Encoders beside musicnn, by the same probes and neighbours on real music.

    python -m benchmarks.musicnn --music DIR --model open-mel --out outputs/musicnn

DIR is the open set with its labels.csv; its real music is evaluated (km_music and artist_music: clips of 30 s). Models:
the given snapshots, the first of them also untrained; mean and deviation over time of a log-mel spectrogram; and
musicnn (Pons and Serra, 2019, PyPI) as it was trained on MagnaTagATune (MTT) and on 200,000 songs (MSD): patches of 3 s
at 16 kHz, means over a clip's patches of `mean_pool` and of `penultimate`. All of them pass through `counterpoint
evaluate conf/evaluation/open_music.yaml`, once with its own heads (an MLP on the embedding as it is) and once with
linear heads on standardised embeddings. Differences from the first model are paired.

musicnn needs TensorFlow, NumPy 1 and Python 3.11: it runs in an environment of its own, which is made on first use
(`--python`, or the variable MUSICNN_PYTHON, names another), and answers through a pipe.
"""

import argparse
import atexit
import json
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.musicnn_server import FEATURES, RATE, SAMPLES
from cluster.settings import ROOT, load_config, read_yaml, validate
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import SAMPLE_RATE
from data_shards.sources.folder import read_folder
from evaluation.config import EvaluationConfig
from evaluation.evaluate import evaluate
from trainers.config import ExperimentConfig
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import build_frontend
from trainers.inference.frozen import FrozenEncoder

RESULTS = Path(__file__).parent / "results"
SERVER = Path(__file__).parent / "musicnn_server.py"
TASKS = ROOT / "conf/evaluation/open_music.yaml"
PYTHON = "MUSICNN_PYTHON"
REAL = ("km_music", "artist_music")
PACKAGES = ("tensorflow-cpu==2.15.0", "numpy<2", "librosa==0.10.2.post1", "setuptools<80")
BESIDE = {
    "log_mel": "log-mel, mean and deviation",
    "mtt_mean_pool": "musicnn MTT, mean_pool",
    "mtt_penultimate": "musicnn MTT, penultimate",
    "msd_mean_pool": "musicnn MSD, mean_pool",
    "msd_penultimate": "musicnn MSD, penultimate",
}
"""Factories of this module, and their names in the table."""
HEADS: dict[str, dict[str, Any]] = {"mlp": {}, "linear": {"head": "linear", "standardise": True}}
PROBED = ("tags", "moods", "instruments", "genre")
SHOWN = (
    *(f"{task}/{metric}" for task in PROBED[:3] for metric in ("auroc", "ap")),
    "genre/accuracy", "tags/p@10", "moods/p@10", "instruments/p@10", "genre/p@10", "tempo/acc1@10", "tempo/acc2@10",
    "artist/p@10", "same_track/r@1",
)  # fmt: skip
Report = dict[str, Any]


class Server:
    """A process of musicnn's environment.

    Args:
        model: MTT_musicnn or MSD_musicnn.
    """

    def __init__(self, model: str) -> None:
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [os.environ[PYTHON], "-P", str(SERVER), model]  # not beside `musicnn.py` of this folder
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | quiet)
        atexit.register(self._process.kill)
        assert self._process.stdout
        assert self._process.stdin
        self._in, self._out = self._process.stdin, self._process.stdout
        about = json.loads(self._out.readline())
        self.hash = str(about["hash"])
        ends = np.cumsum(list(about["widths"].values())).tolist()
        self.columns = {name: slice(end - about["widths"][name], end) for name, end in zip(FEATURES, ends, strict=True)}
        self._width = ends[-1]
        self._last: tuple[bytes, Tensor] | None = None

    def features(self, wave_NT: Tensor) -> Tensor:
        """All features (N, E) of patches; the last answer is kept, for both features read the same patches."""
        given = np.ascontiguousarray(wave_NT.numpy(), np.float32).tobytes()
        if self._last is None or self._last[0] != given:
            self._in.write(np.int32(len(wave_NT)).tobytes() + given)
            self._in.flush()
            answer = np.frombuffer(self._out.read(4 * len(wave_NT) * self._width), np.float32)
            self._last = given, torch.from_numpy(answer.reshape(len(wave_NT), self._width).copy())
        return self._last[1]


@lru_cache
def _server(model: str) -> Server:
    return Server(model)


class Musicnn:
    """One feature of one model, as an encoder of patches.

    Args:
        model: MTT_musicnn or MSD_musicnn.
        feature: mean_pool or penultimate.
    """

    rate, samples = RATE, SAMPLES

    def __init__(self, model: str, feature: str) -> None:
        self._server = _server(model)
        self._columns = self._server.columns[feature]
        self.width = self._columns.stop - self._columns.start
        self.hash = f"musicnn-{model}-{feature}-{self._server.hash}"

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """(N, 48000) at 16 kHz to (N, width)."""
        return self._server.features(wave_NT)[:, self._columns]


def mtt_mean_pool() -> Musicnn:
    return Musicnn("MTT_musicnn", "mean_pool")


def mtt_penultimate() -> Musicnn:
    return Musicnn("MTT_musicnn", "penultimate")


def msd_mean_pool() -> Musicnn:
    return Musicnn("MSD_musicnn", "mean_pool")


def msd_penultimate() -> Musicnn:
    return Musicnn("MSD_musicnn", "penultimate")


class LogMel(torch.nn.Module):
    """Mean and standard deviation over time of each band of the `mel` front-end."""

    def __init__(self) -> None:
        super().__init__()
        config = FrontendConfig(kind="mel")
        self.frontend = build_frontend(config, SAMPLE_RATE)
        self.width, self.rate, self.samples = 2 * config.num_mels, SAMPLE_RATE, 59_049
        self.hash = f"mean and deviation of {config}"

    def forward(self, wave_NT: Tensor) -> Tensor:
        """(N, 59049) at 22.05 kHz to (N, width)."""
        mel = self.frontend(wave_NT)
        bands_NMT = mel.reshape(len(wave_NT), -1, mel.shape[-1])
        return torch.cat([bands_NMT.mean(-1), bands_NMT.std(-1)], 1)


def log_mel() -> LogMel:
    return LogMel()


def untrained_mel_cnn() -> FrozenEncoder:
    """The network of conf/pretrain/open_music.yaml at its first weights."""
    config = load_config(ExperimentConfig, ROOT / "conf/pretrain/open_music.yaml", [])
    return FrozenEncoder(config, None, hash="untrained-mel_cnn", provenance={})


def environment(folder: Path) -> Path:
    """The Python of musicnn's environment, made where it is not there.

    Raises:
        SystemExit: if there is no Python 3.11.
    """
    python = folder / "bin/python"
    if not python.exists():
        found = shutil.which("python3.11")
        if found is None:
            raise SystemExit("musicnn needs TensorFlow 2.15 and so Python 3.11; name one with --python")
        partial = Path(tempfile.mkdtemp(prefix="musicnn-", dir=folder.parent))
        subprocess.run([found, "-m", "venv", partial], check=True)
        pip: list[str | Path] = [partial / "bin/python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", "musicnn==0.1.0"], check=True)
        partial.rename(folder)  # its python is called by its path: nothing in it needs the old one
    return python


def shards_of(music: Path, out: Path) -> Path:
    """Shards of the real music; those that are there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(music / "labels.csv")
    table[table["set"].isin(REAL)].to_csv(out / "labels.csv", index=False)
    build(read_folder(music, out / "labels.csv").clips, out / "shards", BuildConfig())
    return out / "shards"


def run(models: dict[str, str], shards: Path, out: Path, heads: str) -> Report:
    """One evaluation of all models."""
    tree = read_yaml(TASKS)
    for name in PROBED:
        tree["tasks"][name] |= HEADS[heads]
    first, *others = models
    tree |= {"data": {"shards": str(shards)}, "against": {name: models[name] for name in others}}
    tree |= {"chunking": {"resample": True}, "cache": str(out / "embeddings")}
    report = evaluate(models[first], validate(EvaluationConfig, tree, str(TASKS)), out / heads)
    return {"heads": heads, "metrics": {first: report.tree["metrics"], **report.tree["baselines"]}}


def as_markdown(reports: list[Report], names: dict[str, str]) -> str:
    """A table a protocol: models in columns."""
    lines = []
    for report in reports:
        metrics = report["metrics"]
        models = [*(name for name in names if name in metrics), "untrained", "random", "constant"]
        models = [name for name in models if name in metrics]
        lines += [f"\n## {report['heads']} heads\n", f"| | n | {' | '.join(names.get(m, m) for m in models)} |"]
        lines.append("|---|---:|" + "---|" * len(models))
        for metric in SHOWN:
            if metric in metrics[models[0]]:
                row = [_cell(metrics[model].get(metric)) for model in models]
                lines.append(f"| {metric} | {metrics[models[0]][metric]['n']} | {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    value, low, high = (
        f"{x:.3f}".lstrip("0") if x is not None else "–" for x in (row["value"], row["low"], row["high"])
    )
    return f"{value} [{low}, {high}]"


def write(reports: list[Report], names: dict[str, str], stem: str) -> str:
    """The tables in both forms."""
    text = (
        f"# musicnn and others on real music ({platform.machine()})\n\n`python -m benchmarks.musicnn`. Tasks of "
        "conf/evaluation/open_music.yaml on the test split of km_music and artist_music; three heads, mean; intervals "
        "of 95% over tracks. mlp: the heads of the preset; linear: one layer, on standardised embeddings.\n"
    ) + as_markdown(reports, names)
    (RESULTS / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
    kept = ("value", "low", "high", "n")
    tree = [
        {
            "heads": report["heads"],
            "metrics": {
                model: {metric: {key: row.get(key) for key in kept} for metric, row in rows.items() if metric in SHOWN}
                for model, rows in report["metrics"].items()
            },
        }
        for report in reports
    ]
    (RESULTS / f"{stem}.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return text


def main() -> None:
    """Evaluate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--music", type=Path, required=True, help="the open set, with labels.csv")
    parser.add_argument(
        "--model", action="append", default=[], help="SNAPSHOT, a name, or NAME=SNAPSHOT; the first is compared"
    )
    parser.add_argument("--only", default=",".join(BESIDE), help="of the other models, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("outputs/musicnn"))
    parser.add_argument("--python", type=Path, help="of an environment with musicnn")
    parser.add_argument("--name", default=f"musicnn-{platform.machine()}")
    given = parser.parse_args()
    out = given.out.absolute()
    shards = shards_of(given.music.absolute(), out)
    pairs = [word.partition("=") for word in given.model or ["untrained_mel_cnn=benchmarks.musicnn:untrained_mel_cnn"]]
    models = {Path(name).name.replace(".", "_"): place or name for name, _, place in pairs}
    beside = [name for name in given.only.split(",") if name]
    if any(name[:3] in ("mtt", "msd") for name in beside):
        os.environ[PYTHON] = str(given.python or os.environ.get(PYTHON) or environment(out / "environment"))
    models |= {name: f"benchmarks.musicnn:{name}" for name in beside}
    reports = []
    for heads in HEADS:
        reports.append(run(models, shards, out, heads))
        print(write(reports, {name: BESIDE.get(name, name) for name in models}, given.name), flush=True)


if __name__ == "__main__":
    main()
