"""Tasks about texts from shards to report, with two towers whose answers are known."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.settings import UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip, Split
from evaluation.config import EvaluationConfig, Task
from evaluation.evaluate import evaluate_encoders
from tests.evaluation.conftest import RATE, SAMPLES, Wave

MOODS, INSTRUMENTS, TEMPOS = ("calm", "energetic"), ("flute", "piano", "guitar"), ("slow", "fast")
SPLITS: tuple[Split, ...] = ("train", "valid", "test", "test", "test")


def traits(number: int) -> tuple[str, str, str]:
    return MOODS[number % 2], INSTRUMENTS[number // 2 % 3], TEMPOS[number // 6 % 2]


def vector(text: str) -> Tensor:
    """Sum of the vectors of its words."""
    words = [word.strip(".,") for word in text.lower().split()]
    known = [word for word in words if word in (*MOODS, *INSTRUMENTS, *TEMPOS)]
    rows = [np.random.default_rng(zlib.crc32(word.encode())).standard_normal(24) for word in known] or [np.ones(24)]
    return torch.nn.functional.normalize(torch.tensor(np.sum(rows, 0), dtype=torch.float32), dim=0)


@dataclass
class Towers:
    """Embeds a clip by the number that its loudest sample holds; what it shares with texts lies behind."""

    noise: float = 0.0
    hash: str = "towers"
    rate: int = RATE
    samples: int = SAMPLES
    width: int = 28
    spaces: dict[str, slice] = field(default_factory=lambda: {"embedding": slice(0, 4), "music_text": slice(4, 28)})

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        rows = []
        for number in (wave_NT.abs().amax(1) * 1000).round().long().tolist():
            z = vector(" ".join(traits(number)))
            drawn = torch.randn(24, generator=torch.Generator().manual_seed(number))
            rows.append(torch.cat([torch.ones(4), torch.nn.functional.normalize(z + self.noise * drawn, dim=0)]))
        return torch.stack(rows)

    def embed_text(self, texts: Sequence[str], /) -> Tensor:
        return torch.stack([vector(text) for text in texts])


@dataclass
class Deaf:
    """An encoder without a text tower."""

    hash: str = "deaf"
    rate: int = RATE
    samples: int = SAMPLES
    width: int = 4

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        return torch.ones(len(wave_NT), 4)


def make_shards(folder: Path, *, captions: bool = True, count: int = 120) -> Path:
    clips = []
    for number in range(count):
        mood, instrument, tempo = traits(number)
        texts = (f"A {mood}, {tempo} piece with a {instrument}.", f"{tempo} {instrument} music, {mood}")
        clips.append(
            Clip(
                key=f"clip{number:04d}",
                audio=Wave(np.full(2_500, number / 1000, np.float32)),
                track=f"track{number}",
                split=SPLITS[number % 5],
                multilabel={"moods": (mood,), "instruments": (instrument,)},
                categorical={"tempo": tempo},
                captions=texts if captions else (),
            )
        )
    build(clips, folder / "shards", BuildConfig())
    return folder / "shards"


TASKS: dict[str, Any] = {
    "captions": {"kind": "text_retrieval", "pool": 30, "pools": 4},
    "instruments": {"kind": "zero_shot", "column": "instruments"},
    "tempo": {"kind": "zero_shot", "column": "tempo", "prompts": ("a {} track",)},
    "swaps": {"kind": "attribute_swap"},
    "tags": {"kind": "partial_query", "tags": 3},
}


def config_for(shards: Path, tasks: dict[str, Any] = TASKS, **keys: Any) -> EvaluationConfig:
    changes = {"tasks": {name: Task(**task) for name, task in tasks.items()}, **keys}
    found = EvaluationConfig(**changes)
    return EvaluationConfig(
        **{
            **changes,
            "data": type(found.data)(shards=str(shards)),
            "confidence": type(found.confidence)(resamples=100),
        }
    )


def test_every_task_is_reported_beside_its_baselines(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    encoders = {"trained": Towers(noise=0.5), "untrained": Towers(noise=50, hash="untrained")}
    tree = evaluate_encoders(encoders, config_for(shards), tmp_path / "out", about={}).tree
    trained, baselines = tree["metrics"], tree["baselines"]
    assert list(baselines) == ["untrained", "random", "constant"]
    for metric in (
        "captions/text_to_music_recall@10", "instruments/auroc", "tempo/accuracy", "swaps/accuracy", "tags/map",
    ):  # fmt: skip
        own = trained[metric]["value"]
        assert own > baselines["untrained"][metric]["value"]
        assert own > baselines["constant"][metric]["value"]
        assert trained[metric]["low"] <= own <= trained[metric]["high"]
    assert baselines["constant"]["captions/text_to_music_recall@10"]["value"] == pytest.approx(10 / 30, abs=0.05)
    assert baselines["constant"]["swaps/accuracy"]["value"] == 0.5
    assert set(tree["tasks"]["swaps"]["by_tag"]["accuracy"]["trained"]) == {"instrument", "mood", "tempo"}
    assert any("pairs (instrument" in note for note in tree["notes"])
    assert any("12 captions" in note or "24 captions" in note for note in tree["notes"])  # equal texts
    page = (tmp_path / "out" / "report.md").read_text()
    assert "pool of 30 clips, mean of 4 random pools" in page
    again = evaluate_encoders(encoders, config_for(shards), tmp_path / "again", about={}).tree
    assert again["metrics"] == trained


def test_an_encoder_without_a_text_tower_is_refused_or_its_tasks_left_out(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    with pytest.raises(UserError, match="has no text tower; train one on it with `counterpoint pretrain"):
        evaluate_encoders({"trained": Deaf()}, config_for(shards), tmp_path / "out", about={})
    optional = {"captions": {"kind": "text_retrieval", "optional": True}}
    mixed = optional | {"tempo": {"kind": "class", "column": "tempo", "retrieval": True}}
    tree = evaluate_encoders({"trained": Deaf()}, config_for(shards, mixed), tmp_path / "out", about={}).tree
    assert "has no text tower" in tree["left_out"]["captions"]
    with pytest.raises(UserError, match="has no text tower"):
        evaluate_encoders({"trained": Deaf()}, config_for(shards, optional), tmp_path / "none", about={})


def test_tasks_with_and_without_texts_share_one_embedding(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    mixed = {"captions": TASKS["captions"], "tempo": {"kind": "class", "column": "tempo", "retrieval": True}}
    tree = evaluate_encoders({"trained": Towers()}, config_for(shards, mixed), tmp_path / "out", about={}).tree
    assert {metric.partition("/")[0] for metric in tree["metrics"]} == {"captions", "tempo"}
    assert len(list((tmp_path / "out" / "embeddings").iterdir())) == 1


def test_sets_without_captions_and_small_pools_are_refused(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, captions=False)
    for name in ("captions", "swaps"):
        with pytest.raises(UserError, match=f"task {name}: no clip of the shards has a caption; build them with some"):
            evaluate_encoders({"trained": Towers()}, config_for(shards, {name: TASKS[name]}), tmp_path / "o", about={})
    (tmp_path / "more").mkdir()
    shards = make_shards(tmp_path / "more")
    large = {"captions": {"kind": "text_retrieval", "pool": 500}}
    with pytest.raises(UserError, match=r"pool=500, and 72 test clips have a caption; set tasks.captions.pool=0"):
        evaluate_encoders({"trained": Towers()}, config_for(shards, large), tmp_path / "o", about={})
    optional = {"captions": {"kind": "text_retrieval", "pool": 500, "optional": True}, "tags": TASKS["tags"]}
    tree = evaluate_encoders({"trained": Towers()}, config_for(shards, optional), tmp_path / "p", about={}).tree
    assert "pool=500" in json.dumps(tree["left_out"])
