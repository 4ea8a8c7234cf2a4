"""Text–music retrieval over clips with captions, in both directions: Recall@k, median rank, normalised rank.

Text→music: every caption is a query with one right clip. Music→text: any caption of the clip counts. Other clips of the
query's track, and those that an equal text describes, are neither right nor wrong: they are left out of its pool.

Source: arXiv:2307.08723 and arXiv:2311.10057 (protocols), arXiv:2409.11498 (pool of 500).

Shape suffixes: K test clips, Q captions, U different captions, O queries of all pools, B resamples of a block.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.crossmodal import Ranks, first_right
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import weighted_median
from evaluation.targets.target import Target
from evaluation.tasks.kind import Columns
from evaluation.tasks.text import Question, TextKind, TextModel, Texts, by_clip, mean_over_clips

DIRECTIONS = ("text_to_music", "music_to_text")
QUERIES_AT_ONCE = 512
"""Rows of the matrix of scores that are held at once."""


class TextRetrieval(TextKind):
    """Clips with captions."""

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Number of captions (K,); −1 for a clip without."""
        return caption_counts(index, name), ()

    def texts(self, index: ShardIndex, name: str, task: Task) -> Texts:
        """The captions, or the first of each clip."""
        return tuple(tuple(found[:1] if task.captions == "first" else found) for found in index.captions)

    def metric_names(self, task: Task, ks: Sequence[int]) -> list[str]:
        """Of both directions."""
        names = [*(f"recall@{k}" for k in ks), "normalised_rank", "median_rank"]
        return [f"{direction}_{name}" for direction in DIRECTIONS for name in names]

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """One track has none to be distinguished from, and a pool cannot be larger than the set."""
        if len(np.unique(test.track_K)) < 2:
            return f"all {len(test)} {split} clips with a caption are of one track; build the shards with more"
        if task.pool > len(test):
            return (
                f"pool={task.pool}, and {len(test)} {split} clips have a caption; set tasks.{name}.pool=0 to rank all "
                "of them"
            )
        return None

    def score(self, question: Question, model: TextModel) -> dict[str, MetricSamples]:
        """Both directions over the same pools."""
        captions = _Captions.of(question.test)
        texts_Ud = model.embed(captions.texts)
        samples: dict[str, MetricSamples] = {}
        for direction in DIRECTIONS:
            found = [_ranks(captions, direction, pool, texts_Ud, model) for pool in _pools(question)]
            clip_O = np.concatenate([clips for clips, _ in found])
            ranks = Ranks(*(np.concatenate(parts) for parts in zip(*(ranks for _, ranks in found), strict=True)))
            samples |= _measure(direction, clip_O, ranks, question)
        return samples

    def convention(self, question: Question, metric: str) -> str:
        """Direction, pool and what is averaged."""
        base, _, k = metric.partition("@")
        to_music = base.startswith(DIRECTIONS[0])
        what = {
            "recall": f"share of queries whose right answer is among the first {k}",
            "median_rank": "median rank of the right answer, from 1; lower is better",
            "normalised_rank": "mean of rank over pool; lower is better, chance is the constant's",
        }[base.removeprefix(f"{DIRECTIONS[0 if to_music else 1]}_")]
        queries = "every caption queries clips" if to_music else "every clip queries captions, any of its own is right"
        task, clips = question.task, len(question.test)
        size = f"{task.pool} clips, mean of {task.pools} random pools" if task.pool else f"all {clips:,} clips"
        which = ", first captions alone" if task.captions == "first" else ""
        return f"{what}; {queries}{which}; pool of {size}"

    def notes(self, question: Question) -> list[str]:
        """How many texts describe more than one track."""
        captions = _Captions.of(question.test)
        tracks = [set(captions.track_K[has_K].tolist()) for has_K in captions.has_KU.T]
        shared = sum(len(found) > 1 for found in tracks)
        return [f"{question.name}: {shared} captions describe several tracks"] if shared else []


def caption_counts(index: ShardIndex, name: str) -> NDArray[np.int64]:
    """Number of captions of each clip (K,); −1 for a clip without. Raises UserError if no clip has one."""
    counts_K = np.array([len(texts) for texts in index.captions], np.int64)
    if not counts_K.any():
        raise UserError(
            f"task {name}: no clip of the shards has a caption; build them with some (`counterpoint shards build "
            f"folder --captions FILE.jsonl`), or leave the task out with tasks.{name}.optional=true"
        )
    return np.where(counts_K > 0, counts_K, -1)


class _Captions(NamedTuple):
    """The captions of the test clips."""

    texts: tuple[str, ...]
    """The U different ones."""
    text_Q: NDArray[np.int64]
    """Which of them each caption is."""
    clip_Q: NDArray[np.int64]
    has_KU: NDArray[np.bool_]
    track_K: NDArray[np.int64]

    @classmethod
    def of(cls, test: Target) -> "_Captions":
        """Numbers for texts and tracks."""
        places: dict[str, int] = {}
        pairs = [(places.setdefault(text, len(places)), k) for k, own in enumerate(test.texts_K) for text in own]
        text_Q, clip_Q = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
        has_KU = np.zeros((len(test), len(places)), np.bool_)
        has_KU[clip_Q, text_Q] = True
        return cls(tuple(places), text_Q, clip_Q, has_KU, np.unique(test.track_K, return_inverse=True)[1])


def _pools(question: Question) -> Iterator[NDArray[np.int64]]:
    """Clips of each pool, in order; all clips are one pool."""
    clips, pool = len(question.test), question.task.pool
    if not pool:
        yield np.arange(clips)
        return
    rng = question.rng("pools")
    for _ in range(question.task.pools):
        yield np.sort(rng.choice(clips, pool, replace=False))


def _ranks(
    captions: _Captions, direction: str, pool: NDArray[np.int64], texts_Ud: NDArray[np.float32], model: TextModel
) -> tuple[NDArray[np.int64], Ranks]:
    """The clip that each query of a pool is about, and the ranks of the right answers."""
    here = np.flatnonzero(np.isin(captions.clip_Q, pool))
    clip_q, text_q = captions.clip_Q[here], captions.text_Q[here]
    vectors_qd, clips_Pd = texts_Ud[text_q], model.clips_Kd[pool]
    # A query sees neither what is of its own track nor what has a text of its clip.
    ranks: list[Ranks] = []
    to_music = direction == DIRECTIONS[0]
    queries = len(here) if to_music else len(pool)
    for at in range(0, queries, QUERIES_AT_ONCE):
        rows = slice(at, at + QUERIES_AT_ONCE)
        if to_music:
            score_bD = vectors_qd[rows] @ clips_Pd.T
            right_bD = clip_q[rows, None] == pool
            alike_bD = captions.has_KU[pool][:, text_q[rows]].T
            alike_bD = alike_bD | (captions.track_K[clip_q[rows], None] == captions.track_K[pool])
        else:
            clips = pool[rows]
            score_bD = clips_Pd[rows] @ vectors_qd.T
            right_bD = clips[:, None] == clip_q
            alike_bD = captions.has_KU[clips][:, text_q]
            alike_bD = alike_bD | (captions.track_K[clips, None] == captions.track_K[clip_q])
        ranks.append(first_right(score_bD, right_bD, alike_bD))
    joined = Ranks(*(np.concatenate(parts) for parts in zip(*ranks, strict=True)))
    return (clip_q if to_music else pool), joined


def _measure(direction: str, clip_O: NDArray[np.int64], ranks: Ranks, question: Question) -> dict[str, MetricSamples]:
    clips, resamples = len(question.test), question.resamples
    count_K = by_clip(np.ones(len(clip_O)), clip_O, clips)
    means: Mapping[str, NDArray[np.float64]] = {
        **{f"recall@{k}": ranks.hits(k) for k in question.config.ks},
        "normalised_rank": ranks.rank / ranks.pool_Q,
    }
    found = {
        f"{direction}_{name}": mean_over_clips(by_clip(value_O, clip_O, clips), count_K, resamples)
        for name, value_O in means.items()
    }
    order_O = np.argsort(ranks.rank, kind="stable")
    sorted_O, clip_O = ranks.rank[order_O], clip_O[order_O]
    median_R = resamples.measure(lambda weights_BK: weighted_median(sorted_O, weights_BK[:, clip_O]))
    return found | {f"{direction}_median_rank": MetricSamples(median_R, {})}
