"""examples/search_a_folder.py and examples/own_task.yaml, run on music whose answers are known."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from cluster import entry_points
from cluster.settings import ROOT, UserError, load_config
from evaluation.config import EvaluationConfig

RATE = 22_050
ENCODER = '''
import torch
class Bands:
    """Level of 16 bands between 200 and 1,600 Hz."""
    width, rate, samples, hash = 16, 22_050, 4_096, "bands"
    def __call__(self, wave_NT):
        level = torch.fft.rfft(wave_NT * torch.hann_window(self.samples)).abs()
        edges = (200 * 8 ** (torch.arange(17) / 16) * self.samples / self.rate).int().tolist()
        return torch.stack([level[:, a : b + 1].sum(1) for a, b in zip(edges, edges[1:])], 1)
'''
KINDS = '''
import numpy as np
import counterpoint
from evaluation.tasks.classes import Classes

class Decade(Classes):
    """A year as its decade; within one decade is half right."""
    probe_metrics = {"near": "one for the decade, a half for the next"}
    retrieval_metrics = {"near": "one for the decade, a half for the next"}
    def read(self, index, name, task):
        decades = np.floor(index.target(task.column) / 10)
        names, codes = np.unique(decades, return_inverse=True)
        return codes.astype(np.int64), tuple(f"{10 * int(d)}s" for d in names)
    def pair_scores(self, truth, answers, classes):
        return [np.clip(1 - np.abs(truth - answers) / 2, 0, 1) * (np.abs(truth - answers) < 2)]

class Nothing(counterpoint.TaskKind):
    """Forgets to name its metrics."""
    probe_metrics = {}
    def read(self, index, name, task): ...
    def best_constant(self, train): ...

def no_kind():
    return 3
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the checkout with an encoder, kinds of tasks and music with a table of labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})
    for name in ("bands_of_this_test", "kinds_of_this_test"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("bands_of_this_test.py").write_text(ENCODER)
    Path("kinds_of_this_test.py").write_text(KINDS)
    lines = ["path,split,track_id,artist,moods,label,year"]
    Path("music").mkdir()
    for number in range(36):
        pitch = number % 3
        wave = 0.4 * np.sin(2 * np.pi * 220 * 1.6**pitch * (1 + number / 3_000) * np.arange(RATE // 2) / RATE)
        soundfile.write(f"music/{number}.wav", wave, RATE)
        split, moods = ("train", "valid", "test")[number // 3 % 3], ("calm", "calm|dark", "dark")[pitch]
        lines.append(f"{number}.wav,{split},t{number},artist {number // 9},{moods},label {pitch},{1961 + 10 * pitch}")
    Path("music/labels.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def shards(here: Path) -> Path:
    from data_shards.build.build import BuildConfig, build
    from data_shards.sources.folder import read_folder
    from data_shards.sources.label_table import read_labels

    build(
        read_folder(here / "music", read_labels(here / "music" / "labels.csv")).clips,
        here / "shards",
        BuildConfig(workers=1),
    )
    return here / "shards"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_nearest_tracks_of_a_song_are_those_of_its_pitch(here: Path) -> None:
    found = load("search_a_folder").nearest("bands_of_this_test:Bands", "music", "music/4.wav", k=11)
    assert len(found) == 11
    assert all(int(Path(path).stem) % 3 == 1 and Path(path).name != "4.wav" for _, path in found)
    assert [cosine for cosine, _ in found] == sorted((cosine for cosine, _ in found), reverse=True)


def test_the_example_is_thirty_lines() -> None:
    assert len((ROOT / "examples" / "search_a_folder.py").read_text().splitlines()) <= 30


def test_own_columns_of_an_own_table_are_tasks(shards: Path) -> None:
    from evaluation.evaluate import evaluate

    quick = {"data.shards": str(shards), "confidence.resamples": 100, "seeds": 1}
    quick |= {f"tasks.{name}.max_epochs": 60 for name in ("moods", "label", "year")}
    quick |= {f"tasks.{name}.learning_rate": 0.05 for name in ("moods", "label", "year")}
    quick |= {"tasks.decade": {"column": "year", "kind": "kinds_of_this_test:Decade", "probe": True, "retrieval": True,
                               "max_epochs": 60, "learning_rate": 0.05}}  # fmt: skip
    config = load_config(EvaluationConfig, ROOT / "examples" / "own_task.yaml", quick)
    tree = evaluate("bands_of_this_test:Bands", config, shards.parent / "report").tree
    metrics = tree["metrics"]
    names = {"moods/auroc", "moods/p@5", "label/accuracy", "label/p@1", "year/r2", "artist/p@1"}
    assert names | {"decade/near", "decade/near@1"} <= metrics.keys()
    assert metrics["label/p@1"]["value"] == metrics["decade/near@1"]["value"] == metrics["moods/p@1"]["value"] == 1.0
    assert metrics["decade/near"]["convention"].startswith("one for the decade, a half for the next; MLP of 512")
    assert tree["baselines"]["constant"]["decade/near"]["value"] == pytest.approx(0.5, abs=0.2)
    assert tree["tasks"]["decade"]["classes"] == ["1960s", "1970s", "1980s"]
    assert json.loads((shards.parent / "report" / "report.json").read_text())["metrics"] == metrics


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("kinds_of_this_test:no_kind", "kind=kinds_of_this_test:no_kind: gives a int, not a kind of task"),
        ("kinds_of_this_test:Decad", "did you mean kinds_of_this_test:Decade"),
        ("no_such_module:Kind", "no module no_such_module in"),
        ("kinds_of_this_test:Nothing", "probe_metrics is empty; name each metric with its convention"),
    ],
)
def test_an_own_kind_that_is_none_is_one_message_before_anything_is_embedded(
    shards: Path, kind: str, message: str
) -> None:
    from evaluation.evaluate import evaluate

    tree = {"tasks.t": {"column": "year", "kind": kind, "probe": True}, "data.shards": str(shards)}
    with pytest.raises(UserError, match=message):
        evaluate("bands_of_this_test:Bands", load_config(EvaluationConfig, None, tree), shards.parent / "out")
    assert not (shards.parent / "out" / "embeddings").exists()


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"kind must be tags, class, .* or module:factory.*mean tempo\?"):
        load_config(EvaluationConfig, None, {"tasks.t": {"column": "c", "kind": "tempi", "probe": True}})
