"""Exact nearest neighbours by cosine, and what they share with the query.

A query is excluded by its identity, never by its rank: among duplicates "self" does not always come first. Clips of the
query's own track (or artist) are excluded with it.

Shape suffixes: Q queries, D clips of the base, E encoder width, k neighbours.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.settings import UserError

Ints = NDArray[np.int64]
QUERIES_A_BLOCK = 1024
"""Of a product on a GPU: a block against a million rows is 4 GB."""


def unit_rows(h_KE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit norm; a zero row stays zero, equally far from all."""
    # Sums and quotients in float64, through small buffers: a copy of a base in float64 would be twice its size.
    norm_K1 = np.sqrt(np.einsum("ke,ke->k", h_KE, h_KE, dtype=np.float64))[:, None]
    unit_KE = np.empty(h_KE.shape, np.float32)
    np.divide(h_KE, np.where(norm_K1 > 0, norm_K1, 1), out=unit_KE, casting="same_kind")
    return unit_KE


def search(
    query_QE: NDArray[np.float32], shards: Iterable[NDArray[np.float32]], k: int, *, device: str = "cpu"
) -> tuple[NDArray[np.float32], Ints]:
    """Exact top k of a base that need not fit into memory: each shard is searched, and the best so far merged.

    Args:
        query_QE: unit rows.
        shards: unit rows of the base, part after part.
        k: neighbours wanted, ≥ 1.
        device: faiss searches on ``cpu``, torch's product and top-k on any other torch device.

    Returns:
        Cosines and rows of the whole base, best first, both (Q, k), or fewer columns for a smaller base. Among equals
        the earlier row comes first (on the CPU), so cutting the base elsewhere changes nothing.
    """
    return search_parts(
        query_QE, (flat(shard_DE) if device == "cpu" else Product(shard_DE, device) for shard_DE in shards), k
    )


class Part(Protocol):
    """Some rows of a base; what faiss calls an index."""

    ntotal: int

    def search(self, query_QE: NDArray[np.float32], k: int, /) -> tuple[NDArray[np.float32], Ints]:
        """Cosines and rows of this part, best first, k ≤ ntotal."""
        ...


def search_parts(query_QE: NDArray[np.float32], parts: Iterable[Part], k: int) -> tuple[NDArray[np.float32], Ints]:
    """The same over parts that can search themselves; one is held at a time."""
    query_QE = np.ascontiguousarray(query_QE)
    best_Qk = np.empty((len(query_QE), 0), np.float32)
    rows_Qk = np.empty((len(query_QE), 0), np.int64)
    first = 0
    for part in parts:
        found_Qk, near_Qk = part.search(query_QE, min(k, part.ntotal))
        best_Qk = np.concatenate([best_Qk, found_Qk], 1)
        rows_Qk = np.concatenate([rows_Qk, near_Qk + first], 1)
        order_Qk = np.lexsort((rows_Qk, -best_Qk), axis=1)[:, :k]
        best_Qk, rows_Qk = np.take_along_axis(best_Qk, order_Qk, 1), np.take_along_axis(rows_Qk, order_Qk, 1)
        first += part.ntotal
    return best_Qk, rows_Qk


def flat(shard_DE: NDArray[np.float32]) -> Any:
    """Faiss's exact inner product: the fastest on a CPU."""
    import faiss

    index = faiss.IndexFlatIP(shard_DE.shape[1])
    index.add(np.ascontiguousarray(shard_DE))
    return index


class Product:
    """torch's product and top-k, in blocks of queries: exact search on a GPU."""

    def __init__(self, shard_DE: NDArray[np.float32], device: str) -> None:
        self._base_DE = torch.from_numpy(np.ascontiguousarray(shard_DE)).to(device)
        self.ntotal = len(shard_DE)

    def search(self, query_QE: NDArray[np.float32], k: int, /) -> tuple[NDArray[np.float32], Ints]:
        """See `Part`."""
        blocks = torch.split(torch.from_numpy(query_QE).to(self._base_DE), QUERIES_A_BLOCK)
        best = [(block_QE @ self._base_DE.T).topk(k) for block_QE in blocks]
        return torch.cat([top.values for top in best]).cpu().numpy(), torch.cat(
            [top.indices for top in best]
        ).cpu().numpy()


def neighbours(h_KE: NDArray[np.float32], groups_K: Ints, k: int, *, device: str = "cpu") -> Ints:
    """The k nearest clips of another group for every clip of a set, nearest first.

    Args:
        h_KE: embeddings, any scale.
        groups_K: clips with equal numbers are never each other's neighbours; a clip is of its own group.
        k: neighbours wanted, ≥ 1.
        device: that searches.

    Returns:
        Rows of neighbours, shape (K, k); −1 behind the last where a clip has fewer.

    Raises:
        UserError: if no clip has a neighbour of another group.
    """
    if len(h_KE) != len(groups_K):
        raise ValueError(f"{len(h_KE)} embeddings, {len(groups_K)} groups")
    if len(np.unique(groups_K)) < 2:
        raise UserError("retrieval needs test clips of at least two tracks (two artists with exclude=artist)")
    unit_KE = unit_rows(h_KE)
    # However large the query's own group is, k of the others lie within k + its size.
    reach = min(len(h_KE), k + int(np.bincount(groups_K).max()))
    _, found_KD = search(unit_KE, [unit_KE], reach, device=device)
    other_KD = groups_K[found_KD] != groups_K[:, None]
    first_KD = np.argsort(~other_KD, axis=1, kind="stable")[:, :k]
    near_Kk = np.take_along_axis(found_KD, first_KD, 1)
    near_Kk[~np.take_along_axis(other_KD, first_KD, 1)] = -1
    padding = np.full((len(h_KE), k - near_Kk.shape[1]), -1, np.int64)
    return np.concatenate([near_Kk.astype(np.int64), padding], 1)
