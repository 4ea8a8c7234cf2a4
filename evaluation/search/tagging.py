"""Tags of audio files by their names alone, in the space that music and texts share: `counterpoint tag`.

A tag is its name in each prompt; the mean of the unit vectors of all prompts, brought to unit norm, is compared with
the file. Cosines of a file and a text have a scale of their own: they order tags and files, and are no probabilities.

Shape suffixes: C tags, P prompts, K files, d width of the space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.locks import sole_file_writer
from cluster.files.outputs import PARQUET, require_replaceable_file
from cluster.files.storage import atomic_file
from cluster.progress import SILENT, Progress
from cluster.settings import UserError
from data_shards.format.columns import arrow_numbers, arrow_texts
from evaluation.embeddings.files import embed_stream
from evaluation.embeddings.inputs import Inputs, expand
from evaluation.encoders.encoder import ENCODER, Encoder, TextTower, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.encoders.sources import open_encoder
from evaluation.metrics.neighbours import unit_rows
from evaluation.search.asked import check_tags
from evaluation.text_task import PROMPTS, in_prompts
from trainers.inference.spaces import JOINT, no_text_tower

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TaggedFile:
    """One file and its cosine with every tag."""

    path: str
    cosine: dict[str, float]
    """Highest first."""


@dataclass(frozen=True)
class Tagged:
    """What was found."""

    files: tuple[TaggedFile, ...]
    rejected: dict[str, str]
    """Files that could not be read, and why."""
    inputs: Inputs = field(default_factory=lambda: Inputs([]))


def tag_files(
    source: Path | str | Encoder | Pool,
    files: Sequence[Path | str] | Path | str,
    tags: Sequence[str],
    *,
    prompts: Sequence[str] = PROMPTS,
    out: Path | str | None = None,
    workers: int = 0,
    device: str | None = None,
    trust_code: bool = False,
    progress: Progress = SILENT,
) -> Tagged:
    """Cosines of audio files with tags, without training.

    Args:
        source: a snapshot with a text tower, or a run's folder; or an encoder, or a pool that holds it as `ENCODER`.
        files: audio files, folders of them, or both.
        tags: their names.
        prompts: sentences with ``{}`` where the tag stands.
        out: Parquet file with a row a file: path, and a column a tag.
        workers: Ray workers that decode and embed; 0 is this process alone.
        device: of this process's encoder.
        trust_code: import the user's own code that a snapshot names.
        progress: counts the files that are done.

    Raises:
        UserError: for wrong tags or prompts, an encoder without a text tower, an output that cannot be written, or if
            no file can be read.
    """
    check_tags(tags, prompts)
    if out is not None:
        out = Path(out)
        require_replaceable_file(out, "--out", *PARQUET)
    places = [Path(place) for place in ([files] if isinstance(files, Path | str) else files)]
    inputs = expand(places, missing_ok=False)
    with (
        open_encoder(source, workers=workers, device=device, trust_code=trust_code, heads=True, texts=True) as pool,
        progress.stage("tagging", len(inputs.files)) as bar,
    ):
        encoder: Encoder = pool[ENCODER]
        if not isinstance(encoder, TextTower):
            raise UserError(no_text_tower(source if isinstance(source, Path | str) else "the encoder"))
        tags_Cd = _ensemble(encoder, tags, prompts)
        place = spaces_of(encoder)[JOINT]
        cosine_C: dict[str, NDArray[np.float64]] = {}
        rejected: dict[str, str] = {}
        for done, file in enumerate(embed_stream(pool, inputs.files), 1):
            bar(done, file.path)
            if file.reason is None:
                cosine_C[file.path] = tags_Cd.astype(np.float64) @ unit_rows(file.mean_E[None, place])[0]
            else:
                rejected[file.path] = file.reason
    if not cosine_C:
        first, why = next(iter(rejected.items()))
        raise UserError(f"none of the {len(rejected)} files can be read; the first: {first}: {why}")
    paths, cosine_KC = [*cosine_C], np.stack([*cosine_C.values()]).astype(np.float32)
    if out is not None:
        _write(out, paths, tags, cosine_KC, {"encoder": encoder.hash, "prompts": "\n".join(prompts)})
    return Tagged(tuple(_tagged(path, tags, row) for path, row in zip(paths, cosine_KC, strict=True)), rejected, inputs)


def _ensemble(tower: TextTower, tags: Sequence[str], prompts: Sequence[str]) -> NDArray[np.float32]:
    texts_PCd = tower.embed_text(in_prompts(tags, prompts)).float().cpu().numpy().reshape(len(prompts), len(tags), -1)
    return unit_rows(np.ascontiguousarray(texts_PCd.mean(0)))


def _tagged(path: str, tags: Sequence[str], cosine_C: NDArray[np.float32]) -> TaggedFile:
    order = np.argsort(-cosine_C, kind="stable")
    return TaggedFile(path, {tags[c]: round(float(cosine_C[c]), 6) for c in order})


def _write(
    out: Path, paths: Sequence[str], tags: Sequence[str], cosine_KC: NDArray[np.float32], about: dict[str, str]
) -> None:
    columns: dict[str, Any] = {"path": arrow_texts(paths).cast(pa.string())}
    columns |= {tag: arrow_numbers(cosine_KC[:, c]) for c, tag in enumerate(tags)}
    table = pa.table(list(columns.values()), names=list(columns))
    table = table.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION), **about})
    with sole_file_writer(out, "give another --out"), atomic_file(out) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
