"""A dataset of the user's own is listed with its labels, or refused in one message that names dataset and clip."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import counterpoint
from cluster import entry_points
from cluster.settings import UserError
from data_shards.read.stores import open_index
from data_shards.sources.own import list_own

Write = Callable[[str], None]
HEAD = """
from dataclasses import dataclass
import numpy as np
from counterpoint import Clip, audio_file

@dataclass(frozen=True)
class Noise:
    seed: int
    @property
    def name(self):
        return f"noise:{self.seed}"
    def read(self):
        return np.random.default_rng(self.seed).standard_normal(8_000).astype(np.float32) / 8, 16_000

def clip(number, **fields):
    return Clip(**({"key": f"c{number}", "audio": Noise(number), "track": f"t{number}"} | fields))
"""
GOOD = """
def clips(count: int = 3):
    for number in range(count):
        yield clip(number, multilabel={"tags": ["b", "a"]}, numeric={"bpm": np.float32(98.5)}, captions=["A sound."])
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module ``users_dataset`` into the working directory, which is outside the checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(entry_points, "_imported", {})

    def to(body: str) -> None:
        (tmp_path / "users_dataset.py").write_text(HEAD + textwrap.dedent(body))

    yield to
    sys.modules.pop("users_dataset", None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["counterpoint", "shards", "build", *words])
    with pytest.raises(SystemExit) as caught:
        counterpoint.main()
    return int(caught.value.code or 0)


def test_lists_and_numbers_of_numpy_become_what_a_clip_holds(write: Write) -> None:
    write(GOOD)
    clips = list_own("users_dataset:clips", {"count": 2}).clips
    assert [clip.key for clip in clips] == ["c0", "c1"]
    assert clips[0].multilabel == {"tags": ("b", "a")}
    assert type(clips[0].numeric["bpm"]) is float
    assert clips[0].captions == ("A sound.",)


def test_the_command_builds_it_in_worker_processes_and_finds_it_finished_the_second_time(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(GOOD)
    words = ["users_dataset:clips", "--out", "set", "dataset.settings.count=5", "build.clips_per_shard=2", "--json"]
    summaries = []
    for _ in range(2):
        assert run(monkeypatch, *words, "build.workers=2") == 0
        summaries.append(json.loads(capsys.readouterr().out))
    first, second = summaries
    assert (first["clips"], first["resumed_shards"]) == (5, 0)
    assert (second["clips"], second["resumed_shards"]) == (5, 3)
    assert first["manifest_hash"] == second["manifest_hash"]
    assert open_index("set").vocabularies == {"tags": ("a", "b")}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("no_such_dataset:clips", {}, "no module no_such_dataset in"),
        ("users_dataset:clip5", {}, "has no clip5; did you mean users_dataset:clip"),
        ("users_dataset:HERE", {}, "HERE is a int, not a function"),
        (
            "users_dataset:clips",
            {"cuont": 1},
            "unknown key dataset.settings.cuont; did you mean dataset.settings.count",
        ),
        ("users_dataset:clips", {"count": "many"}, "dataset.settings.count"),
        ("users_dataset:clips", {"count": 0}, "dataset=users_dataset:clips: yields no clips"),
    ],
)
def test_a_wrong_name_or_setting_is_refused(write: Write, name: str, settings: dict[str, object], message: str) -> None:
    write(GOOD + "\nHERE = 1\n")
    with pytest.raises(UserError) as caught:
        list_own(name, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise OSError('the disk is gone')\nyield", "raised OSError before its first clip: the disk is gone"),
        ("yield clip(0)\nraise KeyError('bpm')", "raised KeyError after 1 clips: 'bpm'"),
        ("yield clip(0)\nraise SystemExit(0)", "raised SystemExit after 1 clips: 0"),
        ("yield clip(0, numeric={'a': 1}, categorical={'a': 'x'})", "column 'a' is in categorical and in numeric"),
        ("yield clip(0)\nyield 'c1'", "clip 2: is a value of type str, not a Clip"),
        ("return", "returns None; write a generator"),
        ("yield clip(0, key=7)", "key is 7; it must be text"),
        ("yield clip(0, track='')", "clip 1 (c0): track is ''"),
        ("yield clip(0, split='training')", "split is 'training'; it must be train or valid or test"),
        ("yield clip(0, multilabel={'tags': 'rock'})", "multilabel.tags is 'rock'; it must be a tuple of texts"),
        ("yield clip(0, multilabel=['rock'])", "multilabel is ['rock']; it must be a mapping"),
        ("yield clip(0, categorical={'key': 3})", "categorical.key is 3; it must be text or None"),
        ("yield clip(0, numeric={'bpm': '90'})", "numeric.bpm is '90'; it must be a finite number"),
        ("yield clip(0, numeric={'bpm': float('inf')})", "numeric.bpm is inf"),
        ("yield clip(0, captions='A sound.')", "captions is 'A sound.'; it must be a tuple of texts"),
        ("yield clip(0, artist=5)", "artist is 5; it must be text or None"),
        ("yield clip(0, audio='a.wav')", "audio is 'a.wav'; it must be audio_file(PATH)"),
        ("yield clip(0, audio=Handle())", "clip 1 (c0): Handle has no repr that names its sound"),
        ("yield clip(0, audio=Local(lambda: 0))", "Local cannot be pickled for the worker processes"),
    ],
)
def test_what_is_no_clip_is_refused_at_the_clip(write: Write, body: str, message: str) -> None:
    write("""
class Handle:
    name, read = "handle", print

@dataclass(frozen=True)
class Local:
    function: object
    name, read = "local", print
""")
    path = Path("users_dataset.py")
    path.write_text(path.read_text() + "\ndef clips():\n" + textwrap.indent(body, "    ") + "\n")
    with pytest.raises(UserError) as caught:
        list_own("users_dataset:clips", {})
    assert str(caught.value).startswith("dataset=users_dataset:clips")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        ("yield clip(0)\n    yield clip(0)", (), "key c0 is used twice, by noise:0 and by noise:0"),
        ("yield clip(0, key='a/b')", (), "key 'a/b' must be 1 to 90 letters"),
        ("yield clip(0)", ("build.codek=flac",), "did you mean build.codec?"),
        ("raise SystemError", ("build.rate=1",), "rate must be 4000 to 192000"),
    ],
)
def test_the_command_refuses_in_one_message_and_makes_nothing(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    words: tuple[str, ...],
    message: str,
) -> None:
    write(f"def clips():\n    {body}\n")
    assert run(monkeypatch, "users_dataset:clips", "--out", "set", *words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert not list(Path.cwd().glob("set*"))


def test_settings_of_an_own_dataset_are_refused_beside_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "synthetic", "--out", str(tmp_path / "set"), "dataset.settings.count=1") == 2
    assert "dataset.settings are for a dataset of your own" in " ".join(capsys.readouterr().err.split())
