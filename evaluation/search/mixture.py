"""What a search compares: one space of the encoder, or a weighted mixture of several, as one query vector.

An index holds the unit slices of its spaces side by side. A query holds its own unit slices, each times its weight over
the sum of weights: the inner product is then Σ w·cos / Σ w, so one flat index answers every space and every mixture
exactly. An index answers a query vector, wherever that comes from.

Shape suffixes: K rows, E encoder width, W width of an index.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.neighbours import unit_rows
from evaluation.search.asked import Weights


def unit_slices(h_KE: NDArray[np.float32], spaces: Mapping[str, slice]) -> NDArray[np.float32]:
    """The unit slices of embeddings side by side, in the order of their spaces, shape (K, W)."""
    return np.concatenate([unit_rows(h_KE[:, place]) for place in spaces.values()], 1)


def query_rows(h_KE: NDArray[np.float32], spaces: Mapping[str, slice], weights: Weights) -> NDArray[np.float32]:
    """Query vectors (K, W) of a mixture from embeddings (K, E): the columns of every space that the index holds, in its
    order, by its weight of `resolve`; a space without a weight adds nothing.
    """
    total = sum(weights.values())
    parts = [unit_rows(h_KE[:, place]) * np.float32(weights.get(name, 0) / total) for name, place in spaces.items()]
    return np.concatenate(parts, 1)
