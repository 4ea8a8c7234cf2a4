"""List or download a published dataset by its name.

A dataset can be downloaded where address and hash are published; the files of others come from their page.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.sources.download import fetch
from data_shards.sources.published.catalogue import DATASETS, Dataset

if TYPE_CHECKING:
    from data_shards.format.records import Listing

__all__ = ["DATASETS", "Dataset", "check_variant", "download", "list_clips"]


def list_clips(name: str, root: Path, variant: str) -> "Listing":
    """List the clips of a dataset.
    Where the variant is unknown, or the files are not as published, the UserError names the page.
    """
    dataset = check_variant(name, variant)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of {dataset.needs}, see {dataset.page}")
    return dataset.read(root, variant)


def download(name: str, root: Path, variant: str, *, progress: Progress = SILENT) -> None:
    """Fetch a dataset into `root`; files that exist are checked and kept.

    Raises UserError if no address with a hash is published (it names the page) or a file there has another hash,
    RunError if a transfer failed.
    """
    dataset = check_variant(name, variant)
    remotes = dataset.remotes + ((dataset.remotes_of[variant],) if variant in dataset.remotes_of else ())
    if not remotes:
        raise UserError(
            f"{name}: no address with a hash is published; get {dataset.needs} from {dataset.page} into {root}, "
            "then run this without --download"
        )
    root.mkdir(parents=True, exist_ok=True)
    fetch(remotes, root, progress=progress)
    if dataset.names_more:
        fetch(dataset.more(root), root, progress=progress)


def check_variant(name: str, variant: str) -> Dataset:
    """The dataset, if it has the variant; if not the UserError names those that it has."""
    dataset = DATASETS[name]
    if variant not in dataset.variants:
        raise UserError(f"{name}: no variant {variant!r}; there are {', '.join(dataset.variants)}")
    return dataset
