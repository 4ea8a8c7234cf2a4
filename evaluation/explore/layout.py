"""Where tracks lie on a map, and which are nearest to each.

Shape suffixes: D tracks, W width of the vectors, k neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.settings import RunError, UserError
from evaluation.analyses.projection import MIN_CLIPS
from evaluation.metrics.neighbours import flat, search_parts

PERPLEXITY = 30.0
"""Unless a catalogue is too small for it."""
DECIMALS = 4
"""Of a coordinate in [0, 1]: a ten thousandth is less than a pixel."""


def check_perplexity(tracks: int, perplexity: float | None, what: str) -> None:
    """Refuse a perplexity that t-SNE cannot have with so few tracks.

    t-SNE reads three times as many neighbours as the perplexity (van der Maaten, 2014).

    Raises:
        UserError: names the least number of tracks, and the largest perplexity.

    >>> check_perplexity(40, 30, "music")
    Traceback (most recent call last):
    cluster.settings.UserError: music: 40 tracks, --perplexity 30 needs at least 91; give at most 13, or leave it out
    """
    if tracks < MIN_CLIPS:
        count = "1 track" if tracks == 1 else f"{tracks} tracks"
        raise UserError(f"{what}: {count}; a map needs at least {MIN_CLIPS}: add music, or use `counterpoint search`")
    if perplexity is not None and tracks < 3 * perplexity + 1:
        least = int(np.ceil(3 * perplexity)) + 1
        raise UserError(
            f"{what}: {tracks:,} tracks, --perplexity {perplexity:g} needs at least {least:,}; give at most "
            f"{(tracks - 1) // 3}, or leave it out"
        )


def positions(h_DW: NDArray[np.float32], *, perplexity: float | None, seed: int) -> NDArray[np.float64]:
    """t-SNE of unit vectors, brought into the unit square with its proportions kept.

    Args:
        h_DW: unit rows, D ≥ `MIN_CLIPS`.
        perplexity: about how many neighbours matter; None takes `PERPLEXITY`, or (D − 1) / 3 where that is less.
        seed: of their random numbers. With one thread (OMP_NUM_THREADS=1) the map is the same every time; several add
            the forces up in any order.

    Returns:
        (D, 2) in [0, 1], centred.

    Raises:
        RunError: if all rows are equal, so that there is nothing to see.
    """
    from sklearn.manifold import TSNE

    if np.ptp(h_DW, axis=0).max() == 0:
        raise RunError("all tracks have the same embedding: the encoder has collapsed; take another snapshot")
    wanted = min(PERPLEXITY if perplexity is None else perplexity, (len(h_DW) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=wanted, random_state=seed)
    found_D2: NDArray[np.float64] = tsne.fit_transform(h_DW).astype(np.float64)
    low_2, high_2 = found_D2.min(0), found_D2.max(0)
    centred_D2 = (found_D2 - (low_2 + high_2) / 2) / (high_2 - low_2).max() + 0.5
    return np.asarray(np.round(np.clip(centred_D2, 0, 1), DECIMALS), np.float64)


def nearest(h_DW: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k ≥ 1 nearest other tracks of each unit row by cosine, nearest first, and the cosines: both (D, min(k, D −
    1)).
    """
    k = min(k, len(h_DW) - 1)
    cosine_Dk, row_Dk = search_parts(h_DW, [flat(h_DW)], k + 1)
    # A track is not always its own nearest: a duplicate may come first. Where it is not among k + 1, the last goes.
    own_Dk = row_Dk == np.arange(len(h_DW))[:, None]
    own_Dk[~own_Dk.any(1), -1] = True
    shape = (len(h_DW), k)
    return row_Dk[~own_Dk].reshape(shape), cosine_Dk[~own_Dk].reshape(shape)
