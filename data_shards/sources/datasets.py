"""List or download a published dataset by its name.

A dataset can be downloaded where address and hash are published; the files of others come from their page.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.sources.download import Remote, fetch

if TYPE_CHECKING:
    from data_shards.format.records import Listing

_TABLE = Path(__file__).with_name("published") / "datasets.json"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A published dataset; the module that reads it is imported when it is called."""

    title: str
    """One line for lists."""
    needs: str
    """The files below the root."""
    page: str
    """The web page of the files and their terms."""
    reader: str
    """``MODULE.FUNCTION`` of `published` that lists the clips below a root, of a variant where there are several."""
    variants: tuple[str, ...] = ("published",)
    """The first is the default."""
    hashes_from: str = ""
    """Who publishes the hashes of what is downloaded."""
    remotes: tuple[Remote, ...] = ()
    """What a download fetches for every variant."""
    remotes_of: Mapping[str, Remote] = field(default_factory=dict)
    """Further files of one variant."""
    names_more: str | None = None
    """``MODULE.FUNCTION`` of `published`: further files below a root, which the first ones name with their hashes."""


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    remotes = tuple(Remote(**remote) for remote in fields.get("remotes", ()))
    of_variants = {variant: Remote(**remote) for variant, remote in fields.get("remotes_of", {}).items()}
    variants = tuple(fields.get("variants", Dataset.variants))
    return Dataset(**{**fields, "variants": variants, "remotes": remotes, "remotes_of": of_variants})


DATASETS: dict[str, Dataset] = {
    name: _dataset(fields) for name, fields in json.loads(_TABLE.read_text(encoding="utf-8")).items()
}


def list_clips(name: str, root: Path, variant: str) -> "Listing":
    """List the clips of a dataset.
    Raises UserError for an unknown variant, and for files that are not there or not as published: it names the page.
    """
    dataset = check_variant(name, variant)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root is the folder of {dataset.needs}, see {dataset.page}")
    listing: Listing = _call(dataset.reader, root, **({"variant": variant} if len(dataset.variants) > 1 else {}))
    return listing


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
        fetch(_call(dataset.names_more, root), root, progress=progress)


def check_variant(name: str, variant: str) -> Dataset:
    """The dataset, if it has the variant; if not the UserError names those that it has."""
    dataset = DATASETS[name]
    if variant not in dataset.variants:
        raise UserError(f"{name}: no variant {variant!r}; there are {', '.join(dataset.variants)}")
    return dataset


def _call(place: str, root: Path, **settings: str) -> Any:
    module, function = place.split(".")
    return getattr(import_module(f"data_shards.sources.published.{module}"), function)(root, **settings)
