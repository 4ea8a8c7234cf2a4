"""A catalogue as a map: similar tracks lie close to each other, and a click plays one (`counterpoint map`).

Shape suffixes: D tracks of the map, W width of the index, k neighbours.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.progress import SILENT, Progress, alive
from cluster.settings import UserError
from data_shards.audio.scan import AudioFolder
from data_shards.format.text import as_text
from data_shards.read.reader import ShardSet
from evaluation.analyses.projection import MIN_CLIPS
from evaluation.encoders.encoder import ENCODER, Encoder, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.encoders.sources import open_encoder
from evaluation.explore import labels
from evaluation.explore.catalogue import Place, drawn, files_of, find_place, known_of
from evaluation.explore.labels import Known
from evaluation.explore.layout import check_perplexity, nearest, positions
from evaluation.explore.page import Page, check_page, write_page
from evaluation.explore.sounds import Sound, SoundCounts, SoundOptions, clip_sounds, file_sounds
from evaluation.search.asked import Weights, parse_by, resolve
from evaluation.search.index_update import follow_catalogue
from evaluation.search.track_index import TrackIndex
from trainers.inference.spaces import ALL, WHOLE

NEIGHBOURS = 24
"""Of each track in the page; clips of its own track may be among them."""
MOST = 10_000


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How a map is made."""

    labels: Path | None = None
    """Table of labels; None reads labels.csv or labels.parquet in the folder of audio, where there is one."""
    colour: str | None = None
    """Column that gives the points their colours at first; None takes the one that is known of most tracks."""
    by: str | Weights = ALL
    """The space that lays tracks close to each other, or a mixture of several, as in `search`."""
    sounds: SoundOptions = field(default_factory=SoundOptions)
    perplexity: float | None = None
    """Of t-SNE; None is 30, or less where tracks are few."""
    most: int = MOST
    """Tracks on the map; of a larger catalogue so many are drawn by chance."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < MIN_CLIPS:
            raise UserError(f"--most must be ≥ {MIN_CLIPS}, got {self.most}; t-SNE needs so many tracks")
        if self.perplexity is not None and not 1 <= self.perplexity < float("inf"):
            raise UserError(f"--perplexity must be ≥ 1, got {self.perplexity:g}; leave it out for the usual one")
        if not 0 <= self.seed < 1 << 32:
            raise UserError(f"--seed must be 0 to 2^32 − 1, got {self.seed}")


@dataclass(frozen=True)
class CatalogueMap:
    """What was written."""

    page: Path
    shown: int
    """Tracks on the map."""
    columns: tuple[str, ...]
    """That points can be coloured by, the first at first."""
    sounds: SoundCounts
    index: TrackIndex
    folder: AudioFolder | None
    """What the scan of the catalogue found and passed over; None where it is no folder of audio."""
    notes: tuple[str, ...] = ()
    """What is on the map otherwise than one might think."""


def map_catalogue(
    source: Path | str | Encoder | Pool,
    catalogue: Path | str,
    out: Path | str,
    options: MapOptions | None = None,
    *,
    index: Path | None = None,
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> CatalogueMap:
    """Write one HTML file with a map of a catalogue by t-SNE, from the index that `search` keeps.

    Args:
        source: a snapshot, a run's folder or ``module:factory``; or an encoder, or a pool that holds it as `ENCODER`.
        catalogue: folder of audio, folder of shards, Parquet file of embeddings, or saved index.
        out: the page; an earlier page of this kind is replaced.
        options: labels, sounds, t-SNE.
        index: folder of the saved index; by default the one of `search`.
        workers: Ray workers that decode and embed; 0 is this process alone.
        device: of this process's encoder.
        trust_code: import the user's own code that a snapshot names.
        progress: counts what is embedded and compressed.

    Raises:
        UserError: for a catalogue, a table or an output that will not do, before anything is embedded.
        RunError: if all tracks have the same embedding.
    """
    options, out, catalogue = options or MapOptions(), Path(out), Path(catalogue)
    check_page(out, "--out")
    place = find_place(source, catalogue)
    known = known_of(place, options.labels)
    _check_colour(options.colour, known, catalogue)
    check_perplexity(min(place.tracks, options.most), options.perplexity, str(catalogue))
    if options.sounds.kind == "link" and (place.shards or place.of_keys):
        raise UserError(f"--sounds link: {catalogue} is of shards, which have no files to link to; give embed or none")
    asked = parse_by(options.by) if isinstance(options.by, str) else options.by
    with open_encoder(source, workers=workers, device=device, trust_code=trust_code, heads=True) as pool:
        resolve(asked, list(spaces_of(pool[ENCODER])), "the encoder")
        found, folder = follow_catalogue(pool, catalogue, index, progress=progress)
    if len(found) < MIN_CLIPS and found.rejected:
        track, why = found.rejected[0]
        raise UserError(
            f"{catalogue}: {len(found)} of its tracks can be embedded, a map needs at least {MIN_CLIPS}; the first "
            f"that cannot: {track.path}: {why}"
        )
    check_perplexity(min(len(found), options.most), options.perplexity, str(catalogue))
    weights = resolve(asked, list(found.spaces), f"{found.folder}, an index,")
    return _write(found, folder, (place, known, weights), out, options, progress)


def _write(
    index: TrackIndex,
    folder: AudioFolder | None,
    about: tuple[Place, Known, Weights],
    out: Path,
    options: MapOptions,
    progress: Progress,
) -> CatalogueMap:
    place, known, weights = about
    tracks, h_DW = drawn(index, weights, options.most, options.seed)
    files = files_of(index, tracks, folder)
    names = [track.path if index.of_shards else str(index.file(track).absolute()) for track in tracks]
    columns = known.columns or labels.of_folders(names, Path(index.root)).columns
    colours = sorted(Known(columns).colours(), key=lambda name: name != options.colour)
    data = {"paths": [track.path for track in tracks], "colours": colours} | _geometry(h_DW, options, progress)
    data["columns"] = [labels.encoded(column, names) for column in columns]
    data["track"] = _codes([known.groups.get(name, name) for name in names]) if known.groups else None
    facts = [f"{len(tracks):,} of {len(index):,} tracks" if len(tracks) < len(index) else f"{len(tracks):,} tracks"]
    facts += [f"{len(index.rejected):,} could not be read"] * bool(index.rejected)
    facts += [f"by {', '.join(weights)}"] * (WHOLE not in weights)
    page = Page("map", as_text(place.name), (*facts, f"encoder {index.encoder[:12]}"))
    with ExitStack() as opened:
        sounds: list[Sound] = []
        if place.shards:
            sounds = clip_sounds(opened.enter_context(ShardSet.open(place.shards)), names)
        elif not index.of_shards:
            sounds = file_sounds(files, out)
        counts = write_page(out, page, data, sounds, options.sounds, progress)
    return CatalogueMap(out, len(tracks), tuple(colours), counts, index, folder, tuple(_notes(known, names, index)))


def _geometry(h_DW: NDArray[np.float32], options: MapOptions, progress: Progress) -> dict[str, Any]:
    """Where the tracks lie, and their neighbours, as JSON types."""
    with progress.stage("placing", len(h_DW)) as bar:
        with alive(bar, "t-SNE"):
            where_D2 = positions(h_DW, perplexity=options.perplexity, seed=options.seed)
            row_Dk, cosine_Dk = nearest(h_DW, NEIGHBOURS)
        bar(len(h_DW), "")
    cosine = np.round(cosine_Dk.astype(np.float64), 3).tolist()
    return {"x": where_D2[:, 0].tolist(), "y": where_D2[:, 1].tolist(), "near": row_Dk.tolist(), "cosine": cosine}


def _check_colour(colour: str | None, known: Known, catalogue: Path) -> None:
    able = known.colours()
    if colour is not None and colour not in able and not (colour == "folder" and not known.columns):
        there = f"there are {', '.join(able)}" if able else "it has no labels; add a table with --labels FILE.csv"
        raise UserError(f"--colour {colour}: {catalogue} has no such column of classes, tags or numbers; {there}")


def _codes(groups: Sequence[str]) -> list[int]:
    """Equal numbers for equal names, in the order of their first."""
    codes: dict[str, int] = {}
    return [codes.setdefault(group, len(codes)) for group in groups]


def _notes(known: Known, names: Sequence[str], index: TrackIndex) -> Iterator[str]:
    if not known.names or index.of_shards:
        return
    missing = len(set(names) - known.names)
    if missing:
        yield f"{missing:,} of {len(names):,} tracks are not in the table of labels; they are grey"
    lost = len(known.names) - (len(names) - missing)
    if lost and len(names) == len(index):
        yield f"{lost:,} rows of the table of labels lead to no track that could be read"
