"""What a search compares: one space of the encoder, or a weighted mixture of several, as one query vector.

An index holds the unit slices of its spaces side by side. A query holds its own unit slices, each times its weight over
the sum of weights: the inner product is then Σ w·cos / Σ w, so one flat index answers every space and every mixture
exactly. An index answers a query vector, wherever that comes from.

Shape suffixes: K rows, E encoder width, W width of an index.
"""

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from evaluation.encoders.spaces import ALL
from evaluation.metrics.neighbours import unit_rows
from trainers.inference.spaces import WHOLE

ALIASES = {"tempo": "stretch", "key": "pitch", "sound": "invariant"}
"""What a listener calls a space: the property in which it tells tracks apart."""
Weights = Mapping[str, float]
"""Space → weight, ≥ 0, not all 0."""


def parse_by(text: str) -> dict[str, float]:
    """Names and weights; a name without a weight has 1.

    >>> parse_by("pitch:2,stretch"), parse_by("tempo")
    ({'pitch': 2.0, 'stretch': 1.0}, {'tempo': 1.0})

    Raises:
        UserError: for a weight that is no number, or a name that comes twice.
    """
    weights: dict[str, float] = {}
    for word in text.split(","):
        name, colon, given = word.strip().rpartition(":")
        name, given = (name, given) if colon else (given, "1")
        try:
            weight = float(given)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise UserError(f"--by {text}: {word.strip()!r} is no NAME or NAME:WEIGHT with a weight ≥ 0")
        if name in weights:
            raise UserError(f"--by {text}: {name} comes twice; give it one weight")
        weights[name] = weight
    return weights


def resolve(by: Weights, spaces: Sequence[str], holder: str) -> dict[str, float]:
    """Weights by the names of spaces, aliases and `ALL` replaced.

    Args:
        by: as `parse_by` gives it.
        spaces: those there are.
        holder: what has them, for messages.

    Raises:
        UserError: for a space that is not there, or weights that are all 0.
    """
    asked = "--by " + ",".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in by.items())
    if ALL in by and ALL not in spaces:
        if len(by) > 1:
            raise UserError(f"{asked}: all stands alone; name the spaces of a mixture: {', '.join(spaces)}")
        return {WHOLE: 1.0} if WHOLE in spaces else dict.fromkeys(spaces, 1.0)
    weights: dict[str, float] = {}
    for name, weight in by.items():
        space = name if name in spaces else ALIASES.get(name, name)
        if space not in spaces:
            known = [*spaces, ALL, *(alias for alias, meant in ALIASES.items() if meant in spaces)]
            meant = "" if space == name else f" ({name})"
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{asked}: {holder} has no space {space}{meant}; it has {', '.join(known)}{hint}")
        if space in weights:
            raise UserError(f"{asked}: {name} is {space}, which comes twice; give it one weight")
        weights[space] = weight
    if not sum(weights.values()) > 0 or not all(0 <= weight < math.inf for weight in weights.values()):
        raise UserError(f"{asked}: weights must be finite, ≥ 0 and not all 0")
    return weights


def unit_slices(h_KE: NDArray[np.float32], spaces: Mapping[str, slice]) -> NDArray[np.float32]:
    """The unit slices of embeddings side by side, in the order of their spaces, shape (K, W)."""
    return np.concatenate([unit_rows(h_KE[:, place]) for place in spaces.values()], 1)


def query_rows(h_KE: NDArray[np.float32], spaces: Mapping[str, slice], weights: Weights) -> NDArray[np.float32]:
    """Query vectors of a mixture, shape (K, W); a space without a weight adds nothing.

    Args:
        h_KE: embeddings of the queries.
        spaces: columns of every space that the index holds, in its order.
        weights: of the spaces, see `resolve`.
    """
    total = sum(weights.values())
    parts = [unit_rows(h_KE[:, place]) * np.float32(weights.get(name, 0) / total) for name, place in spaces.items()]
    return np.concatenate(parts, 1)
