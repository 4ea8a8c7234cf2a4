"""Runs of two towers on disk, as some step of a training would have left them."""

from pathlib import Path
from typing import Any

import torch

from cluster.settings import load_config, to_tree
from trainers.config import ExperimentConfig
from trainers.model import ContrastiveModel, build_model
from trainers.state.snapshot import save_snapshot
from trainers.two_tower import build_towers

SMALL: dict[str, Any] = {
    "encoder.name": "mel_cnn", "encoder.channels": 4, "frontend.kind": "mel", "views.samples": 16_384, "seed": 5,
    "views.count": 1, "data.b_s": 1.0, "loss.objective": "music_text", "head.width": 16, "head.hidden": 32,
    "text.encoder": "words", "text.hidden": 24, "data.batch": 8,
}  # fmt: skip

OWN_TEXT = """
import torch
from torch import nn

class Letters(nn.Module):
    def __init__(self, width: int = 6, claimed: int | None = None) -> None:
        super().__init__()
        self.width = claimed or width
        self.table = nn.Embedding(128, width)
        self.layers = nn.ModuleList([nn.Linear(width, width)])
    def tokenize(self, texts):
        rows = [[ord(c) % 128 for c in text] or [0] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    def forward(self, ids, mask):
        return self.layers[0]((self.table(ids) * mask[..., None]).sum(1))

class NoTokenizer(nn.Module):
    width = 3
"""
"""A module with a text encoder of a user's own."""


def save_run(folder: Path, keys: dict[str, Any]) -> ContrastiveModel:
    """Write a run of a configuration with moved weights into a folder, and return its model."""
    config = load_config(ExperimentConfig, None, keys)
    torch.manual_seed(1)
    model = (
        build_towers(config)
        if config.loss.objective == "music_text"
        else build_model(config.encoder, config.head, config.loss, seed=config.seed)
    )
    with torch.no_grad():  # weights as of some step
        for weight in model.projector.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape))
    about = {"config": to_tree(config), "data_hash": "d:-", "provenance": {}}
    optimizer = torch.optim.Adam(weight for weight in model.parameters() if weight.requires_grad)
    save_snapshot(folder / "snapshots", step=3, model=model, optimizer=optimizer, state=about, keep=1)
    return model
