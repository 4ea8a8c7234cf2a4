"""The batches of an experiment, as the loop, the start-up checks, the dry run and the preview open them."""

import torch

from cluster.settings import UserError
from data_shards.format.records import SAMPLE_RATE
from data_shards.read.loader import BatchLoader
from trainers.config import ExperimentConfig
from trainers.views.views import window_frames


def open_batches(
    config: ExperimentConfig,
    *,
    rank: int = 0,
    world: int = 1,
    frames: int | None = None,
    device: torch.device | None = None,
) -> BatchLoader:
    """The loader of one rank, a context manager; windows have the samples that the views need unless ``frames`` is
    given. Batches for a GPU are read into page-locked memory. Raises UserError if the sets cannot be opened, the ranks
    do not share the batch evenly, or the shards have another rate than augmentation and front-end are made for.
    """
    frames = frames or window_frames(config.views, config.augment)
    pinned = device is not None and device.type == "cuda"
    loader = BatchLoader(
        config.data,
        frames=frames,
        seed=config.seed,
        rank=rank,
        world=world,
        pin_memory=pinned,
        text=config.text if config.reads_texts else None,
        steps=config.optim.steps,
    )
    if (rate := loader.rate) != SAMPLE_RATE:
        given = zip(
            ("labelled", "unlabelled"), (config.data.labelled, config.data.unlabelled), loader.sets, strict=True
        )
        places = " and ".join(f"data.{name}={place}" for name, place, opened in given if opened)
        loader.close()
        raise UserError(
            f"{places}: {rate:,} Hz, but training expects {SAMPLE_RATE:,} Hz; build the shards again with "
            f"build.rate={SAMPLE_RATE}"
        )
    return loader
