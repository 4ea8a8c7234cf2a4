"""Counterpoint: contrastive pretraining for music audio, as a library and as a command line.

>>> import torch
>>> from counterpoint import contrastive_loss
>>> z = torch.eye(2).repeat(2, 1)  # two views of two clips, the views equal
>>> round(contrastive_loss(z, torch.tensor([7, 9, 7, 9]), None, temperature=1.0).item(), 4)
0.5514

Every name is imported when it is first used: the loss needs torch and numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a name that is imported as itself is public
    from cluster.settings import UserError as UserError
    from cluster.settings import load_config as load_config
    from data_shards.audio.decode import audio_file as audio_file
    from data_shards.format.records import Batch as Batch
    from data_shards.format.records import Clip as Clip
    from data_shards.read.loader import BatchLoader as BatchLoader
    from data_shards.sampling.config import DataConfig as DataConfig
    from data_shards.text.config import TextViewsConfig as TextViewsConfig
    from evaluation.config import EvaluationConfig as EvaluationConfig
    from evaluation.embeddings.files import embed_files as embed_files
    from evaluation.evaluate import evaluate as evaluate
    from evaluation.explore.catalogue_map import MapOptions as MapOptions
    from evaluation.explore.catalogue_map import map_catalogue as map_catalogue
    from evaluation.search.query import search as search
    from evaluation.search.tagging import tag_files as tag_files
    from evaluation.tasks.kind import TaskKind as TaskKind
    from trainers.augment.chain import AugmentChain as AugmentChain
    from trainers.augment.parameters import PRESETS
    from trainers.augment.parameters import AugmentConfig as AugmentConfig
    from trainers.config import ExperimentConfig as ExperimentConfig
    from trainers.distributed.collectives import gather_rows as gather_rows
    from trainers.inference.frozen import load_encoder as load_encoder
    from trainers.inference.two_towers import load_two_towers as load_two_towers
    from trainers.losses.contrastive.loss import contrastive_loss as contrastive_loss
    from trainers.losses.projected import LossResult as LossResult
    from trainers.losses.projected import Projected as Projected
    from trainers.losses.two_tower.loss import two_tower_loss as two_tower_loss
    from trainers.losses.variants import variant_contrastive_loss as variant_contrastive_loss
    from trainers.pretrain import pretrain as pretrain
    from trainers.views.config import ViewsConfig as ViewsConfig
    from trainers.views.views import ViewMaker as ViewMaker
    from trainers.views.views import window_frames as window_frames

    augment_presets = PRESETS

_PLACES = {
    "AugmentChain": "trainers.augment.chain",
    "AugmentConfig": "trainers.augment.parameters",
    "Batch": "data_shards.format.records",
    "BatchLoader": "data_shards.read.loader",
    "Clip": "data_shards.format.records",
    "DataConfig": "data_shards.sampling.config",
    "EvaluationConfig": "evaluation.config",
    "ExperimentConfig": "trainers.config",
    "LossResult": "trainers.losses.projected",
    "MapOptions": "evaluation.explore.catalogue_map",
    "Projected": "trainers.losses.projected",
    "TaskKind": "evaluation.tasks.kind",
    "TextViewsConfig": "data_shards.text.config",
    "UserError": "cluster.settings",
    "ViewMaker": "trainers.views.views",
    "ViewsConfig": "trainers.views.config",
    "audio_file": "data_shards.audio.decode",
    "augment_presets": "trainers.augment.parameters:PRESETS",
    "contrastive_loss": "trainers.losses.contrastive.loss",
    "embed_files": "evaluation.embeddings.files",
    "evaluate": "evaluation.evaluate",
    "gather_rows": "trainers.distributed.collectives",
    "load_config": "cluster.settings",
    "load_encoder": "trainers.inference.frozen",
    "load_two_towers": "trainers.inference.two_towers",
    "map_catalogue": "evaluation.explore.catalogue_map",
    "pretrain": "trainers.pretrain",
    "search": "evaluation.search.query",
    "tag_files": "evaluation.search.tagging",
    "two_tower_loss": "trainers.losses.two_tower.loss",
    "variant_contrastive_loss": "trainers.losses.variants",
    "window_frames": "trainers.views.views",
}
"""Where each public name is defined, and what it is called there if not the same."""
__all__ = [*_PLACES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _PLACES[name].partition(":")
    value = getattr(import_module(module), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def main() -> None:
    """Run the command line."""
    from cluster.imports import uncollected

    with uncollected():
        from commands.app import main as run

    run()


if __name__ == "__main__":
    main()
