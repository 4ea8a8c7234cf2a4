"""Embed a folder of music once and print the nearest tracks of a song.

python search_a_folder.py outputs/run ~/Music SONG.mp3
"""

import sys

import counterpoint


def nearest(source: str, folder: str, song: str, *, k: int = 5) -> list[tuple[float, str]]:
    """Cosine and path of the k tracks that are nearest to a song, best first.

    Args:
        source: a run's folder, a snapshot, or ``module:factory``.
        folder: of audio files; those that cannot be read are left out.
        song: an audio file, in the folder or elsewhere; it is not its own answer.
        k: tracks wanted.
    """
    table = counterpoint.embed_files(source, folder, "embeddings.parquet", skip_unreadable=True)
    (answer,) = counterpoint.search(source, table.path, song, k=k).answers
    return [(hit.cosine, hit.path) for hit in answer.nearest]


if __name__ == "__main__":
    for cosine, path in nearest(*sys.argv[1:4]):
        print(f"{cosine:.3f}  {path}")
