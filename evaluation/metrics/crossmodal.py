"""Text–music retrieval: where the first right answer of each query ranks, from scores and relevance alone.

An item may have several right answers (several captions a track), and an answer several items. Ranks count from 1; ties
share their rank, so a constant score ranks at chance wherever the right answers are.

Shape suffixes: Q queries, D items of the base.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Ranks(NamedTuple):
    """Where the first right answer of each query stands among the wrong ones."""

    above_Q: Floats
    """Wrong answers with a higher score than the best right one."""
    tied_Q: Floats
    """Wrong answers with the same score."""
    right_Q: Floats
    """Right answers with that score, at least one."""
    pool_Q: Floats
    """Wrong answers and a right one."""

    @property
    def rank(self) -> Floats:
        """From 1; of a tie the mean over its orders."""
        return np.asarray(self.above_Q + (self.tied_Q + self.right_Q + 1) / (self.right_Q + 1))

    def hits(self, k: int) -> Floats:
        """Whether a right answer is among the first k; of a tie the probability, in random order.

        >>> ranks = Ranks(np.array([0.0, 2.0, 0.0]), np.array([3.0, 0.0, 2.0]), np.array([1.0, 1.0, 2.0]), np.ones(3))
        >>> ranks.hits(1).round(6).tolist()
        [0.25, 0.0, 0.5]
        """
        missed_Q = np.ones_like(self.above_Q)
        for place in range(k):  # the next of a tie is wrong as well
            there = place >= self.above_Q
            drawn_Q = place - self.above_Q
            left_Q = np.maximum(self.tied_Q - drawn_Q, 0)
            missed_Q = np.where(there, missed_Q * left_Q / np.maximum(left_Q + self.right_Q, 1), missed_Q)
        return 1 - missed_Q


def first_right(score_QD: NDArray[np.floating], right_QD: Bools, ignored_QD: Bools) -> Ranks:
    """Ranks of the best right answer of each query; a constant score ranks at chance.

    Args:
        score_QD: similarity of every query with every item.
        right_QD: items that are right, at least one a query.
        ignored_QD: items that are no wrong answers either; a right one counts as right.

    Raises:
        ValueError: if a score is not finite, or a query has no right answer.
    """
    if not np.isfinite(score_QD).all():
        raise ValueError("a score is not finite")
    if not right_QD.any(1).all():
        raise ValueError(f"query {int(np.argmin(right_QD.any(1)))} has no right answer")
    best_Q1 = np.where(right_QD, score_QD, -np.inf).max(1, keepdims=True)
    wrong_QD = ~right_QD & ~ignored_QD
    equal_QD = score_QD == best_Q1
    counts = ((score_QD > best_Q1) & wrong_QD, equal_QD & wrong_QD, equal_QD & right_QD, wrong_QD)
    above_Q, tied_Q, ours_Q, wrong_Q = (part.sum(1).astype(np.float64) for part in counts)
    return Ranks(above_Q, tied_Q, ours_Q, wrong_Q + 1)
