"""Published datasets by name: variants, files, web page, and the downloads whose address and hash are published."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_shards.sources.download import Remote

if TYPE_CHECKING:
    from data_shards.format.records import Listing


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
    """``MODULE.FUNCTION`` of this package that lists the clips below a root, of a variant where there are several."""
    variants: tuple[str, ...] = ("published",)
    """The first is the default."""
    hashes_from: str = ""
    """Who publishes the hashes of what is downloaded."""
    remotes: tuple[Remote, ...] = ()
    """What a download fetches for every variant."""
    remotes_of: Mapping[str, Remote] = field(default_factory=dict)
    """Further files of one variant."""
    names_more: str | None = None
    """``MODULE.FUNCTION`` of this package: further files below a root, which the first ones name with their hashes."""

    def read(self, root: Path, variant: str) -> "Listing":
        """List the clips."""
        listing: Listing = _call(self.reader, root, **({"variant": variant} if len(self.variants) > 1 else {}))
        return listing

    def more(self, root: Path) -> Sequence[Remote]:
        """Further files to download, when the first ones are there."""
        remotes: Sequence[Remote] = _call(self.names_more, root) if self.names_more else ()
        return remotes


def _call(place: str, root: Path, **settings: str) -> Any:
    module, function = place.split(".")
    return getattr(import_module(f"data_shards.sources.published.{module}"), function)(root, **settings)


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    remotes = tuple(Remote(**remote) for remote in fields.get("remotes", ()))
    of_variants = {variant: Remote(**remote) for variant, remote in fields.get("remotes_of", {}).items()}
    variants = tuple(fields.get("variants", Dataset.variants))
    return Dataset(**{**fields, "variants": variants, "remotes": remotes, "remotes_of": of_variants})


DATASETS: dict[str, Dataset] = {
    name: _dataset(fields)
    for name, fields in json.loads(Path(__file__).with_name("datasets.json").read_text(encoding="utf-8")).items()
}
