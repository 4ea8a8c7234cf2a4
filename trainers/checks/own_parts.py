"""The parts of an experiment that are the user's own code, tried before anything starts.

Shape suffixes: T samples of a view.
"""

from pathlib import Path

import torch
from torch import Tensor

from cluster.entry_points import OR_OWN, is_entry_point
from cluster.settings import UserError
from cluster.validation.messages import nearest
from data_shards.format.index_file import parse_manifest
from data_shards.format.paths import MANIFEST_NAME, no_set
from data_shards.format.records import SAMPLE_RATE
from data_shards.sampling.config import DataConfig
from data_shards.sources.synthetic.traits import TAGS
from trainers.augment.own import OwnAugmentations, try_augmentation
from trainers.config import ExperimentConfig
from trainers.encoders.config import PROJECTION_WIDTH
from trainers.encoders.own import OwnEncoder, build_own, try_encoder
from trainers.frontends.config import KINDS
from trainers.frontends.frontend import build_frontend
from trainers.frontends.own import OwnFrontend, try_frontend
from trainers.losses.objective import build_loss, head_outputs
from trainers.losses.own import OwnLoss, try_loss
from trainers.model import build_encoder
from trainers.text.build import build_text_encoder


def check_planned_parts(config: ExperimentConfig) -> None:
    """Try all own parts of a run that a sweep or a study plans; its sets need not be there yet.

    Raises:
        UserError: names the part and what does not fit.
    """
    if not config.own_parts():
        return
    check_own_parts(config)
    if config.text.is_own:
        build_text_encoder(config.text, seed=config.seed)
    num_tags = _num_tags(config.data)
    try:
        check_own_loss(config, rows=config.data.batch, num_tags=len(TAGS) if num_tags is None else num_tags)
    except UserError as error:
        if num_tags is not None:
            raise
        raise UserError(
            f"{error}; it was tried with the {len(TAGS)} tags of composed music, since data.labelled is not there yet"
        ) from error


def _num_tags(data: DataConfig) -> int | None:
    """C, of the labelled set; None where it is not on the disks of this machine, or has no such column."""
    folder = Path(data.labelled or "").expanduser()
    if data.labelled is None or "://" in data.labelled or no_set(folder):
        return None
    manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes())
    tags = (manifest["vocabularies"] | manifest["classes"]).get(data.vocabulary)
    return None if tags is None else len(tags)


def check_own_parts(config: ExperimentConfig) -> None:
    """Make every own part of an experiment and run it on two views of quiet noise.
    The UserError names the part and what does not fit.
    """
    if not config.own_parts():
        return
    build_loss(config.loss)
    if head_outputs(config.loss) == "tags" and config.head.width is not None:
        raise UserError(f"loss.objective={config.loss.objective} has an output a tag; leave head.width out")
    wave_2T = 0.01 * torch.randn(2, config.views.samples, generator=torch.Generator().manual_seed(0))
    extra = OwnAugmentations(config.augment.extra)
    for step in extra.steps:
        if step.reads == "wave":
            try_augmentation(step, wave_2T)
    views = _through_frontend(config, wave_2T)
    for step in extra.steps:
        if step.reads == "spectrogram":
            if views.ndim != 3:
                raise UserError(f"{step.key}: it reads spectrograms; frontend.kind={config.frontend.kind} gives none")
            try_augmentation(step, views)
    if config.encoder.is_own:
        with torch.random.fork_rng(devices=[]):
            _check_encoder(config, build_own(config.encoder), views)
            if config.encoder.own_blocks:
                split = build_encoder(config.encoder, config.micro_rows, variant=config.head.variant)
                try_encoder(split, config.encoder.name, views)


def _through_frontend(config: ExperimentConfig, wave_2T: Tensor) -> Tensor:
    frontend = build_frontend(config.frontend, SAMPLE_RATE)
    if isinstance(frontend, OwnFrontend):
        return try_frontend(frontend, wave_2T)
    with torch.no_grad():
        views: Tensor = frontend(wave_2T)
    return views


def _check_encoder(config: ExperimentConfig, encoder: OwnEncoder, views: Tensor) -> None:
    kind, name = config.frontend.kind, config.encoder.name
    unknown = [read for read in encoder.reads if read not in KINDS and not is_entry_point(read)]
    if unknown:
        raise UserError(
            f"encoder.name={name}: its attribute reads names {', '.join(unknown)}; front-ends are {', '.join(KINDS)} "
            f"{OR_OWN}{nearest(unknown[0], KINDS)}"
        )
    if kind not in encoder.reads:
        raise UserError(
            f"encoder.name={name} reads {', '.join(encoder.reads)}, frontend.kind is {kind}; set "
            f"frontend.kind={encoder.reads[0]}"
        )
    least = encoder.least_frames if views.ndim == 3 else encoder.least_samples
    if views.shape[-1] < least:
        unit = "frames" if views.ndim == 3 else "samples"
        raise UserError(
            f"views.samples={config.views.samples} is too short: encoder.name={name} reads at least {least} {unit}, a "
            f"view has {views.shape[-1]}; take longer views"
        )
    try_encoder(encoder, name, views)


def check_own_loss(config: ExperimentConfig, *, rows: int, num_tags: int) -> None:
    """Run a loss of the user's own forward and backward on projections of noise: ``rows`` clips of a rank's step, C =
    ``num_tags``. The UserError names the loss and what does not fit.
    """
    loss = build_loss(config.loss)
    if not isinstance(loss, OwnLoss):
        return
    tags = head_outputs(config.loss) == "tags"
    try_loss(
        loss,
        clips=rows,
        views=config.views.count,
        width=num_tags if tags else config.head.width or PROJECTION_WIDTH,
        num_tags=num_tags if config.data.b_s else 0,
        effects=list(config.augment.chances),
    )
