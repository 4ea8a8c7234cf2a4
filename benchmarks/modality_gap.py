"""A picture of where music and texts lie in the space of two towers: the modality gap, and the cosines of pairs.

Run as ``python -m benchmarks.modality_gap RUN SHARDS [--out docs/images/modality_gap.png]``: the test clips of a set
and their first captions, in their two first principal components, and the cosines of pairs of each kind.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.config import Chunking, EvaluationConfig, EvaluationData
from evaluation.embeddings.embed import embed_shards, open_shards
from evaluation.encoders.encoder import SUBJECT
from evaluation.metrics.neighbours import unit_rows
from trainers.inference.spaces import JOINT
from trainers.inference.two_towers import TwoTowers, load_two_towers

Vectors = NDArray[np.float32]


def embedded(towers: TwoTowers, shards: str) -> tuple[Vectors, Vectors]:
    """Unit vectors of the test clips that have a caption, and of their first captions."""
    config = EvaluationConfig(data=EvaluationData(shards=shards), chunking=Chunking())
    with open_shards(config.data) as opened:
        index = opened.index
        rows = np.array([row for row in index.rows("test") if len(index.captions[row])], np.int64)
        table = embed_shards(opened, {SUBJECT: towers}, config, rows=rows)[SUBJECT]
        texts = [index.captions[row][0] for row in rows]
    return unit_rows(table.h_KE[:, towers.spaces[JOINT]]), towers.embed_text(texts).numpy()


def cosines(audio_Kd: Vectors, text_Kd: Vectors) -> dict[str, NDArray[np.float32]]:
    """Of pairs of each kind."""
    off = ~np.eye(len(audio_Kd), dtype=bool)
    across = audio_Kd @ text_Kd.T
    return {
        "two clips": (audio_Kd @ audio_Kd.T)[off],
        "two captions": (text_Kd @ text_Kd.T)[off],
        "clip and another's caption": across[off],
        "clip and its caption": np.diag(across),
    }


def main() -> None:
    """Draw the picture and print its numbers."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description="the modality gap")
    parser.add_argument("run")
    parser.add_argument("shards")
    parser.add_argument("--out", type=Path, default=Path("docs/images/modality_gap.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    audio_Kd, text_Kd = embedded(load_two_towers(given.run), given.shards)
    both = np.concatenate([audio_Kd, text_Kd])
    _, _, axes_dd = np.linalg.svd(both - both.mean(0), full_matrices=False)
    audio_K2, text_K2 = ((part - both.mean(0)) @ axes_dd[:2].T for part in (audio_Kd, text_Kd))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for one, other in zip(audio_K2, text_K2, strict=True):
        left.plot(*zip(one, other, strict=True), color="0.85", linewidth=0.6, zorder=1)
    left.scatter(*audio_K2.T, s=14, label="clips", color="#00796b", zorder=2)
    left.scatter(*text_K2.T, s=14, label="captions", color="#e07a1f", marker="s", zorder=2)
    left.set(title="Clips and their captions, two principal components", xticks=[], yticks=[])
    left.legend(frameon=False)
    found = cosines(audio_Kd, text_Kd)
    colours = ("#00796b", "#e07a1f", "0.6", "#5e35b1")
    for colour, (name, values) in zip(colours, found.items(), strict=True):
        right.hist(values, np.linspace(-1, 1, 61), density=True, histtype="step", label=name, color=colour)
    right.set(title="Cosines of pairs", yticks=[], xlabel="cosine")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(given.out, dpi=110)
    gap = float(np.linalg.norm(audio_Kd.mean(0) - text_Kd.mean(0)))
    means = {name: round(float(values.mean()), 3) for name, values in found.items()}
    print(json.dumps({"clips": len(audio_Kd), "gap": round(gap, 3), "mean cosine": means}, indent=1))


if __name__ == "__main__":
    main()
