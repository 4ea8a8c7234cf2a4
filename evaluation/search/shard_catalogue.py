"""A set of shards as a catalogue of `counterpoint search`: a row a clip, by its key, with the clip's track."""

from pathlib import Path

import numpy as np

from cluster.progress import Progress
from data_shards.format.paths import MANIFEST_NAME
from data_shards.read.reader import ShardSet
from evaluation.config import Chunking, EvaluationConfig, EvaluationData
from evaluation.embeddings.embed import embed_shards
from evaluation.encoders.encoder import ENCODER, spaces_of
from evaluation.encoders.pool import Pool
from evaluation.search.mixture import unit_slices
from evaluation.search.track_index import ROWS_A_PART, Track, TrackIndex, read_index, rewriting


def is_shard_set(folder: Path) -> bool:
    """Whether a folder is a set of shards."""
    return (folder / MANIFEST_NAME).is_file()


def shards_stamp(folder: Path) -> str:
    """A text that identifies the set of shards that an index was made from."""
    with ShardSet.open(folder) as shards:
        return f"shards {shards.manifest_hash}"


def index_shards(index: TrackIndex, pool: Pool, folder: Path, *, progress: Progress) -> TrackIndex:
    """Embed every clip of a set, resampled to the encoder's rate where it has another, and write the index."""
    config = EvaluationConfig(data=EvaluationData(shards=str(folder)), chunking=Chunking(resample=True))
    with ShardSet.open(folder) as shards:
        table = embed_shards(shards, pool, config, progress=progress)[ENCODER]
        names = [str(name) for name in shards.index.track]
    tracks = [Track(key, track=name) for key, name in zip(table.keys, names, strict=True)]
    with rewriting(index) as writer:
        for at in range(0, len(tracks), ROWS_A_PART):
            h_DE = np.asarray(table.h_KE[at : at + ROWS_A_PART])
            writer.add(tracks[at : at + ROWS_A_PART], unit_slices(h_DE, spaces_of(pool[ENCODER])))
    return read_index(index.folder)
