"""The quick score: its law, its clips, and the snapshots it orders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.config import ExperimentConfig
from trainers.frontends.frontend import build_frontend
from trainers.loop import QUICK, STOP_FILE, World, train
from trainers.monitor.knn import QuickScore, precision_at_k
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot

MakeConfig = Callable[..., ExperimentConfig]


class Listener:
    def __init__(self, act: Callable[[Any], object] = id) -> None:
        self.act, self.seen = act, list[Any]()

    def report(self, metrics: Any) -> None:
        self.seen.append(dict(metrics))
        self.act(metrics)


@pytest.fixture(scope="module")
def with_valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    build(
        corpus(SyntheticConfig(tracks=24, seconds=4.0, valid_share=0.5, test_share=0.0, seed=0)),
        folder,
        BuildConfig(workers=1),
    )
    return folder


def naive(h: Tensor, labels: Tensor, tracks: list[int], k: int) -> float:
    values = []
    for q in range(len(h)):
        others = [j for j in range(len(h)) if tracks[j] != tracks[q]]
        others.sort(key=lambda j: -float(torch.cosine_similarity(h[q], h[j], dim=0)))
        values += [int((labels[q] & labels[j]).sum()) / int(labels[j].sum()) for j in others[:k]]
    return sum(values) / len(values)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_it_is_the_share_of_the_neighbours_tags_over_all_pairs(k: int) -> None:
    g = torch.Generator().manual_seed(0)
    h, labels = torch.randn(15, 6, generator=g), torch.rand(15, 5, generator=g) < 0.4
    labels[:, 0] = True
    tracks = [i // 3 for i in range(15)]
    found = precision_at_k(h, labels, torch.tensor(tracks), k)
    assert found.item() == pytest.approx(naive(h, labels, tracks, k), rel=1e-6)


def test_a_clip_of_the_same_track_is_no_neighbour() -> None:
    h = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    classes = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    assert precision_at_k(h, classes, torch.tensor([0, 1, 2, 3]), k=1) == 1
    assert precision_at_k(h, classes, torch.tensor([0, 0, 1, 1]), k=1) == 0


def test_scores_stand_in_rows_and_the_best_snapshot_stays(make_config: MakeConfig, with_valid: Path) -> None:
    listener = Listener()
    config = make_config(data__labelled=str(with_valid), run__quick_every=1, run__snapshot_every=1, run__keep=1)
    train(config, World(), listener)
    rows = list(read_metrics(Path(config.run.dir) / "metrics.jsonl"))
    scores = {row["step"]: row[QUICK] for row in rows}
    assert len(scores) == 6
    assert all(0 < score < 1 for score in scores.values())
    assert [row[QUICK] for row in listener.seen] == list(scores.values()), "a scored step is always reported"
    best = max(scores, key=lambda step: (scores[step], -step))
    folder = Path(config.run.dir) / "snapshots"
    assert open_snapshot(folder / "best").step == best
    assert open_snapshot(folder / "best").score == scores[best]
    assert open_snapshot(folder).step == 6
    assert {path.name for path in folder.glob("step-*")} == {f"step-{best}", "step-6"}


def test_scoring_changes_nothing_and_a_resumed_run_has_the_same_scores(
    make_config: MakeConfig, with_valid: Path, tmp_path: Path
) -> None:
    plain = make_config(data__labelled=str(with_valid), run__dir=str(tmp_path / "plain"), optim__ema_decay=0.9)
    run: dict[str, Any] = {"quick_every": 2, "snapshot_every": 4, "report_every": 1}
    whole = replace(plain, run=replace(plain.run, dir=str(tmp_path / "whole"), **run))
    broken = replace(whole, run=replace(whole.run, dir=str(tmp_path / "broken")))
    train(plain, World(), Listener())
    train(whole, World(), Listener())
    stop = Path(broken.run.dir) / STOP_FILE
    train(broken, World(), Listener(lambda metrics: stop.touch() if metrics["step"] == 2 else None))
    assert open_snapshot(broken.run.dir).step < 6
    train(broken, World(), Listener())

    def traces(config: ExperimentConfig) -> list[tuple[float, float | None]]:
        return [(row["loss"], row.get(QUICK)) for row in read_metrics(Path(config.run.dir) / "metrics.jsonl")]

    assert traces(broken) == traces(whole)
    assert [loss for loss, _ in traces(whole)] == [loss for loss, _ in traces(plain)]
    for name in ("model.safetensors", "average.safetensors"):
        files = {(open_snapshot(config.run.dir).path / name).read_bytes() for config in (plain, whole, broken)}
        assert len(files) == 1, name
    state, mean = open_snapshot(plain.run.dir).model_state(), open_snapshot(plain.run.dir).evaluation_state()
    assert not torch.equal(state["projector.head.0.weight"], mean["projector.head.0.weight"])


def test_a_mode_and_other_weights_are_put_back(make_config: MakeConfig, with_valid: Path) -> None:
    config = make_config(data__labelled=str(with_valid), run__quick_clips=4)
    quick = QuickScore(config, build_frontend(config.frontend, 22_050), torch.device("cpu"))
    assert len(quick.labels_KC) == 4
    encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    first = quick.score(encoder)
    other = {name: -torch.randn_like(value) for name, value in encoder.state_dict().items()}
    quick.score(encoder, other)
    assert encoder.training
    assert quick.score(encoder) == first


def test_what_it_needs_is_named(make_config: MakeConfig, with_valid: Path) -> None:
    with pytest.raises(UserError, match=r"run.snapshot_every=2 must be a multiple of run.quick_every=4"):
        make_config(run__quick_every=4)
    frontend = build_frontend(make_config().frontend, 22_050)
    for change, message in (
        ({}, "at least two tracks in split valid"),
        ({"data__labelled": None, "data__b_s": 0}, "give data.labelled=DIR"),
        (
            {"data__labelled": str(with_valid), "data__vocabulary": "moods"},
            "data.vocabulary = moods: no column 'moods'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            QuickScore(make_config(**change), frontend, torch.device("cpu"))
