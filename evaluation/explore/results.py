"""The answers of a search as a page to listen to (`counterpoint search … --page`)."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster.progress import SILENT, Progress
from data_shards.format.text import as_text
from data_shards.read.reader import ShardSet
from evaluation.explore.page import Page, write_page
from evaluation.explore.sounds import Sound, SoundCounts, SoundOptions, clip_sounds, file_sounds
from evaluation.search.query import SearchResult
from evaluation.search.shard_catalogue import is_shard_set
from trainers.inference.spaces import WHOLE

NO_SOUND = -1


def write_results(
    found: SearchResult,
    catalogue: Path | str,
    out: Path | str,
    options: SoundOptions | None = None,
    *,
    progress: Progress = SILENT,
) -> SoundCounts:
    """Write one HTML file: every query with its nearest tracks, their scores, and a button that plays each."""
    catalogue, out = Path(catalogue), Path(out)
    files = {answer.query: _file_of(answer.query) for answer in found.answers}
    queries = {query: file for query, file in files.items() if file}
    hits = list(dict.fromkeys(hit.path for answer in found.answers for hit in answer.nearest))
    with ExitStack() as opened:
        sounds = file_sounds(list(queries.values()), out)
        of_hits: list[Sound] = []
        if not found.index.of_shards:
            of_hits = file_sounds([Path(hit) for hit in hits], out)
        elif is_shard_set(catalogue):
            of_hits = clip_sounds(opened.enter_context(ShardSet.open(catalogue)), hits)
        numbers = dict(zip(queries, range(len(queries)), strict=True))
        of_hit = dict(zip(hits[: len(of_hits)], range(len(queries), len(queries) + len(of_hits)), strict=True))
        data = {"answers": _answers(found, numbers, of_hit)}
        compared = ", ".join(found.weights) if WHOLE not in found.weights else "cosine"
        facts = (f"in {as_text(catalogue.resolve().name)}", f"{len(found.index):,} tracks", f"by {compared}")
        page = Page("results", "Nearest tracks", facts)
        return write_page(out, page, data, [*sounds, *of_hits], options or SoundOptions(), progress)


def _answers(found: SearchResult, of_query: dict[str, int], of_hit: dict[str, int]) -> list[dict[str, Any]]:
    """As JSON types: paths, scores, and numbers of sounds."""
    return [
        {
            "query": answer.query,
            "sound": of_query.get(answer.query, NO_SOUND),
            "nearest": [
                {
                    "path": as_text(_below(hit.path, found.index.root)),
                    "score": hit.cosine,
                    "sound": of_hit.get(hit.path, NO_SOUND),
                }
                for hit in answer.nearest
            ],
        }
        for answer in found.answers
    ]


def _file_of(query: str) -> Path | None:
    """The file of a query: of one alone, or of one mixed with words (``song.mp3 + calm``); None of words alone."""
    for name in (query, query.partition(" + ")[0]):
        try:
            if Path(name).is_file():
                return Path(name)
        except (OSError, ValueError):  # words that no file system takes as a name
            continue
    return None


def _below(path: str, root: str) -> str:
    """A path below the catalogue's folder, where it lies there."""
    return str(Path(path).relative_to(root)) if root and Path(path).is_relative_to(root) else path
