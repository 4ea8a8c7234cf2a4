"""Your own training loop: our loader, our views and our exact loss, your network and optimiser.

python examples/own_loop.py SHARDS
"""

import sys

import torch
from torch import nn

from counterpoint import AugmentConfig, BatchLoader, DataConfig, ViewMaker, ViewsConfig, contrastive_loss, window_frames


def train(shards: str, steps: int = 10) -> list[float]:
    """The loss of each step of a small network on waveforms."""
    views, augment = ViewsConfig(samples=16_384), AugmentConfig()
    data = DataConfig(unlabelled=shards, b_s=0, batch=8)
    network = nn.Sequential(nn.Conv1d(1, 32, 256, stride=64), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    make, losses = ViewMaker(views, augment), []
    with BatchLoader(data, frames=window_frames(views, augment), seed=0) as loader:
        for step, batch in enumerate(loader.batches(0, steps)):
            made = make.make(batch, step=step, seed=0)
            loss = contrastive_loss(network(made.input_N[:, None]), made.clip_id_N, None, temperature=0.1)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(train(sys.argv[1]))
