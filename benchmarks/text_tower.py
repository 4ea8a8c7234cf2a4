"""What texts cost: a search by words beside one by sound, and a step with the kept vectors of a fixed text tower.

Run as ``python -m benchmarks.text_tower [--tracks 100000] [--encoder words]``. One thread, CPU-seconds, medians. The
search is that of `counterpoint search` on a saved index of random unit vectors: reading the query, embedding it, and
the exact search. The step is forward and backward of both towers (Mel-CNN, 64 clips of 2.97 s, 64 swapped texts); what
texts add to it is looking up the vectors of 128 texts.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch

from cluster.settings import load_config
from data_shards.format.records import TextRows
from evaluation.search.index_update import _widths
from evaluation.search.query import search
from evaluation.search.track_index import ROWS_A_PART, Track, TrackIndex, rewriting
from trainers.config import ExperimentConfig
from trainers.inference.two_towers import TwoTowers
from trainers.text.cache import SentenceVectors
from trainers.two_tower import TowerProjector, build_towers

RESULTS = Path(__file__).parent / "results"
CLIPS = 64
REPEATS = 7


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Median of some runs, after one that warms up."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return median(taken)


def configured(encoder: str) -> ExperimentConfig:
    """Two towers of the preset, of which the text encoder is not trained."""
    keys = {"text.encoder": encoder, "text.trained": "projection", "data.batch": CLIPS}
    return load_config(ExperimentConfig, Path("conf/pretrain/music_text.yaml"), keys)


def measure_search(config: ExperimentConfig, tracks: int, folder: Path) -> dict[str, float]:
    """CPU-seconds of one query by sound (30 s of audio) and by words."""
    towers = TwoTowers(config, None, hash="benchmark", provenance={})
    index = TrackIndex(folder / "index", towers.hash, towers.width, "", "made", spaces=_widths(towers))
    rng = np.random.default_rng(0)
    with rewriting(index) as writer:
        for at in range(0, tracks, ROWS_A_PART):
            rows = min(ROWS_A_PART, tracks - at)
            h_KE = rng.standard_normal((rows, towers.width)).astype(np.float32)
            writer.add([Track(f"{number}.ogg") for number in range(at, at + rows)], h_KE)
    song = folder / "song.wav"
    soundfile.write(song, 0.1 * rng.standard_normal(30 * towers.rate), towers.rate)
    words = ["a slow dreamy piece with a flute in a minor key"]
    return {
        "sound": cpu_seconds(lambda: search(towers, folder / "index", song)),
        "words": cpu_seconds(lambda: search(towers, folder / "index", texts=words)),
    }


def measure_step(config: ExperimentConfig) -> dict[str, float]:
    """CPU-seconds of a step of both towers, and of looking up the vectors of its texts."""
    projector = build_towers(config).projector.train()
    assert isinstance(projector, TowerProjector)
    texts = tuple(f"A slow piece with a flute and number {number}." for number in range(2 * CLIPS))
    no_tags = torch.zeros(CLIPS, 0, dtype=torch.bool)
    codes = torch.arange(2 * CLIPS)
    rows = TextRows(texts[:CLIPS], texts[CLIPS:], no_tags, torch.zeros(2 * CLIPS, 0, dtype=torch.bool), codes)
    mel = torch.randn(CLIPS, 64, 128)
    projector.kept = SentenceVectors(projector.text)
    read = projector.read(mel, rows)

    def step() -> None:
        projector(read).z_ND.square().mean().backward()

    return {"step": cpu_seconds(step), "texts": cpu_seconds(lambda: projector.read(mel, rows))}


def main() -> None:
    """Measure, and write the table beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--encoder", default="words", help="words, or bundled where the extra is installed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(configured(given.encoder), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        found = measure_search(config, given.tracks, Path(folder)) | measure_step(config)
    lines = [
        f"Text encoder {given.encoder}, {given.tracks:,} tracks, one thread, {platform.machine()}, CPU-seconds",
        "",
        "| what | CPU-s | share |",
        "|---|---|---|",
        f"| a query by sound | {found['sound']:.3f} | 1.00 |",
        f"| a query by words | {found['words']:.3f} | {found['words'] / found['sound']:.2f} |",
        f"| a step of {CLIPS} clips | {found['step']:.3f} | 1.000 |",
        f"| … of which looking up {2 * CLIPS} texts | {found['texts']:.5f} | {found['texts'] / found['step']:.4f} |",
    ]
    name = f"text_tower-{given.encoder}-{platform.machine()}"
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"tracks": given.tracks, **found}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
