"""Tasks about texts: protocols against naive ranks, chance, and what is no wrong answer.

Shape suffixes: K clips, d width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.config import EvaluationConfig, Task
from evaluation.metrics.confidence import draw_resamples
from evaluation.metrics.crossmodal import first_right
from evaluation.metrics.samples import MetricSamples
from evaluation.scores.score import generator
from evaluation.targets.target import Target
from evaluation.tasks.kind import TaskKind, kind_of
from evaluation.tasks.text import Question, TextKind, TextModel, constant_model
from evaluation.tasks.text_retrieval import TextRetrieval
from evaluation.text_task import TEXT_KINDS


def make_question(
    texts: Sequence[tuple[str, ...]] = (),
    *,
    tracks: Sequence[str] | None = None,
    values: NDArray[Any] | None = None,
    classes: tuple[str, ...] = (),
    ks: tuple[int, ...] = (1, 5, 10),
    **task: Any,
) -> Question:
    count = len(texts) if values is None else len(values)
    track_K = np.array(tracks or [f"track {k}" for k in range(count)])
    test = Target(
        rows_K=np.arange(count),
        split_K=np.array(["test"] * count),
        track_K=track_K,
        artist_K=track_K,
        values=np.ones(count, np.int64) if values is None else values,
        classes=classes,
        texts_K=tuple(texts),
    )
    config = EvaluationConfig(ks=ks)
    rng = np.random.default_rng(0)
    resamples = draw_resamples(track_K.tolist(), resamples=50, seeds=1, rng=rng)
    return Question("asked", Task(**task), test, config, resamples, lambda what: generator(config, "asked", what))


def measure(question: Question, model: TextModel) -> dict[str, MetricSamples]:
    kind = kind_of(question.task)
    assert isinstance(kind, TextKind)
    found = kind.score(question, model)
    assert set(found) <= set(kind.metric_names(question.task, question.config.ks))
    for metric in found:
        assert kind.convention(question, metric)
    return found


def values(question: Question, model: TextModel) -> dict[str, float]:
    return {name: float(one.values_R[0]) for name, one in measure(question, model).items()}


def lookup(width: int = 16, seed: int = 0) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Texts to vectors, the same for the same text."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.random.default_rng([seed, *text.encode()]).standard_normal(width) for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), width)

    return embed


def random_clips(count: int, width: int = 16, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_ranks_are_those_of_a_loop_over_pairs() -> None:
    """Captions of a track, and equal captions, are never each other's negatives (TEXT.md, law 23)."""
    texts = [("a", "b"), ("c",), ("a",), ("d", "e", "f"), ("g",), ("h",)]
    tracks = ["t0", "t0", "t1", "t2", "t2", "t3"]
    question = make_question(texts, tracks=tracks, kind="text_retrieval", ks=(1, 2))
    model = TextModel(random_clips(6), lookup())
    found = values(question, model)

    every = {text: model.embed([text])[0] for own in texts for text in own}
    score = {(k, text): float(model.clips_Kd[k] @ vector) for k in range(6) for text, vector in every.items()}
    to_music, to_text = [], []
    for k, own in enumerate(texts):
        others = [j for j in range(6) if tracks[j] != tracks[k]]
        for text in own:
            wrong = [j for j in others if text not in texts[j]]
            to_music.append(1 + sum(score[j, text] > score[k, text] for j in wrong))
        best = max(score[k, text] for text in own)
        wrong_texts = [text for j in others for text in texts[j] if text not in own]
        to_text.append(1 + sum(score[k, text] > best for text in wrong_texts))
    for direction, ranks in (("text_to_music", to_music), ("music_to_text", to_text)):
        assert found[f"{direction}_recall@1"] == np.mean(np.array(ranks) <= 1)
        assert found[f"{direction}_recall@2"] == np.mean(np.array(ranks) <= 2)
        assert found[f"{direction}_median_rank"] == np.median(ranks)


def test_a_perfect_model_is_always_first() -> None:
    texts = [(f"text {k}",) for k in range(30)]
    embed = lookup(64)
    clips = embed([text for (text,) in texts])
    found = values(make_question(texts, kind="text_retrieval"), TextModel(clips, embed))
    assert found["text_to_music_recall@1"] == found["music_to_text_recall@1"] == 1
    assert found["text_to_music_median_rank"] == 1
    assert found["text_to_music_normalised_rank"] == pytest.approx(1 / 30)


@pytest.mark.parametrize(("pool", "size"), [(0, 40), (10, 10)])
def test_a_constant_scores_at_chance(pool: int, size: int) -> None:
    """TEXT.md, law 22."""
    texts = [(f"text {k}",) for k in range(40)]
    question = make_question(texts, kind="text_retrieval", pool=pool, pools=5)
    found = values(question, constant_model(question))
    for direction in ("text_to_music", "music_to_text"):
        for k in (1, 5, 10):
            assert found[f"{direction}_recall@{k}"] == pytest.approx(k / size)
        assert found[f"{direction}_median_rank"] == (size + 1) / 2
    assert f"pool of {'10 clips, mean of 5' if pool else 'all 40'}" in TextRetrieval().convention(
        question, "text_to_music_recall@1"
    )


def test_pools_are_the_same_for_every_model_and_a_smaller_one_is_easier() -> None:
    texts = [(f"text {k}",) for k in range(60)]
    embed = lookup()
    clips = embed([text for (text,) in texts]) + random_clips(60)
    model = TextModel(clips, embed)
    all_of_them = values(make_question(texts, kind="text_retrieval"), model)
    pooled = make_question(texts, kind="text_retrieval", pool=20)
    assert values(pooled, model) == values(pooled, model)
    assert values(pooled, model)["text_to_music_recall@5"] > all_of_them["text_to_music_recall@5"]


def test_a_tie_has_the_mean_of_its_ranks() -> None:
    score = np.array([[0.5, 0.5, 0.1, 0.5, 0.9]])
    right = np.array([[True, False, False, False, False]])
    ignored = np.array([[False, False, False, False, True]])
    ranks = first_right(score, right, ignored)
    assert ranks.rank.tolist() == [2]
    assert ranks.pool_Q.tolist() == [4]
    assert ranks.hits(1)[0] == pytest.approx(1 / 3)
    assert ranks.hits(2)[0] == pytest.approx(2 / 3)


def test_several_right_answers_in_a_tie_are_found_as_in_random_order() -> None:
    """A constant is at chance where a clip has several captions too (TEXT.md, law 22)."""
    right = np.zeros((1, 12), np.bool_)
    right[0, :3] = True
    ranks = first_right(np.zeros((1, 12)), right, np.zeros((1, 12), np.bool_))
    draw = np.random.default_rng(0)
    firsts = np.array([1 + draw.permutation(12)[:3].min() for _ in range(20_000)])
    for k in (1, 3, 10, 12):
        assert ranks.hits(k)[0] == pytest.approx((firsts <= k).mean(), abs=0.01)
    assert ranks.rank[0] == pytest.approx(firsts.mean(), abs=0.05)


def test_zero_shot_with_permuted_classes_is_the_same() -> None:
    """TEXT.md, law 25."""
    names = ("rock", "jazz", "hip_hop", "folk")
    codes = np.random.default_rng(3).integers(0, 4, 50)
    order = np.array([2, 0, 3, 1])
    model = TextModel(random_clips(50), lookup())
    place = np.argsort(order)
    plain = make_question(values=codes, classes=names, kind="zero_shot", column="genre")
    permuted = make_question(
        values=place[codes], classes=tuple(names[c] for c in order), kind="zero_shot", column="genre"
    )
    assert values(plain, model) == values(permuted, model)


def test_zero_shot_reports_every_prompt_and_their_ensemble() -> None:
    names = ("rock", "jazz", "folk")
    embed = lookup(32)
    codes = np.random.default_rng(3).integers(0, 3, 40)
    clips = embed([f"{names[code]} music" for code in codes])
    prompts = ("{}", "{} music")
    question = make_question(values=codes, classes=names, kind="zero_shot", column="genre", prompts=prompts)
    found = values(question, TextModel(clips, embed))
    assert list(found) == ["accuracy", "accuracy_prompt_1", "accuracy_prompt_2"]
    assert found["accuracy_prompt_2"] == 1
    ensemble = np.stack([embed([name, f"{name} music"]).mean(0) for name in names])
    ensemble /= np.linalg.norm(ensemble, axis=1, keepdims=True)
    assert found["accuracy"] == np.mean((clips @ ensemble.T).argmax(1) == codes)
    constant = values(question, constant_model(question))
    assert constant["accuracy"] == pytest.approx(1 / 3)


def test_zero_shot_of_tags_ranks_clips_by_cosine() -> None:
    names = ("slow", "flute", "never")
    tags = np.random.default_rng(3).random((60, 3)) < 0.4
    tags[:, 2] = False
    embed = lookup(32)
    texts = embed([f"{name} music" for name in names])
    clips = tags.astype(np.float32) @ texts
    question = make_question(values=tags, classes=names, kind="zero_shot", column="tags", prompts=("{} music",))
    found = measure(question, TextModel(clips, embed))
    assert float(found["auroc"].values_R[0]) > 0.95
    assert set(found["auroc"].by_tag) == {"slow", "flute"}
    constant = values(question, constant_model(question))
    assert constant["auroc"] == 0.5
    assert constant["ap"] == pytest.approx(tags[:, :2].mean(0).mean())


def test_swaps_count_pairs_by_category_and_ties_half() -> None:
    texts = [("own 0", "swapped 0", "tempo", "own 0", "other 0", "mood"), ("own 1", "swapped 1", "tempo")]
    embed = lookup()
    clips = np.concatenate([embed(["own 0"]), embed(["swapped 1"])])
    question = make_question(texts, kind="attribute_swap")
    found = measure(question, TextModel(clips, embed))["accuracy"]
    assert found.values_R[0] == pytest.approx(2 / 3)
    assert found.by_tag == {"mood": 1.0, "tempo": 0.5}
    assert values(question, constant_model(question)) == {"accuracy": 0.5}


def test_partial_queries_are_answered_by_all_clips_with_their_tags() -> None:
    has = np.random.default_rng(0).random((50, 4)) < 0.5
    has[:, :2] |= ~has[:, :2].any(1, keepdims=True)
    texts = []
    for row in has:
        codes = np.flatnonzero(row)[:1]
        texts.append((", ".join(f"w{code}" for code in codes), *map(str, codes)))
    embed = lookup(64)
    clips = has.astype(np.float32) @ embed([f"w{code}" for code in range(4)])
    question = make_question(texts, values=has, classes=("w0", "w1", "w2", "w3"), kind="partial_query", tags=1)
    assert values(question, TextModel(clips, embed))["map"] > 0.9
    chance = np.mean([has[:, int(codes[0])].mean() for _, *codes in texts])
    assert values(question, constant_model(question))["map"] == pytest.approx(chance)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"kind": "text_retrieval", "probe": True}, "has neither probe nor neighbours"),
        ({"kind": "text_retrieval", "pool": 1}, "pool must be 0"),
        ({"kind": "text_retrieval", "prompts": ("{} x",)}, "prompts is a setting of kind=zero_shot"),
        ({"kind": "zero_shot"}, "needs column"),
        ({"kind": "zero_shot", "column": "genre", "prompts": ("music",)}, "must have one {} where the class stands"),
        ({"kind": "zero_shot", "column": "genre", "prompts": ()}, "at least one"),
        ({"kind": "partial_query", "tags": 0}, "tags must be >= 1"),
        ({"kind": "tags", "probe": True}, "needs column"),
        ({"kind": "tags", "probe": True, "column": "tags", "pool": 500}, "pool is a setting of kind=text_retrieval"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Task(**keys)


@pytest.mark.parametrize("kind", sorted(TEXT_KINDS))
def test_a_kind_about_texts_names_its_baselines_and_has_no_heads(kind: str) -> None:
    """Every method that it has can be called: no `best_constant` that raises."""
    found = kind_of(Task(kind=kind, column="genre"))
    assert isinstance(found, TextKind)
    assert not issubclass(TextKind, TaskKind)
    assert not hasattr(found, "best_constant")
